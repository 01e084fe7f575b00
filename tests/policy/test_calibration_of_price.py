"""Calibrating the price of cost to a share, a budget or a certified loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from metarouter.errors import DataError, OptionError
from metarouter.policy.calibrate import (
    calibrate_budget,
    calibrate_max_loss,
    calibrate_share,
    mean_is_below,
    mix_at_share,
)
from metarouter.policy.rule import UtilityPolicy
from metarouter.types import FloatArray

UNIT = np.array([0.0, 1.0])


def realised(mean: FloatArray, costs: FloatArray, w: float) -> tuple[float, float]:
    """Share away from the reference and mean cost, by a loop over queries and models."""
    left, total = 0, 0.0
    rows = costs if costs.ndim == 2 else [costs] * len(mean)
    for gains, cost in zip(mean.reshape(len(mean), -1), rows, strict=True):
        every = [0.0, *gains]
        best = min(range(len(every)), key=lambda m: (w * cost[m] - every[m], cost[m], m))
        left += best != 0
        total += cost[best]
    return left / len(mean), total / len(mean)


@example(gains=[0, 0, 1], share=1 / 3)
@given(
    st.lists(st.integers(-6, 6), min_size=2, max_size=40),
    st.floats(0, 1),
)
def test_share_is_the_largest_that_does_not_exceed(gains: list[int], share: float) -> None:
    """With ties too, and the policy at w realises the share that is promised."""
    mean = np.array(gains) / 7
    found = calibrate_share(mean, UNIT, share)
    real, _ = realised(mean, UNIT, found.w)
    reachable = [realised(mean, UNIT, t)[0] for t in [*(mean - 1e-6), mean.max() + 1]]
    assert real == found.premium_share.value
    assert real == max(one for one in reachable if one <= share)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_has_a_larger_price(
    gains: list[float], first: float, second: float
) -> None:
    """Calibrated w falls as the share rises."""
    low, high = sorted((first, second))
    mean = np.array(gains)
    assert calibrate_share(mean, UNIT, high).w <= calibrate_share(mean, UNIT, low).w


def test_share_with_costs_of_each_query_and_in_a_pool() -> None:
    """The realised share is the asked one up to one query, whatever the costs."""
    rng = np.random.default_rng(0)
    mean = rng.normal(0.1, 0.3, size=(500, 2))
    costs = np.sort(rng.random((500, 3)), axis=1)
    for share in (0.0, 0.1, 0.37, 0.6):
        found = calibrate_share(mean, costs, share)
        real, cost = realised(mean, costs, found.w)
        assert share - 0.003 <= real <= share
        assert found.premium_share.value == real
        assert found.cost_per_1k.value == pytest.approx(1000 * cost)


def test_a_share_that_no_price_gives_is_refused() -> None:
    """Where the other model is better and not dearer, it is chosen at any price."""
    costs = np.array([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(DataError, match="put the cheapest model first"):
        calibrate_share(np.array([0.3, 0.2]), costs, 0.2)
    with pytest.raises(OptionError, match="share"):
        calibrate_share(np.array([0.3, 0.2]), UNIT, 1.2)


def test_share_interval_covers_the_share_on_new_queries() -> None:
    """Over 400 calibrations of 150 queries the true share is inside at least 95 % of the time."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        found = calibrate_share(rng.normal(size=150), UNIT, 0.3)
        truth = stats.norm.sf(found.w)
        inside += found.premium_share.low <= truth <= found.premium_share.high
    assert inside >= 380 - 13


def test_a_mix_has_exactly_its_share() -> None:
    """Scores with ties, costs of each query: the expected share is the asked one."""
    rng = np.random.default_rng(2)
    mean = rng.integers(-2, 3, size=60) / 4
    costs = np.column_stack([np.zeros(60), rng.uniform(0.5, 2, 60)])
    for share in (0.0, 0.1, 0.55, 0.99, 1.0):
        mix = mix_at_share(mean, costs, share)
        assert mix[:, 1].mean() == pytest.approx(share)
        np.testing.assert_allclose(mix.sum(axis=1), 1.0)


def test_budget_is_used_up_and_not_exceeded() -> None:
    """In a pool, no smaller price of cost would fit the budget."""
    rng = np.random.default_rng(3)
    mean = rng.normal(0.2, 0.3, size=(200, 2))
    costs = np.array([0.001, 0.004, 0.02]) * rng.uniform(0.5, 2, size=(200, 1))
    free = 1000 * realised(mean, costs, 0.0)[1]
    cheapest = 1000 * costs[:, 0].mean()
    for part in (0.1, 0.5, 0.9):
        budget = cheapest + part * (free - cheapest)
        found = calibrate_budget(mean, costs, budget)
        assert found.cost_per_1k.value <= budget
        assert 1000 * realised(mean, costs, 0.98 * found.w)[1] > budget * 0.97
        policy = UtilityPolicy(models=("a", "b", "c"), w=found.w)
        chosen = policy.choose(mean, costs)
        assert 1000 * costs[np.arange(200), chosen].mean() <= budget


def test_an_ample_budget_buys_all_positive_gains_only() -> None:
    """The price is 0 and not below: no money for predicted losses."""
    found = calibrate_budget(np.array([0.2, -0.1]), UNIT, 1e6)
    assert found.w == 0.0
    assert found.premium_share.value == 0.5


