"""Intervals hold the truth as often as they say, over seeded replications."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metarouter.evaluation.intervals import bootstrap_interval, mean_interval
from metarouter.evaluation.metrics import efficiency_gain_area_statistic
from metarouter.records import Estimate
from metarouter.types import FloatArray


def draw(n: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A score x ~ N(0, 1); right with P = 0.55 (cheap) and 0.55 + 0.15·(1 + tanh x)."""
    x = rng.normal(size=n)
    cheap = (rng.random(n) < 0.55).astype(float)
    premium = (rng.random(n) < 0.55 + 0.15 * (1 + np.tanh(x))).astype(float)
    return x, cheap, premium


def true_values() -> tuple[float, float]:
    """Policy value at threshold 0 and area, by numerical integration over x."""
    x = np.linspace(-9, 9, 400_001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    gain = 0.15 * (1 + np.tanh(x))
    value = 0.55 + float((gain * (x > 0) * density).sum())
    share = np.cumsum(density[::-1])
    collected = np.cumsum((gain * density)[::-1])
    area = float(((collected - share * collected[-1]) * density[::-1]).sum())
    return value, area


def policy_value(rng: np.random.Generator) -> Estimate:
    """Interval of the mean quality of the policy 'premium iff x > 0'."""
    x, cheap, premium = draw(200, rng)
    return mean_interval(np.where(x > 0, premium, cheap))


def area(rng: np.random.Generator) -> Estimate:
    """Bootstrap interval of the efficiency-gain area."""
    x, cheap, premium = draw(200, rng)
    return bootstrap_interval(efficiency_gain_area_statistic(x, premium - cheap), 200, rng, 1000)


CASES = [(policy_value, 0), (area, 1)]


def covered(
    interval: Callable[[np.random.Generator], Estimate], truth: float, replications: int
) -> int:
    """How many seeded replications hold the truth."""
    estimates = (interval(np.random.default_rng([77, seed])) for seed in range(replications))
    return sum(estimate.low <= truth <= estimate.high for estimate in estimates)


@pytest.mark.parametrize(("interval", "which"), CASES)
def test_intervals_cover_within_binomial_noise(
    interval: Callable[[np.random.Generator], Estimate], which: int
) -> None:
    """200 replications at 95 %: the count is within three binomial deviations."""
    count = covered(interval, true_values()[which], 200)
    assert abs(count - 190) <= 3 * np.sqrt(200 * 0.95 * 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "which"), CASES)
def test_intervals_cover_94_to_96_percent(
    interval: Callable[[np.random.Generator], Estimate], which: int
) -> None:
    """1,000 replications: coverage between 94 and 96 %."""
    count = covered(interval, true_values()[which], 1000)
    assert 940 <= count <= 960
