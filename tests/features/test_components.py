"""Principal components against NumPy's singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.features import HashedNgrams
from metarouter.features.components import (
    CentredDense,
    CentredSparse,
    fit_components,
)
from metarouter.types import FloatArray


def low_rank(n: int, d: int, rank: int, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    scales = 2.0 ** -np.arange(rank)
    loadings = rng.normal(size=(rank, d)) / np.sqrt(d)
    rows: FloatArray = 3.0 + (rng.normal(size=(n, rank)) * scales) @ loadings
    return rows


@pytest.mark.parametrize("d", [20, 1_500], ids=["exact", "randomised"])
def test_equals_the_singular_value_decomposition(d: int) -> None:
    """Both ways, by the covariance and by random projection, find the same components."""
    rows = low_rank(300, d, rank=12)
    fit = fit_components(CentredDense(rows), 5, np.random.default_rng(1))
    _, s, Vt = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(fit.variance, s[:5] ** 2 / 300, rtol=1e-8)
    np.testing.assert_allclose(abs(np.sum(fit.directions.T * Vt[:5], axis=1)), 1, atol=1e-8)
    np.testing.assert_allclose(fit.mean, rows.mean(axis=0))


@pytest.mark.parametrize("n_buckets", [512, 4096], ids=["exact", "randomised"])
def test_sparse_rows_have_the_components_of_the_dense_rows(
    prompts: list[str], n_buckets: int
) -> None:
    sparse = HashedNgrams(n_buckets).embed_sparse(prompts)
    a = fit_components(CentredSparse(sparse), 8, np.random.default_rng(0))
    b = fit_components(CentredDense(sparse.dense()), 8, np.random.default_rng(0))
    np.testing.assert_allclose(a.variance, b.variance, rtol=1e-4)
    np.testing.assert_allclose(a.mean, b.mean, atol=1e-7)
    # Leading directions only: neighbours with nearly equal variance may turn into each other.
    np.testing.assert_allclose(a.directions[:, :3], b.directions[:, :3], atol=1e-3)


def test_directions_are_orthonormal_with_positive_largest_loading() -> None:
    fit = fit_components(CentredDense(low_rank(200, 30, rank=6)), 6, np.random.default_rng(0))
    np.testing.assert_allclose(fit.directions.T @ fit.directions, np.eye(6), atol=1e-10)
    largest = np.abs(fit.directions).argmax(axis=0)
    assert (fit.directions[largest, np.arange(6)] > 0).all()


def test_no_more_components_than_the_rank() -> None:
    rows = low_rank(100, 40, rank=3)
    assert fit_components(CentredDense(rows), 10, np.random.default_rng(0)).directions.shape == (
        40,
        3,
    )


@pytest.mark.parametrize("d", [4, 2_000])
def test_equal_rows_have_no_components(d: int) -> None:
    fit = fit_components(CentredDense(np.ones((5, d))), 3, np.random.default_rng(0))
    assert fit.directions.shape == (d, 0)
