"""Values of policies, regret and calibration against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.errors import DataError
from metarouter.evaluation.quality import (
    calibration_of_gain,
    policy_values,
)
from metarouter.types import FloatArray


def pool(n: int = 60) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predicted gains, gold scores and costs of three models."""
    rng = np.random.default_rng(0)
    scores = rng.random((n, 3)) + np.array([0.0, 0.1, 0.3])
    mean = scores[:, 1:] - scores[:, :1] + 0.3 * rng.normal(size=(n, 2))
    costs = np.array([0.1, 0.5, 2.0]) * rng.uniform(0.5, 1.5, size=(n, 1))
    return mean, scores, costs


def test_policy_values_in_a_pool() -> None:
    """Every policy's quality and cost equals a straight-line computation."""
    mean, scores, costs = pool()
    values = {v.policy: v for v in policy_values(mean, scores, costs, w=0.4)}
    gains = np.hstack([np.zeros((60, 1)), mean])
    choice = np.array([int(np.argmax(gains[i] - 0.4 * costs[i])) for i in range(60)])
    router = values["router"]
    assert router.quality.value == pytest.approx(scores[range(60), choice].mean())
    assert router.cost_per_1k == pytest.approx(1000 * costs[range(60), choice].mean())
    assert router.saving_share == pytest.approx(
        1 - costs[range(60), choice].mean() / costs[:, 2].mean()
    )
    assert router.premium_share == pytest.approx((choice != 0).mean())
    assert values["always_premium"].quality.value == pytest.approx(scores[:, 2].mean())
    assert values["always_premium"].saving_share == 0.0
    assert values["always_cheap"].cost_per_1k == pytest.approx(1000 * costs[:, 0].mean())
    assert values["oracle"].quality.value == pytest.approx(scores.max(axis=1).mean())
    assert values["hull"].cost_per_1k == pytest.approx(router.cost_per_1k)
    shares = np.array([(choice == model).mean() for model in range(3)])
    assert values["random"].quality.value == pytest.approx(shares @ scores.mean(axis=0))
    assert values["random"].cost_per_1k == pytest.approx(shares @ costs.mean(axis=0) * 1000)


def test_a_pool_with_prices_is_told_at_shares_of_the_premium_models_cost() -> None:
    """The rule at the best price that keeps to the budget; no row where no price does."""
    mean, scores, costs = pool()
    values = policy_values(mean, scores, costs, w=0.4)
    found = {v.policy: v for v in values if v.policy[:6] in ("budget", "router_")}
    assert list(found) == [f"budget_{percent}" for percent in range(10, 100, 10)]
    gains = np.hstack([np.zeros((60, 1)), mean])
    for percent, value in zip(range(10, 100, 10), found.values(), strict=True):
        budget = percent / 100 * costs[:, 2].mean()
        within = []
        for w in np.linspace(0, 20, 4001):
            choice = np.argmax(gains - w * costs, axis=1)
            spent = costs[range(60), choice].mean()
            if spent <= budget:
                within.append((spent, scores[range(60), choice].mean()))
        spent, quality = max(within)
        assert value.cost_per_1k == pytest.approx(1000 * spent)
        assert value.quality.value == pytest.approx(quality)
    cheap_costs = costs + np.array([1.0, 1.0, 0.0])
    few = [v.policy for v in policy_values(mean, scores, cheap_costs, w=0.4)]
    assert "budget_10" not in few
    assert "budget_90" in few


@pytest.mark.parametrize("n", [22, 24, 25, 34])
def test_a_cheapest_model_that_costs_tenths_of_the_premium_one_refuses_nothing(n: int) -> None:
    """Rounding decides whether that budget has a row, not whether there is an evaluation."""
    mean, scores, _ = pool(n)
    for tenths in range(1, 10):
        costs = np.tile(3e-5 * np.array([tenths / 10, 0.95, 1.0]), (n, 1))
        found = [v.policy for v in policy_values(mean, scores, costs, w=0.4)]
        assert "budget_90" in found or tenths == 9
        assert f"budget_{10 * (tenths - 1)}" not in found


