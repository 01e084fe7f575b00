"""Index by which gateways read what all keys used in the last minutes."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    op.create_index("ix_key_usage_minute", "key_usage", ["minute"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_key_usage_minute", "key_usage")
