"""Human votes as gold, GPT-4 verdicts as preferences: MT-Bench, a pool of six models.

    ./run python experiments/mt_bench_human.py --data ../shared/data --seeds 30

The 80 questions are split: 30 are the test set, n of the others carry human
votes, and the rest GPT-4's verdicts. Both turns of a question go together. A
test row is a question, turn and pair of models with its mean human vote; its
score is the predicted gain of the one model over the other. Intervals:
bootstrap over seeds (splits of the same 80 questions, so they understate what
other questions would show), 95 %.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from metarouter.features import make_pipeline
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.types import FloatArray, IntArray
from study import (
    METHODS,
    OWN_POSTERIOR,
    PUBLISHED,
    Log,
    Statistic,
    Task,
    areas,
    markdown,
    ratio_to_hindsight,
    with_interval,
)

WORLD = "mt-bench-human"
MODELS = ("alpaca-13b", "claude-v1", "gpt-3.5-turbo", "gpt-4", "llama-13b", "vicuna-13b-v1.2")
JUDGE = "gpt-4"  # a contestant in a third of the rows
N_GOLD = (10, 20, 40)
N_TEST = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--published-seeds", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/mt_bench_human.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    rows = read_votes(arguments.data)
    for seed in range(arguments.seeds):
        run_seed(log, rows, seed, METHODS)
    for seed in range(arguments.published_seeds):
        run_seed(log, rows, seed, PUBLISHED)
    report(log, arguments.seeds)


def read_votes(data: Path) -> pd.DataFrame:
    """A row for each question, turn and pair, oriented so that candidate > baseline."""
    folder = data / "battles" / "mt-bench-human"
    rows = pd.read_parquet(folder / "pairs.parquet")
    talks = pd.read_parquet(folder / "conversations.parquet").drop_duplicates("question_id")
    first = talks.set_index("question_id")["prompt_turn1"]
    second = talks.set_index("question_id")["prompt_turn2"]
    later = (rows["turn"] == 2).to_numpy()
    texts = first[rows["question_id"]].to_numpy(dtype=object)
    texts[later] += "\n\n" + second[rows["question_id"]].to_numpy(dtype=object)[later]
    a, b = (rows[name].map(MODELS.index) for name in ("model_a", "model_b"))
    sign = np.where(a > b, 1.0, -1.0)
    return pd.DataFrame(
        {
            "question": rows["question_id"],
            "text": texts,
            "candidate": np.maximum(a, b),
            "baseline": np.minimum(a, b),
            "human": sign * rows["human_gain_a_minus_b"],
            "gpt4": sign * rows["gpt4_gain_a_minus_b"],
        }
    )


def run_seed(log: Log, rows: pd.DataFrame, seed: int, methods: tuple[str, ...]) -> None:
    """All gold sizes of one split of the questions."""
    if not any(log.missing(WORLD, f"n_gold={n}", seed, methods) for n in N_GOLD):
        return
    order = np.random.default_rng(seed).permutation(rows["question"].unique())
    test = rows[rows["question"].isin(order[:N_TEST])]
    train = rows[~rows["question"].isin(order[:N_TEST])]
    pipeline = make_pipeline("default", seed=seed).fit(list(train["text"].unique()))
    test_features = pipeline.transform(list(test["text"]))
    for n in N_GOLD:
        is_gold = train["question"].isin(order[N_TEST : N_TEST + n])
        table = make_table(train, is_gold.to_numpy())
        task = Task(
            world=WORLD,
            cell=f"n_gold={n}",
            seed=seed,
            table=table.with_features(pipeline.transform(table.queries)),
            test_features=test_features,
            test_gain=test["human"].to_numpy(),
            rank=partial(
                contrast,
                candidate=test["candidate"].to_numpy(),
                baseline=test["baseline"].to_numpy(),
            ),
        )
        log.run(task, methods)


def make_table(train: pd.DataFrame, is_gold: np.ndarray) -> GainTable:
    """Human gains where `is_gold`, GPT-4's elsewhere."""
    query, texts = pd.factorize(train["text"])
    return make_gain_table(
        queries=list(texts),
        query=query,
        gain=np.where(is_gold, train["human"], train["gpt4"]),
        is_gold=is_gold,
        models=MODELS,
        judges=(JUDGE,),
        candidate=train["candidate"].to_numpy(),
        baseline=train["baseline"].to_numpy(),
    )


def contrast(gains: FloatArray, candidate: IntArray, baseline: IntArray) -> FloatArray:
    """Gain of candidate over baseline from gains over the reference model."""
    full = np.column_stack([np.zeros(len(gains)), gains])
    at = np.arange(len(gains))
    return np.asarray(full[at, candidate] - full[at, baseline])


def report(log: Log, seeds: int) -> None:
    """Print areas by gold size and ratios to hindsight."""
    cells = areas(r for r in log.records if r.seed < seeds and r.method in METHODS)
    rows = []
    for (_, cell), by in cells.items():
        rows.append([cell, *(f"{by[name].mean():.2f}" for name in METHODS)])
        for name in ("auto", OWN_POSTERIOR):
            rows[-1].append(with_interval(partial(ratio_to_hindsight, by, name)))
    print(f"\narea x 100, mean of {seeds} seeds\n")
    print(markdown(["questions with gold", *METHODS, "auto/hindsight", "own/hindsight"], rows))
    for name in METHODS:
        print(f"{name}: mean ratio {with_interval(_mean_ratio(list(cells.values()), name))}")


def _mean_ratio(cells: list[dict[str, FloatArray]], name: str) -> Statistic:
    return lambda rng: float(np.mean([ratio_to_hindsight(by, name, rng) for by in cells]))


if __name__ == "__main__":
    main()
