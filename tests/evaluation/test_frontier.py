"""A pool over its cost, against straight-line computations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.evaluation.frontier import (
    best_mixture,
    hull_advantage,
    hull_advantage_statistic,
    hull_quality,
    price_frontier,
)
from metarouter.policy.baselines import cost_quality_hull
from metarouter.types import FloatArray


def pool(n: int = 80, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predicted gains with the reference's zeros, costs and gold quality of four models."""
    rng = np.random.default_rng(seed)
    quality = rng.random((n, 4)) + np.array([0.0, 0.02, 0.2, 0.3])
    gains = quality - quality[:, :1] + 0.3 * rng.normal(size=(n, 4))
    gains[:, 0] = 0.0
    costs = np.array([0.03, 0.07, 0.3, 6.0]) * rng.uniform(0.5, 1.5, size=(n, 1))
    return gains, costs, quality


def test_the_frontier_is_the_rule_at_prices_of_cost() -> None:
    """Every point is reached by some price, none by mixing; its ends are the two extremes."""
    gains, costs, quality = pool(20)
    found = price_frontier(gains, costs, quality)
    assert np.all(np.diff(found.cost) > 0)
    rows = range(len(gains))
    switches = sorted(
        (gain[a] - gain[b]) / (cost[a] - cost[b])
        for gain, cost in zip(gains, costs, strict=True)
        for a in range(4)
        for b in range(a)
    )
    between = [(low + high) / 2 for low, high in pairwise(switches) if high > 0]
    reached = {}
    for w in [0.0, *(w for w in between if w > 0), 2 * switches[-1] + 1]:
        choice = np.argmax(gains - w * costs, axis=1)
        reached[round(float(costs[rows, choice].mean()), 9)] = quality[rows, choice].mean()
    for cost, value in zip(found.cost, found.quality.mean(axis=0), strict=True):
        assert reached[round(float(cost), 9)] == pytest.approx(value)
    assert found.cost[0] == pytest.approx(costs.min(axis=1).mean())
    assert found.cost[-1] == pytest.approx(costs[rows, gains.argmax(axis=1)].mean())
    assert found.share[0] == 0.0


def test_many_queries_leave_no_gap_in_the_frontier() -> None:
    """Costs two hundredfold apart are covered to a fiftieth of the range."""
    found = price_frontier(*pool(600))
    assert np.diff(found.cost).max() < 0.06 * np.ptp(found.cost)


@given(seed=st.integers(0, 10_000), n_models=st.integers(1, 5), part=st.floats(-1e-9, 1.5))
def test_the_best_mixture_is_on_the_hull_of_single_models(
    seed: int, n_models: int, part: float
) -> None:
    """Within a budget it is what interpolation between the corners of the hull gives."""
    rng = np.random.default_rng(seed)
    cost, quality = rng.integers(0, 5, n_models) / 4, rng.integers(0, 5, n_models) / 4
    budget = cost.min() + part
    corners = cost_quality_hull(cost, quality)
    expected = np.interp(budget, cost[corners], quality[corners])
    found = hull_quality(cost[None], quality[None], np.array([budget]))
    assert found[0] == pytest.approx(expected)
    mixture = best_mixture(cost, quality, budget)
    assert mixture.sum() == pytest.approx(1.0)
    assert mixture @ quality == pytest.approx(expected)
    assert mixture @ cost <= max(budget, cost.min()) + 1e-9


def test_a_router_that_mixes_two_models_at_random_has_no_advantage() -> None:
    """And one that knows which query is which has what it gains over the mixture."""
    quality = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    costs = np.tile([0.0, 1.0], (100, 1))
    every = np.ones((1, 100))
    coin = np.repeat([0, 1], 50)
    right = np.array([1, 0] * 50)
    assert hull_advantage_statistic(quality, costs, coin)(every) == pytest.approx(0.0)
    assert hull_advantage_statistic(quality, costs, right)(every) == pytest.approx(0.25)


def test_a_single_query_has_no_halves_to_judge_each_other() -> None:
    """Its advantage is over the mixture that it chose itself, and has no interval."""
    quality, costs = np.array([[0.0, 1.0, 0.2]]), np.array([[1.0, 2.0, 3.0]])
    found = hull_advantage(quality, costs, np.array([2]), np.random.default_rng(0), n_boot=20)
    assert found.value == pytest.approx(-0.8)
    assert np.isnan([found.std_error, found.low, found.high]).all()
    assert found.warnings == ("one query: no interval",)


def _verdicts(is_best: bool, n_worlds: int = 40) -> tuple[int, int]:
    """How often a router that is as good as the best mixture is called worse, and better.

    Eight models; all are equally good and the router draws among them, or one is a
    little better and nearly always called.
    """
    n_worse = n_better = 0
    for seed in range(n_worlds):
        rng = np.random.default_rng(seed)
        share = np.full(8, 0.6) + 0.03 * is_best * (np.arange(8) == 4)
        known = np.where(rng.random((200, 8)) < 0.5, rng.random((200, 1)), rng.random((200, 8)))
        costs = np.tile(np.linspace(1.0, 1.35, 8), (200, 1))
        drawn = rng.integers(8, size=200)
        choice = np.where(rng.random(200) < 0.98, 4, drawn) if is_best else drawn
        found = hull_advantage((known < share) * 1.0, costs, choice, rng, n_boot=200)
        n_worse += found.high < 0
        n_better += found.low > 0
    return n_worse, n_better


def test_a_router_as_good_as_every_mixture_is_rarely_called_worse() -> None:
    """Against the mixture that the judging labels choose it was in a third of worlds."""
    n_worse, n_better = _verdicts(is_best=False)
    assert n_worse <= 3
    assert n_better == 0


def test_a_router_as_good_as_the_best_model_is_not_called_better() -> None:
    """Against the mixture that half of the labels choose it is in a quarter of worlds."""
    n_worse, n_better = _verdicts(is_best=True)
    assert n_worse <= 3
    assert n_better <= 1
