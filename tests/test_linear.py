"""Ridge against the textbook, written densely."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter import linear
from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.linear import Moments, Ridge, spectrum
from metarouter.types import FloatArray

Rows = tuple[FloatArray, FloatArray, FloatArray]

SHAPES = pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30)], ids=["n > d", "n < d"])


def make_rows(n: int, d: int, seed: int = 0) -> Rows:
    """Correlated features, noisy linear targets, weights of mean 1."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + 3.0
    y = X[:, 0] - X[:, 1] + 5.0 + rng.normal(size=n)
    w = rng.uniform(0.2, 3.0, n)
    return X, y, w / w.mean()


def normal_equations(X: FloatArray, y: FloatArray, w: FloatArray, alpha: float) -> FloatArray:
    """Intercept and coefficients, the intercept without penalty."""
    U = np.column_stack([np.ones(len(X)), X])
    D = alpha * np.eye(U.shape[1])
    D[0, 0] = 0.0
    solved = np.linalg.solve(U.T @ (w[:, None] * U) + D, U.T @ (w * y))
    return np.asarray(solved, dtype=np.float64)


@SHAPES
def test_coefficients_solve_the_normal_equations(n: int, d: int) -> None:
    X, y, w = make_rows(n, d)
    model = Ridge(penalty=2.5).fit(X, y, w)
    assert model.coef_ is not None
    expected = normal_equations(X, y, w, 2.5)
    np.testing.assert_allclose(model.coef_, expected[1:], rtol=1e-8, atol=1e-10)
    assert model.intercept_ == pytest.approx(expected[0])
    np.testing.assert_allclose(model.predict(X), expected[0] + X @ expected[1:])


def generalised_cross_validation(X: FloatArray, y: FloatArray, w: FloatArray, a: float) -> float:
    """‖√w(y − ŷ)‖² / (1 − tr H / n)², with the hat matrix H from n × n matrices."""
    n, root = len(y), np.sqrt(w)
    ones = root / np.linalg.norm(root)  # the intercept, without penalty
    P = np.eye(n) - np.outer(ones, ones)
    K = P @ ((X @ X.T) * np.outer(root, root)) @ P
    left = a * np.linalg.inv(K + a * np.eye(n)) - np.outer(ones, ones)  # I − H
    return float(np.sum((left @ (root * y)) ** 2) / (np.trace(left) / n) ** 2)


@SHAPES
def test_gcv_is_that_of_the_hat_matrix(n: int, d: int) -> None:
    """At any penalty, down to where every row is nearly interpolated."""
    X, y, w = make_rows(n, d)
    problem = spectrum(X, y, w)
    alphas = float(problem.values.mean()) * np.array([1e-5, 1e-3, 0.1, 10.0])
    expected = [generalised_cross_validation(X, y, w, float(alpha)) for alpha in alphas]
    np.testing.assert_allclose(problem.gcv(alphas), expected, rtol=1e-4)


def restricted_likelihood(X: FloatArray, y: FloatArray, w: FloatArray, alpha: float) -> float:
    """−2 log restricted likelihood with σ² profiled out, from n × n matrices."""
    n = len(y)
    C = X @ X.T / alpha + np.diag(1 / w)  # over σ²
    Ci = np.linalg.inv(C)
    ones = np.ones(n)
    information = ones @ Ci @ ones
    left = y - ones * (ones @ Ci @ y) / information
    variance = left @ Ci @ left / (n - 1)
    return float((n - 1) * np.log(variance) + np.linalg.slogdet(C)[1] + np.log(information))


@SHAPES
def test_evidence_is_the_restricted_likelihood(n: int, d: int) -> None:
    """Up to a constant that does not depend on the penalty."""
    X, y, w = make_rows(n, d)
    alphas = np.array([0.1, 1.0, 10.0, 300.0])
    found = spectrum(X, y, w).evidence(alphas)
    dense = np.array([restricted_likelihood(X, y, w, float(alpha)) for alpha in alphas])
    np.testing.assert_allclose(found - found[0], dense - dense[0], atol=1e-7)


