"""Premium share on new prompts against the share that a fit was asked for.

    ./run python experiments/asked_share.py --seeds 10

Each replication fits a gain model (`--models`), sets the price of cost for shares of 10, 25, 40
and 75 % on the training prompts, and counts the calls of other models than the reference on
2,000 other prompts. It is set on

* halves: the predictions for training prompts, drawn in by what a fit to half of them shows
  (`metarouter.spread`): what `metarouter fit` does, but for forest, boosting and mlp;
* folds: for those, places that held-out prompts have in their folds (`metarouter.crossfitted`),
  where all prompts of a pair have gold labels;
* members: for those, what it does elsewhere, and with `--folds 0`;
* own: the model's plain predictions for the training prompts, for comparison.

Settings, for `--sizes` training prompts each:

* worlds gold, worlds both: `metarouter.testing.make_world` with gold labels for all queries, or
  for a fifth and preference labels for the others, corrector auto;
* MMLU gold: right-or-wrong gold of RouteLLM's pair (needs METAROUTER_DATA);
* MMLU both: gold for half of the prompts, votes for all of a judge that sees the gain with a
  deviation of 0.7 and calls a tie within 0.3;
* MMLU-Pro gold, MMLU-Pro pool: the same gold of one pair out of four, by seed, or of three models.

Prints the mean over seeds with a 95 % t interval, and the deviation between seeds, in per cent.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.benchmark.data import Benchmark, load_benchmark
from metarouter.crossfitted import cross_fit
from metarouter.evaluation import mean_interval
from metarouter.fitting import FitOptions
from metarouter.gain.out_of_bag import follows_rows, unseen_gains
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.policy.calibrate import share_prices
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.spread import draw_in, spread_ratio
from metarouter.testing import make_world
from metarouter.types import FloatArray, IntArray
from mmlu_pro_judges import PAIRS
from study import markdown

SHARES = np.array([0.1, 0.25, 0.4, 0.75])
SETTINGS = ("worlds gold", "worlds both", "MMLU gold", "MMLU both", "MMLU-Pro gold")
N_TEST = 2000
DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sizes", default="120,240,500,1000,5000")
    parser.add_argument("--models", default="auto,ridge")
    parser.add_argument("--folds", type=int, default=5, help="0 leaves out the way of folds")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    arguments = parser.parse_args()
    names = ["", "prompts", "set on", *(f"{100 * share:g} % asked" for share in SHARES)]
    rows = []
    for setting in arguments.settings.split(","):
        for model in arguments.models.split(","):
            for n in map(int, arguments.sizes.split(",")):
                with threadpool_limits(limits=1):
                    found = [
                        replication(setting, model, n, seed, arguments.folds)
                        for seed in range(arguments.seeds)
                    ]
                for way in found[0]:
                    columns = np.array([one[way] for one in found]).T
                    rows.append([f"{setting}, {model}", str(n), way, *map(interval, columns)])
                    print(rows[-1], flush=True)
    print(markdown(names, rows))


def interval(shares: FloatArray) -> str:
    """Mean in per cent with its interval, and the deviation between seeds."""
    found = mean_interval(100 * shares)
    deviation = 100 * shares.std(ddof=1)
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}] {deviation:.1f}"


def replication(setting: str, model: str, n: int, seed: int, folds: int) -> dict[str, FloatArray]:
    """Shares on new prompts, by what the price was set on."""
    table, new = labels(setting, n, seed)
    options = FitOptions(gain_model=model, seed=seed)
    stage = options.make_features().fit(table.queries)
    whole = table.with_features(stage.transform(table.queries))
    assert whole.features is not None
    fitted = options.learn(whole)
    own = fitted.predict(whole.features).mean
    if not follows_rows(fitted):
        ratio = spread_ratio(table, options.make_features, options.learn, seed=seed)
        known = {"halves": draw_in(own, own, ratio), "own": own}
    else:
        unseen = unseen_gains(fitted, whole.features)
        known = {"members": unseen, "own": own}
        if folds and table.is_pair and table.is_gold.all():
            crossed = cross_fit(table, options.make_features, options.learn, folds=folds, seed=seed)
            assert crossed.rank is not None
            known["folds"] = np.quantile(unseen, crossed.rank)
    predicted = fitted.predict(stage.transform(new)).mean
    return {way: reached(gains, predicted) for way, gains in known.items()}


def reached(known: FloatArray, predicted: FloatArray) -> FloatArray:
    """Shares of new queries that leave the reference at the prices set on known ones."""
    gains, unit = gains_and_costs(predicted, np.append(0.0, np.ones(predicted.shape[1])))
    prices = share_prices(known, unit[0], SHARES)
    return np.array([np.mean(best_model(gains, unit, w) != 0) for w in prices.tolist()])


def labels(setting: str, n: int, seed: int) -> tuple[GainTable, list[str]]:
    """Training labels, and other prompts."""
    kind, sources = setting.split(" ")
    if kind == "worlds":
        n_gold = n if sources == "gold" else n // 5
        world = make_world(n_queries=n, n_gold=n_gold, n_test=N_TEST, seed=seed)
        return world.table, list(world.test.queries)
    data = read_benchmark(kind, *models_of(kind, sources, seed))
    drawn = np.random.default_rng(seed).permutation(len(data))[: n + N_TEST]
    new = [data.prompts[i] for i in drawn[n:]]
    return (judged(data, drawn[:n], seed) if sources == "both" else data.table(drawn[:n])), new


def models_of(kind: str, sources: str, seed: int) -> tuple[str, ...]:
    """Models of MMLU-Pro, the cheapest first; MMLU has one pair."""
    if kind == "MMLU":
        return ()
    premium, cheap = PAIRS[seed % len(PAIRS)]
    return (cheap, PAIRS[1][0], PAIRS[0][0]) if sources == "pool" else (cheap, premium)


@cache
def read_benchmark(kind: str, *models: str) -> Benchmark:
    """A benchmark, with some of its models where they are named; each prompt once."""
    (data,) = load_benchmark(kind.lower(), DATA)
    _, first = np.unique(data.prompts, return_index=True)
    at = np.array([data.models.index(name) for name in models or data.models])
    return replace(
        data,
        prompts=tuple(data.prompts[i] for i in first),
        models=tuple(data.models[i] for i in at),
        quality=data.quality[np.ix_(first, at)],
        subject=data.subject[first],
        cost=None,
    )


def judged(data: Benchmark, rows: IntArray, seed: int) -> GainTable:
    """Gold labels for the first half of some rows, and votes for all."""
    n, n_gold = len(rows), len(rows) // 2
    gain = data.gain[rows]
    seen = gain + np.random.default_rng(seed).normal(0.0, 0.7, n)
    vote = np.where(np.abs(seen) > 0.3, np.sign(seen), 0.0)
    return make_gain_table(
        queries=[data.prompts[i] for i in rows],
        query=np.append(np.arange(n_gold), np.arange(n)),
        models=data.models,
        gain=np.append(gain[:n_gold], vote),
        is_gold=np.arange(n_gold + n) < n_gold,
    )


if __name__ == "__main__":
    main()
