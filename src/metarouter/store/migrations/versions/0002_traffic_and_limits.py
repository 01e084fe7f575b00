"""Splits, shadows, exploration, spending; limits of keys."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_DECISIONS: tuple[tuple[str, sa.types.TypeEngine[Any]], ...] = (
    ("experiment", sa.Text()),
    ("propensities", sa.JSON()),
    ("is_exploration", sa.Boolean()),
    ("shadow", sa.JSON()),
    ("conversation", sa.String(64)),
    ("spent", sa.Float()),
    ("instance", sa.String(40)),
)
_KEYS: tuple[tuple[str, sa.types.TypeEngine[Any]], ...] = (
    ("is_admin", sa.Boolean()),
    ("requests_per_minute", sa.Integer()),
    ("tokens_per_minute", sa.Integer()),
    ("budget", sa.Float()),
    ("budget_days", sa.Float()),
)


def upgrade() -> None:
    """Add the columns and the table of what keys used."""
    for name, kind in _DECISIONS:
        op.add_column("decisions", sa.Column(name, kind))
    for name, kind in _KEYS:
        op.add_column("api_keys", sa.Column(name, kind))
    op.create_table(
        "key_usage",
        sa.Column("key_id", sa.String(20), primary_key=True),
        sa.Column("minute", sa.Integer, primary_key=True),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("spent", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("key_usage")
    for name, _ in _KEYS:
        op.drop_column("api_keys", name)
    for name, _ in _DECISIONS:
        op.drop_column("decisions", name)