@SHAPES
def test_the_penalty_chosen_is_the_best_of_the_grid(n: int, d: int) -> None:
    """Over the grid of penalties, by the dense formulas of either criterion."""
    X, y, w = make_rows(n, d)
    grid = spectrum(X, y, w).penalties()
    likelihood = [restricted_likelihood(X, y, w, float(alpha)) for alpha in grid]
    assert Ridge().fit(X, y, w).penalty_ == pytest.approx(grid[np.argmin(likelihood)])
    gcv = [generalised_cross_validation(X, y, w, float(alpha)) for alpha in grid]
    chosen = Ridge(penalty="gcv").fit(X, y, w).penalty_
    # Near interpolation the score is flat, so the minimum is compared, not where it is.
    assert generalised_cross_validation(X, y, w, chosen) == pytest.approx(min(gcv), rel=1e-3)


@SHAPES
def test_std_is_that_of_the_dense_posterior(n: int, d: int) -> None:
    """σ² u'(U'WU + αD)⁻¹u at any x, also where the training rows have no direction."""
    X, y, w = make_rows(n, d)
    model = Ridge(penalty=2.5).fit(X, y, w)
    new = make_rows(9, d, seed=1)[0]
    U, V = (np.column_stack([np.ones(len(rows)), rows]) for rows in (X, new))
    D = 2.5 * np.eye(d + 1)
    D[0, 0] = 0.0
    covariance = model.noise_variance_ * np.linalg.inv(U.T @ (w[:, None] * U) + D)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", V, covariance, V))
    np.testing.assert_allclose(model.predict_std(new), expected, rtol=1e-7)
    np.testing.assert_allclose(model.covariance(), covariance, rtol=1e-6, atol=1e-9)


def test_noise_variance_is_that_of_the_residuals() -> None:
    """Residual sum of squares over n − tr H for a stated penalty."""
    X, y, w = make_rows(40, 6)
    U = np.column_stack([np.ones(40), X]) * np.sqrt(w)[:, None]
    D = 2.5 * np.eye(7)
    D[0, 0] = 0.0
    H = U @ np.linalg.inv(U.T @ U + D) @ U.T
    residual = (np.eye(40) - H) @ (np.sqrt(w) * y)
    expected = residual @ residual / (40 - np.trace(H))
    assert Ridge(penalty=2.5).fit(X, y, w).noise_variance_ == pytest.approx(expected)


def test_a_weight_of_two_is_the_row_twice() -> None:
    """Coefficients of weighted rows equal those of repeated rows."""
    X, y, _ = make_rows(30, 4)
    times = np.random.default_rng(3).integers(1, 4, 30)
    again = np.repeat(np.arange(30), times)
    # Weights are rescaled to mean 1, and so must the penalty be.
    weighted = Ridge(penalty=2.0 / times.mean()).fit(X, y, times)
    repeated = Ridge(penalty=2.0).fit(X[again], y[again])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)


def test_rows_of_weight_zero_and_the_unit_of_weights_do_not_count() -> None:
    X, y, w = make_rows(30, 4)
    whole = Ridge().fit(np.vstack([X, X[:3] + 9]), np.append(y, [1e6] * 3), np.append(w, [0] * 3))
    part = Ridge().fit(X, y, 7 * w)
    np.testing.assert_allclose(whole.predict(X), part.predict(X), rtol=1e-9)
    np.testing.assert_allclose(whole.predict_std(X), part.predict_std(X), rtol=1e-9)


def test_how_many_rows_a_pass_holds_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, w = make_rows(50, 6)
    whole = Ridge().fit(X, y, w)
    monkeypatch.setattr(linear, "_CHUNK", 7)
    chunked = Ridge().fit(X, y, w)
    np.testing.assert_allclose(chunked.predict(X), whole.predict(X), rtol=1e-10)
    assert chunked.penalty_ == pytest.approx(whole.penalty_)


def test_sums_over_parts_give_the_fit_of_all_rows() -> None:
    """Chunks add up, a fold is taken out again, and columns can be left out."""
    X, y, w = make_rows(50, 6)
    parts = [Moments.of(X[at], y[at], w[at]) for at in np.split(np.arange(50), [13, 40])]
    columns = np.array([0, 2, 5])
    for moments, rows in (
        (parts[0] + parts[1] + parts[2], np.arange(50)),
        (parts[0] + parts[1] + parts[2] - parts[1], np.r_[:13, 40:50]),
    ):
        summed = Ridge().fit_spectrum(moments.spectrum(columns))
        direct = Ridge().fit(X[rows][:, columns], y[rows], w[rows])
        new = X[:, columns]
        np.testing.assert_allclose(summed.predict(new), direct.predict(new), rtol=1e-7)
        np.testing.assert_allclose(summed.predict_std(new), direct.predict_std(new), rtol=1e-6)


