"""causal_lm on GSM8K beside simple routers, and whether longer training helps it.

    OPENBLAS_NUM_THREADS=1 .venv-torch/bin/python experiments/causal_lm.py
        [--n-train 300] [--n-test 300] [--seed 0] [--routers ridge,causal_lm,...] [--out FILE]

One random split; labels of both models on the training questions. Three trainings of the
packaged decoder: ``causal_lm`` as it is by default (one epoch, rows dropped until grades
balance), ``causal_lm_all`` with all rows, ``causal_lm_long`` with all rows and three epochs. The
others read the default features. Matrix products are in bfloat16 where the processor has
them. APGR, intervals over questions and paired differences to the first router, 95 %. A
run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from metarouter.benchmark import Benchmark, load_benchmark
from metarouter.benchmark.results import Scores, compare_routers, measure_router
from metarouter.features import make_pipeline
from metarouter.gain import make_pool_model
from metarouter.gain.text import stage_of
from metarouter.labels import make_gain_table
from metarouter.records import Estimate
from metarouter.types import IntArray
from study import markdown

TRAININGS: dict[str, dict[str, Any]] = {
    "causal_lm": {},
    "causal_lm_all": {"rebalance": False},
    "causal_lm_long": {"rebalance": False, "epochs": 3},
}
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--n-train", type=int, default=300)
    parser.add_argument("--n-test", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--routers", default=",".join(("ridge", "logistic", "knn", *TRAININGS)))
    parser.add_argument("--out", type=Path, default=Path("results/causal_lm.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")
    (benchmark,) = load_benchmark("gsm8k", options.data)
    order = np.random.default_rng(options.seed).permutation(len(benchmark))
    train, test = np.split(order[: options.n_train + options.n_test], [options.n_train])
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    records: list[Record] = [json.loads(line) for line in lines]
    for router in options.routers.split(","):
        if router not in {record["router"] for record in records}:
            records.append(measure(benchmark, router, train, test, options.seed))
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
    print(as_markdown(benchmark, records, test))


def measure(
    benchmark: Benchmark, router: str, train: IntArray, test: IntArray, seed: int
) -> Record:
    """Scores of the test questions, and what the fit cost."""
    texts = [[benchmark.prompts[i] for i in rows] for rows in (train, test)]
    pipeline = make_pipeline("default", seed=seed).fit(texts[0])
    table = make_gain_table(
        queries=texts[0],
        gain=benchmark.gain[train],
        is_gold=[True] * len(train),
        features=pipeline.transform(texts[0]),
    )
    started = time.process_time()
    name = "causal_lm" if router in TRAININGS else router
    model = make_pool_model(name, seed=seed, **TRAININGS.get(router, {})).fit(table)
    seconds = time.process_time() - started
    started = time.process_time()
    score = model.predict((stage_of(model) or pipeline).transform(texts[1])).mean[:, 0]
    return {
        "router": router,
        "score": score.tolist(),
        "fit_cpu_seconds": round(seconds),
        "each_cpu_seconds": round((time.process_time() - started) / len(test), 4),
        "held_out_losses": [round(loss, 3) for loss in getattr(model, "losses_", ())],
    }


def as_markdown(benchmark: Benchmark, records: list[Record], test: IntArray) -> str:
    """APGR of each router, what it is less the first one, and its losses."""
    results = [
        measure_router(benchmark, r["router"], [Scores(rows=test, score=np.array(r["score"]))])
        for r in records
    ]
    less = {d.router: shown(d.apgr) for d in compare_routers(results, results[0].router)}
    return markdown(
        ["router", "APGR", f"less {results[0].router}", "fit, s", "each, s", "held-out losses"],
        [
            [
                f"`{record['router']}`", shown(result.apgr), less.get(result.router, ""),
                str(record["fit_cpu_seconds"]), str(record["each_cpu_seconds"]),
                ", ".join(map(str, record["held_out_losses"])),
            ]
            for record, result in zip(records, results, strict=True)
        ],
    )  # fmt: skip


def shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
