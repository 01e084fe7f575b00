"""The studies of swaps and of memory, on a small scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))


def test_swaps_under_load_fail_nothing_and_mix_nothing() -> None:
    """Settings and router are replaced while requests run; every answer is of one swap."""
    from gateway_swaps import Options, measure

    found = measure(Options(swaps=4, pause=0.7, calm=0.7, connections=8))
    assert (found.failed, found.mixed, found.broken_files) == (0, 0, 1)
    assert found.rows == found.requests
    assert 2 <= found.swaps_seen <= found.swaps == 4


@pytest.mark.parametrize(
    "trace",
    ["none", "policy", "model", "seen", "body", "row version", "row artifact", "row answered"],
)
def test_an_answer_of_two_swaps_is_told(trace: str) -> None:
    """One trace of another swap is enough."""
    from gateway_load import Outcome
    from gateway_swaps import Swap, is_of_one_swap

    one, two = (
        Swap(version=f"v{n}", created=f"swap {n}", model=model)
        for n, model in enumerate(("cheap", "premium"))
    )

    def of(name: str) -> Swap:
        return two if name == trace else one

    headers = {
        "x-metarouter-decision-id": "d1",
        "x-metarouter-policy": f"default@{of('policy').version}",
        "x-metarouter-model": of("model").model,
        "x-seen": of("seen").created,
    }
    outcome = Outcome(
        number=0, is_stream=False, sent=0.0, first=0.1, ended=0.2, status=200,
        headers=headers, body=f'{{"model": "{of("body").sent}"}}'.encode(), is_whole=True,
    )  # fmt: skip
    row = {
        "policy_version": of("row version").version,
        "artifact": of("row artifact").created,
        "model": one.model,
        "answered": of("row answered").model,
    }
    known = {swap.version: swap for swap in (one, two)}
    assert is_of_one_swap(outcome, {"d1": row}, known) == (trace == "none")
    assert not is_of_one_swap(outcome, {}, known)


@pytest.mark.parametrize(("growth", "is_flat"), [(0.0, True), (20.0, False)])
def test_growth_of_memory_is_told_from_noise(growth: float, is_flat: bool) -> None:
    """Readings of an hour that wander by a megabyte: flat, or 20 MB an hour more."""
    from gateway_soak import slope

    rng = np.random.default_rng(1)
    seconds = np.arange(0.0, 3600.0, 5.0)
    memory = 200.0 + growth * seconds / 3600 + rng.normal(0.0, 1.0, len(seconds))
    estimate, low, high = slope(list(zip(seconds, memory, strict=True)))
    assert (low <= 0.0 <= high) == is_flat
    assert low <= growth <= high
    assert low < estimate < high
