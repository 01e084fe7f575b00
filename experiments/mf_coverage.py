"""How often the 95 % interval of mf holds a gain that is known, in made worlds.

    OPENBLAS_NUM_THREADS=1 .venv-torch/bin/python experiments/mf_coverage.py [--seeds 6]

d independent normal features, ψ(x) = tanh((a x·β/√d + 0.3)/2) with β normal, so that the
log-odds of a win have standard deviation a; labels are wins and losses; 1,000 fresh
queries. Beside mf: ridge on the same labels, and mf with the spread of its members in the place
of its variance, which is what it stated before. Share of queries held, averaged over
seeds, 95 % Student's t over seeds; the queries of one seed share one fit.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from metarouter.gain import PoolGainModel, make_gain_model
from metarouter.gain.mf import MFGain
from metarouter.gain.mf_scorer import MFScorer
from metarouter.labels import GainTable, make_gain_table
from metarouter.types import FloatArray
from study import markdown, over_units

SIGNALS, SIZES = (0.3, 1.0, 3.0), (100, 500, 3_000)
N_TEST = 1_000
Z = 1.959964


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--features", type=int, default=64)
    arguments = parser.parse_args()
    rows = []
    for signal in SIGNALS:
        for n in SIZES:
            with threadpool_limits(limits=1):
                found = np.array([
                    held(*make_world(signal, n, arguments.features, seed), seed)
                    for seed in range(arguments.seeds)
                ])  # fmt: skip
            rows.append(
                [str(signal), f"{n:,}", *(over_units(100 * share, digits=0) for share in found.T)]
            )
            print(rows[-1], flush=True)
    print(markdown(["a", "labels", "spread of members", "mf", "ridge"], rows))


def make_world(
    signal: float, n: int, d: int, seed: int
) -> tuple[GainTable, NDArray[np.float32], FloatArray]:
    """Labelled queries, features of fresh ones, and the gains of these."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + N_TEST, d)).astype(np.float32)
    truth = np.tanh(0.5 * (signal * (X @ rng.normal(size=d)) / np.sqrt(d) + 0.3))
    gain = np.where(rng.uniform(size=len(X)) < 0.5 + 0.5 * truth, 1.0, -1.0)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=gain[:n],
        is_gold=[True] * n,
        features=X[:n],
    )
    return table, X[n:], truth[n:]


def held(table: GainTable, X: NDArray[np.float32], truth: FloatArray, seed: int) -> list[float]:
    """Share of the fresh queries whose gain is inside: spread of members, mf, ridge."""
    model = MFGain(seed=seed).fit(table)
    estimate = model.predict(X)
    spread = MFScorer(model.state()).member_gains(X).std(axis=1, ddof=1)
    ridge = PoolGainModel(lambda: make_gain_model("ridge", seed=seed)).fit(table).predict(X)
    stated = (
        (estimate.mean, model.state().arrays["slope"] * spread),
        (estimate.mean, estimate.std),
        (ridge.mean, ridge.std),
    )
    return [float((np.abs(mean[:, 0] - truth) <= Z * std[:, 0]).mean()) for mean, std in stated]


if __name__ == "__main__":
    main()
