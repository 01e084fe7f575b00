"""How often `refit` proposes a router: where feedback cannot help, and where it does.

    ./run python experiments/refit_size.py --seeds 300

Each replication fits a serving router on 60 gold queries and refits it with 300 further
audits, half of which judge. Worlds of ``metarouter.testing.make_world`` without preference
bias, ridge on surface features:

* flat: gold scores are shuffled among all answers, so that no router is better than another
  at equal cost, and every proposal is a false alarm;
* equal: the candidate has as much gold as the serving router (150 queries each), so that on
  average it is no better, and in half of the replications a little better;
* helped: the serving router was fitted on scores of pure noise.

Prints the share of proposals and that of false alarms (proposals that are no better in truth,
which is known: the mean of psi over 1,000 further queries) with exact 95 % intervals, and the
mean difference, estimated and true.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits

from metarouter.fitting import fit
from metarouter.refitting import refit
from metarouter.router import Router
from metarouter.testing import make_world
from metarouter.testing.worlds import WorldOptions, gold_records
from metarouter.types import FloatArray
from study import markdown

Rows = list[dict[str, Any]]
WORLDS = ("flat", "equal", "helped")
N_AUDITS, N_TRUTH = 300, 1000
QUICK: dict[str, Any] = {"gain_model": "ridge", "embedder": "surface", "folds": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    for world in WORLDS:
        with threadpool_limits(limits=1):
            found = [replication(world, seed) for seed in range(arguments.seeds)]
        alarms = [proposed and true <= 0 for proposed, _, true in found]
        rows.append(
            [
                world,
                share([proposed for proposed, _, _ in found]),
                share(alarms),
                *(f"{np.mean([one[at] for one in found]):+.4f}" for at in (1, 2)),
            ]
        )
    print(markdown(["world", "proposed", "false alarms", "estimated", "true"], rows))


def share(cases: list[bool]) -> str:
    """Per cent with its exact interval."""
    found = binomtest(sum(cases), len(cases)).proportion_ci(0.95, "exact")
    return f"{100 * np.mean(cases):.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def replication(world: str, seed: int) -> tuple[bool, float, float]:
    """Whether a candidate is proposed; by how much it seems, and is, better."""
    n_old = 150 if world == "equal" else 60
    options = WorldOptions(bias="null", concentration=40.0)
    made = make_world(options, n_queries=n_old, n_gold=n_old, n_test=N_AUDITS + N_TRUTH, seed=seed)
    old, new = list(gold_records(made.table)), list(gold_records(made.test))[: 2 * N_AUDITS]
    rng = np.random.default_rng(seed)
    if world == "flat":
        old, new = shuffled(old, rng), shuffled(new, rng)
    elif world == "helped":
        old = shuffled(old, rng)
    serving = fit(old, **QUICK)
    # as much gold as the serving router had: the labels it was fitted on are not given again
    found = refit(serving, new if world == "equal" else [*old, *new], seed=seed)
    assert found.candidate is not None
    assert found.difference is not None
    queries = list(made.test.queries[N_AUDITS:])
    psi = np.zeros(N_TRUTH) if world == "flat" else made.test_psi[N_AUDITS:]
    moved = calls(found.candidate, queries) - calls(serving, queries)
    return found.is_proposed, found.difference.value, float(np.mean(moved * psi))


def calls(router: Router, queries: list[str]) -> FloatArray:
    """1 where the premium model is called."""
    return np.array(
        [decision.model == "premium" for decision in router.route_batch(queries)], float
    )


def shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    """The rows with their scores among all answers at random."""
    scores = rng.permutation([row["score"] for row in rows]).tolist()
    return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]


if __name__ == "__main__":
    main()
