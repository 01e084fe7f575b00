"""Rows, and what is asked of a store in its tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from metarouter.store.spill import Spill, make_instance_name
from metarouter.store.tables import decisions
from metarouter.store.writer import DecisionWriter


def make_row(number: int, **fields: Any) -> dict[str, Any]:
    """A row of the table of decisions."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in decisions.columns)
    return row | {
        "decision_id": f"d{number}",
        "created": float(number),
        "endpoint": "route",
        "asked": "metarouter",
        "model": "cheap",
        "logging_propensity": 1.0,
        "bound": "gain",
        "reason": "because",
        "outcome": "ok",
        **fields,
    }


def make_writer(
    engine: sa.Engine, folder: Path, *, limit: int = 2**30, is_open: bool = False, **options: Any
) -> DecisionWriter:
    """A quick writer that puts rows aside in `folder`; `is_open`: though its thread never runs."""
    spill = Spill(folder, instance=make_instance_name(), limit=limit)
    if is_open:
        spill.open()
    return DecisionWriter(engine, spill, **{"flush_seconds": 0.01, **options})


def count(engine: sa.Engine, table: sa.Table = decisions) -> int:
    """Rows of a table."""
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
