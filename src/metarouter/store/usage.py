"""What each key used, minute by minute, in one table that every gateway process adds to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from metarouter.store.tables import key_usage

__all__ = ["DayUsage", "Used", "add_used", "list_days", "read_minutes", "read_spent"]

_MINUTES_OF_A_DAY = 1440


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """Requests let in, tokens and dollars charged.

    Examples
    --------
    >>> Used(requests=1) + Used(tokens=5, spent=0.25)
    Used(requests=1, tokens=5, spent=0.25)
    """

    requests: int = 0
    tokens: int = 0
    spent: float = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(
            requests=self.requests + other.requests,
            tokens=self.tokens + other.tokens,
            spent=self.spent + other.spent,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DayUsage:
    """What a key used on one day; `day` counts days of UTC since 1970."""

    key_id: str
    day: int
    requests: int
    tokens: int
    spent: float


def add_used(connection: sa.Connection, used: Mapping[str, Mapping[int, Used]]) -> None:
    """Add to the rows of keys and minutes.

    Parameters
    ----------
    connection : of a transaction, which makes all of it happen or none.
    used : for each key, what it used in each minute since 1970.
    """
    # one order in every process: no two of them wait for each other's rows
    for key_id, minutes in sorted(used.items()):
        for minute, given in sorted(minutes.items()):
            added = {"r": given.requests, "t": given.tokens, "s": given.spent}
            place = {"key": key_id, "at": minute}
            if not connection.execute(_ADD, place | added).rowcount:
                _begin(connection, key_id, minute)
                connection.execute(_ADD, place | added)


_ADD = (
    sa.update(key_usage)
    .where(key_usage.c.key_id == sa.bindparam("key"), key_usage.c.minute == sa.bindparam("at"))
    .values(
        requests=key_usage.c.requests + sa.bindparam("r"),
        tokens=key_usage.c.tokens + sa.bindparam("t"),
        spent=key_usage.c.spent + sa.bindparam("s"),
    )
)


def _begin(connection: sa.Connection, key_id: str, minute: int) -> None:
    """A row of zeros, unless another process just made it."""
    zeros = {"key_id": key_id, "minute": minute, "requests": 0, "tokens": 0, "spent": 0.0}
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(key_usage), zeros)
    except sa.exc.IntegrityError:
        return


def read_minutes(connection: sa.Connection, since: int) -> dict[str, dict[int, Used]]:
    """What every key used in each minute from `since` on."""
    query = sa.select(key_usage).where(key_usage.c.minute >= since)
    found: dict[str, dict[int, Used]] = {}
    for row in connection.execute(query):
        used = Used(requests=row.requests, tokens=row.tokens, spent=row.spent)
        found.setdefault(row.key_id, {})[row.minute] = used
    return found


def read_spent(
    connection: sa.Connection, starts: Mapping[str, int], until: int
) -> dict[str, float]:
    """Dollars that keys spent, each from its own first minute, before the minute `until`."""
    column = key_usage.c
    total = sa.select(sa.func.coalesce(sa.func.sum(column.spent), 0.0)).where(
        column.key_id == sa.bindparam("key"),
        column.minute >= sa.bindparam("start"),
        column.minute < until,
    )
    return {
        key_id: float(connection.execute(total, {"key": key_id, "start": start}).scalar_one())
        for key_id, start in starts.items()
    }


def list_days(
    engine: sa.Engine, *, since: int = 0, key_ids: Iterable[str] | None = None
) -> list[DayUsage]:
    """What keys used by day, latest day first.

    Parameters
    ----------
    engine : the store's database.
    since : int, first day, in days of UTC since 1970.
    key_ids : only these; all by default.
    """
    column = key_usage.c
    # written out: PostgreSQL takes two parameters of one value for two expressions
    length = sa.literal_column(str(_MINUTES_OF_A_DAY), sa.Integer)
    day = (column.minute // length).label("day")
    sums = [sa.func.sum(column[name]).label(name) for name in ("requests", "tokens", "spent")]
    query = (
        sa.select(column.key_id, day, *sums)
        .where(column.minute >= since * _MINUTES_OF_A_DAY)
        .group_by(column.key_id, day)
        .order_by(day.desc(), column.key_id)
    )
    if key_ids is not None:
        query = query.where(column.key_id.in_(list(key_ids)))
    with engine.connect() as connection:
        # PostgreSQL sums whole numbers to a decimal
        return [
            DayUsage(
                key_id=row.key_id,
                day=int(row.day),
                requests=int(row.requests),
                tokens=int(row.tokens),
                spent=float(row.spent),
            )
            for row in connection.execute(query)
        ]
