"""Confounding bounds: exact on enumerated populations, calibrated on samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from metarouter.causal.crossfit import stratified_folds
from metarouter.causal.propensity import Propensity
from metarouter.causal.sensitivity import (
    CovariateStrength,
    Nuisances,
    compare_strength,
    estimate_functional,
    estimate_sensitivity,
    fit_nuisances,
)
from metarouter.errors import DataError, OptionError
from metarouter.types import BoolArray, FloatArray

tenths = st.integers(1, 9)
effects = st.floats(-2, 2)


def _population(
    e: tuple[int, int], mu: tuple[float, float, float, float]
) -> tuple[FloatArray, BoolArray, Nuisances, Nuisances]:
    """A population of 80 rows with a hidden binary A; nuisances with and without A.

    P(t=1 | A) is e[A] / 10, E[y | t, A] is mu[2 t + A], and noise is ±1, so
    that sample means are exact expectations.
    """
    rows = [
        (a, i < e[a], noise) for a in (0, 1) for i in range(10) for noise in (-1.0, 1.0, -1.0, 1.0)
    ]
    a, t, noise = (np.array(column) for column in zip(*rows, strict=True))
    level = np.array(mu).reshape(2, 2)
    y = level[t.astype(int), a] + noise
    long = Nuisances(mu0=level[0][a], mu1=level[1][a], e=np.array(e)[a] / 10)
    short = Nuisances(
        mu0=np.full(80, y[~t].mean()), mu1=np.full(80, y[t].mean()), e=np.full(80, t.mean())
    )
    return y, t, long, short


def _sample(
    n: int, seed: int = 0, effect: float = 0.5
) -> tuple[FloatArray, FloatArray, BoolArray, Nuisances]:
    """Column 0 confounds, column 1 is noise; true nuisances."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    e = 0.15 + 0.7 / (1 + np.exp(-1.5 * X[:, 0]))
    t = rng.random(n) < e
    mu0 = X[:, 0]
    y = mu0 + effect * t + rng.normal(size=n)
    return X, y, t, Nuisances(mu0=mu0, mu1=mu0 + effect, e=e)


@settings(max_examples=80)
@given(e=st.tuples(tenths, tenths), mu=st.tuples(effects, effects, effects, effects))
def test_bound_contains_the_truth_at_the_confounders_own_strength(
    e: tuple[int, int], mu: tuple[float, float, float, float]
) -> None:
    """And touches it when ρ is the true correlation of the two errors."""
    y, t, long, short = _population(e, mu)
    full, seen = estimate_functional(y, t, long), estimate_functional(y, t, short)
    g_gap = np.where(t, long.mu1 - short.mu1, long.mu0 - short.mu0)
    alpha = [np.where(t, 1 / v.e, -1 / (1 - v.e)) for v in (long, short)]
    a_gap = alpha[0] - alpha[1]
    truth = float(np.mean(long.mu1 - long.mu0))
    cf_y = float(np.mean(g_gap**2)) / seen.sigma2
    cf_d = 1 - float(np.mean(alpha[1] ** 2) / np.mean(alpha[0] ** 2))
    assert full.value == pytest.approx(truth, abs=1e-9)
    worst = estimate_sensitivity(seen, cf_y=cf_y, cf_d=cf_d)
    assert worst.low - 1e-9 <= truth <= worst.high + 1e-9
    assume(np.std(g_gap) > 1e-3 and np.std(a_gap) > 1e-3)
    rho = float(np.mean(g_gap * a_gap) / np.sqrt(np.mean(g_gap**2) * np.mean(a_gap**2)))
    exact = estimate_sensitivity(seen, cf_y=cf_y, cf_d=cf_d, rho=np.clip(rho, -1, 1))
    assert min(abs(exact.low - truth), abs(exact.high - truth)) < 1e-9


