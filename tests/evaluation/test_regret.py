"""Regret against the oracle at every price of cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.errors import DataError
from metarouter.evaluation.regret import price_grid, regret_curve
from metarouter.policy.rule import UtilityPolicy

UNIT = np.array([0.0, 1.0])
PRICES = np.linspace(-0.5, 1.5, 9)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pool(n: int = 40) -> tuple[Any, Any, Any]:
    """Predicted gains, gold scores and costs of three models."""
    source = np.random.default_rng(1)
    scores = source.random((n, 3))
    mean = scores[:, 1:] - scores[:, :1] + 0.3 * source.normal(size=(n, 2))
    return mean, scores, np.array([0.1, 0.5, 2.0]) * source.uniform(0.5, 1.5, size=(n, 1))


def test_regret_of_a_pool_by_a_loop() -> None:
    """Oracle utility minus router utility, query by query; the best model alone likewise."""
    mean, scores, costs = pool()
    found = regret_curve(mean, scores, costs, PRICES, rng(), n_boot=50)
    for position, w in enumerate(PRICES):
        chosen = UtilityPolicy(models=("a", "b", "c"), w=float(w)).choose(mean, costs)
        best, router = 0.0, 0.0
        single = [0.0, 0.0, 0.0]
        for i in range(len(scores)):
            worth = [scores[i, m] - w * costs[i, m] for m in range(3)]
            best += max(worth) / len(scores)
            router += worth[chosen[i]] / len(scores)
            single = [total + one / len(scores) for total, one in zip(single, worth, strict=True)]
        assert found.band.value[position] == pytest.approx(best - router)
        assert found.constant[position] == pytest.approx(best - max(single))


def test_regret_of_a_pair_under_unit_costs_has_a_short_formula() -> None:
    """mean(max(g − w, 0)) − mean(1{ψ̂ > w}(g − w)), whatever the level of the scores."""
    source = np.random.default_rng(2)
    predicted, gain = source.normal(size=30), source.normal(size=30)
    scores = np.column_stack([np.full(30, 7.0), 7.0 + gain])
    found = regret_curve(predicted, scores, UNIT, PRICES, rng(), n_boot=50)
    for position, w in enumerate(PRICES):
        expected = np.maximum(gain - w, 0).mean() - ((predicted > w) * (gain - w)).mean()
        assert found.band.value[position] == pytest.approx(expected)


def test_an_oracle_has_no_regret_and_no_router_has_less() -> None:
    """With the gold gains as predictions the curve is 0; else it is not below."""
    mean, scores, costs = pool()
    truth = scores[:, 1:] - scores[:, :1]
    none = regret_curve(truth, scores, costs, PRICES, rng(), n_boot=50)
    assert none.band.value == pytest.approx(0.0, abs=1e-12)
    assert (regret_curve(mean, scores, costs, PRICES, rng(), n_boot=50).band.value >= 0).all()


def test_the_band_holds_the_curve_of_the_population() -> None:
    """Over 200 samples the band at 80 % holds the whole true curve about as often."""
    source = np.random.default_rng(3)
    hits = 0
    grid = np.array([0.0, 0.2, 0.4])
    predicted = source.normal(0.1, 0.3, 200_000)
    gain = predicted + source.normal(0, 0.3, 200_000)
    truth = [(np.maximum(gain - w, 0) - (predicted > w) * (gain - w)).mean() for w in grid.tolist()]
    for start in range(0, 200_000, 1000):
        rows = slice(start, start + 1000)
        scores = np.column_stack([np.zeros(1000), gain[rows]])
        band = regret_curve(predicted[rows], scores, UNIT, grid, source, n_boot=200, level=0.8).band
        hits += bool(((band.low <= truth) & (truth <= band.high)).all())
    # three standard errors of a share of 0.8 over 200
    assert abs(hits / 200 - 0.8) < 3 * np.sqrt(0.8 * 0.2 / 200)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=30), st.floats(-1e9, 3))
def test_the_grid_rises_and_holds_the_price_in_use(gains: list[float], w: float) -> None:
    """From free calls on; a price beyond every decision is put where decisions end."""
    grid = price_grid(gains, UNIT, w)
    assert (np.diff(grid) > 0).all()
    assert grid[0] <= 0 <= grid[-1]
    if min(gains) <= w <= max(gains) and len(gains) == 1:
        assert w in grid
    assert np.abs(grid).max() <= max(2.0, abs(w))
    assert np.abs(grid).max() <= 2.0 or w > 2.0


def test_models_of_one_cost_have_no_price_to_ask_about() -> None:
    """Where nothing is dearer the grid is the price in use."""
    assert price_grid([0.1, 0.2], np.array([1.0, 1.0]), 0.3).tolist() == [0.3]


def test_misfitting_arrays_are_refused() -> None:
    """Shapes that do not belong together, and values that are no numbers."""
    with pytest.raises(DataError, match="scores of shape"):
        regret_curve([0.1], [[0.0, 1.0, 2.0]], UNIT, [0.1], rng())
    with pytest.raises(DataError, match="scores of shape"):
        regret_curve([0.1], [[0.0, np.nan]], UNIT, [0.1], rng())
    with pytest.raises(DataError, match="w"):
        regret_curve([0.1], [[0.0, 1.0]], UNIT, [np.nan], rng())
