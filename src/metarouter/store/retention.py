"""What is kept for how long: old prompts are erased, old rows deleted, a few at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from metarouter.store.keys import read_keys
from metarouter.store.tables import decisions, feedback, key_usage, remembered

__all__ = ["Pruned", "Retention", "prune"]

_DAY = 86_400.0  # seconds
_STEP = 1000  # rows of one transaction, so that nobody waits for long


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Days that things are kept; None keeps them for good.

    Attributes
    ----------
    prompt_days : of the text of prompts; the rest of the decision stays.
    row_days : of decisions and feedback. Keys and the audit trail stay.
    usage_days : of what keys used; for a key whose budget's period is longer, from the
        start of that period on.
    memory_seconds : since their last use, of who answered what.
    """

    prompt_days: float | None = None
    row_days: float | None = None
    usage_days: float | None = None
    memory_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """How much was too old.

    Examples
    --------
    >>> Pruned(prompts=2) + Pruned(decisions=1)
    Pruned(prompts=2, decisions=1, feedback=0, minutes=0, remembered=0)
    """

    prompts: int = 0
    decisions: int = 0
    feedback: int = 0
    minutes: int = 0
    remembered: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            prompts=self.prompts + other.prompts,
            decisions=self.decisions + other.decisions,
            feedback=self.feedback + other.feedback,
            minutes=self.minutes + other.minutes,
            remembered=self.remembered + other.remembered,
        )

    @property
    def is_all(self) -> bool:
        """Whether nothing was found: what is left is young enough."""
        return self == Pruned()


def prune(engine: sa.Engine, retention: Retention, now: float, *, step: int = _STEP) -> Pruned:
    """Erase and delete some of what is too old.

    Call it until its result says `is_all`. Several processes may do so at once, beside
    others that write: a row that somebody holds is left for the next time, so nobody
    here waits for a row while he holds another one, and none of them blocks the rest.

    Parameters
    ----------
    engine : the store's database.
    retention : Retention
    now : float, seconds since 1970.
    step : int, the most rows of each kind.

    Returns
    -------
    Pruned

    Notes
    -----
    SQLite overwrites what is erased, and loses the copies in its log at the
    next checkpoint. PostgreSQL keeps the old version of a row until it is
    vacuumed, and both live on in back-ups.
    """
    done = Pruned()
    with engine.begin() as connection:
        if retention.row_days is not None:
            before = now - _DAY * retention.row_days
            done += Pruned(
                decisions=_delete(connection, decisions.c.created, before, step),
                feedback=_delete(connection, feedback.c.created, before, step),
            )
        if retention.prompt_days is not None:
            before = now - _DAY * retention.prompt_days
            done += Pruned(prompts=_erase_prompts(connection, before, step))
        if retention.usage_days is not None:
            before = int((now - _DAY * retention.usage_days) // 60)
            done += Pruned(minutes=_delete_usage(connection, before, int(now // 60), step))
        if retention.memory_seconds is not None:
            before = now - retention.memory_seconds
            done += Pruned(remembered=_delete(connection, remembered.c.used, before, step))
    return done


def _delete(connection: sa.Connection, time: sa.Column[float], before: float, step: int) -> int:
    table: sa.Table = time.table
    (key,) = table.primary_key
    old = _free(connection, sa.select(key).where(time < before).order_by(time).limit(step))
    return connection.execute(sa.delete(table).where(key.in_(old))).rowcount


def _free(connection: sa.Connection, old: sa.Select[Any]) -> sa.Select[Any]:
    """The rows of a query that nobody else holds, and we do from now on."""
    if connection.dialect.name != "postgresql":  # it has one writer at a time
        return old
    # a table of its own is made once; a subquery again and again at will, and above its limit
    return sa.select(old.with_for_update(skip_locked=True).cte("old"))


def _erase_prompts(connection: sa.Connection, before: float, step: int) -> int:
    column = decisions.c
    old = (
        sa.select(column.decision_id)
        .where(column.created < before, column.prompt.is_not(None))
        .order_by(column.created)
        .limit(step)
    )
    is_free = column.decision_id.in_(_free(connection, old))
    return connection.execute(sa.update(decisions).where(is_free).values(prompt=None)).rowcount


def _delete_usage(connection: sa.Connection, before: int, now: int, step: int) -> int:
    """Minutes before `before` that no budget looks back to."""
    column = key_usage.c
    periods = _long_periods(connection, before, now)
    is_old = sa.or_(
        sa.and_(column.minute < before, column.key_id.not_in(periods)),
        *(sa.and_(column.key_id == key, column.minute < start) for key, start in periods.items()),
    )
    place = sa.tuple_(column.key_id, column.minute)
    # all that is old is before `before`; said so, the index is read no further
    old = sa.select(column.key_id, column.minute).where(column.minute < before, is_old)
    old = old.order_by(column.minute).limit(step)
    is_free = place.in_(_free(connection, old))
    return connection.execute(sa.delete(key_usage).where(is_free)).rowcount


def _long_periods(connection: sa.Connection, before: int, now: int) -> dict[str, int]:
    """First minute of the period of each budget that looks back further than `before`."""
    used = [key for key in read_keys(connection) if key.budget is not None and key.revoked is None]
    starts = {key.key_id: key.first_minute(now) for key in used}
    return {key_id: start for key_id, start in starts.items() if start < before}
