"""Who answered what, for requests that follow it at another process."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "remembered",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("used", sa.Float, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("policy", sa.Text),
        sa.Column("conversation", sa.String(64)),
    )
    op.create_index("ix_remembered_used", "remembered", ["used"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("remembered")