def test_functional_equals_plain_arithmetic() -> None:
    """Estimate, both variances and the standard error, row by row."""
    _, y, t, nuisances = _sample(200)
    a1 = (np.arange(200) % 2).astype(float)
    result = estimate_functional(y, t, nuisances, coef_treated=a1, coef_control=-0.5)
    score, alpha2, residual2 = [], [], []
    for i in range(200):
        e, mu0, mu1 = nuisances.e[i], nuisances.mu0[i], nuisances.mu1[i]
        alpha = a1[i] / e if t[i] else -0.5 / (1 - e)
        residual = y[i] - (mu1 if t[i] else mu0)
        score.append(a1[i] * mu1 - 0.5 * mu0 + alpha * residual)
        alpha2.append(2 * (a1[i] ** 2 / e + 0.25 / (1 - e)) - alpha**2)
        residual2.append(residual**2)
    assert result.value == pytest.approx(np.mean(score), abs=1e-12)
    assert result.nu2 == pytest.approx(np.mean(alpha2), abs=1e-12)
    assert result.sigma2 == pytest.approx(np.mean(residual2), abs=1e-12)
    assert result.std_error() == pytest.approx(np.std(score) / np.sqrt(200), abs=1e-12)


def test_repeated_rows_of_a_group_add_no_certainty() -> None:
    """Every row three times, grouped: the error of the rows taken once."""
    _, y, t, v = _sample(100)
    once = estimate_functional(y, t, v)
    three = np.repeat(np.arange(100), 3)
    tripled = Nuisances(mu0=v.mu0[three], mu1=v.mu1[three], e=v.e[three])
    grouped = estimate_functional(y[three], t[three], tripled, groups=three)
    assert grouped.std_error() == pytest.approx(once.std_error())
    assert grouped.value == pytest.approx(once.value)


def test_shares_of_a_group_give_the_mean_over_groups() -> None:
    """A row three times with a share of 1/3 each: the value and error of the rows taken once."""
    X, y, t, v = _sample(100)
    once = estimate_functional(y, t, v)
    times = np.where(X[:, 0] > 0, 3, 1)
    rows = np.repeat(np.arange(100), times)
    share = 1 / times[rows]
    copied = Nuisances(mu0=v.mu0[rows], mu1=v.mu1[rows], e=v.e[rows], share=share)
    grouped = estimate_functional(y[rows], t[rows], copied, groups=rows, share=share)
    assert grouped.value == pytest.approx(once.value)
    assert grouped.std_error() == pytest.approx(once.std_error())
    assert estimate_functional(y[rows], t[rows], copied).value != pytest.approx(once.value)


@pytest.mark.parametrize("shift", [0.0, 0.3, -0.3])
def test_standard_error_of_a_bound_equals_leaving_rows_out(shift: float) -> None:
    """Of θ̂ + shift · S, by the delete-one jackknife, within 2 %."""
    _, y, t, v = _sample(400)
    y = y * np.where(np.arange(400) % 4 == 0, 3, 1)  # uneven residuals make S uncertain
    ends = []
    for i in range(400):
        k = np.arange(400) != i
        left = estimate_functional(y[k], t[k], Nuisances(mu0=v.mu0[k], mu1=v.mu1[k], e=v.e[k]))
        ends.append(left.value + shift * left.scale)
    jackknife = np.sqrt(399 * np.var(ends))
    assert estimate_functional(y, t, v).std_error(shift) == pytest.approx(jackknife, rel=0.02)


@pytest.mark.parametrize("effect", [0.5, -0.5])
def test_robustness_values_are_where_the_bounds_reach_the_null(effect: float) -> None:
    """Asking about exactly that strength gives a bound, or interval, that ends at null."""
    _, y, t, nuisances = _sample(2000, effect=effect)
    functional = estimate_functional(y, t, nuisances)
    result = estimate_sensitivity(functional, null=0.1)
    assert 0 < result.robustness_value_a < result.robustness_value < 1
    end = ("low", "ci_low") if effect > 0 else ("high", "ci_high")
    for r, name in zip((result.robustness_value, result.robustness_value_a), end, strict=True):
        there = estimate_sensitivity(functional, cf_y=r, cf_d=r, null=0.1)
        assert getattr(there, name) == pytest.approx(0.1, abs=1e-8)


@settings(max_examples=40)
@given(effect=st.floats(-0.3, 0.3), seed=st.integers(0, 50))
def test_robustness_value_at_level_is_zero_exactly_when_insignificant(
    effect: float, seed: int
) -> None:
    """It agrees with the interval, whatever the effect."""
    _, y, t, nuisances = _sample(300, seed=seed, effect=effect)
    result = estimate_sensitivity(estimate_functional(y, t, nuisances))
    covers = result.estimate.low <= 0 <= result.estimate.high
    assert (result.robustness_value_a == 0) == covers
    assert result.robustness_value_a <= result.robustness_value


