"""How often `refit` proposes a router: where feedback cannot help, and where it does.

    ./run python experiments/refit_size.py --seeds 200

Each replication fits a serving router on 60 gold queries and refits it with 300 further
audits, half of which judge. Worlds of ``metarouter.testing.make_world`` without preference
bias, ridge on surface features:

* flat: gold scores are shuffled among all answers, so that no router is better than another
  at equal cost; a proposal is a false alarm, at most 2.5 % are allowed;
* equal: the candidate is fitted like the serving router, which had as much gold (150 queries),
  so that on average it is no better;
* helped: the serving router was fitted on scores of pure noise.

Prints the share of proposals with its exact 95 % interval, and the mean estimated difference.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy.stats import binomtest
from threadpoolctl import threadpool_limits

from metarouter.fitting import fit
from metarouter.refitting import refit
from metarouter.testing import make_world
from metarouter.testing.worlds import WorldOptions, gold_records
from study import markdown

Rows = list[dict[str, Any]]
WORLDS = ("flat", "equal", "helped")
QUICK: dict[str, Any] = {"gain_model": "ridge", "embedder": "surface", "folds": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    for world in WORLDS:
        with threadpool_limits(limits=1):
            found = [replication(world, seed) for seed in range(arguments.seeds)]
        proposed = sum(is_proposed for is_proposed, _ in found)
        share = binomtest(proposed, len(found)).proportion_ci(0.95, "exact")
        mean = float(np.mean([difference for _, difference in found]))
        interval = f"{100 * share.low:.1f}, {100 * share.high:.1f}"
        rows.append([world, f"{100 * proposed / len(found):.1f} % [{interval}]", f"{mean:+.4f}"])
    print(markdown(["world", "proposed", "mean difference"], rows))


def replication(world: str, seed: int) -> tuple[bool, float]:
    """Whether a candidate is proposed, and by how much it seems better."""
    n_old = 150 if world == "equal" else 60
    options = WorldOptions(bias="null", concentration=40.0)
    made = make_world(options, n_queries=n_old, n_gold=n_old, n_test=300, seed=seed)
    old, new = list(gold_records(made.table)), list(gold_records(made.test))
    rng = np.random.default_rng(seed)
    if world == "flat":
        old, new = shuffled(old, rng), shuffled(new, rng)
    elif world == "helped":
        old = shuffled(old, rng)
    serving = fit(old, **QUICK)
    # as much gold as the serving router had: the labels it was fitted on are not given again
    found = refit(serving, new if world == "equal" else [*old, *new], seed=seed)
    if world == "equal" and found.n_train_gold > n_old:
        raise SystemExit("the candidate had more gold than the serving router")
    assert found.difference is not None
    return found.is_proposed, found.difference.value


def shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    """The rows with their scores among all answers at random."""
    scores = rng.permutation([row["score"] for row in rows]).tolist()
    return [{**row, "score": score} for row, score in zip(rows, scores, strict=True)]


if __name__ == "__main__":
    main()