def test_shares_of_a_pair_are_exact() -> None:
    """Tied or not, router_30 makes 30 % premium calls."""
    mean, scores, costs = pool()
    values = {v.policy: v for v in policy_values(mean[:, 0], scores[:, :2], costs[:, :2], w=0.4)}
    for percent in range(10, 100, 10):
        assert values[f"router_{percent}"].premium_share == pytest.approx(percent / 100)


def test_unit_costs_save_one_minus_the_share() -> None:
    """For a pair under unit costs the saving is the share of cheap calls."""
    rng = np.random.default_rng(1)
    scores = rng.random((50, 2))
    costs = np.tile([0.0, 1.0], (50, 1))
    for value in policy_values(rng.random(50), scores, costs, w=0.3):
        assert value.saving_share == pytest.approx(1 - value.premium_share)


def test_shares_of_tied_scores_are_lotteries() -> None:
    """A constant score at share c has the quality of a random router at share c."""
    scores = np.random.default_rng(2).random((40, 2))
    costs = np.tile([0.0, 1.0], (40, 1))
    values = {v.policy: v for v in policy_values(np.full(40, 0.2), scores, costs, w=0.1)}
    expected = 0.7 * scores[:, 0].mean() + 0.3 * scores[:, 1].mean()
    assert values["router_30"].quality.value == pytest.approx(expected)


def test_calibrated_predictions_are_found_calibrated() -> None:
    """Slope near 1, intercept near 0, most bins agree; halved predictions have slope 2."""
    rng = np.random.default_rng(6)
    truth = rng.normal(0, 0.3, 2000)
    gold = truth + rng.normal(0, 0.5, 2000)
    good = calibration_of_gain(truth, np.full(2000, 0.01), gold)
    assert good.slope.low < 1 < good.slope.high
    assert good.intercept.low < 0 < good.intercept.high
    assert good.coverage >= 0.8
    timid = calibration_of_gain(truth / 2, np.full(2000, 0.01), gold)
    assert timid.slope.low < 2 < timid.slope.high
    assert timid.coverage < 0.5


def test_calibration_line_is_least_squares_with_hc3() -> None:
    """Same coefficients and sandwich as the textbook formula."""
    rng = np.random.default_rng(7)
    x = rng.normal(1, 1, 25)
    y = 2 * x + rng.normal(size=25) * np.abs(x)
    found = calibration_of_gain(x, np.ones(25), y, n_bins=3)
    design = np.column_stack([np.ones(25), x])
    beta, *_ = np.linalg.lstsq(design, y, rcond=None)
    hat = design @ np.linalg.pinv(design)
    scaled = (y - design @ beta) / (1 - np.diag(hat))
    bread = np.linalg.inv(design.T @ design)
    errors = np.sqrt(np.diag(bread @ design.T @ np.diag(scaled**2) @ design @ bread))
    assert [found.intercept.value, found.slope.value] == pytest.approx(beta.tolist())
    assert [found.intercept.std_error, found.slope.std_error] == pytest.approx(errors.tolist())


def test_constant_predictions_have_no_slope() -> None:
    """NaN with a warning, and one bin."""
    found = calibration_of_gain(np.ones(10), np.ones(10), np.arange(10.0))
    assert np.isnan(found.slope.value)
    assert "equal" in found.slope.warnings[0]
    assert len(found.bins) == 1


def test_misfitting_arrays_are_refused() -> None:
    """Shapes that do not belong together are named."""
    mean, scores, costs = pool()
    with pytest.raises(DataError, match="gains of 3 models for scores of shape"):
        policy_values(mean, scores[:, :2], costs, 0.1)
    with pytest.raises(DataError, match="costs of shape"):
        policy_values(mean, scores, costs[:, :2], 0.1)
    with pytest.raises(DataError, match="scores of shape"):
        policy_values(mean, np.where(scores > 1, np.nan, scores), costs, 0.1)


def test_equally_dear_models_leave_the_last_as_the_premium_one() -> None:
    """Unit costs tie all candidates of a pool: always premium is the last of them."""
    mean, scores, _ = pool()
    values = {v.policy: v for v in policy_values(mean, scores, np.array([[0.0, 1, 1]] * 60), 0.1)}
    assert values["always_premium"].quality.value == pytest.approx(scores[:, 2].mean())
