"""What each named feature pipeline is worth: APGR of ridge on the gold gain.

    ./run python experiments/embedders.py [--pipelines a,b] [--tasks gsm8k] [--json out.json]

Five folds by query (by subject where it says so); features and ridge are fitted
inside the training folds. APGR is the exact area under the performance gap
recovered by the share of premium calls, 0.5 for a random router. Intervals:
bootstrap over queries with the out-of-fold scores held fixed, 95 %.
Takes about ten minutes on one core, most of it MiniLM's vectors; --cache FILE
keeps those between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from metarouter.features import make_pipeline
from metarouter.types import FloatArray, IntArray

SEED = 0
N_FOLDS = 5
N_BOOTSTRAP = 1_000
PIPELINES = (
    "surface",
    "hashed",
    "static",
    "static+surface",
    "default",
    "minilm",
    "minilm+surface",
    "use",
)
PAIRS = (
    "gpt-4o_vs_llama-3.2-3b",
    "qwen-2.5-14b_vs_mistral-7b-v0.3",
    "llama-3.3-70b_vs_gpt-3.5-turbo",
)
DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Prompts, the premium model's gain on each, and the fold of each."""

    name: str
    prompts: list[str]
    gain: FloatArray
    fold: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """APGR of one pipeline on one task."""

    task: str
    pipeline: str
    n: int
    apgr: float
    apgr_low: float
    apgr_high: float
    seconds: float


def folds_of(groups: pd.Series, rng: np.random.Generator) -> IntArray:
    """A fold for each row; rows of one group share it."""
    codes = pd.factorize(groups)[0]
    fold: IntArray = rng.integers(N_FOLDS, size=codes.max() + 1)[codes]
    return fold


def mmlu_tasks(rows: int, rng: np.random.Generator) -> Iterator[Task]:
    table = pd.read_parquet(DATA / "mmlu" / "mmlu.parquet").query("not contaminated")
    table = table.sample(min(rows, len(table)), random_state=SEED)
    gain = _gain(table)
    for name, by in (("mmlu, random folds", "prompt"), ("mmlu, held-out subjects", "subject")):
        fold = folds_of(table[by], rng)
        yield Task(name=name, prompts=list(table["prompt"]), gain=gain, fold=fold)


def gsm8k_task(rng: np.random.Generator) -> Task:
    table = pd.read_parquet(DATA / "gsm8k" / "gsm8k.parquet").query("not contaminated")
    fold = folds_of(table["prompt"], rng)
    return Task(name="gsm8k", prompts=list(table["prompt"]), gain=_gain(table), fold=fold)


def pair_tasks(rng: np.random.Generator) -> Iterator[Task]:
    for pair in PAIRS:
        premium, cheap = pair.split("_vs_")
        table = pd.read_parquet(DATA / "pairs" / pair / "gold.parquet")
        wide = table.pivot_table(index="query", columns="model", values="score")
        gain = (wide[premium] - wide[cheap]).to_numpy(dtype=np.float64)
        fold = folds_of(wide.index.to_series(), rng)
        yield Task(name=pair.replace("_vs_", " / "), prompts=list(wide.index), gain=gain, fold=fold)


def _gain(table: pd.DataFrame) -> FloatArray:
    scores = table[["gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"]].to_numpy(dtype=np.float64)
    gain: FloatArray = scores[:, 0] - scores[:, 1]
    return gain


def ridge_predict(X: FloatArray, y: FloatArray, X_new: FloatArray) -> FloatArray:
    """Ridge predictions, the penalty by generalised cross-validation."""
    centre, level = X.mean(axis=0), y.mean()
    U, s, Vt = np.linalg.svd(X - centre, full_matrices=False)
    rotated, best = U.T @ (y - level), (np.inf, 1.0)
    for penalty in np.logspace(0, 6, 37):
        shrink = s**2 / (s**2 + penalty)
        residual = y - level - U @ (shrink * rotated)
        best = min(best, (residual @ residual / (1 - (1 + shrink.sum()) / len(y)) ** 2, penalty))
    coefficients = Vt.T @ (s / (s**2 + best[1]) * rotated)
    predicted: FloatArray = level + (X_new - centre) @ coefficients
    return predicted


def out_of_fold_scores(task: Task, pipeline: str, cache: Path | None) -> FloatArray:
    scores = np.empty(len(task.gain))
    for fold in range(N_FOLDS):
        train, test = np.flatnonzero(task.fold != fold), np.flatnonzero(task.fold == fold)
        texts = [task.prompts[i] for i in train]
        features = make_pipeline(pipeline, cache=cache, seed=SEED).fit(texts)
        X = features.transform(task.prompts).astype(np.float64)
        scores[test] = ridge_predict(X[train], task.gain[train], X[test])
    return scores


def apgr(gain: FloatArray, weight: FloatArray) -> float:
    """Exact area under PGR of rows ordered from the highest score to the lowest."""
    share = np.concatenate(([0.0], np.cumsum(weight))) / weight.sum()
    recovered = np.concatenate(([0.0], np.cumsum(weight * gain)))
    return float(np.trapezoid(recovered / recovered[-1], share))


def measure(task: Task, pipeline: str, cache: Path | None) -> Result:
    started = time.perf_counter()
    scores = out_of_fold_scores(task, pipeline, cache)
    gain = task.gain[np.argsort(-scores, kind="stable")]
    rng = np.random.default_rng(SEED)
    n = len(gain)
    draws = [
        apgr(gain, np.bincount(rng.integers(n, size=n), minlength=n).astype(float))
        for _ in range(N_BOOTSTRAP)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Result(
        task=task.name,
        pipeline=pipeline,
        n=n,
        apgr=round(apgr(gain, np.ones(n)), 4),
        apgr_low=round(float(low), 4),
        apgr_high=round(float(high), 4),
        seconds=round(time.perf_counter() - started, 1),
    )


def as_markdown(results: list[Result]) -> str:
    tasks = list(dict.fromkeys(r.task for r in results))
    lines = ["| pipeline | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for pipeline in dict.fromkeys(r.pipeline for r in results):
        cells = [
            f".{r.apgr * 1000:.0f} [.{r.apgr_low * 1000:.0f}, .{r.apgr_high * 1000:.0f}]"
            for r in results
            if r.pipeline == pipeline
        ]
        lines.append(f"| `{pipeline}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="APGR of each named feature pipeline.")
    parser.add_argument("--pipelines", default=",".join(PIPELINES))
    parser.add_argument("--tasks", default="", help="only tasks whose name holds this")
    parser.add_argument("--rows", type=int, default=4_000, help="rows of MMLU")
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--cache", type=Path, help="where slow vectors are kept between runs")
    arguments = parser.parse_args()
    rng = np.random.default_rng(SEED)
    tasks = [*mmlu_tasks(arguments.rows, rng), gsm8k_task(rng), *pair_tasks(rng)]
    results = []
    for pipeline in arguments.pipelines.split(","):
        for task in (task for task in tasks if arguments.tasks in task.name):
            results.append(measure(task, pipeline, arguments.cache))
            print(results[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    print(as_markdown(results))


if __name__ == "__main__":
    main()
