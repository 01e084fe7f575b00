"""Real prompts and gold gains of MMLU, judges made from a formula.

    ./run python experiments/semi_synthetic.py --data ../shared/data --first-seed 100 --seeds 40

GPT-4 against Mixtral, contaminated prompts left out. For each seed 1,000
prompts may carry gold labels (the first n of them do), 4,000 others carry votes
of a judge of ``metarouter.testing.semi_synthetic_votes``, and 6,000 are the
test set. Features are the default pipeline, fitted on the 5,000 training
prompts. A cell is a judge and a number of gold labels; its yardstick is the
fixed method whose mean area over the seeds is the largest, which the user could
not have known. Intervals: bootstrap over seeds, the yardstick chosen anew in
every draw, 95 %. The priors of ``auto`` were set on seeds 0 to 39: report others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metarouter.features import make_pipeline
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing import SIMULATED_JUDGES, semi_synthetic_votes
from metarouter.types import FloatArray
from study import (
    METHODS,
    OWN_POSTERIOR,
    YARDSTICKS,
    Log,
    Statistic,
    Task,
    areas,
    markdown,
    ratio_to_hindsight,
    with_interval,
)

N_GOLD = (50, 100, 250, 500, 1000)
N_PREFERENCE, N_TEST = 4000, 6000
PREMIUM, CHEAP = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("results/semi_synthetic.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    prompts = read_mmlu(arguments.data)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for seed in seeds:
        run_seed(log, prompts, seed)
        print(f"seed {seed} done", flush=True)
    report(log, seeds)


def read_mmlu(data: Path) -> pd.DataFrame:
    """Clean, distinct prompts with their gold gain."""
    table = pd.read_parquet(data / "mmlu" / "mmlu.parquet").query("not contaminated")
    table = table.drop_duplicates("prompt").reset_index(drop=True)
    table["gain"] = table[PREMIUM].astype(float) - table[CHEAP].astype(float)
    return table


def run_seed(log: Log, prompts: pd.DataFrame, seed: int) -> None:
    """All judges and gold sizes of one split."""
    cells = [(judge, n) for judge in SIMULATED_JUDGES for n in N_GOLD]
    if not any(log.missing(j, f"n_gold={n}", seed, METHODS) for j, n in cells):
        return
    for task in tasks(prompts, seed):
        log.run(task, METHODS)


def tasks(prompts: pd.DataFrame, seed: int) -> Iterator[Task]:
    """One split under every judge, with every number of gold labels."""
    rng = np.random.default_rng(seed)
    n_train = max(N_GOLD) + N_PREFERENCE
    split = prompts.iloc[rng.permutation(len(prompts))[: n_train + N_TEST]]
    train, test = split.iloc[:n_train], split.iloc[n_train:]
    pipeline = make_pipeline("default", seed=seed).fit(list(train["prompt"]))
    features = pipeline.transform(list(train["prompt"]))
    test_features = pipeline.transform(list(test["prompt"]))
    for judge in SIMULATED_JUDGES:
        votes = semi_synthetic_votes(
            train["gain"].to_numpy(), list(train["prompt"]), list(train["subject"]), judge, rng
        )
        for n in N_GOLD:
            yield Task(
                world=judge,
                cell=f"n_gold={n}",
                seed=seed,
                table=make_table(train, votes, n, features),
                test_features=test_features,
                test_gain=test["gain"].to_numpy(),
            )


def make_table(
    train: pd.DataFrame, votes: FloatArray, n_gold: int, features: NDArray[np.float32]
) -> GainTable:
    """Gold labels on the first `n_gold` prompts, votes on the last 4,000."""
    at = np.concatenate([np.arange(n_gold), np.arange(max(N_GOLD), len(train))])
    is_gold = at < n_gold
    return make_gain_table(
        queries=list(train["prompt"].iloc[at]),
        gain=np.where(is_gold, train["gain"].to_numpy()[at], votes[at]),
        is_gold=is_gold,
        features=features[at],
    )


def report(log: Log, seeds: range) -> None:
    """Print areas and the ratio to hindsight of every cell, then the mean and the worst."""
    cells = areas(r for r in log.records if r.seed in seeds)
    rows = []
    for (judge, cell), by in cells.items():
        means = {name: float(values.mean()) for name, values in by.items()}
        best = max(YARDSTICKS, key=means.__getitem__)
        ratios = [
            with_interval(partial(ratio_to_hindsight, by, name)) for name in ("auto", OWN_POSTERIOR)
        ]
        rows.append([judge, cell, *(f"{means[name]:.2f}" for name in METHODS), *ratios, best])
    print(f"\narea x 100, mean of {len(seeds)} seeds\n")
    print(markdown(["judge", "cell", *METHODS, "auto/hindsight", "own/hindsight", "best"], rows))
    for name in METHODS:
        ratios_of = [ratio_to_hindsight(by, name) for by in cells.values()]
        worst = list(cells)[int(np.argmin(ratios_of))]
        mean = with_interval(_mean_ratio(list(cells.values()), name), 300)
        print(f"{name}: mean ratio {mean}, worst cell {min(ratios_of):.3f} ({worst})")


def _mean_ratio(cells: list[dict[str, FloatArray]], name: str) -> Statistic:
    return lambda rng: float(np.mean([ratio_to_hindsight(by, name, rng) for by in cells]))


if __name__ == "__main__":
    main()
