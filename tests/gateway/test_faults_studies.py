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
    """Settings and router are replaced while requests run; every answer is of one generation."""
    from gateway_swap import Options, measure

    found = measure(Options(swaps=4, connections=8, seconds=0.7))
    assert (found.failed, found.mixed) == (0, 0)
    assert found.swaps_seen >= 2
    assert set(found.by_generation) == {"a", "b"}


def test_an_answer_of_two_generations_is_told() -> None:
    """The check of the study can fail: one trace of another generation is enough."""
    from gateway_load import Outcome
    from gateway_swap import traces

    def outcome(policy: str) -> Outcome:
        headers = {
            "x-metarouter-policy": policy, "x-metarouter-model": "premium", "x-seen": "a",
        }  # fmt: skip
        return Outcome(
            number=0, is_stream=False, sent=0.0, first=0.1, ended=0.2, status=200,
            headers=headers, body=b'{"model": "premium-a"}', is_whole=True,
        )  # fmt: skip

    versions = {"a": "one", "b": "two"}
    assert traces(outcome("default@one"), versions) == {"a"}
    assert traces(outcome("default@two"), versions) == {"a", "b"}


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
