"""The tables. A change here needs a migration in ``migrations/versions``."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["api_keys", "audit", "decisions", "feedback", "key_usage", "metadata", "remembered"]

metadata = sa.MetaData()

_JSON = sa.JSON(none_as_null=True)

# No foreign keys: feedback may arrive before its decision is written.
decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("decision_id", sa.String(36), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("endpoint", sa.String(40), nullable=False),
    sa.Column("key_id", sa.String(20)),
    sa.Column("asked", sa.Text, nullable=False),  # model as the caller named it
    sa.Column("policy", sa.Text),
    sa.Column("policy_version", sa.Text),
    sa.Column("artifact", sa.Text),  # when the router was fitted
    sa.Column("features_hash", sa.String(32)),
    sa.Column("model", sa.Text, nullable=False),  # chosen
    sa.Column("answered", sa.Text),  # after fallback; null when nobody answered
    sa.Column("predicted_gain", sa.Float),
    sa.Column("predicted_gain_std", sa.Float),
    sa.Column("threshold", sa.Float),
    sa.Column("cost", sa.Float),
    sa.Column("cost_unit", sa.String(10)),
    sa.Column("options", _JSON),  # every model weighed, with gain, interval, cost
    sa.Column("logging_propensity", sa.Float, nullable=False),
    sa.Column("bound", sa.String(10), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("attempts", _JSON),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("completion_tokens", sa.Integer),
    sa.Column("decision_seconds", sa.Float),
    sa.Column("first_byte_seconds", sa.Float),
    sa.Column("seconds", sa.Float),
    sa.Column("prompt", sa.Text),  # only where the settings say so
    sa.Column("experiment", sa.Text),  # the split that chose the policy
    sa.Column("propensities", _JSON),  # of every model that might have been chosen
    sa.Column("is_exploration", sa.Boolean),
    sa.Column("shadow", _JSON),  # what policies that do not act would have done
    sa.Column("conversation", sa.String(64)),  # a hash
    sa.Column("spent", sa.Float),  # dollars for the tokens counted; null where no price is known
    sa.Column("instance", sa.String(40)),  # the process that wrote it
    sa.Column("drawn_by", sa.String(12)),  # what the split draws by: conversation, key or request
)
# By time, with all that is asked of every decision of a window: the rows are ten times as wide.
sa.Index(
    "ix_decisions_brief",
    *(decisions.c[name] for name in ("created", "decision_id", "key_id", "outcome", "endpoint")),
    *(decisions.c[name] for name in ("model", "answered", "prompt_tokens")),
)
# Finds prompts that are old enough to be erased; small where prompts are not kept.
sa.Index(
    "ix_decisions_prompt_created",
    decisions.c.created,
    sqlite_where=decisions.c.prompt.is_not(None),
    postgresql_where=decisions.c.prompt.is_not(None),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("feedback_id", sa.String(64), primary_key=True),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("decision_id", sa.String(36), nullable=False, index=True),
    sa.Column("key_id", sa.String(20)),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("content", _JSON, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(20), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # sha256 of the key
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
    sa.Column("models", _JSON),  # null: all
    sa.Column("policies", _JSON),  # null: all
    sa.Column("is_admin", sa.Boolean),
    sa.Column("requests_per_minute", sa.Integer),  # null: no limit, here and below
    sa.Column("tokens_per_minute", sa.Integer),
    sa.Column("budget", sa.Float),  # dollars
    sa.Column("budget_days", sa.Float),  # that the budget is for; null: for good
)

# What each key used, minute by minute, whichever process served it.
key_usage = sa.Table(
    "key_usage",
    metadata,
    sa.Column("key_id", sa.String(20), primary_key=True),
    sa.Column("minute", sa.Integer, primary_key=True, index=True),  # since 1970
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("spent", sa.Float, nullable=False),  # dollars
)

# Who answered what, by names that other processes may be asked for.
remembered = sa.Table(
    "remembered",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),  # a hash
    sa.Column("used", sa.Float, nullable=False, index=True),  # last, seconds since 1970
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("upstream", sa.Text, nullable=False),
    sa.Column("policy", sa.Text),
    sa.Column("conversation", sa.String(64)),  # a hash
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("action", sa.String(40), nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("content", _JSON, nullable=False),
)
