"""How long the dashboard's questions take over a large store.

    ./run python benchmarks/dashboard.py [--rows 200000] [--scores] [--postgres]

Sends a few hundred requests through a gateway in front of an upstream that we
write, copies their rows with new ids and times over seven days until there are
as many as asked for, a tenth of them with a thumb or a score, and asks every question of
the pages over HTTP, for the last day and for all seven. Prints medians of five
in milliseconds: by the clock, and of the processor (of this process: gateway
and asker; a PostgreSQL is another).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import sqlalchemy as sa

from metarouter.gateway.state import Gateway
from metarouter.store.tables import decisions, feedback
from metarouter.testing import PostgresServer

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from dashboard_demo import demo, fill

DAYS = 7
QUESTIONS = (
    "traffic", "saving", "decisions", "decisions?model=atlas-400b", "decisions?text=nowhere",
    "service", "what-if", "feedback", "experiments",
)  # fmt: skip


def multiply(gateway: Gateway, n: int, kind: str) -> None:
    """Copies of the rows of the store, `n` in all."""
    with gateway.engine.begin() as connection:
        rows = [dict(row) for row in connection.execute(sa.select(decisions)).mappings()]
        for batch in _batches(_copies(rows, n - len(rows)), 5000):
            connection.execute(sa.insert(decisions), batch)
            said = [_statement(row, kind) for row in batch[::10]]
            connection.execute(sa.insert(feedback), said)
    with gateway.engine.begin() as connection:
        connection.execute(sa.text("ANALYZE"))


def _copies(rows: list[dict[str, Any]], n: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    ages = np.sort(rng.uniform(0, DAYS * 86_400, n))[::-1]  # written in order of time, as they are
    for number, age in enumerate(ages.tolist()):
        row, round_ = rows[number % len(rows)], number // len(rows)
        # conversations of each copy are its own: they stay as long as they are
        talk = None if row["conversation"] is None else f"{row['conversation']}-{round_}"
        fresh = {"decision_id": str(uuid.uuid4()), "created": time.time() - age}
        yield row | fresh | {"conversation": talk}


def _statement(row: dict[str, Any], kind: str) -> dict[str, Any]:
    value = "up" if kind == "thumbs" else 0.75
    content = {"type": kind, "decision_id": row["decision_id"], "value": value}
    return {
        "feedback_id": uuid.uuid4().hex,
        "created": row["created"] + 30,
        "decision_id": row["decision_id"],
        "kind": kind,
        "content": content,
    }


def _batches(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def measure(url: str, question: str, seconds: int) -> tuple[float, float]:
    """Medians of five answers by the clock and of the processor, in milliseconds."""
    address = f"{url}/dashboard/api/{question}{'&' if '?' in question else '?'}seconds={seconds}"
    clock, processor = [], []
    with httpx2.Client(timeout=120) as client:
        for _ in range(5):
            start, begun = time.perf_counter(), time.process_time()
            client.get(address).raise_for_status()
            clock.append(time.perf_counter() - start)
            processor.append(time.process_time() - begun)
    return 1000 * statistics.median(clock), 1000 * statistics.median(processor)


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--scores", action="store_true", help="Users give scores, not thumbs.")
    parser.add_argument("--postgres", action="store_true", help="A PostgreSQL of our own.")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings: dict[str, Any] = {"port": 0}
        if given.postgres:
            server = stack.enter_context(PostgresServer())
            settings["store"] = {"url": server.make_database()}
        gateway, url, prompts = stack.enter_context(demo(folder, **settings))
        fill(gateway, url, prompts, 300)
        multiply(gateway, given.rows, "score" if given.scores else "thumbs")
        print(f"{given.rows:,} decisions, {gateway.engine.dialect.name}: ms of clock, of processor")
        print(f"{'':28} {'a day':>16} {f'{DAYS} days':>16}")
        for question in QUESTIONS:
            found = [measure(url, question, days * 86_400) for days in (1, DAYS)]
            print(f"{question:28}", *(f"{clock:8.0f} {used:7.0f}" for clock, used in found))


if __name__ == "__main__":
    main()
