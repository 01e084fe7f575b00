"""Decisions a second of the mf head, beside RouteLLM's arithmetic in torch, on one thread.

    OPENBLAS_NUM_THREADS=1 .venv-torch/bin/python benchmarks/mf.py [--json out.json]

Both get the same embeddings of 1,536 numbers (a query's embedding is not counted, as in the
published 155 requests a second on a GPU it is: compare the heads with each other). The peer is
written down here from the paper's formula: the model vectors normalised, one projection of the
query, one product, one sum, a sigmoid of the difference. Ours does as much for an ensemble of
eight, adds the uncertainty and weighs gain against cost.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarouter.gain.mf import MFGain
from metarouter.labels.table import make_gain_table
from metarouter.policy.rule import UtilityPolicy

WIDTH, N_MODELS, DIM = 1_536, 64, 128
STRONG, WEAK = 24, 36


def peer() -> Callable[[NDArray[np.float32]], float]:
    """The straight-line torch scorer of one query, with random parameters."""
    models = torch.randn(N_MODELS, DIM)
    projection = torch.nn.Linear(WIDTH, DIM, bias=False)
    output = torch.nn.Linear(DIM, 1, bias=False)

    def strong_wins(embedding: NDArray[np.float32]) -> float:
        with torch.no_grad():
            pair = torch.nn.functional.normalize(models[[STRONG, WEAK]], p=2, dim=1)
            logits = output(pair * projection(torch.from_numpy(embedding))).squeeze()
            return float(torch.sigmoid(logits[0] - logits[1]).item())

    return strong_wins


def ours(rng: np.random.Generator) -> MFGain:
    """A model trained for one epoch: speed does not depend on what it learned."""
    X = rng.normal(size=(400, WIDTH)).astype(np.float32)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(400)],
        gain=rng.choice([-1.0, 0.0, 1.0], size=400),
        is_gold=[True] * 400,
        features=X,
    )
    return MFGain(max_epochs=1).fit(table)


def per_second(run: Callable[[], int], seconds: float = 2.0) -> tuple[float, float]:
    """Decisions a second of wall time and of processor time, warmed up."""
    run()
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        done += run()
    return done / (time.perf_counter() - wall), done / (time.process_time() - cpu)


def measure() -> list[dict[str, Any]]:
    """One record for each way to decide."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1_024, WIDTH)).astype(np.float32)
    model, score = ours(rng), peer()
    policy = UtilityPolicy(models=("weak", "strong"), w=0.1)
    unit = np.tile([0.0, 1.0], (len(X), 1))

    def one_by_one() -> int:
        for i in range(256):
            gain = model.predict(X[i : i + 1])
            policy.choose(gain.mean, unit[:1])
        return 256

    def batch() -> int:
        policy.choose(model.predict(X).mean, unit)
        return len(X)

    def torch_one_by_one() -> int:
        for i in range(256):
            score(X[i])
        return 256

    runs = {"mf, batch of 1,024": batch, "mf, one by one": one_by_one, "peer": torch_one_by_one}
    records = []
    for name, run in runs.items():
        wall, cpu = per_second(run)
        records.append({"router": name, "per_second": wall, "per_cpu_second": cpu})
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = measure()
    for record in records:
        print(
            f"{record['router']:20s} {record['per_second']:>10,.0f}/s "
            f"({record['per_cpu_second']:,.0f} per second of processor time)"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
