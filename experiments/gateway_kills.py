"""SIGKILL under load: whether every acknowledged piece of feedback is there afterwards.

    ./run python experiments/gateway_kills.py [--kills 50] [--database sqlite postgresql]

A gateway serves callers who ask and give feedback until it is killed, a time
drawn at random after the first was acknowledged; then the next one starts on
the same store. Decisions are not promised to survive: those of the last tenth
of a second may be lost, and are counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gateway_callers import Kept, Load, Told, compare, make_settings, wait_for_store
from gateway_load import gateway
from metarouter.store.database import open_database
from metarouter.testing import FakeUpstream, PostgresServer


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was acknowledged before the kills, and what of it is missing."""

    database: str
    kills: int
    answers: int
    feedback_acknowledged: int
    kept: Kept


def measure(
    kills: int, database: str, *, callers: int = 4, longest: float = 3.0, seed: int = 0
) -> Outcome:
    """Kill so many gateways, 0.5 s to `longest` seconds after it acknowledged something."""
    rng = np.random.default_rng(seed)
    told = Told()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        upstream = stack.enter_context(FakeUpstream())
        url = f"sqlite:///{folder / 'store.db'}"
        if database == "postgresql":
            url = stack.enter_context(PostgresServer()).make_database()
        settings = make_settings(folder, upstream.url, url)
        for _ in range(kills):
            with gateway(folder, settings) as (process, place):
                wait_for_store(place, ["ok", "catching up"])
                with Load(place, callers=callers, pause=0.0) as load:
                    load.wait_for_feedback()
                    time.sleep(rng.uniform(0.5, longest))
                    process.kill()
                told.add(load.told)
        with gateway(folder, settings) as (_, place):  # takes over what the dead put aside
            wait_for_store(place, ["ok"])
        engine = open_database(url)
        kept = compare(engine, told)
        engine.dispose()
    return Outcome(
        database=database,
        kills=kills,
        answers=len(told.answers),
        feedback_acknowledged=len(told.said),
        kept=kept,
    )


def main() -> int:
    """Print each outcome; 1 where acknowledged feedback is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    databases = ["sqlite", "postgresql"]
    parser.add_argument("--database", nargs="+", choices=databases, default=databases)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    lost = 0
    for database in given.database:
        outcome = measure(given.kills, database, seed=given.seed)
        print("  ".join(f"{key}: {value}" for key, value in asdict(outcome).items()), flush=True)
        lost += outcome.kept.feedback_lost
    print(f"acknowledged feedback lost: {lost}")
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