def test_sums_without_an_intercept_go_through_the_origin() -> None:
    X, y, w = make_rows(50, 3)
    problem = Moments.of(X, y, w).spectrum(np.arange(3), intercept=False)
    model = Ridge(penalty=2.0).fit_spectrum(problem)
    expected = np.linalg.solve(X.T @ (w[:, None] * X) + 2.0 * np.eye(3), X.T @ (w * y))
    np.testing.assert_allclose(model.predict(X), X @ expected, rtol=1e-7)


def test_pure_noise_is_shrunk_to_the_mean_and_a_clean_trend_is_kept() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 20))
    noise = Ridge().fit(X, rng.normal(size=300)).predict(X)
    clean = Ridge().fit(X, X[:, 0]).predict(X)
    assert noise.std() < 0.2
    np.testing.assert_allclose(clean, X[:, 0], atol=1e-3)


def test_equal_columns_without_a_penalty_share_the_least_squares_slope() -> None:
    """The shortest of all best coefficients, with the deviations of the columns told apart."""
    X, y, _ = make_rows(40, 3)
    twice = np.column_stack([X, X[:, 0]])
    model, plain = Ridge(penalty=0.0).fit(twice, y), Ridge(penalty=0.0).fit(X, y)
    assert model.coef_ is not None
    centred, _, _, _ = np.linalg.lstsq(twice - twice.mean(axis=0), y - y.mean(), rcond=1e-10)
    np.testing.assert_allclose(model.coef_, centred, rtol=1e-6)
    assert model.coef_[0] == pytest.approx(model.coef_[3])
    np.testing.assert_allclose(model.predict(twice), plain.predict(X))
    np.testing.assert_allclose(model.predict_std(twice), plain.predict_std(X), rtol=1e-2)


