"""The first tables: decisions, feedback, keys, audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.String(36), primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("endpoint", sa.String(40), nullable=False),
        sa.Column("key_id", sa.String(20)),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("policy", sa.Text),
        sa.Column("policy_version", sa.Text),
        sa.Column("artifact", sa.Text),
        sa.Column("features_hash", sa.String(32)),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("answered", sa.Text),
        *(
            sa.Column(name, sa.Float)
            for name in ("predicted_gain", "predicted_gain_std", "threshold", "cost")
        ),
        sa.Column("cost_unit", sa.String(10)),
        sa.Column("options", sa.JSON),
        sa.Column("logging_propensity", sa.Float, nullable=False),
        sa.Column("bound", sa.String(10), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("attempts", sa.JSON),
        sa.Column("prompt_tokens", sa.Integer),
        sa.Column("completion_tokens", sa.Integer),
        *(
            sa.Column(name, sa.Float)
            for name in ("decision_seconds", "first_byte_seconds", "seconds")
        ),
        sa.Column("prompt", sa.Text),
    )
    op.create_index("ix_decisions_created", "decisions", ["created"])
    _make_smaller_tables()


def _make_smaller_tables() -> None:
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("decision_id", sa.String(36), nullable=False),
        sa.Column("key_id", sa.String(20)),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
    )
    op.create_index("ix_feedback_decision_id", "feedback", ["decision_id"])
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(20), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("revoked", sa.Float),
        sa.Column("models", sa.JSON),
        sa.Column("policies", sa.JSON),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("audit", "api_keys", "feedback", "decisions"):
        op.drop_table(name)
