"""Rows, and what is asked of a store in its tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from metarouter.store.keys import create_key
from metarouter.store.spill import Spill, make_instance_name
from metarouter.store.tables import decisions, feedback
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


def fill_with_opinions(
    engine: sa.Engine, seed: int, n: int = 300
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Decisions d0 to d29 and feedback of all sorts: both, as written, and an admin's key."""
    rng = np.random.default_rng(seed)
    admin, other = (
        create_key(engine, name, is_admin=name == "admin")[1] for name in ("admin", "other")
    )
    keys = (None, admin.key_id, other.key_id)
    made = [
        make_row(
            number,
            key_id=keys[rng.integers(3)],
            endpoint=str(rng.choice(["route", "chat/completions"])),
            model=str(rng.choice(["cheap", "premium"])),
            answered=(None, "cheap", "other")[rng.integers(3)],
            prompt=f"Why {number}?",
            prompt_tokens=number,
            conversation=f"c{number}",
        )
        for number in range(30)
    ]
    said = [
        {
            "feedback_id": f"{rng.integers(10**9)}-{number}",
            "created": float(rng.integers(60)),
            "decision_id": f"d{rng.integers(35)}",  # five of them are unknown
            "key_id": keys[rng.integers(3)],
            **_make_statement(rng),
        }
        for number in range(n)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(decisions), made)
        connection.execute(sa.insert(feedback), said)
    return made, said, admin.key_id


def _make_statement(rng: np.random.Generator) -> dict[str, Any]:
    kind = str(rng.choice(["thumbs", "thumbs", "score", "preference", "gold"]))
    contents: dict[str, dict[str, Any]] = {
        "thumbs": {"value": str(rng.choice(["up", "down"]))},
        "score": {"value": float(rng.choice([0.0, 0.125, 0.75, 1.0]))},
        "preference": {"model_a": "cheap", "model_b": "premium", "winner": "tie"},
        "gold": {"scores": {"cheap": 0.5}},
    }
    annotator = (None, "ann", "bob")[rng.integers(3)]
    return {"kind": kind, "content": {"type": kind, **contents[kind], "annotator": annotator}}


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
