"""Premium share on new prompts against the share that a fit was asked for.

    ./run python experiments/asked_share.py --seeds 10

Each replication fits a gain model (`--models`), sets the price of cost for shares of 10, 25 and
50 % on the training prompts, and counts the premium calls on 2,000 other prompts. It is set on

* folds: what `metarouter fit` does with its five folds where all prompts have gold labels;
* no folds: what it does elsewhere, and with `--folds 0`;
* own: the model's plain predictions for the training prompts, for comparison.

Settings:

* worlds gold: `metarouter.testing.make_world`, 400 queries, all with gold labels;
* worlds both: 1,000 queries, 200 with gold and 800 with preference labels, corrector auto;
* MMLU gold: 500 prompts with right-or-wrong gold of RouteLLM's pair (needs METAROUTER_DATA).

Prints the mean over seeds with a 95 % t interval, in per cent.
"""

from __future__ import annotations

import argparse
import os
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
from metarouter.testing import make_world
from metarouter.types import FloatArray
from study import markdown

SHARES = np.array([0.1, 0.25, 0.5])
MODELS = ("auto", "ridge", "forest", "boosting", "mlp")
N_TEST = 2000
DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--folds", type=int, default=5, help="0 leaves out the way of folds")
    parser.add_argument("--settings", default="MMLU gold,worlds gold,worlds both")
    arguments = parser.parse_args()
    names = ["", "set on", *(f"{100 * share:g} % asked" for share in SHARES)]
    rows = []
    for setting in arguments.settings.split(","):
        for model in arguments.models.split(","):
            with threadpool_limits(limits=1):
                found = [
                    replication(setting, model, seed, arguments.folds)
                    for seed in range(arguments.seeds)
                ]
            for way in found[0]:
                columns = np.array([one[way] for one in found]).T
                rows.append([f"{setting}, {model}", way, *map(interval, columns)])
                print(rows[-1], flush=True)
    print(markdown(names, rows))


def interval(shares: FloatArray) -> str:
    """Mean in per cent with its interval."""
    found = mean_interval(100 * shares)
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def replication(setting: str, model: str, seed: int, folds: int) -> dict[str, FloatArray]:
    """Shares on new prompts, by what the price was set on."""
    table, new = labels(setting, seed)
    options = FitOptions(gain_model=model, seed=seed)
    stage = options.make_features().fit(table.queries)
    whole = table.with_features(stage.transform(table.queries))
    assert whole.features is not None
    fitted = options.learn(whole)
    unseen = unseen_gains(fitted, whole.features).ravel()
    known = {"no folds": unseen, "own": fitted.predict(whole.features).mean.ravel()}
    if folds and table.is_gold.all() and follows_rows(fitted):
        crossed = cross_fit(table, options.make_features, options.learn, folds=folds, seed=seed)
        assert crossed.rank is not None
        known = {"folds": np.quantile(unseen, crossed.rank), **known}
    predicted = fitted.predict(stage.transform(new)).mean.ravel()
    unit = np.array([0.0, 1.0])
    prices = {way: share_prices(gains, unit, SHARES) for way, gains in known.items()}
    return {way: np.mean(predicted > each[:, None], axis=1) for way, each in prices.items()}


def labels(setting: str, seed: int) -> tuple[GainTable, list[str]]:
    """Training labels, and other prompts."""
    if setting == "MMLU gold":
        return mmlu(500, seed)
    n, n_gold = {"worlds gold": (400, 400), "worlds both": (1000, 200)}[setting]
    world = make_world(n_queries=n, n_gold=n_gold, n_test=N_TEST, seed=seed)
    return world.table, list(world.test.queries)


@cache
def read_mmlu() -> Benchmark:
    (data,) = load_benchmark("mmlu", DATA)
    return data


def mmlu(n: int, seed: int) -> tuple[GainTable, list[str]]:
    """Prompts of MMLU, drawn at random."""
    data = read_mmlu()
    drawn = np.random.default_rng(seed).permutation(len(data))[: n + N_TEST]
    texts = [data.prompts[i] for i in drawn]
    gain = data.gain[drawn[:n]]
    table = make_gain_table(
        queries=texts[:n], models=("cheap", "premium"), gain=gain, is_gold=[True] * n
    )
    return table, texts[n:]


if __name__ == "__main__":
    main()
