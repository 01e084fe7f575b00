"""Which γ of sw_ranking routes best on MMLU, and what the choice on training prompts finds.

    OPENBLAS_NUM_THREADS=1 ./run python experiments/sw_gamma.py [--data ../shared/data] [--seeds 5]

The two models of RouteLLM, default features learned on the training prompts, 3,000 test
questions. *random*: training questions drawn from all; *subjects*: questions of nine
tenths of the subjects train, those of the rest test. ``chosen`` is SWRanking without a γ.
APGR, 95 % Student's t over seeds: all split the same 14,037 questions, so intervals are
those of the split and the training sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.benchmark import Benchmark, load_benchmark
from metarouter.evaluation.metrics import apgr
from metarouter.features import make_pipeline
from metarouter.gain.sw_ranking import GAMMAS, SWRanking
from metarouter.labels import make_gain_table
from metarouter.types import IntArray
from study import markdown, over_units

SETTINGS = (("random", 150), ("random", 1_500), ("random", 8_000), ("subjects", 8_000))
N_TEST = 3_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    (benchmark,) = load_benchmark("mmlu", arguments.data)
    lines = []
    for kind, n in SETTINGS:
        with threadpool_limits(limits=1):
            found = [measure(benchmark, kind, n, seed) for seed in range(arguments.seeds)]
        chosen = ", ".join(f"{gamma:,.0f}" for _, gamma in found)
        areas = np.array([each for each, _ in found]).T
        best = areas[:-1].mean(axis=1).argmax()
        lines.append([
            f"{kind}, {n:,}", *(over_units(part, digits=3) for part in areas), chosen,
            over_units(areas[-1] - areas[best], digits=3),
        ])  # fmt: skip
        print(lines[-1], flush=True)
    head = ["labels", *(f"γ = {gamma:,.0f}" for gamma in GAMMAS), "chosen", "which"]
    print(markdown([*head, "chosen − best in hindsight"], lines))


def measure(benchmark: Benchmark, kind: str, n: int, seed: int) -> tuple[list[float], float]:
    """APGR by γ and with γ chosen, and the γ that was chosen."""
    train, test = split(benchmark, kind, n, seed)
    texts = [[benchmark.prompts[i] for i in rows] for rows in (train, test)]
    pipeline = make_pipeline("default", seed=seed).fit(texts[0])
    table = make_gain_table(
        queries=texts[0],
        gain=benchmark.gain[train],
        is_gold=[True] * len(train),
        features=pipeline.transform(texts[0]),
    )
    X = pipeline.transform(texts[1])
    models = [SWRanking(gamma=gamma, seed=seed).fit(table) for gamma in (*GAMMAS, None)]
    quality = benchmark.quality[test]
    areas = [apgr(model.predict(X).mean[:, 0], quality[:, 0], quality[:, 1]) for model in models]
    return areas, models[-1].gamma_


def split(benchmark: Benchmark, kind: str, n: int, seed: int) -> tuple[IntArray, IntArray]:
    """Training and test questions, of each stem one."""
    rng = np.random.default_rng(seed)
    distinct = np.unique(benchmark.prompt_group, return_index=True)[1]
    order = rng.permutation(distinct)
    if kind == "random":
        return order[:n], order[n : n + N_TEST]
    subjects = rng.permutation(len(benchmark.subjects))
    left_out = np.isin(benchmark.subject[order], subjects[: len(subjects) // 10])
    return order[~left_out][:n], order[left_out][:N_TEST]


if __name__ == "__main__":
    main()
