"""How many components the default features keep: APGR of ridge with 16, 64 and 128.

    OPENBLAS_NUM_THREADS=1 ./run python experiments/components.py [--sizes 16,64,128] [--labels 150]

MMLU (3,000 rows) and GSM8K, five folds by query as in `embedders.py`; features are learned on
the training texts, ridge on all their labels or on the first few of them. Paired
differences to 64 components, bootstrap over queries with the out-of-fold scores held fixed, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from embedders import N_BOOTSTRAP, N_FOLDS, SEED, Task, apgr, gsm8k_task, mmlu_tasks, ridge_predict
from metarouter.features import make_pipeline
from metarouter.types import FloatArray, IntArray
from study import markdown, with_interval

ROWS = 3_000
DEFAULT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="16,64,128", help="64 among them")
    parser.add_argument("--labels", type=int, default=150, help="the few labels")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.sizes.split(",")]
    rng = np.random.default_rng(SEED)
    lines = []
    for task in (next(iter(mmlu_tasks(ROWS, rng))), gsm8k_task(rng)):
        scores = {size: out_of_fold(task, size, arguments.labels) for size in sizes}
        for i, labels in enumerate(("all", str(arguments.labels))):
            for size in sizes:
                own, kept = scores[size][i], scores[DEFAULT][i]
                lines.append([
                    task.name, labels, str(size), f"{area(task, own, np.ones(len(own))):.3f}",
                    less(task, own, kept) if size != DEFAULT else "",
                ])  # fmt: skip
    print(markdown(["task", "labels", "components", "APGR", f"less {DEFAULT}"], lines))


def out_of_fold(task: Task, n_components: int, few: int) -> tuple[FloatArray, FloatArray]:
    """Scores from all training labels, and from the first few in a random order."""
    found = np.empty((2, len(task.gain)))
    for fold, order in enumerate(orders(task)):
        texts = [task.prompts[i] for i in order]
        pipeline = make_pipeline("default", n_components=n_components, seed=SEED).fit(texts)
        X = pipeline.transform(task.prompts).astype(np.float64)
        test = task.fold == fold
        for i, train in enumerate((order, order[:few])):
            found[i, test] = ridge_predict(X[train], task.gain[train], X[test])
    return found[0], found[1]


def orders(task: Task) -> Iterator[IntArray]:
    """Training queries of each fold, in a random order."""
    for fold in range(N_FOLDS):
        rng = np.random.default_rng([SEED, fold])
        yield rng.permutation(np.flatnonzero(task.fold != fold))


def area(task: Task, score: FloatArray, weight: FloatArray) -> float:
    """APGR of rows from the highest score to the lowest."""
    order = np.argsort(-score, kind="stable")
    return apgr(task.gain[order], weight[order])


def less(task: Task, score: FloatArray, other: FloatArray) -> str:
    """Difference of two areas on the same resamples, with its interval."""
    n = len(score)

    def difference(rng: np.random.Generator | None) -> float:
        drawn = np.arange(n) if rng is None else rng.integers(n, size=n)
        weight = np.bincount(drawn, minlength=n).astype(np.float64)
        return area(task, score, weight) - area(task, other, weight)

    return with_interval(difference, N_BOOTSTRAP)


if __name__ == "__main__":
    main()
