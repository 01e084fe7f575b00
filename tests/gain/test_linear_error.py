"""The error of an estimate under a linear model of the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from metarouter.gain.linear_error import LinearError, linear_error_arrays
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.linear import Ridge
from metarouter.types import FloatArray


def _table(n: int, d: int, *, decay: float = 0.0) -> GainTable:
    """Labels with a linear gain; the j-th feature has standard deviation (1 + j)^−decay."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) * (1.0 + np.arange(d)) ** -decay
    gain = X @ rng.normal(size=d) / np.sqrt(d) + rng.normal(size=n)
    return make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=gain,
        is_gold=[True] * n,
        features=X.astype(np.float32),
    )


def _posterior(table: GainTable, X: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Mean and variance at X by the textbook formula, at the penalty that ridge chose."""
    rows = table.row_features().astype(np.float64)
    fit = Ridge().fit(rows, table.gain)
    z, at = rows - rows.mean(axis=0), X.astype(np.float64) - rows.mean(axis=0)
    precision = z.T @ z + fit.penalty_ * np.eye(z.shape[1])
    coef = np.linalg.solve(precision, z.T @ (table.gain - table.gain.mean()))
    inside = np.einsum("ij,ji->i", at, np.linalg.solve(precision, at.T))
    variance = fit.noise_variance_ * (1.0 / len(rows) + inside)
    return table.gain.mean() + at @ coef, variance


@pytest.mark.parametrize(("n", "d"), [(200, 5), (40, 30), (30, 40)])
def test_with_few_features_it_is_the_posterior_error(n: int, d: int) -> None:
    """Every direction is held, also those that no row has."""
    table = _table(n, d)
    X = np.random.default_rng(1).normal(size=(50, d)).astype(np.float32)
    mean, variance = _posterior(table, X)
    estimate = mean + np.linspace(-1, 1, 50)
    found = LinearError(linear_error_arrays(table)).std(X, estimate[:, None])[:, 0]
    np.testing.assert_allclose(found**2, variance + np.linspace(-1, 1, 50) ** 2, rtol=2e-3)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_directions_that_share_a_variance_keep_their_mean(decay: float) -> None:
    """At as many distances along each axis of the features, the mean variance is exact."""
    table = _table(400, 30, decay=decay)
    rows = table.row_features().astype(np.float64)
    axes = np.linalg.eigh(np.cov(rows.T))[1].T
    X = (rows.mean(axis=0) + axes).astype(np.float32)
    mean, variance = _posterior(table, X)
    found = LinearError(linear_error_arrays(table, rank=8)).std(X, mean[:, None])[:, 0]
    assert (found**2).mean() == pytest.approx(variance.mean(), rel=1e-3)
    # The eight best known are exact one by one.
    np.testing.assert_allclose(np.sort(found**2)[:8], np.sort(variance)[:8], rtol=2e-3)


def test_a_pool_pays_for_the_errors_of_its_other_models() -> None:
    """A model that met the reference only through another one is the less certain."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    candidate = np.repeat([1, 2], 200)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(400)],
        gain=rng.normal(size=400),
        is_gold=[True] * 400,
        models=("a", "b", "c"),
        candidate=candidate,
        baseline=candidate - 1,
        features=X,
    )
    error = LinearError(linear_error_arrays(table))
    std = error.std(np.zeros((1, 4), dtype=np.float32), np.zeros((1, 2)))[0]
    assert std[1] > 1.2 * std[0]
