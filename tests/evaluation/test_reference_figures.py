"""Exact reference figures on RouteLLM's benchmark data, when it is present."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from metarouter.evaluation.metrics import apgr, cpt
from metarouter.types import FloatArray

DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "../shared/data"))
CHEAP, PREMIUM = "mixtral-8x7b-instruct-v0.1", "gpt-4-1106-preview"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder {DATA}"),
]


def correctness(name: str) -> tuple[FloatArray, FloatArray]:
    """Correctness of both models on the uncontaminated prompts."""
    table = pq.read_table(DATA / name, columns=[CHEAP, PREMIUM, "contaminated"])
    clean = ~table["contaminated"].to_numpy()
    return (
        table[CHEAP].to_numpy()[clean].astype(float),
        table[PREMIUM].to_numpy()[clean].astype(float),
    )


@pytest.mark.parametrize(
    ("name", "n", "cheap_mean", "premium_mean", "oracle_apgr", "oracle_cpts", "spread"),
    [
        ("gsm8k/gsm8k.parquet", 1307, 63.7337, 85.7689, 1.121, (11.09, 17.67), 0.020),
        ("mmlu/mmlu.parquet", 14_037, 68.0915, 80.5870, 1.285, (6.25, 10.00), 0.009),
    ],
)
def test_reference_figures(
    name: str,
    n: int,
    cheap_mean: float,
    premium_mean: float,
    oracle_apgr: float,
    oracle_cpts: tuple[float, float],
    spread: float,
) -> None:
    """Counts, means, oracle APGR and CPT, and the spread of a random permutation's APGR."""
    cheap, premium = correctness(name)
    assert len(cheap) == n
    assert 100 * cheap.mean() == pytest.approx(cheap_mean, abs=5e-5)
    assert 100 * premium.mean() == pytest.approx(premium_mean, abs=5e-5)
    assert apgr(premium - cheap, cheap, premium) == pytest.approx(oracle_apgr, abs=5e-4)
    for x, expected in zip((0.5, 0.8), oracle_cpts, strict=True):
        # The reference counts whole queries, the curve crosses between two.
        found = 100 * cpt(premium - cheap, cheap, premium, x)
        assert found == pytest.approx(expected, abs=100 / n + 0.005)
    rng = np.random.default_rng(0)
    random = [apgr(rng.random(n), cheap, premium) for _ in range(150)]
    assert np.mean(random) == pytest.approx(0.5, abs=4 * spread / np.sqrt(150))
    assert np.std(random) == pytest.approx(spread, rel=0.2)
