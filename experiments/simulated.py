"""Share of the gap from pooled to all-gold training that each method closes.

    ./run python experiments/simulated.py --seeds 20 --published-seeds 2

The setting of the published simulation: 5,000 queries with 50 features, 100
gold labels, 4,400 preference labels, 500 test queries, every bias of
``metarouter.testing``. Areas are taken on the true gain of the test queries, of
which the gold label is a noisy copy, so that label noise of the test set does
not blur the comparison. Intervals: bootstrap over seeds, 95 %.

``told`` is no method: it is given the preference mean of every query, the noise
and the variance of the bias, and estimates the bias by the Bayes-optimal linear
rule from the 100 gold labels. It takes all directions for equally likely; a method
that learns from the votes which ones matter can do better.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from metarouter.evaluation.metrics import efficiency_gain_area
from metarouter.features.bases import BASES
from metarouter.gain import make_gain_model
from metarouter.testing import SIMULATED_BIASES, Simulation, make_simulation
from metarouter.types import FloatArray, IntArray
from study import (
    CEILING,
    METHODS,
    OWN_POSTERIOR,
    PUBLISHED,
    Log,
    Record,
    Statistic,
    Task,
    areas,
    markdown,
    with_interval,
)

FLOOR, CELL = "none", "n_gold=100"
TOLD = "told"
# auto as it is where the votes tell no directions
NO_INDEX = f"auto:bases={json.dumps(BASES, separators=(',', ':'))}"
OURS = (*METHODS, NO_INDEX)
NOISE, LEVEL_VARIANCE = 0.27, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--published-seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/simulated.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    for seed in range(arguments.seeds):
        for bias in SIMULATED_BIASES:
            run_cell(log, bias, seed, (*OURS, CEILING, TOLD))
    for seed in range(arguments.published_seeds):
        for bias in SIMULATED_BIASES:
            run_cell(log, bias, seed, PUBLISHED)
    report(log, arguments.seeds, arguments.published_seeds)


def run_cell(log: Log, bias: str, seed: int, methods: tuple[str, ...]) -> None:
    """Fit what is missing of one simulated data set."""
    if not log.missing(bias, CELL, seed, methods):
        return
    data = make_simulation(5000, 50, n_gold=100, n_test=500, bias=bias, seed=seed)
    task = Task(
        world=bias,
        cell=CELL,
        seed=seed,
        table=data.table,
        test_features=np.asarray(data.test.features),
        test_gain=data.test_psi,
    )
    log.run(task, [name for name in methods if name not in (CEILING, TOLD)])
    if TOLD in log.missing(bias, CELL, seed, methods):
        area = efficiency_gain_area(told(data), data.test_psi)
        log.add(Record(world=bias, cell=CELL, seed=seed, method=TOLD, area=area, seconds=0.0))
    if CEILING in methods:
        log.run(replace(task, table=data.all_gold()), [CEILING])


def told(data: Simulation) -> FloatArray:
    """ψ of the test queries by a rule that knows η, σ² and var Δ: η + E[Δ given gold]."""
    test, train = np.asarray(data.test.features, dtype=np.float64), data.features
    gold = train[data.is_gold].astype(np.float64)
    error = (data.gold_gain - data.eta)[-len(data.psi) :][data.is_gold]
    size = float((train.astype(np.float64) ** 2).sum(axis=1).mean()) / max(
        float(data.delta.var()), 1e-9
    )
    kernel = gold @ gold.T / size + LEVEL_VARIANCE + NOISE**2 * np.eye(len(gold))
    weights = np.linalg.solve(kernel, error)
    shift = (test @ gold.T / size + LEVEL_VARIANCE) @ weights
    eta = make_gain_model("ridge").fit(train, data.eta).predict(test).mean
    result: FloatArray = eta + shift
    return result


def report(log: Log, seeds: int, published_seeds: int) -> None:
    """Print areas, then shares of the gap."""
    own = areas(r for r in log.records if r.seed < seeds and r.method not in PUBLISHED)
    few = areas(r for r in log.records if r.seed < published_seeds)
    for table, names in ((own, OURS), (few, PUBLISHED))[: 2 if published_seeds else 1]:
        by_bias = {bias: table[bias, CELL] for bias in SIMULATED_BIASES}
        n = len(by_bias["none"][FLOOR])
        print(f"\narea x 100, mean of {n} seeds\n")
        rows = [
            [name, *(f"{by_bias[b][name].mean():.2f}" for b in SIMULATED_BIASES)]
            for name in (*names, *(() if names is PUBLISHED else (TOLD,)), CEILING)
        ]
        print(markdown(["method", *SIMULATED_BIASES], rows))
        print(f"\nshare of the gap closed, {n} seeds\n")
        gaps = [b for b in SIMULATED_BIASES if _has_gap(by_bias[b])]
        rows = [
            [
                name,
                *(_share([by_bias[b]], name) for b in gaps),
                _share([by_bias[b] for b in gaps], name),
            ]
            for name in (*names, *(() if names is PUBLISHED else (TOLD,)))
            if name != FLOOR
        ]
        print(markdown(["method", *gaps, "mean"], rows))
    null = own["none", CELL]
    for name in ("auto", NO_INDEX, OWN_POSTERIOR):
        print(f"{name} / pooled under no bias: {with_interval(_ratio_to_pooled(null, name))}")


def _ratio_to_pooled(by: dict[str, FloatArray], name: str) -> Statistic:
    def ratio(rng: np.random.Generator | None) -> float:
        at = _redrawn(len(by[name]), rng)
        return float(by[name][at].mean() / by[FLOOR][at].mean())

    return ratio


def _has_gap(by: dict[str, FloatArray]) -> bool:
    """A gap of at least a twentieth of the ceiling; a share of less says nothing."""
    return float((by[CEILING] - by[FLOOR]).mean()) > 0.05 * float(by[CEILING].mean())


def _share(cells: list[dict[str, FloatArray]], name: str) -> str:
    """Mean over biases of (method - pooled) / (all gold - pooled), in percent."""

    def share(rng: np.random.Generator | None) -> float:
        shares = []
        for by in cells:
            at = _redrawn(len(by[name]), rng)
            gap = (by[CEILING][at] - by[FLOOR][at]).mean()
            shares.append((by[name][at] - by[FLOOR][at]).mean() / gap)
        return 100 * float(np.mean(shares))

    return with_interval(share, digits=0)


def _redrawn(n: int, rng: np.random.Generator | None) -> IntArray:
    return np.arange(n) if rng is None else rng.integers(n, size=n)


if __name__ == "__main__":
    main()
