"""Premium share on new prompts against the share that a fit was asked for.

    ./run python experiments/asked_share.py --seeds 10

Each replication fits a gain model (`--models`), sets the price of cost for shares of 10, 25 and
50 % on the training prompts as `metarouter fit` does, and counts the premium calls on 2,000
other prompts. "Own" sets it on the model's plain predictions for the training prompts instead,
in which a model that follows its rows has seen each prompt's label. Settings:

* worlds, gold: `metarouter.testing.make_world`, 400 queries, all with gold labels;
* worlds, both: 1,000 queries, 200 with gold and 800 with preference labels, corrector auto;
* MMLU, gold: 500 prompts with right-or-wrong gold of RouteLLM's pair (needs METAROUTER_DATA).

Prints the mean over seeds with a 95 % t interval, in per cent.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.benchmark.data import load_benchmark
from metarouter.evaluation import mean_interval
from metarouter.fitting import FitOptions
from metarouter.gain.out_of_bag import unseen_gains
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
    parser.add_argument("--settings", default="MMLU gold,worlds gold,worlds both")
    arguments = parser.parse_args()
    names = ["asked for", *(f"{100 * share:g} %" for share in SHARES), *("own",) * len(SHARES)]
    rows = []
    for setting in arguments.settings.split(","):
        for model in arguments.models.split(","):
            with threadpool_limits(limits=1):
                found = [replication(setting, model, seed) for seed in range(arguments.seeds)]
            cells = [interval(column) for column in np.array(found).T]
            rows.append([f"{setting}, {model}", *cells])
            print(rows[-1], flush=True)
    print(markdown(names, rows))


def interval(shares: FloatArray) -> str:
    """Mean in per cent with its interval."""
    found = mean_interval(100 * shares)
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def replication(setting: str, model: str, seed: int) -> FloatArray:
    """Shares on new prompts: set as fit does, then on the model's own predictions."""
    table, new = labels(setting, seed)
    options = FitOptions(gain_model=model, seed=seed)
    stage = options.make_features().fit(table.queries)
    table = table.with_features(stage.transform(table.queries))
    assert table.features is not None
    fitted = options.learn(table)
    predicted = fitted.predict(stage.transform(new)).mean.ravel()
    unit = np.array([0.0, 1.0])
    known = (unseen_gains(fitted, table.features), fitted.predict(table.features).mean)
    prices = np.concatenate([share_prices(gains, unit, SHARES) for gains in known])
    return np.array([np.mean(predicted > price) for price in prices])


def labels(setting: str, seed: int) -> tuple[GainTable, list[str]]:
    """Training labels, and other prompts."""
    if setting == "MMLU gold":
        return mmlu(500, seed)
    n, n_gold = {"worlds gold": (400, 400), "worlds both": (1000, 200)}[setting]
    world = make_world(n_queries=n, n_gold=n_gold, n_test=N_TEST, seed=seed)
    return world.table, list(world.test.queries)


def mmlu(n: int, seed: int) -> tuple[GainTable, list[str]]:
    """Prompts of MMLU, drawn at random."""
    (data,) = load_benchmark("mmlu", DATA)
    drawn = np.random.default_rng(seed).permutation(len(data))[: n + N_TEST]
    texts = [data.prompts[i] for i in drawn]
    gain = data.gain[drawn[:n]]
    table = make_gain_table(
        queries=texts[:n], models=("cheap", "premium"), gain=gain, is_gold=[True] * n
    )
    return table, texts[n:]


if __name__ == "__main__":
    main()
