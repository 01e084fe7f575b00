"""Gaussian process against textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from metarouter.gain.gp import (
    GaussianProcessGain,
    KernelVariances,
    exact_posterior,
    log_evidence,
    projected_posterior,
)
from metarouter.gain.scoring import KernelScorer
from metarouter.types import FloatArray, ModelState

VARIANCES = KernelVariances(linear=0.3, rbf=0.7, length_sq=1.2, noise=0.4)


def plain_kernel(a: FloatArray, b: FloatArray) -> FloatArray:
    """The kernel of VARIANCES, entry by entry."""
    return np.array(
        [[1.0 + 0.3 * x @ z + 0.7 * np.exp(-((x - z) @ (x - z)) / 2.4) for z in b] for x in a]
    )


def make_rows(n: int = 25, seed: int = 0) -> tuple[FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, np.sin(x[:, 0]) + 0.3 * rng.normal(size=n), rng.uniform(0.5, 2.0, size=n)


def predict(
    alpha: FloatArray, factor: FloatArray, points: FloatArray, x: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance in standardised units from the scorer."""
    config = {"constant": 1.0, "linear": 0.3, "rbf": 0.7, "length_sq": 1.2}
    config |= {"feature_scale": 1.0, "gain_centre": 0.0, "gain_scale": 1.0}
    arrays = {"points": points, "centre": np.zeros(2), "alpha": alpha, "factor": factor}
    estimate = KernelScorer(ModelState(kind="gp", config=config, arrays=arrays)).predict(x)
    return estimate.mean, estimate.std**2


