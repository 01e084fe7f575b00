"""Who answered what, for requests that follow it at another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from metarouter.store.database import insert_latest
from metarouter.store.tables import remembered

__all__ = ["find_remembered", "save_remembered"]

_MOST_NAMES = 1000  # of one statement; databases take some 30,000 parameters


def save_remembered(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the table; of two with one name the one that was used later stays.

    Parameters
    ----------
    connection : of a transaction.
    rows : whole ones, in the order of their use.
    """
    # one order in every process: no two of them wait for each other's rows
    latest = {row["name"]: row for row in rows}
    insert_latest(connection, remembered, [latest[name] for name in sorted(latest)], by="used")


def find_remembered(engine: sa.Engine, names: Sequence[str], since: float) -> list[dict[str, Any]]:
    """The rows of names that were used at `since`, in seconds since 1970, or later."""
    column = remembered.c
    query = sa.select(remembered).where(column.used >= since)
    found: list[dict[str, Any]] = []
    with engine.connect() as connection:
        for start in range(0, len(names), _MOST_NAMES):
            some = query.where(column.name.in_(names[start : start + _MOST_NAMES]))
            found += map(dict, connection.execute(some).mappings())
    return found
