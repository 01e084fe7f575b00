"""Worlds kept aside: other models, other prompts and a coarser kind of verdict.

    ./run python experiments/mmlu_pro_judges.py --data ../shared/data --seeds 3

``auto`` was shaped on the pairs of ``data/pairs`` and on judges of MMLU prompts
whose verdicts are numbers. Here four pairs of MMLU-Pro models get verdicts out
of win, tie and loss: the number a judge of
``metarouter.testing.semi_synthetic_votes`` gives, above 0.4, between, or below
−0.4. For each seed 500 questions may carry gold labels, 4,000 others carry
verdicts, and the rest are the test set. Ratios are to the best fixed method of
a cell (judge and number of gold labels, pairs and seeds averaged), known only
afterwards; intervals, 95 %, resample pairs, then the seeds they share.
"""

from __future__ import annotations

import argparse
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
    Task,
    areas,
    markdown,
    ratio_to_hindsight,
    with_interval,
)

N_GOLD = (50, 100, 250, 500)
N_PREFERENCE = 4000
PAIRS = (
    ("gpt-4o-2024-05-13", "Meta-Llama-3-8B"),
    ("Meta-Llama-3_1-70B-Instruct", "Mistral-7B-Instruct-v0.2"),
    ("gemini-1.5-pro-002", "Qwen1.5-72B-Chat"),
    ("Yi-34B", "gemma-7b"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/mmlu_pro_judges.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    questions = read_questions(arguments.data)
    for seed in range(arguments.seeds):
        run_seed(log, questions, seed)
        print(f"seed {seed} done", flush=True)
    report(log, arguments.seeds)


def read_questions(data: Path) -> pd.DataFrame:
    """Distinct questions that all eight models answered, with their marks."""
    folder = data / "mmlu-pro"
    marks = pd.read_parquet(folder / "correct_wide.parquet").set_index("question_id")
    marks = marks[[name for pair in PAIRS for name in pair]].dropna().astype(float)
    asked = pd.read_parquet(folder / "questions.parquet").set_index("question_id")
    return asked[["question", "category"]].join(marks, how="inner").drop_duplicates("question")


def run_seed(log: Log, questions: pd.DataFrame, seed: int) -> None:
    """All pairs, judges and gold sizes of one split."""
    rng = np.random.default_rng(seed)
    split = questions.iloc[rng.permutation(len(questions))]
    n_train = max(N_GOLD) + N_PREFERENCE
    train, test = split.iloc[:n_train], split.iloc[n_train:]
    pipeline = make_pipeline("default", seed=seed).fit(list(train["question"]))
    features = pipeline.transform(list(train["question"]))
    test_features = pipeline.transform(list(test["question"]))
    for i, (premium, cheap) in enumerate(PAIRS):
        gain = (train[premium] - train[cheap]).to_numpy()
        for judge in SIMULATED_JUDGES:
            votes = verdicts(gain, train, judge, rng)
            for n in N_GOLD:
                task = Task(
                    world=judge,
                    cell=f"n_gold={n}",
                    seed=len(PAIRS) * seed + i,  # pairs of a seed side by side
                    table=make_table(list(train["question"]), gain, votes, n, features),
                    test_features=test_features,
                    test_gain=(test[premium] - test[cheap]).to_numpy(),
                )
                log.run(task, METHODS)


def verdicts(
    gain: FloatArray, train: pd.DataFrame, judge: str, rng: np.random.Generator
) -> FloatArray:
    """1, 0 or −1 for each question."""
    number = semi_synthetic_votes(
        gain, list(train["question"]), list(train["category"]), judge, rng
    )
    return np.where(np.abs(number) > 0.4, np.sign(number), 0.0)


def make_table(
    texts: list[str],
    gain: FloatArray,
    votes: FloatArray,
    n_gold: int,
    features: NDArray[np.float32],
) -> GainTable:
    """Gold labels on the first `n_gold` questions, verdicts on the last 4,000."""
    at = np.concatenate([np.arange(n_gold), np.arange(max(N_GOLD), len(texts))])
    is_gold = at < n_gold
    return make_gain_table(
        queries=[texts[i] for i in at],
        gain=np.where(is_gold, gain[at], votes[at]),
        is_gold=is_gold,
        features=features[at],
    )


def report(log: Log, seeds: int) -> None:
    """Print areas and ratios of every cell, then the means."""
    cells = areas(r for r in log.records if r.seed < seeds * len(PAIRS))
    rows = []
    for (judge, cell), by in cells.items():
        means = {name: float(values.mean()) for name, values in by.items()}
        ratios = [
            with_interval(partial(ratio_to_hindsight, by, name, units=len(PAIRS)))
            for name in ("auto", OWN_POSTERIOR)
        ]
        best = max(YARDSTICKS, key=means.__getitem__)
        rows.append([judge, cell, *(f"{means[name]:.2f}" for name in METHODS), *ratios, best])
    print(f"\narea x 100, mean of {len(PAIRS)} pairs and {seeds} seeds\n")
    print(markdown(["judge", "cell", *METHODS, "auto/hindsight", "own/hindsight", "best"], rows))
    for name in METHODS:
        found = [ratio_to_hindsight(by, name) for by in cells.values()]
        worst = list(cells)[int(np.argmin(found))]
        print(f"{name}: mean ratio {np.mean(found):.3f}, worst cell {min(found):.3f} {worst}")


if __name__ == "__main__":
    main()