@pytest.mark.parametrize("factor", [1e6, 1e9, 1e-9])
def test_least_squares_do_not_depend_on_units(factor: float) -> None:
    """Columns far apart in size are all kept: so are coefficients, deviations and the noise."""
    X, y, w = make_rows(60, 3)
    unit = np.array([1.0, factor, 1.0])
    model, plain = Ridge(penalty=0.0).fit(X * unit, y, w), Ridge(penalty=0.0).fit(X, y, w)
    assert model.coef_ is not None
    np.testing.assert_allclose(model.coef_ * unit, normal_equations(X, y, w, 0.0)[1:], rtol=1e-8)
    assert model.intercept_ == pytest.approx(plain.intercept_)
    assert model.noise_variance_ == pytest.approx(plain.noise_variance_)
    np.testing.assert_allclose(model.predict_std(X * unit), plain.predict_std(X), rtol=1e-6)
    unit = np.append(1.0, unit)
    found = model.covariance() * unit * unit[:, None]
    np.testing.assert_allclose(found, plain.covariance(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("value", [7.0, 1e9 + 0.1])
def test_a_column_that_does_not_vary_explains_nothing(value: float) -> None:
    X, y, w = make_rows(60, 3)
    flat = np.column_stack([X, np.full(60, value)])
    model, plain = Ridge(penalty=0.0).fit(flat, y, w), Ridge(penalty=0.0).fit(X, y, w)
    np.testing.assert_allclose(model.predict(flat), plain.predict(X), rtol=1e-6)


def test_one_row_predicts_itself() -> None:
    model = Ridge().fit(np.ones((1, 3)), np.array([2.0]))
    assert model.predict(np.zeros((1, 3)))[0] == pytest.approx(2.0)


FLAT = pytest.mark.parametrize("value", [0.0, 0.1, 7.0])


@FLAT
@pytest.mark.parametrize("shape", [(40, 3), (5, 8)], ids=["n > d", "n < d"])
@pytest.mark.parametrize("criterion", ["evidence", "gcv"])
def test_features_that_do_not_vary_get_a_prior_worth_one_label(
    value: float, shape: tuple[int, int], criterion: str
) -> None:
    """A row that lies off by the size of a row is as doubtful as one label, not a thousand."""
    n = shape[0]
    y = np.random.default_rng(0).normal(size=n)
    X = np.full(shape, value)
    model = Ridge(penalty=criterion).fit(X, y)  # type: ignore[arg-type]
    far = X[:1] + (value or 1.0)
    noise = float(y.var(ddof=1))
    assert model.predict(far)[0] == pytest.approx(y.mean())
    assert model.predict_std(far)[0] == pytest.approx(np.sqrt(noise * (1 / n + 1)))
    assert model.predict_std(X[:1])[0] == pytest.approx(np.sqrt(noise / n))


@FLAT
def test_sums_of_features_that_do_not_vary_give_the_same(value: float) -> None:
    y = np.random.default_rng(0).normal(size=40)
    X = np.full((40, 3), value)
    summed = Ridge().fit_spectrum(Moments.of(X, y, np.ones(40)).spectrum(np.arange(3)))
    direct = Ridge().fit(X, y)
    assert summed.penalty_ == pytest.approx(direct.penalty_)
    np.testing.assert_allclose(summed.predict_std(X + 1), direct.predict_std(X + 1))


def test_the_doubt_of_flat_features_has_no_unit() -> None:
    """Features in thousands instead of ones change no deviation."""
    y = np.random.default_rng(0).normal(size=20)
    X, new = np.full((20, 2), 3.0), np.array([[4.0, 1.0]])
    small = Ridge().fit(X, y).predict_std(new)
    large = Ridge().fit(1000 * X, y).predict_std(1000 * new)
    np.testing.assert_allclose(large, small)


@pytest.mark.parametrize("criterion", ["evidence", "gcv"])
@pytest.mark.parametrize("d", [2, 30])
def test_two_rows_choose_no_penalty(criterion: str, d: int) -> None:
    """Either criterion is flat there: an average row has the prior of one label, ‖x − x̄‖² = α."""
    X, y, _ = make_rows(2, d)
    model = Ridge(penalty=criterion).fit(X, y)  # type: ignore[arg-type]
    assert model.penalty_ == pytest.approx(((X - X.mean(axis=0)) ** 2).sum(axis=1).mean())
    likelihood = [restricted_likelihood(X, y, np.ones(2), alpha) for alpha in (0.1, 1.0, 10.0)]
    assert np.ptp(likelihood) == pytest.approx(0.0, abs=1e-9)


def test_labels_that_are_all_equal_leave_no_doubt_of_thousands() -> None:
    """They fit at any penalty: nothing says that it is nearly 0."""
    X, _, _ = make_rows(12, 30)
    model = Ridge(penalty="gcv").fit(X, np.zeros(12))
    assert model.penalty_ == pytest.approx(((X - X.mean(axis=0)) ** 2).sum(axis=1).mean())


def test_misuse_is_refused() -> None:
    X, y, w = make_rows(10, 2)
    with pytest.raises(NotFittedError):
        Ridge().predict(X)
    with pytest.raises(NotFittedError):
        Ridge().predict_std(X)
    with pytest.raises(OptionError, match="penalty"):
        Ridge(penalty=-1.0).fit(X, y)
    with pytest.raises(OptionError, match="penalty"):
        Ridge(penalty="aic").fit(X, y)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="positive weight"):
        Ridge().fit(X, y, 0 * w)
    with pytest.raises(DataError, match="ridge got"):
        Ridge().fit(X, y[:-1])


@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_of_sums_is_that_of_their_spectrum(intercept: bool) -> None:
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(60, 5)) + 2.0, rng.normal(size=60), rng.uniform(0.2, 3.0, 60)
    sums, columns = Moments.of(X, y, w), np.array([0, 2, 4])
    problem = sums.spectrum(columns, intercept=intercept)
    coef, level = sums.ridge(columns, 3.0, intercept=intercept)
    np.testing.assert_allclose(coef, problem.coefficients(3.0), atol=1e-12)
    assert level == pytest.approx(problem.y_mean - problem.x_mean @ coef)


def test_ridge_of_sums_over_rows_that_do_not_differ_is_their_mean() -> None:
    """Also at the smallest penalty, which would divide rounding by rounding."""
    y = np.random.default_rng(0).normal(size=50)
    sums = Moments.of(np.full((50, 3), 0.1), y, np.ones(50))
    coef, level = sums.ridge(np.arange(3), 1e-300)
    assert coef.tolist() == [0.0, 0.0, 0.0]
    assert level == pytest.approx(y.mean())