def textbook(
    x: FloatArray, y: FloatArray, weight: FloatArray, new: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Rasmussen & Williams, equations 2.25 and 2.26, by an explicit inverse."""
    inverse = np.linalg.inv(plain_kernel(x, x) + np.diag(0.4 / weight))
    cross = plain_kernel(new, x)
    covariance = plain_kernel(new, new) - cross @ inverse @ cross.T
    return cross @ inverse @ y, np.diag(covariance)


def test_evidence_is_the_density_of_the_labels() -> None:
    """It equals the log density of a multivariate normal with noise σ²/w."""
    x, y, weight = make_rows()
    value, _ = log_evidence(np.log([0.3, 0.7, 1.2, 0.4]), x, y, weight)
    covariance = plain_kernel(x, x) + np.diag(0.4 / weight)
    assert value == pytest.approx(multivariate_normal(cov=covariance).logpdf(y), abs=1e-8)


def test_evidence_gradient_is_its_derivative() -> None:
    """The analytic gradient agrees with finite differences."""
    x, y, weight = make_rows()
    theta = np.log([0.3, 0.7, 1.2, 0.4])

    def value(at: FloatArray) -> float:
        return log_evidence(at, x, y, weight)[0]

    numeric = approx_fprime(theta, value, 1e-6)
    np.testing.assert_allclose(log_evidence(theta, x, y, weight)[1], numeric, atol=1e-4)


def test_exact_posterior_is_the_textbooks() -> None:
    """Mean and variance equal those by an explicit inverse to 1e-8."""
    x, y, weight = make_rows()
    new = make_rows(7, seed=1)[0]
    alpha, factor = exact_posterior(x, y, weight / 0.4, VARIANCES)
    mean, variance = predict(alpha, factor, x, new)
    expected_mean, expected_variance = textbook(x, y, weight, new)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-8)
    np.testing.assert_allclose(variance, expected_variance, atol=1e-8)


def test_projecting_on_all_rows_is_exact() -> None:
    """With the training rows as points the approximation vanishes."""
    x, y, weight = make_rows()
    new = make_rows(7, seed=1)[0]
    alpha, factor = projected_posterior(x, y, weight / 0.4, x, VARIANCES)
    mean, variance = predict(alpha, factor, x, new)
    expected_mean, expected_variance = textbook(x, y, weight, new)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-5)
    np.testing.assert_allclose(variance, expected_variance, atol=1e-5)


def test_projecting_on_few_points_errs_on_the_safe_side() -> None:
    """Fewer points lose information: the variance is larger, typically."""
    x, y, weight = make_rows(60)
    new = make_rows(40, seed=1)[0]
    alpha, factor = projected_posterior(x, y, weight / 0.4, x[:8], VARIANCES)
    _, variance = predict(alpha, factor, x[:8], new)
    assert np.median(variance / textbook(x, y, weight, new)[1]) > 1.0


def test_projecting_is_the_exact_posterior_of_the_projected_kernel() -> None:
    """It equals Gaussian regression with covariance K_xz K_zz⁻¹ K_zx + Λ, inverted whole."""
    x, y, weight = make_rows(40)
    points, new = x[:6], make_rows(9, seed=1)[0]
    alpha, factor = projected_posterior(x, y, weight / 0.4, points, VARIANCES)
    mean, variance = predict(alpha, factor, points, new)
    inner = np.linalg.inv(plain_kernel(points, points))
    low_rank = plain_kernel(x, points) @ inner @ plain_kernel(points, x)
    noise = np.diag(0.4 / weight + np.diag(plain_kernel(x, x) - low_rank))
    cross = plain_kernel(new, points) @ inner @ plain_kernel(points, x)
    inverse = np.linalg.inv(low_rank + noise)
    np.testing.assert_allclose(mean, cross @ inverse @ y, atol=1e-5)
    expected = np.diag(plain_kernel(new, new) - cross @ inverse @ cross.T)
    np.testing.assert_allclose(variance, expected, atol=1e-5)


@pytest.mark.parametrize("exact", [True, False])
def test_a_weight_of_two_is_the_row_twice(exact: bool) -> None:
    """With given variances, integer weights equal repetition."""
    x, y, _ = make_rows()
    weight = np.where(np.arange(25) < 10, 2.0, 1.0)
    twice = np.concatenate([np.arange(25), np.arange(10)])
    if exact:
        weighted = predict(*exact_posterior(x, y, weight / 0.4, VARIANCES), x, x)
        alpha, factor = exact_posterior(x[twice], y[twice], np.full(35, 1 / 0.4), VARIANCES)
        repeated = predict(alpha, factor, x[twice], x)
    else:
        weighted = predict(*projected_posterior(x, y, weight / 0.4, x, VARIANCES), x, x)
        ones = np.full(35, 1 / 0.4)
        alpha, factor = projected_posterior(x[twice], y[twice], ones, x, VARIANCES)
        repeated = predict(alpha, factor, x, x)
    np.testing.assert_allclose(weighted[0], repeated[0], atol=1e-7)
    np.testing.assert_allclose(weighted[1], repeated[1], atol=1e-7)


def test_many_rows_are_held_by_few_points() -> None:
    """Beyond exact_rows the state has n_points rows and predicts nearly the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2))
    gain = np.sin(2 * x[:, 0]) + 0.2 * rng.normal(size=300)
    exact = GaussianProcessGain().fit(x, gain)
    few = GaussianProcessGain(exact_rows=100, n_points=120).fit(x, gain)
    assert exact.state().arrays["points"].shape == (300, 2)
    assert few.state().arrays["points"].shape == (120, 2)
    new = rng.normal(size=(50, 2))
    assert np.corrcoef(exact.predict(new).mean, few.predict(new).mean)[0, 1] > 0.98


def test_evidence_finds_the_noise_and_the_shape() -> None:
    """On a wiggly gain the departure carries the signal and σ² is near the truth."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, size=(300, 1))
    gain = np.sin(3 * x[:, 0]) + 0.3 * rng.normal(size=300)
    model = GaussianProcessGain().fit(x, gain)
    assert model.variances_.rbf > 5 * model.variances_.linear
    assert model.variances_.noise * gain.var() == pytest.approx(0.09, rel=0.25)


def test_std_grows_away_from_the_labels() -> None:
    """The standard deviation is larger where no query was like this one."""
    x, y, _ = make_rows(80)
    model = GaussianProcessGain().fit(x, y)
    near, far = model.predict(np.array([[0.0, 0.0], [6.0, 6.0]])).std
    assert far > 2 * near


def test_features_may_be_shifted_scaled_and_rotated() -> None:
    """The fit depends on distances relative to the spread of the features alone."""
    x, y, _ = make_rows(60)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    one = GaussianProcessGain().fit(x, y).predict(x)
    other = GaussianProcessGain().fit(4 * x @ turn + 3, y).predict(4 * x @ turn + 3)
    np.testing.assert_allclose(other.mean, one.mean, atol=1e-3)
    np.testing.assert_allclose(other.std, one.std, rtol=1e-2)
