"""What cells of similar prompts lose against a scan of all of them, by γ.

    OPENBLAS_NUM_THREADS=1 ./run python experiments/sw_cells.py [--seeds 5]

6,000 made-up battles of five models, whose leads grow with the first of 8 normal
features: prompts without clusters, the hardest case for cells. 155 cells (2 √n), 100 fresh
queries, gain of the last model over the first. 95 % Student's t over seeds, each with
its own battles and queries.
"""

from __future__ import annotations

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.gain.sw_ranking import GAMMAS, SWRanking
from metarouter.labels import GainTable, make_gain_table
from study import markdown, over_units

N_BATTLES, N_MODELS, N_CELLS, N_QUERIES, WIDTH = 6_000, 5, 155, 100, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    lines = []
    for gamma in GAMMAS:
        with threadpool_limits(limits=1):
            found = np.array([compare(gamma, seed) for seed in range(arguments.seeds)])
        lines.append([f"{gamma:,.0f}", *(over_units(part, digits=3) for part in found.T)])
    head = ["γ", "correlation with a scan", "root mean squared difference"]
    print(markdown([*head, "stated deviation of the scan", "cells over scan"], lines))


def compare(gamma: float, seed: int, n_cells: int = N_CELLS) -> list[float]:
    """The four figures of one arena."""
    rng = np.random.default_rng(seed)
    table = make_arena(rng)
    queries = rng.normal(size=(N_QUERIES, WIDTH)) + 0.6
    scan, cells = (
        SWRanking(gamma=gamma, cells=n, seed=seed).fit(table).predict(queries) for n in (0, n_cells)
    )
    exact, near = scan.mean[:, -1], cells.mean[:, -1]
    return [
        float(np.corrcoef(exact, near)[0, 1]),
        float(np.sqrt(((exact - near) ** 2).mean())),
        float(scan.std[:, -1].mean()),
        float((cells.std[:, -1] / scan.std[:, -1]).mean()),
    ]


def make_arena(rng: np.random.Generator) -> GainTable:
    """Battles between any two models, a fifth of them ties."""
    first = rng.integers(0, N_MODELS, N_BATTLES)
    second = (first + rng.integers(1, N_MODELS, N_BATTLES)) % N_MODELS
    candidate, baseline = np.maximum(first, second), np.minimum(first, second)
    x = rng.normal(size=(N_BATTLES, WIDTH)) + 0.6  # a mean, so that cosines spread
    lead = 0.5 * (candidate - baseline) * (1.0 + 0.8 * x[:, 0])
    won = np.where(rng.random(N_BATTLES) < 1.0 / (1.0 + np.exp(-lead)), 1.0, -1.0)
    return make_gain_table(
        queries=[f"prompt {i}" for i in range(N_BATTLES)],
        models=[f"model {i}" for i in range(N_MODELS)],
        candidate=candidate,
        baseline=baseline,
        gain=np.where(rng.random(N_BATTLES) < 0.2, 0.0, won),
        is_gold=np.zeros(N_BATTLES, dtype=np.bool_),
        features=x.astype(np.float32),
    )


if __name__ == "__main__":
    main()
