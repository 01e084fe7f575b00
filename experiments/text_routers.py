"""bert and mf on MMLU, beside ridge on the same labels: APGR on held-out prompts.

    OPENBLAS_NUM_THREADS=1 .venv-torch/bin/python experiments/text_routers.py OUT.json
        [--n-train 2500] [--n-test 6000] [--splits 3] [--data ../shared/data]

Each split draws prompts to train on and others to test on; equal prompts stay together and
contaminated ones are left out. bert reads the texts, mf and ridge the default features, learned on
the training prompts. `bert_win` is RouteLLM's own score, P(win), of the same network.
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
import pyarrow.parquet as pq
import torch

from metarouter.evaluation.metrics import apgr
from metarouter.features import make_pipeline
from metarouter.gain import make_pool_model, make_table_gain_model
from metarouter.gain.text.encoder import EncoderGain
from metarouter.labels.table import make_gain_table
from metarouter.types import FloatArray, IntArray

CHEAP, PREMIUM = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"


def read_mmlu(folder: Path) -> tuple[list[str], FloatArray]:
    """Distinct prompts, and the mean quality of both models on each."""
    rows = pq.read_table(folder / "mmlu" / "mmlu.parquet").to_pylist()
    quality: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not row["contaminated"]:
            quality.setdefault(row["prompt"], []).append((row[CHEAP], row[PREMIUM]))
    return list(quality), np.array([np.mean(pairs, axis=0) for pairs in quality.values()])


def run_split(
    prompts: list[str], quality: FloatArray, train: IntArray, test: IntArray, seed: int
) -> list[dict[str, Any]]:
    """Records of every router on one split."""
    train_texts, test_texts = [prompts[i] for i in train], [prompts[i] for i in test]
    pipeline = make_pipeline("default").fit(train_texts)
    X = pipeline.transform(test_texts)
    table = make_gain_table(
        queries=train_texts,
        gain=quality[train, 1] - quality[train, 0],
        is_gold=[True] * len(train),
        features=pipeline.transform(train_texts),
    )
    records: list[dict[str, Any]] = []

    def note(router: str, score: FloatArray, seconds: float) -> None:
        area = apgr(score, quality[test, 0], quality[test, 1])
        records.append({"router": router, "seed": seed, "apgr": area, "fit_cpu_seconds": seconds})
        print(f"split {seed}: {router:10s} APGR {area:.4f} ({seconds:.0f} s)", flush=True)

    for router in ("ridge", "mf"):
        start = time.process_time()
        model = make_pool_model(router, seed=seed).fit(table)
        seconds = time.process_time() - start
        note(router, model.predict(X).mean[:, 0], seconds)
    start = time.process_time()
    bert = make_table_gain_model("bert", seed=seed, max_tokens=128, epochs=2).fit(table)
    assert isinstance(bert, EncoderGain)
    seconds = time.process_time() - start
    probabilities = bert.stage_.transform(test_texts)
    note("bert", probabilities[:, 0].astype(np.float64) - probabilities[:, 2], seconds)
    note("bert_win", probabilities[:, 0].astype(np.float64), seconds)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n-train", type=int, default=2_500)
    parser.add_argument("--n-test", type=int, default=6_000)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    prompts, quality = read_mmlu(options.data)
    records: list[dict[str, Any]] = []
    for seed in range(options.splits):
        order = np.random.default_rng(seed).permutation(len(prompts))
        train = order[: options.n_train]
        test = order[options.n_train : options.n_train + options.n_test]
        records += run_split(prompts, quality, train, test, seed)
        options.out.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
