"""A judge beside people: where it judges answers of its own, and where it does not.

    ./run python experiments/contestant_judges.py --data ../shared/data

GPT-4's verdicts on the conversations of MT-Bench beside human votes on the same two answers:
the correlation of the two gains over the questions of one pair of models, for the pairs with
GPT-4 and for those without; the difference between pairs with a model and pairs without it for
the other models too, which judge nobody. The mean of each pair is taken out first, because that
GPT-4 wins nearly always is no news to anybody. Intervals draw questions anew, 95 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from metarouter.types import BoolArray, FloatArray, IntArray
from study import markdown

JUDGE = "gpt-4"
N_DRAWS = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = pq.read_table(arguments.data / "battles/mt-bench-human/pairs.parquet").to_pylist()
    rows = [r for r in rows if None not in (r["human_gain_a_minus_b"], r["gpt4_gain_a_minus_b"])]
    human = np.array([float(r["human_gain_a_minus_b"]) for r in rows])
    verdict = np.array([float(r["gpt4_gain_a_minus_b"]) for r in rows])
    names = [f"{r['model_a']} {r['model_b']}" for r in rows]
    pair = np.unique(names, return_inverse=True)[1]
    question = np.unique([r["question_id"] for r in rows], return_inverse=True)[1]
    models = sorted({r[side] for r in rows for side in ("model_a", "model_b")} - {JUDGE})
    has = {m: np.array([m in (r["model_a"], r["model_b"]) for r in rows]) for m in (JUDGE, *models)}
    print(report(human, verdict, pair, question, has, arguments.seed))


def report(
    human: FloatArray,
    verdict: FloatArray,
    pair: IntArray,
    question: IntArray,
    has: dict[str, BoolArray],
    seed: int,
) -> str:
    """One table; `has` says which rows compare a model, the judge first."""
    rng = np.random.default_rng(seed)
    n_questions = int(question.max()) + 1
    whole = figures(human, verdict, pair, has, np.ones(len(human)))
    draws = []
    for _ in range(N_DRAWS):
        times = np.bincount(rng.integers(n_questions, size=n_questions), minlength=n_questions)
        draws.append(figures(human, verdict, pair, has, times[question].astype(float)))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    judge, *others = has
    labels = [f"{judge} is a contestant", "it is not", "difference"]
    labels += [f"{name} is a contestant, less where it is not" for name in others]
    counts = [int(has[judge].sum()), int((~has[judge]).sum())]
    counts += [len(human)] * (len(labels) - len(counts))
    cells = zip(labels, counts, whole, low, high, strict=True)
    table = [[name, f"{n:,}", f"{r:.3f} [{a:.3f}, {b:.3f}]"] for name, n, r, a, b in cells]
    return markdown(["", "verdicts", "correlation with people within pairs"], table)


def figures(
    human: FloatArray,
    verdict: FloatArray,
    pair: IntArray,
    has: dict[str, BoolArray],
    weight: FloatArray,
) -> list[float]:
    """Correlation where the judge is a contestant and where not, and each model's difference."""
    h, v = (less_pair_mean(values, pair, weight) for values in (human, verdict))

    def correlation(part: BoolArray) -> float:
        w = weight[part]
        cross = float(w @ (h[part] * v[part]))
        return cross / float(np.sqrt((w @ h[part] ** 2) * (w @ v[part] ** 2)))

    both = [(correlation(part), correlation(~part)) for part in has.values()]
    return [*both[0], *(one - other for one, other in both)]


def less_pair_mean(values: FloatArray, pair: IntArray, weight: FloatArray) -> FloatArray:
    total = np.bincount(pair, weight)
    mean: FloatArray = np.bincount(pair, weight * values) / np.maximum(total, 1e-300)
    return values - mean[pair]


if __name__ == "__main__":
    main()
