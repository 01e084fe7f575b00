"""Decisions by time, with what is asked of every one of a window: the rows need not be read."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_OF_EACH = "decision_id", "key_id", "outcome", "endpoint", "model", "answered", "prompt_tokens"


def upgrade() -> None:
    """Make it, in place of the one that has times alone."""
    op.create_index("ix_decisions_brief", "decisions", ["created", *_OF_EACH])
    op.drop_index("ix_decisions_created", "decisions")


def downgrade() -> None:
    """Times alone."""
    op.create_index("ix_decisions_created", "decisions", ["created"])
    op.drop_index("ix_decisions_brief", "decisions")
