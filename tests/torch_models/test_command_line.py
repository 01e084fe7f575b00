"""From labels in a file to a decision, with the routers that read text."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metarouter.benchmark.routers import FoldFeatures, parse_router
from metarouter.cli import run
from metarouter.labels.table import GainTable

pytestmark = pytest.mark.torch

pytest.importorskip("torch")

PROOF, COLOUR = "prove theorem about manifold", "what colour is the apple"


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Sixty prompts scored for two models: proofs need the premium one."""
    lines = []
    for i in range(60):
        query = f"{(PROOF, COLOUR)[i % 2]} number {i}"
        for model, score in (("small", float(i % 2)), ("large", 1.0)):
            lines.append(json.dumps({"query": query, "model": model, "score": score}))
    path = tmp_path / "gold.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_then_route_where_torch_does_not_exist(
    gold: Path, tmp_path: Path, tiny_encoder: str, plain_python: Path
) -> None:
    """`metarouter fit --gain-model bert` here, `metarouter route` in the other environment."""
    out = tmp_path / "router"
    model = f"bert:{tiny_encoder}"
    arguments = ["fit", "--gold", str(gold), "--gain-model", model, "--folds", "0"]
    assert run([*arguments, "--embedder", "surface", "--out", str(out)]) == 0
    done = subprocess.run(
        [plain_python, "-m", "metarouter", "route", str(out), PROOF, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["results"][0]["model"] in {"small", "large"}


def test_a_benchmark_takes_routers_that_read_text(tiny_encoder: str, easy_table: GainTable) -> None:
    """By name and checkpoint, as any other router."""
    spec = parse_router(f"bert:{tiny_encoder}", embedder="surface")
    features = FoldFeatures(easy_table.queries, [PROOF, COLOUR])
    gains = spec.fit_predict(easy_table, features, seed=0)
    assert gains.shape == (2, 1)
    assert np.isfinite(gains).all()
