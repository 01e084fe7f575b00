"""How far an estimate of the gain is from the truth, judged by a linear model of the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.pool import PoolGainModel
from metarouter.gain.ridge import RidgeGain
from metarouter.labels.table import GainTable
from metarouter.linear import Ridge, Spectrum
from metarouter.types import FloatArray, GainModel

__all__ = ["LinearError", "linear_error_arrays"]

_RANK = 32  # directions kept apart; on MMLU the deviation is then at most 3 % too large on average


def linear_error_arrays(table: GainTable, rank: int = _RANK) -> dict[str, NDArray[Any]]:
    """What :class:`LinearError` needs, from a ridge regression for each candidate.

    Parameters
    ----------
    table : GainTable with features.
    rank : int, default 32
        Directions of features whose variance is held one by one: those that the
        rows know best. The others share their mean variance.

    Returns
    -------
    dict of arrays
        ``linear_coef`` (d, candidates), ``linear_level`` (candidates,),
        ``known`` (d, candidates · r), ``known_at`` (candidates, r), ``centre_x``
        (d, candidates), ``variance`` (2, candidates): that at the centre, and
        what a unit of squared distance from it adds.

    Raises
    ------
    DataError
        See :class:`~metarouter.gain.pool.PoolGainModel`.
    """
    pool = PoolGainModel(RidgeGain).fit(table)
    fits = [_ridge(member) for member in pool.members_]
    known, variance = zip(*(_directions(fit, rank) for fit in fits), strict=True)
    r = max(part.shape[1] for part in known)
    # A candidate with fewer rows has fewer directions: the rest are 0.
    even = [
        factor * np.pad(part, ((0, 0), (0, r - part.shape[1])))
        for part, factor in zip(known, pool.std_factor_, strict=True)
    ]
    centre = np.column_stack([_spectrum(fit).x_mean for fit in fits])
    coef = np.column_stack([np.asarray(fit.coef_) for fit in fits])
    return {
        "linear_coef": coef.astype(np.float32),
        "linear_level": np.array([fit.intercept_ for fit in fits]),
        "known": np.hstack(even).astype(np.float32),
        "known_at": np.stack([centre[:, m] @ part for m, part in enumerate(even)]),
        "centre_x": centre.astype(np.float32),
        "variance": np.array(variance).T * pool.std_factor_**2,
    }


def _directions(fit: Ridge, rank: int) -> tuple[FloatArray, tuple[float, float]]:
    """B (d, r) and (a, t) with posterior variance a + t ‖x − x̄‖² − ‖B'(x − x̄)‖²."""
    problem, noise = _spectrum(fit), fit.noise_variance_
    alpha = max(fit.penalty_, 1e-12 * (float(problem.values.max(initial=0.0)) or 1.0))
    variance = noise / (problem.values + alpha)
    order = np.argsort(variance, kind="stable")
    kept, pooled = order[:rank], order[rank:]
    n_pooled = len(problem.basis) - len(kept)
    unseen = n_pooled - len(pooled)  # directions that no row has
    if n_pooled:
        shared = (float(variance[pooled].sum()) + unseen * noise / alpha) / n_pooled
    else:
        shared = float(variance[kept[-1]])
    known = problem.basis[:, kept] * np.sqrt(shared - variance[kept])
    return known, (noise / problem.weight_sum, shared)


def _ridge(member: GainModel) -> Ridge:
    assert isinstance(member, RidgeGain)  # noqa: S101 - what the pool was told to make
    assert member.model_ is not None  # noqa: S101
    return member.model_


def _spectrum(fit: Ridge) -> Spectrum:
    assert fit.spectrum_ is not None  # noqa: S101 - set by fit
    return fit.spectrum_


class LinearError:
    """Standard deviation of an estimate's error under a linear model's posterior.

    A Bayesian linear regression of the labels has posterior mean r(x) and
    variance V(x). Whatever was estimated, m(x), has under it the expected
    squared error

        E[(m(x) − ψ(x))² given the labels] = V(x) + (m(x) − r(x))²,

    so an estimate pays for what the labels do not tell, and for departing
    from what they tell a linear model. Where the truth is linear it is exact;
    where a curved estimate is right its error is overstated.

    Parameters
    ----------
    arrays : mapping, of :func:`linear_error_arrays`.

    Notes
    -----
    ``V(x) = a + t ‖x − x̄‖² − ‖B'(x − x̄)‖²``: exact along the 32 directions that
    the rows know best, with the mean variance t in all others.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> X = np.linspace(-1, 1, 9)[:, None]
    >>> table = make_gain_table(queries=list("abcdefghi"), gain=[-1.0, 1.0, 0.0] * 3,
    ...     is_gold=[True] * 9, features=X)
    >>> error = LinearError(linear_error_arrays(table))
    >>> near, far = error.std(np.array([[0.0], [9.0]], dtype=np.float32), np.zeros((2, 1)))
    >>> bool(near < far)
    True
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        names = ("known", "linear_coef", "centre_x")
        # Side by side, so that a query meets them in one product.
        self._columns = np.hstack([np.asarray(arrays[name], dtype=np.float32) for name in names])
        self._known_at = np.asarray(arrays["known_at"], dtype=np.float32)
        self._level = np.asarray(arrays["linear_level"], dtype=np.float64)
        self._variance = np.asarray(arrays["variance"], dtype=np.float64)
        self._centre_square = (np.asarray(arrays["centre_x"]) ** 2).sum(axis=0)

    def std(self, features: NDArray[np.float32], mean: FloatArray) -> FloatArray:
        """Root of the expected squared error of `mean`, both (n, candidates)."""
        base, slope = self._variance
        candidates, rank = self._known_at.shape
        found = features @ self._columns
        linear, along = found[:, -2 * candidates : -candidates], found[:, -candidates:]
        known = found[:, : candidates * rank].reshape(len(found), candidates, rank)
        known = known - self._known_at
        explained = np.einsum("ncr,ncr->nc", known, known)
        square = np.einsum("nd,nd->n", features, features)[:, None]
        square = square + self._centre_square - 2.0 * along
        # In single precision the difference can fall below 0 where all is known.
        variance = base + np.maximum(slope * square - explained, 0.0)
        error: FloatArray = np.sqrt(variance + (mean - linear - self._level) ** 2)
        return error