def test_robustness_values_have_no_unit() -> None:
    """Labels times three multiply the bounds and leave the robustness values."""
    _, y, t, v = _sample(500)
    once = estimate_sensitivity(estimate_functional(y, t, v))
    tripled = Nuisances(mu0=3 * v.mu0, mu1=3 * v.mu1, e=v.e)
    thrice = estimate_sensitivity(estimate_functional(3 * y, t, tripled))
    assert thrice.robustness_value == pytest.approx(once.robustness_value)
    assert thrice.robustness_value_a == pytest.approx(once.robustness_value_a)
    assert (thrice.low, thrice.ci_high) == pytest.approx((3 * once.low, 3 * once.ci_high))


def test_no_confounder_gives_the_estimate_itself() -> None:
    """Strength 0 on either side: no bias, and the plain interval."""
    _, y, t, nuisances = _sample(300)
    functional = estimate_functional(y, t, nuisances)
    for cf_y, cf_d, rho in ((0.0, 0.5, 1.0), (0.5, 0.0, 1.0), (0.5, 0.5, 0.0)):
        result = estimate_sensitivity(functional, cf_y=cf_y, cf_d=cf_d, rho=rho)
        assert result.low == result.high == result.estimate.value
        assert (result.ci_low, result.ci_high) == pytest.approx(
            (result.estimate.low, result.estimate.high)
        )


def test_intervals_of_mean_shift_and_of_a_choice_cover() -> None:
    """95 % intervals over 300 samples with fitted nuisances: 92 to 98 % each."""
    hits: list[tuple[bool, bool]] = []
    for seed in range(300):
        X, y, t, _ = _sample(250, seed=seed)
        folds = stratified_folds(t, 3, np.random.default_rng(seed))
        known = Propensity(known=lambda rows: 0.15 + 0.7 / (1 + np.exp(-1.5 * rows[:, 0])))
        fitted = fit_nuisances(X, y, t, folds, propensity=known)
        shift = estimate_sensitivity(estimate_functional(y, t, fitted)).estimate
        chosen = (X[:, 1] > 0).astype(float)
        value = estimate_sensitivity(
            estimate_functional(y, t, fitted, coef_treated=chosen, coef_control=0.0)
        ).estimate
        # E[1{x₁ > 0} (x₀ + 0.5)] = 0.25
        hits.append((shift.low <= 0.5 <= shift.high, value.low <= 0.25 <= value.high))
    share = np.mean(hits, axis=0)
    assert ((share >= 0.92) & (share <= 0.98)).all()


def _strength_of(
    name: str, column: int, X: FloatArray, y: FloatArray, t: BoolArray, **options: Any
) -> CovariateStrength:
    """Leave a column out and fit everything again."""
    folds = stratified_folds(t, 4, np.random.default_rng(0))
    long, short = (
        estimate_functional(y, t, fit_nuisances(columns, y, t, folds, **options))
        for columns in (X, np.delete(X, column, axis=1))
    )
    return compare_strength(name, long, short)


def test_benchmarks_tell_a_confounder_from_noise() -> None:
    """Leaving out the confounder changes the estimate as its strength says it may."""
    X, y, t, _ = _sample(4000)
    folds = stratified_folds(t, 4, np.random.default_rng(0))
    driver, noise = (_strength_of(name, j, X, y, t) for j, name in enumerate(("driver", "noise")))
    assert driver.cf_y > 0.3
    assert driver.cf_d > 0.1
    assert driver.change > 0.5
    assert driver.rho > 0.5
    assert noise.cf_y < 0.01
    assert noise.cf_d < 0.02
    assert abs(noise.change) < 0.05
    long = estimate_functional(y, t, fit_nuisances(X, y, t, folds))
    bound = np.sqrt(driver.cf_y * driver.cf_d / (1 - driver.cf_d)) * long.scale
    assert driver.change < bound * 1.05
    sentence = estimate_sensitivity(long, benchmarks=(noise, driver)).sentence
    assert "strongest observed group, driver" in sentence


@pytest.mark.parametrize(("cf_y", "cf_d"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2)])
def test_groups_that_confound_nothing_are_not_called_strong(cf_y: float, cf_d: float) -> None:
    """A group must be tied to outcome and selection both; when none is, the sentence says so."""
    idle = CovariateStrength(name="idle", cf_y=cf_y, cf_d=cf_d, rho=0.0, change=0.0)
    rng = np.random.default_rng(0)
    t = rng.random(500) < 0.5
    nuisances = Nuisances(mu0=np.zeros(500), mu1=np.ones(500), e=np.full(500, 0.5))
    functional = estimate_functional(t + rng.normal(size=500), t, nuisances)
    sentence = estimate_sensitivity(functional, benchmarks=(idle,)).sentence
    assert "strongest" not in sentence
    assert sentence.endswith("No observed group explains anything of both.")


