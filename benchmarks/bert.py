"""Latency of the bert router's network on one thread: int8 and float32 graphs, and torch.

    .venv-torch/bin/python benchmarks/bert.py [--json out.json] [--tokens 128]

The packaged encoder with three classes, one text at a time. Times are of the network and the
tokenizer together; processor time is given beside wall time, since on a shared machine only the
former belongs to this process. A random head is as fast as a trained one. Last comes the
processor time of a step of fine-tuning, 16 texts of that length.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from metarouter.features.checkpoints import load_encoder, tokenizer_json
from metarouter.features.encoder import EncoderClassifier
from metarouter.gain.text.export import export_graph
from metarouter.gain.text.finetune import FinetuneSettings, finetune
from metarouter.types import IntArray, ModelState

N, N_STEPS, BATCH = 200, 5, 16


def text_of(n_tokens: int, rng: np.random.Generator) -> str:
    """Common words that are one token each, less the two that the tokenizer adds."""
    words = ["the", "of", "which", "number", "water", "list", "first", "because", "house", "read"]
    return " ".join(rng.choice(words, size=n_tokens - 2))


def stage_of(network: Any, tokenizer: Any, precision: Any) -> EncoderClassifier:
    """What a router serves with."""
    content = {
        "onnx": export_graph(network, precision=precision),
        "tokenizer": tokenizer_json(tokenizer, "packaged"),
    }
    return EncoderClassifier(
        ModelState(
            kind="encoder_classifier",
            config={"n_models": 2, "max_tokens": 512},
            arrays={name: np.frombuffer(part, dtype=np.uint8) for name, part in content.items()},
        )
    )


def times(run: Callable[[str], Any], texts: list[str]) -> dict[str, float]:
    """Median and 99th percentile of wall time, and mean processor time, in ms."""
    for text in texts[:10]:
        run(text)
    wall, cpu = [], time.process_time()
    for text in texts:
        start = time.perf_counter()
        run(text)
        wall.append(1e3 * (time.perf_counter() - start))
    used = 1e3 * (time.process_time() - cpu) / len(texts)
    return {
        "p50_ms": float(np.median(wall)),
        "p99_ms": float(np.quantile(wall, 0.99)),
        "cpu_ms": used,
    }


def step_seconds(network: Any, tokenizer: Any, texts: list[str]) -> float:
    """Processor seconds of a step of training, as `finetune` makes it."""
    ids = tokenizer(texts[:BATCH], return_tensors="pt")
    labels = torch.arange(BATCH) % 3
    spent: list[float] = []

    def loss_of(_rows: IntArray) -> Any:
        spent.append(time.process_time())
        return network(**ids, labels=labels).loss

    finetune(
        network,
        lambda _rng: [np.arange(BATCH)] * (N_STEPS + 1),
        loss_of,
        None,
        FinetuneSettings(learning_rate=1e-5, epochs=1),
    )
    return float(np.median(np.diff(spent)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    network, tokenizer = load_encoder("packaged", 3)
    network.eval()
    texts = [text_of(options.tokens, rng) for _ in range(N)]
    assert len(tokenizer(texts[0]).input_ids) == options.tokens

    def by_torch(text: str) -> Any:
        with torch.inference_mode():
            return network(**tokenizer(text, return_tensors="pt")).logits

    def by_graph(stage: EncoderClassifier, text: str) -> Any:
        return stage.transform([text])

    runs: dict[str, Callable[[str], Any]] = {"torch float32": by_torch}
    for precision in ("fp32", "int8"):
        stage = stage_of(network, tokenizer, precision)
        runs[f"onnx {precision}"] = partial(by_graph, stage)
    records = [{"network": name, **times(run, texts)} for name, run in runs.items()]
    for record in records:
        print(
            f"{record['network']:14s} p50 {record['p50_ms']:6.1f} ms, p99 {record['p99_ms']:6.1f} "
            f"ms, processor {record['cpu_ms']:6.1f} ms a text"
        )
    records.append({"step_cpu_s": step_seconds(network, tokenizer, texts)})
    print(f"a step of fine-tuning, {BATCH} texts: {records[-1]['step_cpu_s']:.2f} s of processor")
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
