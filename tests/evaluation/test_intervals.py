"""Intervals against their textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metarouter.errors import DataError, OptionError
from metarouter.evaluation.intervals import (
    bootstrap_interval,
    bootstrap_replicates,
    corrected_resampled_ttest,
    difference_statistic,
    mean_interval,
    mean_ratio_statistic,
    mean_statistic,
    ratio_of_means,
    simultaneous_band,
)
from metarouter.evaluation.metrics import cpt_statistic
from metarouter.types import FloatArray


def test_mean_interval_is_students() -> None:
    """Same bounds as scipy's t distribution."""
    values = np.random.default_rng(0).normal(size=12)
    estimate = mean_interval(values, 0.9)
    low, high = stats.t.interval(0.9, 11, values.mean(), stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("value", "n"), [(1.0, 3), (0.1, 7), (1 / 3, 10), (0.7, 49)])
def test_equal_values_are_warned_about(value: float, n: int) -> None:
    """An interval without width says that it means nothing, also where their mean is rounded."""
    found = mean_interval([value] * n)
    assert "no width" in found.warnings[0]
    assert found.low == found.high


def test_bootstrap_spread_is_that_of_the_mean() -> None:
    """The standard deviation of bootstrap means is s/√n of the plug-in sample."""
    values = np.random.default_rng(1).exponential(size=400)
    rng = np.random.default_rng(2)
    replicates = bootstrap_replicates(mean_statistic(values), 400, rng, 4000)
    assert replicates.std() == pytest.approx(values.std() / 20, rel=0.04)


def test_bootstrap_interval_of_a_mean_is_close_to_students() -> None:
    """On normal values the expanded percentile interval is the t interval."""
    values = np.random.default_rng(3).normal(size=15)
    found = bootstrap_interval(mean_statistic(values), 15, np.random.default_rng(4), 20_000)
    exact = mean_interval(values)
    width = exact.high - exact.low
    assert found.low == pytest.approx(exact.low, abs=0.08 * width)
    assert found.high == pytest.approx(exact.high, abs=0.08 * width)


def test_bootstrap_is_resampling_with_replacement() -> None:
    """Weights are the counts of rows drawn; more rows than one chunk holds change nothing."""
    values = np.random.default_rng(5).normal(size=300_000)
    found = bootstrap_replicates(
        mean_statistic(values), len(values), np.random.default_rng(6), n_boot=8
    )
    rng = np.random.default_rng(6)
    expected = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(8)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_paired_difference_is_narrower_than_two_alone() -> None:
    """Two routers that differ on few queries differ by less than their own intervals."""
    rng = np.random.default_rng(6)
    first = rng.normal(size=200)
    second = first + 0.01 * rng.normal(size=200)
    statistic = difference_statistic(mean_statistic(first), mean_statistic(second))
    paired = bootstrap_interval(statistic, 200, np.random.default_rng(7))
    alone = bootstrap_interval(mean_statistic(first), 200, np.random.default_rng(7))
    assert paired.high - paired.low < 0.05 * (alone.high - alone.low)
    assert paired.low <= (first - second).mean() <= paired.high


def test_paired_ratio() -> None:
    """A constant ratio has no uncertainty."""
    values = np.random.default_rng(8).random(50) + 1
    estimate = bootstrap_interval(
        mean_ratio_statistic(0.9 * values, values), 50, np.random.default_rng(9)
    )
    assert (estimate.low, estimate.high) == pytest.approx((0.9, 0.9))


def test_an_undefined_statistic_is_reported() -> None:
    """CPT of two equal models is NaN with a warning, not a number."""
    same = np.ones(20)
    statistic = cpt_statistic(np.arange(20.0), same, same, 0.5)
    estimate = bootstrap_interval(statistic, 20, np.random.default_rng(10), 50)
    assert np.isnan(estimate.value)
    assert "undefined" in estimate.warnings[0]


def test_corrected_test_is_nadeau_and_bengios() -> None:
    """Variance (1/J + n_test/n_train) s², J − 1 degrees of freedom."""
    differences = np.array([0.02, 0.05, -0.01, 0.04, 0.03])
    test = corrected_resampled_ttest(differences, test_share=0.1)
    error = np.sqrt((1 / 5 + 0.1 / 0.9) * differences.var(ddof=1))
    t = differences.mean() / error
    assert test.statistic == pytest.approx(t)
    assert test.p_value == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert test.difference.high - test.difference.value == pytest.approx(
        stats.t.ppf(0.975, 4) * error
    )


def test_without_overlap_the_corrected_test_is_the_plain_one() -> None:
    """test_share = 0 is scipy's one-sample t-test."""
    differences = np.random.default_rng(11).normal(0.3, 1, 10)
    test = corrected_resampled_ttest(differences, test_share=0.0)
    plain = stats.ttest_1samp(differences, 0.0)
    assert (test.statistic, test.p_value) == pytest.approx((plain.statistic, plain.pvalue))