def test_random_assignment_leaves_nothing_to_confound() -> None:
    """With the propensity known to be constant no column can drive selection."""
    X, y, t, _ = _sample(400)
    driver = _strength_of("driver", 0, X, y, t, propensity=Propensity(known=0.5))
    assert driver.cf_d == driver.rho == 0
    assert driver.cf_y > 0.3


def test_sentence_says_what_was_found() -> None:
    """With the estimate and both robustness values, or that nothing is significant."""
    _, y, t, nuisances = _sample(2000)
    result = estimate_sensitivity(estimate_functional(y, t, nuisances))
    assert f"{result.estimate.value:.3g} [" in result.sentence
    assert f"{result.robustness_value:.1%}" in result.sentence
    assert f"{result.robustness_value_a:.1%}" in result.sentence
    _, y, t, nuisances = _sample(100, effect=0.0, seed=1)
    assert "even without" in estimate_sensitivity(estimate_functional(y, t, nuisances)).sentence


def test_perfect_fit_cannot_be_confounded() -> None:
    """No residual variance: robustness value 1, and no division by zero."""
    t = np.arange(20) % 2 == 0
    v = Nuisances(mu0=np.zeros(20), mu1=np.ones(20), e=np.full(20, 0.5))
    result = estimate_sensitivity(estimate_functional(t.astype(float), t, v))
    assert result.robustness_value == result.robustness_value_a == 1
    assert result.low == result.high == 1


@pytest.mark.parametrize(
    "options", [{"cf_y": 1.0}, {"cf_d": -0.1}, {"cf_d": 1.0}, {"rho": 1.5}, {"cf_y": np.nan}]
)
def test_strengths_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """The option is named."""
    _, y, t, nuisances = _sample(50)
    with pytest.raises(OptionError, match=f"^{next(iter(options))} ="):
        estimate_sensitivity(estimate_functional(y, t, nuisances), **options)


def test_too_little_overlap_is_an_error() -> None:
    """A row that e said was next to impossible makes the weights' variance negative.

    The estimate has no use for that variance, and stands.
    """
    t = np.arange(10) < 5
    e = np.where(t, 0.01, 0.5)
    v = Nuisances(mu0=np.zeros(10), mu1=np.zeros(10), e=e)
    functional = estimate_functional(np.arange(10.0), t, v)
    expected = np.where(t, 100.0, -2.0) * np.arange(10.0)
    assert functional.estimate().value == pytest.approx(expected.mean())
    assert functional.estimate().std_error == pytest.approx(expected.std() / 10**0.5)
    with pytest.raises(DataError, match="overlap too little"):
        estimate_sensitivity(functional)
    with pytest.raises(DataError, match="overlap too little"):
        compare_strength("x", functional, functional)


@pytest.mark.parametrize(
    ("coefficients", "freedom"),
    [((1.0, -1.0), 4), ((1.0, 0.0), 4), ((0.0, 1.0), 44)],
    ids=["both", "treated", "control"],
)
def test_intervals_are_t_with_the_degrees_of_the_rarer_source(
    coefficients: tuple[float, float], freedom: int
) -> None:
    """Five rows of one source know their own spread poorly, however many the other has."""
    rng = np.random.default_rng(0)
    t = np.arange(50) < 5
    v = Nuisances(mu0=np.zeros(50), mu1=np.zeros(50), e=np.full(50, 0.1))
    treated, control = coefficients
    functional = estimate_functional(
        rng.normal(size=50), t, v, coef_treated=treated, coef_control=control
    )
    estimate = functional.estimate(0.9)
    half = stats.t.ppf(0.95, freedom) * functional.std_error()
    assert (estimate.low, estimate.high) == pytest.approx(
        (functional.value - half, functional.value + half)
    )
    sure = estimate_sensitivity(functional, level=0.9, cf_y=0.0)
    assert (sure.ci_low, sure.ci_high) == pytest.approx((estimate.low, estimate.high))
    paired = estimate_functional(
        rng.normal(size=50), t, v, coef_control=0.0, groups=np.arange(50) // 2
    )
    assert paired.freedom == 2
