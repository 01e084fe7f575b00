"""Values of policies that did not act: formulas, coverage, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metarouter.errors import DataError
from metarouter.store.offpolicy import (
    clustered_mean,
    difference_of_means,
    importance_ratios,
    mean_of_sums,
    off_policy_value,
    predict_reward,
)
from metarouter.types import FloatArray, IntArray


class Log:
    """Requests whose every outcome is known: ψ, and the reward of either model."""

    def __init__(self, n: int, seed: int, explored: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        self.gain = rng.normal(0.1, 0.3, n)
        self.gains = np.column_stack([np.zeros(n), self.gain])
        greedy = (self.gain > 0.2).astype(int)
        self.propensities = explored / 2 + (1 - explored) * np.eye(2)[greedy]
        self.chosen: IntArray = (rng.random(n) < self.propensities[:, 1]).astype(np.int64)
        level = rng.normal(0.5, 0.2, n)
        self.mean = np.column_stack([level, level + 0.8 * self.gain])
        self.reward: FloatArray = self.mean[np.arange(n), self.chosen] + rng.normal(0, 0.3, n)
        # of the population: E[gain; gain > 0] for a normal gain
        self.target = np.eye(2)[(self.gain > 0).astype(int)]


def _truth() -> float:
    mean, sd = 0.1, 0.3
    above = mean * stats.norm.cdf(mean / sd) + sd * stats.norm.pdf(mean / sd)
    return 0.5 + 0.8 * float(above)


def test_the_estimates_are_the_formulas_written_out() -> None:
    log = Log(60, seed=1)
    found = off_policy_value(log.target, log.propensities, log.chosen, log.reward, log.gains)
    guess = predict_reward(log.gains, log.chosen, log.reward, np.arange(60))
    weight, score = [], []
    for i in range(60):
        a = log.chosen[i]
        w = log.target[i, a] / log.propensities[i, a]
        weight.append(w)
        direct = sum(log.target[i, m] * guess[i, m] for m in (0, 1))
        score.append(direct + w * (log.reward[i] - guess[i, a]))
    w = np.array(weight)
    value = sum(w * log.reward) / sum(w)
    assert found.ips.value == pytest.approx(value)
    error = np.sqrt(60 / 59 * sum((w * (log.reward - value)) ** 2)) / sum(w)
    assert found.ips.std_error == pytest.approx(error)
    assert found.dr.value == pytest.approx(np.mean(score))
    assert found.dr.std_error == pytest.approx(np.std(score, ddof=1) / np.sqrt(60))
    assert found.difference.value == pytest.approx(np.mean(score) - np.mean(log.reward))
    assert found.effective_n == pytest.approx(sum(w) ** 2 / sum(w**2))


def test_nobody_is_predicted_by_a_line_that_his_own_reward_gave() -> None:
    """Out of fold: changing one reward leaves the prediction of its own cluster as it was."""
    log, groups = Log(50, seed=2), np.arange(50) // 2
    before = predict_reward(log.gains, log.chosen, log.reward, groups)
    changed = log.reward.copy()
    changed[7] += 100
    after = predict_reward(log.gains, log.chosen, changed, groups)
    assert after[6:8].tolist() == before[6:8].tolist()
    assert not np.allclose(after, before)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """95 % intervals on 400 simulated logs: between 92 % and 98 %, by either estimator."""
    truth, inside = _truth(), np.zeros(2)
    for seed in range(400):
        log = Log(300, seed)
        found = off_policy_value(log.target, log.propensities, log.chosen, log.reward, log.gains)
        inside += [one.low <= truth <= one.high for one in (found.ips, found.dr)]
    assert (np.abs(inside / 400 - 0.95) < 0.03).all()


def test_predictions_of_whoever_was_drawn_would_bias_and_none_do_not() -> None:
    """Arms of a split with opposite predictions: without gains the value is right, 400 logs."""
    inside, values = 0, []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        chosen = rng.integers(2, size=300)
        reward = (rng.random(300) < np.where(chosen == 1, 0.8, 0.5)).astype(float)
        half, always = np.full((300, 2), 0.5), np.tile([0.0, 1.0], (300, 1))
        found = off_policy_value(always, half, chosen, reward, None)
        inside += found.dr.low <= 0.8 <= found.dr.high
        values.append(found.dr.value)
    assert abs(inside / 400 - 0.95) < 0.03
    assert np.mean(values) == pytest.approx(0.8, abs=4 * float(np.std(values)) / 20)


@pytest.mark.parametrize(
    "drawn", [(1, 3, 5, 7, 9, 11), (0, 5, 10)], ids=["in every fold", "in one fold alone"]
)
def test_without_gains_a_model_earns_what_it_earned_in_other_folds(drawn: tuple[int, ...]) -> None:
    """Written out for twelve requests in five folds; what all earned where it was not drawn."""
    chosen, reward = np.isin(np.arange(12), drawn).astype(int), np.arange(12.0)
    target = np.tile([0.0, 1.0], (12, 1))
    found = off_policy_value(target, np.full((12, 2), 0.5), chosen, reward, None)
    score = []
    for i in range(12):
        others = [j for j in range(12) if j % 5 != i % 5]
        own = [j for j in others if chosen[j] == 1]
        guess = np.mean([reward[j] for j in own or others])
        score.append(guess + (2.0 * (reward[i] - guess) if chosen[i] == 1 else 0.0))
    assert found.dr.value == pytest.approx(np.mean(score))


def test_a_good_outcome_model_makes_the_doubly_robust_estimate_the_more_precise() -> None:
    log = Log(3000, seed=3)
    with_gains, without = (
        off_policy_value(log.target, log.propensities, log.chosen, log.reward, gains).dr
        for gains in (log.gains, np.zeros_like(log.gains))
    )
    assert with_gains.std_error < without.std_error


def test_the_policy_that_acted_is_worth_what_was_earned() -> None:
    log = Log(200, seed=4)
    found = off_policy_value(log.propensities, log.propensities, log.chosen, log.reward, log.gains)
    assert found.ips.value == pytest.approx(log.reward.mean())
    assert found.effective_n == pytest.approx(200)


def test_a_deterministic_log_is_refused_with_what_to_do() -> None:
    only = np.tile([1.0, 0.0], (5, 1))
    with pytest.raises(DataError, match=r"deterministic.*exploration"):
        importance_ratios(only[:, ::-1], only, [0] * 5)


def test_a_choice_without_a_chance_is_refused_and_counted() -> None:
    logged = [[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(DataError, match="in 1 of 3 requests"):
        importance_ratios([[0, 1]] * 3, logged, [0, 1, 0])


@pytest.mark.parametrize("wrong", [[[0.5, 0.4]], [[1.5, -0.5]], [[np.nan, 1.0]], [0.5, 0.5]])
def test_what_is_no_probability_is_refused(wrong: object) -> None:
    with pytest.raises(DataError, match="sum to 1"):
        importance_ratios([[0.5, 0.5]], wrong, [0])  # type: ignore[arg-type]


def test_an_agreement_with_nothing_is_no_value() -> None:
    with pytest.raises(DataError, match="agrees with none"):
        off_policy_value([[0, 1]] * 6, [[0.5, 0.5]] * 6, [0] * 6, [1.0] * 6, [[0, 0]] * 6)


def test_copies_of_one_conversation_are_one_unit() -> None:
    """Ten copies of each value, clustered, have the error of the values themselves."""
    values = np.random.default_rng(5).normal(size=30)
    once = clustered_mean(values)
    copied = clustered_mean(np.repeat(values, 10), np.repeat(np.arange(30), 10))
    assert copied.std_error == pytest.approx(once.std_error)
    assert copied.low == pytest.approx(once.low)


def test_intervals_of_units_with_a_level_of_their_own_hold_the_truth() -> None:
    """Keys of 1 to 40 requests whose answers move together: 95 % intervals of 400 samples.

    Without units the same intervals hold it far less often.
    """
    inside = np.zeros(2)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 41, 50)
        unit = np.repeat(np.arange(50), sizes)
        values = rng.normal(0, 1, 50)[unit] + rng.normal(0, 1, len(unit))
        for place, cluster in enumerate((unit, None)):
            found = clustered_mean(values, cluster)
            inside[place] += found.low <= 0 <= found.high
    assert abs(inside[0] / 400 - 0.95) < 0.03
    assert inside[1] / 400 < 0.6


def test_three_units_have_no_interval() -> None:
    found = clustered_mean([1.0, 2.0, 3.0])
    assert np.isnan(found.low)
    assert "too few" in found.warnings[0]


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_units_that_all_say_the_same_prove_nothing(value: float) -> None:
    """Four thumbs up have an interval of no width, and so has what is made of them."""
    found = clustered_mean([value] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    assert found.high == pytest.approx(found.low)
    assert "no width" in found.warnings[0]
    assert "no width" in mean_of_sums(7, 7 * value, 7 * value**2).warnings[0]
    varied = clustered_mean([0.0, 1.0, 0.0, 1.0])
    assert varied.warnings == ()
    assert difference_of_means(varied, found).warnings == found.warnings


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=40, unique=True))
def test_a_plain_mean_has_the_interval_of_student(values: list[float]) -> None:
    found = clustered_mean(values)
    error = stats.sem(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
    assert found.low == pytest.approx(low, abs=0.02 * error)
    assert found.high == pytest.approx(high, abs=0.02 * error)


def test_a_difference_has_the_interval_of_welch() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 1, 12), rng.normal(0.5, 3, 30)
    found = difference_of_means(clustered_mean(a), clustered_mean(b))
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_a_difference_of_few_large_clusters_knows_how_few_they_are() -> None:
    """Four keys an arm, 500 requests each: an interval of three degrees of freedom a side."""
    cluster = np.repeat(np.arange(4), 500)
    means = np.array([0.1, 0.2, 0.3, 0.4])
    first = clustered_mean(means[cluster] + 0.1, cluster)
    second = clustered_mean(means[cluster], cluster)
    found = difference_of_means(first, second)
    error = means.std(ddof=1) / 2 * 2**0.5
    assert (first.n, found.n) == (4, 8)
    assert found.low == pytest.approx(0.1 - 2.4469 * error, rel=2e-3)  # Student, 6 degrees