def test_a_budget_below_the_cheapest_is_refused() -> None:
    """The message says what the cheapest costs."""
    with pytest.raises(DataError, match="already costs 2000"):
        calibrate_budget(np.array([0.2]), np.array([2.0, 3.0]), 1000)


def test_the_loss_limit_holds_as_often_as_promised() -> None:
    """Over 100 calibrations the true loss exceeds the limit in at most 10 % (+ noise)."""
    rng = np.random.default_rng(4)
    broken, certified = 0, 0
    for _ in range(100):
        predicted = rng.normal(0.1, 0.3, 600)
        truth = np.clip(predicted, -1, 1)
        gold = np.sign(truth) * (rng.random(600) < np.abs(truth))
        found = calibrate_max_loss(predicted, gold, UNIT, 0.03, rng, confidence=0.9)
        grid = np.clip(rng.normal(0.1, 0.3, 20_000), -1, 1)
        loss = float((grid * (grid <= found.w)).mean())
        broken += loss > 0.03
        certified += found.certified
    assert broken <= 10 + 9
    assert certified > 75


def test_mean_below_rejects_a_true_null_rarely() -> None:
    """Losses whose mean equals the limit are certified in at most the error rate."""
    rng = np.random.default_rng(5)
    wrong = sum(mean_is_below(rng.choice([-1.0, 1.0], 200), 0.0, 0.1) for _ in range(500))
    assert wrong <= 50 + 20
    assert mean_is_below(np.full(200, -0.5), 0.0, 0.1)


def test_too_few_labels_fall_back_to_always_premium() -> None:
    """Ten labels certify nothing: always premium, and the reason says why."""
    rng = np.random.default_rng(6)
    found = calibrate_max_loss(rng.normal(size=10), np.zeros(10), UNIT, 0.01, rng)
    assert not found.certified
    assert found.premium_share.value == 1.0
    assert "always the premium model: 10 gold labels cannot certify" in found.reason


@pytest.mark.parametrize("costs", [np.array([0.0, 1.0, 1.0]), np.array([1e-7, 2e-7, 4e-7])])
def test_the_fallback_of_a_pool_is_what_its_reason_says(costs: Any) -> None:
    """The dearest model, however small its price, and of equally dear ones the best predicted."""
    rng = np.random.default_rng(10)
    mean = rng.normal(size=(10, 2))
    found = calibrate_max_loss(mean, np.zeros((10, 2)), costs, 0.01, rng)
    assert not found.certified
    assert "dearest model for a query, of equally dear ones the best predicted" in found.reason
    chosen = UtilityPolicy(models=("a", "b", "c"), w=found.w).choose(mean, costs)
    expected = 1 + mean.argmax(axis=1) if costs[1] == costs[2] else np.full(10, 2)
    assert chosen.tolist() == expected.tolist()


def test_a_pair_whose_tokens_turn_the_prices_round_falls_back_on_the_dearer_one() -> None:
    """That is not always premium, so it is not called that."""
    mean, rng = np.full(10, 0.1), np.random.default_rng(1)
    costs = np.tile([[1.0, 2.0], [2.0, 1.0]], (5, 1))
    found = calibrate_max_loss(mean, mean, costs, 0.01, rng)
    assert not found.certified
    assert found.premium_share.value == 0.5
    assert "always the dearest model for a query" in found.reason


def test_the_expected_cost_has_the_interval_of_student() -> None:
    costs = np.random.default_rng(2).random((5, 2)) + UNIT
    found = calibrate_budget(np.full(5, -1.0), costs, 2000.0).cost_per_1k
    low, high = stats.t.interval(0.95, 4, *_mean_and_error(1000 * costs[:, 0]))
    assert (found.low, found.high) == pytest.approx((low, high))
    single = calibrate_budget(np.full(1, -1.0), costs[:1], 2000.0).cost_per_1k
    assert np.isnan([single.low, single.high, single.std_error]).all()
    assert single.warnings == ("one query has no interval",)


def _mean_and_error(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(stats.sem(values))


def test_more_loss_allowed_means_a_higher_price() -> None:
    """With the same labels and order, w grows with the limit; other options matter too."""
    rng = np.random.default_rng(7)
    predicted = rng.normal(0.1, 0.3, 800)
    gold = np.clip(predicted + rng.normal(0, 0.1, 800), -1, 1)

    def w(limit: float, confidence: float = 0.9, gain_bound: float = 1.0) -> float:
        rng = np.random.default_rng(8)
        return calibrate_max_loss(predicted, gold, UNIT, limit, rng, confidence, gain_bound).w

    assert w(0.01) < w(0.03) < w(0.06)
    assert w(0.03, confidence=0.99) < w(0.03)
    assert w(0.03, gain_bound=2.0) <= w(0.03)


def test_impossible_limits_are_refused() -> None:
    """Limits, confidence and gains outside their range are named."""
    rng = np.random.default_rng(9)
    gain = np.array([0.5, 3.0])
    with pytest.raises(OptionError, match="max_loss"):
        calibrate_max_loss(gain, gain, UNIT, 0.0, rng)
    with pytest.raises(OptionError, match="confidence"):
        calibrate_max_loss(gain, gain, UNIT, 0.1, rng, confidence=95)
    with pytest.raises(DataError, match=r"a gold gain of 3 is above 1.*score_range"):
        calibrate_max_loss(gain, gain, UNIT, 0.1, rng)
