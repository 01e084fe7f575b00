"""`auto` in every made world of ``metarouter.testing``, on which nothing of it was chosen.

    ./run python experiments/made_worlds.py --seeds 8

1,500 queries, of which the first n carry gold labels and the others votes; 1,000 test queries
whose true gain is known. Areas are against that true gain. A world's yardstick is the better of
gold_only and none (pooled) in the mean over the seeds, which a user could not have known.
Intervals: bootstrap over seeds, the yardstick chosen anew in every draw, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from metarouter.features import make_pipeline
from metarouter.testing import WORLDS, make_world
from metarouter.types import FloatArray
from study import OWN_POSTERIOR, Log, Task, areas, markdown, with_interval

RIVALS = ("gold_only", "none")
METHODS = (*RIVALS, "dr", "auto", OWN_POSTERIOR)
N_GOLD, N_QUERIES, N_TEST = (50, 100), 1500, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("results/made_worlds.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    for world in WORLDS:
        for seed in range(arguments.seeds):
            for n_gold in N_GOLD:
                if log.missing(world, f"n_gold={n_gold}", seed, METHODS):
                    log.run(make_task(world, n_gold, seed), METHODS)
        print(f"{world} done", flush=True)
    report(log, arguments.seeds)


def make_task(world: str, n_gold: int, seed: int) -> Task:
    """Labels of a world and the true gain of its test queries, in default features."""
    made = make_world(world, n_queries=N_QUERIES, n_gold=n_gold, n_test=N_TEST, seed=seed)
    pipeline = make_pipeline("default", seed=seed).fit(made.table.queries)
    return Task(
        world=world,
        cell=f"n_gold={n_gold}",
        seed=seed,
        table=made.table.with_features(pipeline.transform(made.table.queries)),
        test_features=pipeline.transform(made.test.queries),
        test_gain=made.test_psi,
    )


def report(log: Log, seeds: int) -> None:
    """Areas, and ratios to the better of the two simple ways."""
    rows = []
    for (world, cell), by in areas(r for r in log.records if r.seed < seeds).items():
        ratios = [with_interval(partial(ratio_to_better, by, name)) for name in METHODS[3:]]
        means = (f"{by[name].mean():.2f}" for name in METHODS)
        rows.append([world, cell, *means, *ratios])
    head = [f"{name} / better of gold_only and none" for name in METHODS[3:]]
    print(f"\narea x 100, mean of {seeds} seeds\n")
    print(markdown(["world", "cell", *METHODS, *head], rows))


def ratio_to_better(
    by: Mapping[str, FloatArray], name: str, rng: np.random.Generator | None = None
) -> float:
    """Mean area over that of the better rival; seeds redrawn."""
    n = len(by[name])
    at = np.arange(n) if rng is None else rng.integers(n, size=n)
    return float(by[name][at].mean() / max(by[rival][at].mean() for rival in RIVALS))


if __name__ == "__main__":
    main()
