"""What a split drew a policy by; null for decisions from before, and outside splits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("decisions", sa.Column("drawn_by", sa.String(12)))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("decisions", "drawn_by")
