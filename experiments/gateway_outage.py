"""PostgreSQL goes away under load: whether a request fails or a decision is lost.

    ./run python experiments/gateway_outage.py [--seconds 60] [--how stopped frozen]

A gateway serves callers who ask and give feedback. The server of its store is
ended ("stopped") or frozen with its connections open ("frozen"), and started
again. No request may fail; every decision and all feedback that was
acknowledged has to be in the store afterwards.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gateway_callers import Kept, Load, compare, make_settings, wait_for_store
from gateway_load import gateway
from metarouter.store.database import open_database
from metarouter.testing import FakeUpstream, PostgresServer


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What happened; times in seconds, latencies in milliseconds."""

    how: str
    away: float
    requests: int
    failures: int
    kept: Kept
    until_known: float
    until_caught_up: float
    p50_before: float
    p50_away: float
    p99_before: float
    p99_away: float
    longest_away: float


def measure(seconds: float, how: str, *, callers: int = 4, calm: float = 5.0) -> Outcome:
    """One outage of so many seconds, with calm before and after it."""
    with (
        tempfile.TemporaryDirectory() as name,
        FakeUpstream() as upstream,
        PostgresServer() as server,
    ):
        folder = Path(name)
        url = server.make_database()
        settings = make_settings(folder, upstream.url, url)
        with gateway(folder, settings) as (_, place):
            wait_for_store(place, ["ok"])
            with Load(place, callers=callers) as load:
                time.sleep(calm)
                left = time.monotonic()
                server.pause() if how == "frozen" else server.stop()
                until_known = wait_for_store(place, ["down"])
                time.sleep(max(0.0, left + seconds - time.monotonic()))
                server.resume() if how == "frozen" else server.start()
                back = time.monotonic()
                until_caught_up = wait_for_store(place, ["ok"])
                time.sleep(calm)
            time.sleep(1.0)
            wait_for_store(place, ["ok"])
        engine = open_database(url)
        kept = compare(engine, load.told)
        engine.dispose()
    before = np.array([t for at, t in load.told.answers if at < left])
    away = np.array([t for at, t in load.told.answers if left <= at < back])
    return Outcome(
        how=how,
        away=back - left,
        requests=len(load.told.answers) + len(load.told.said) + len(load.told.failures),
        failures=len(load.told.failures),
        kept=kept,
        until_known=until_known,
        until_caught_up=until_caught_up,
        p50_before=1000 * float(np.median(before)),
        p50_away=1000 * float(np.median(away)),
        p99_before=1000 * float(np.quantile(before, 0.99)),
        p99_away=1000 * float(np.quantile(away, 0.99)),
        longest_away=1000 * float(away.max()),
    )


def main() -> int:
    """Print each outcome; 1 where a request failed or a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--how", nargs="+", choices=["stopped", "frozen"], default=["stopped", "frozen"]
    )
    parser.add_argument("--callers", type=int, default=4)
    given = parser.parse_args()
    is_good = True
    for how in given.how:
        outcome = measure(given.seconds, how, callers=given.callers)
        for key, value in asdict(outcome).items():
            print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
        kept = outcome.kept
        is_good &= not (outcome.failures or kept.decisions_lost or kept.feedback_lost)
    print("good" if is_good else "NOT GOOD")
    return 0 if is_good else 1


if __name__ == "__main__":
    raise SystemExit(main())
