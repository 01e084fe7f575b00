"""How often the 95 % interval of the gain of a query holds it, where the truth is known.

    ./run python experiments/psi_coverage.py --seeds 10

Simulated data of ``metarouter.testing.make_simulation``: 3,000 queries, d features,
gold labels at random, 500 test queries. The interval is ψ̂ ± 1.96 standard
deviations of the posterior of ``auto``. Coverage is averaged over test queries and
seeds; its interval is a bootstrap over seeds, 95 %, because the queries of one
seed share one fit.
"""

from __future__ import annotations

import argparse

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.correction import learn_gain, make_corrector
from metarouter.testing import SIMULATED_BIASES, make_simulation
from metarouter.types import FloatArray
from study import markdown, with_interval

METHODS = ("gold_only", "auto")
Z = 1.959964


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    rows = []
    for d in (8, 50):
        for n_gold in (100, 400):
            for bias in SIMULATED_BIASES:
                with threadpool_limits(limits=1):
                    found = [coverage(bias, d, n_gold, seed) for seed in range(arguments.seeds)]
                rows.append([str(d), str(n_gold), bias, *map(_shown, np.array(found).T)])
    print(markdown(["d", "n_gold", "bias", *METHODS], rows))


def coverage(bias: str, d: int, n_gold: int, seed: int) -> list[float]:
    """Share of the test queries whose ψ is inside, for each method."""
    data = make_simulation(3000, d, n_gold=n_gold, n_test=500, bias=bias, seed=seed)
    shares = []
    for name in METHODS:
        model = learn_gain(data.table, make_corrector(name, seed=seed), seed=seed)
        estimate = model.predict(np.asarray(data.test.features))
        inside = np.abs(estimate.mean.ravel() - data.test_psi) <= Z * estimate.std.ravel()
        shares.append(float(inside.mean()))
    return shares


def _shown(values: FloatArray) -> str:
    def mean(rng: np.random.Generator | None) -> float:
        at = np.arange(len(values)) if rng is None else rng.integers(len(values), size=len(values))
        return 100 * float(values[at].mean())

    return with_interval(mean, digits=0)


if __name__ == "__main__":
    main()
