"""Simulated judges err as their formulas say."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.errors import OptionError
from metarouter.testing import SIMULATED_JUDGES, semi_synthetic_votes
from metarouter.types import FloatArray, IntArray

N = 20_000


@pytest.fixture(scope="module")
def data() -> tuple[FloatArray, list[str], IntArray]:
    rng = np.random.default_rng(0)
    gain = rng.choice([-1.0, 0.0, 1.0], N, p=[0.1, 0.6, 0.3])
    texts = ["x" * k for k in rng.integers(5, 500, N)]
    return gain, texts, rng.integers(0, 4, N)


def _votes(judge: str, data: tuple[FloatArray, list[str], IntArray]) -> FloatArray:
    gain, texts, domain = data
    return semi_synthetic_votes(
        gain, texts, [f"d{i}" for i in domain], judge, np.random.default_rng(5)
    )


def test_unbiased_judge_has_noise_of_mean_zero_and_half_a_unit(
    data: tuple[FloatArray, list[str], IntArray],
) -> None:
    error = _votes("unbiased", data) - data[0]
    assert abs(error.mean()) < 0.015
    assert error.std() == pytest.approx(0.5, rel=0.03)


def test_length_judge_adds_a_slope_in_log_length(
    data: tuple[FloatArray, list[str], IntArray],
) -> None:
    log = np.log([len(text) + 1 for text in data[1]])
    z = np.clip((log - log.mean()) / log.std(), -2, 2)
    slope = np.polyfit(z, _votes("length", data) - data[0], 1)[0]
    assert slope == pytest.approx(0.15, abs=0.02)


def test_topic_judge_shifts_each_topic_by_a_constant(
    data: tuple[FloatArray, list[str], IntArray],
) -> None:
    error = _votes("topic", data) - data[0]
    means = np.array([error[data[2] == t].mean() for t in range(4)])
    within = max(error[data[2] == t].std() for t in range(4))
    assert means.std() > 0.1
    assert within == pytest.approx(0.5, rel=0.05)


def test_perverse_judge_reverses_and_noise_judge_knows_nothing(
    data: tuple[FloatArray, list[str], IntArray],
) -> None:
    gain = data[0]
    assert np.corrcoef(gain, _votes("perverse", data))[0, 1] < -0.7
    noise = _votes("noise", data)
    assert abs(np.corrcoef(gain, noise)[0, 1]) < 0.03
    assert noise.mean() == pytest.approx(gain.mean(), abs=0.03)
    assert noise.std() == pytest.approx(_votes("unbiased", data).std(), rel=0.03)


@pytest.mark.parametrize("judge", SIMULATED_JUDGES)
def test_votes_are_a_function_of_the_generator(
    judge: str, data: tuple[FloatArray, list[str], IntArray]
) -> None:
    np.testing.assert_array_equal(_votes(judge, data), _votes(judge, data))


def test_unknown_judge_is_refused() -> None:
    with pytest.raises(OptionError, match="perverse"):
        semi_synthetic_votes(np.zeros(1), ["a"], ["b"], "fair", np.random.default_rng(0))
