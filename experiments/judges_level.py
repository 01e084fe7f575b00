"""What it costs to believe the level of a judge, and what it gives: few gold labels, made data.

    ./run python experiments/judges_level.py --seeds 200

Gains vary over queries by 0.15 along ten directions, around a mean of 0.3; gold labels have noise
of 0.5; the judge's verdicts hold the gain, an error that varies by 0.13 over queries, and a level
that is off. Root mean square error of the level of the gain, and the share of seeds in which its
95 % interval holds it, for each chance of the judge's level (`Priors.judges_level`).
"""

from __future__ import annotations

import argparse

import numpy as np

from metarouter.evidence import Priors, weigh_hypotheses
from study import markdown

OFF = (0.0, 0.2, 0.4)
N_GOLD = (10, 20, 50)
CHANCES = (0.0, 2 / 3, 0.8, 1.0)
MEAN, NOISE, DIM = 0.3, 0.5, 10
Z = 1.959964


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    for off in OFF:
        for n in N_GOLD:
            cells = [figures(off, n, chance, arguments.seeds) for chance in CHANCES]
            rows.append([f"{off:g}", str(n), *cells])
    heads = [f"chance {chance:.2g}" for chance in CHANCES]
    print(markdown(["level off by", "gold labels", *heads], rows))


def figures(off: float, n: int, chance: float, seeds: int) -> str:
    """Error and coverage over seeds."""
    found = np.array([level_error(off, n, chance, seed) for seed in range(seeds)])
    error, deviation = found.T
    inside = float((np.abs(error) <= Z * deviation).mean())
    return f"{np.sqrt(np.mean(error**2)):.3f}, {100 * inside:.0f} %"


def level_error(off: float, n: int, chance: float, seed: int) -> tuple[float, float]:
    """Error of the level of the gain, and its stated deviation."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, DIM)) / np.sqrt(DIM)
    gain = MEAN + 0.15 * X @ rng.normal(size=DIM)
    judge = gain + 0.13 * rng.normal(size=n) + off
    labels = gain + NOISE * rng.normal(size=n)
    evidence = weigh_hypotheses(
        [X],
        labels,
        judge,
        judge_level=np.full(n, MEAN + off),
        judge_size=0.2,
        priors=Priors(judges_level=chance),
    )
    coef = np.append(MEAN + off, np.zeros(DIM))
    posterior = evidence.posterior([np.arange(1, DIM + 1)], coef, np.array([0]))
    return posterior.mean[0] - MEAN, float(np.sqrt(posterior.covariance[0, 0]))


if __name__ == "__main__":
    main()
