"""Indexes by which old prompts and feedback are found; no JSON value "null" where none is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_JSON = (
    ("decisions", ("options", "attempts", "propensities", "shadow")),
    ("api_keys", ("models", "policies")),
)


def upgrade() -> None:
    """Make the indexes."""
    kept = sa.text("prompt IS NOT NULL")
    op.create_index(
        "ix_decisions_prompt_created",
        "decisions",
        ["created"],
        sqlite_where=kept,
        postgresql_where=kept,
    )
    op.create_index("ix_feedback_created", "feedback", ["created"])
    for name, columns in _JSON:
        for column in columns:
            value = sa.column(column, sa.Text)
            is_null = sa.cast(value, sa.Text) == "null"
            op.execute(sa.update(sa.table(name, value)).where(is_null).values({column: sa.null()}))


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_feedback_created", "feedback")
    op.drop_index("ix_decisions_prompt_created", "decisions")