@pytest.mark.parametrize("n_splits", [2, 3, 10])
def test_equal_differences_have_no_p_value(n_splits: int) -> None:
    """Two splits that agree do not prove anything beyond doubt; none at all is no difference."""
    test = corrected_resampled_ttest([0.1] * n_splits, test_share=0.2)
    assert np.isnan(test.p_value)
    assert np.isnan(test.statistic)
    assert "no width" in test.difference.warnings[0]
    assert corrected_resampled_ttest([0.0] * n_splits, test_share=0.2).p_value == 1.0


def test_corrected_test_keeps_its_level_where_the_plain_one_does_not() -> None:
    """Repeated splits of null data: rejections near 5 % corrected, far above plain."""
    rng = np.random.default_rng(12)
    rejected = {0.0: 0, 0.2: 0}
    for _ in range(300):
        data = rng.normal(size=100)
        # The difference of two null methods on a random fifth of the rows.
        splits = [rng.choice(data, 20, replace=False).mean() for _ in range(20)]
        for share in rejected:
            rejected[share] += corrected_resampled_ttest(splits, share).p_value < 0.05
    assert rejected[0.0] / 300 > 0.2
    assert rejected[0.2] / 300 < 0.1


def test_ratio_of_means_by_the_delta_method() -> None:
    """Equals the ratio of sums, with the linearised residuals' standard error."""
    a, b = np.array([1.0, 2.0, 3.0, 2.5]), np.array([1.1, 1.7, 2.0, 2.2])
    estimate = ratio_of_means(a, b)
    ratio = a.sum() / b.sum()
    assert estimate.value == pytest.approx(ratio)
    assert estimate.std_error == pytest.approx((a - ratio * b).std(ddof=1) / 2 / b.mean())


def test_ratio_to_a_denominator_near_zero_is_warned_about() -> None:
    """The delta method does not hold there."""
    estimate = ratio_of_means([1.0, 1.1, 0.9], [1.0, -1.0, 0.3])
    assert "denominator" in estimate.warnings[0]


def test_the_band_is_wider_than_pointwise_and_covers_jointly() -> None:
    """A sup-t band on 20 independent points needs more than 1.96 and covers 95 %."""
    rng = np.random.default_rng(13)
    inside = 0
    for _ in range(100):
        values = rng.normal(size=(80, 20))

        def curve(weights: FloatArray, values: FloatArray = values) -> FloatArray:
            return np.asarray(weights @ values / weights.sum(axis=1, keepdims=True))

        band = simultaneous_band(curve, 80, rng, 300)
        assert band.critical > 2.5
        inside += bool((band.low <= 0).all() and (band.high >= 0).all())
    assert inside >= 85


@pytest.mark.parametrize("n", [15, 40])
def test_a_band_of_few_queries_covers_as_often_as_one_of_many(n: int) -> None:
    """Eight means at once, 200 samples: 95 % but for four standard errors of the count."""
    inside = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=(n, 8))

        def curve(weights: FloatArray, values: FloatArray = values) -> FloatArray:
            return np.asarray(weights @ values / weights.sum(axis=1, keepdims=True))

        band = simultaneous_band(curve, n, np.random.default_rng(1), 400)
        inside += bool((band.low <= 0).all() and (band.high >= 0).all())
    assert inside >= 190 - 4 * np.sqrt(200 * 0.05 * 0.95)


def test_a_band_of_one_point_is_as_wide_as_students_interval() -> None:
    """Of a mean, but for what 4,000 resamples cannot tell."""
    values = np.random.default_rng(3).normal(size=12)

    def mean(weights: FloatArray) -> FloatArray:
        return np.asarray(weights @ values / weights.sum(axis=1))[:, None]

    band, student = (
        simultaneous_band(mean, 12, np.random.default_rng(0), 4000),
        mean_interval(values),
    )
    assert band.high[0] - band.low[0] == pytest.approx(student.high - student.low, rel=0.08)


def test_a_band_of_two_resamples_is_wide_and_not_upside_down() -> None:
    """Two that are nearly alike put the value thousands of their errors away."""
    shifts = iter([0.0, 1.0, 1.0 + 1e-6])

    def statistic(weights: FloatArray) -> FloatArray:
        return np.array([[next(shifts)] for _ in weights])

    band = simultaneous_band(statistic, 6, np.random.default_rng(0), 2)
    assert np.isfinite([band.low[0], band.high[0]]).all()
    assert band.low[0] <= -1.0
    assert band.high[0] >= 1.0


def test_impossible_options_are_refused() -> None:
    """Levels, shares and numbers of splits are checked."""
    with pytest.raises(OptionError, match="level"):
        mean_interval([1.0, 2.0], 95)
    with pytest.raises(OptionError, match="test_share"):
        corrected_resampled_ttest([1.0, 2.0], 1.0)
    with pytest.raises(DataError, match="at least 2"):
        corrected_resampled_ttest([1.0], 0.2)
