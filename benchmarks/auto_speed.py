"""How long `auto` takes beside the published procedure, on the same rows, in one run.

    ./run python benchmarks/auto_speed.py [--rows 5000 --features 384 --profile]

Made-up Gaussian features, 100 gold labels. "auto" is the corrector with its own
posterior as gain model; "cross-fitting" are the five further fits that give
`metarouter fit` its out-of-fold gold predictions; "published_r" is the released
recipe (scikit-learn forests) and a ridge. Each runs on one thread by default. Both
clocks are shown, since on a shared machine only CPU seconds belong to the
process; the ratio is taken of CPU seconds.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from metarouter.correction import learn_gain, make_corrector
from metarouter.crossfitted import cross_fit
from metarouter.labels.table import GainTable
from metarouter.testing import make_simulation

SEED = 0


class Given:
    """A feature pipeline that knows the features of its texts."""

    def __init__(self, table: GainTable) -> None:
        self.row_of = {text: i for i, text in enumerate(table.queries)}
        self.features = np.asarray(table.features)

    def fit(self, texts: Sequence[str]) -> Self:
        """Nothing to learn."""
        return self

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Look the rows up."""
        rows: NDArray[np.float32] = self.features[[self.row_of[text] for text in texts]]
        return rows


def learn_auto(table: GainTable) -> Any:
    """The default fit: corrector and gain model in one."""
    return learn_gain(table, make_corrector("auto", seed=SEED), gain_model="auto", seed=SEED)


def learn_published(table: GainTable) -> Any:
    """The released R-learner and a ridge on its rows."""
    corrector = make_corrector("published_r", seed=SEED)
    return learn_gain(table, corrector, gain_model="ridge", seed=SEED)


def timed(run: Callable[[], Any], threads: int) -> dict[str, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    with threadpool_limits(limits=threads):
        run()
    return {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def profiled(run: Callable[[], Any]) -> None:
    """Print where the time goes."""
    profile = cProfile.Profile()
    with threadpool_limits(limits=1):
        profile.runcall(run)
    pstats.Stats(profile).sort_stats("tottime").print_stats(12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--gold", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of linear algebra")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = make_simulation(
        arguments.rows + 100, arguments.features, n_gold=arguments.gold, n_test=100, seed=SEED
    )
    table = data.table
    runs: dict[str, Callable[[], Any]] = {
        "auto": lambda: learn_auto(table),
        "cross-fitting": lambda: cross_fit(table, lambda: Given(table), learn_auto, seed=SEED),  # type: ignore[arg-type,return-value]
        "published_r": lambda: learn_published(table),
    }
    learn_auto(make_simulation(300, 5, n_gold=50, n_test=50).table)  # imports are not timed
    learn_published(make_simulation(300, 5, n_gold=50, n_test=50).table)
    found = {name: timed(run, arguments.threads) for name, run in runs.items()}
    total = found["auto"]["cpu_seconds"] + found["cross-fitting"]["cpu_seconds"]
    found["ratio"] = {
        "published_r / auto": found["published_r"]["cpu_seconds"] / found["auto"]["cpu_seconds"],
        "published_r / (auto + cross-fitting)": found["published_r"]["cpu_seconds"] / total,
    }
    for name, values in found.items():
        print(name, {key: round(value, 2) for key, value in values.items()})
    if arguments.profile:
        profiled(runs["auto"])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
