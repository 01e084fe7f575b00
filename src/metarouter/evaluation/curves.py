"""Curves over the premium share: what a ranking of the queries collects.

A router's score ranks the queries. At premium share c the c·n best-ranked
queries go to the premium model. Queries with equal scores move together: within
a block of ties the order is random, so in expectation the curve is a straight
line across the block. Every curve here is therefore piecewise linear between
the ends of the tie blocks, and areas and crossings of it are exact.

Rows may be weighted. A weight matrix of shape (n_replicates, n) evaluates many
bootstrap replicates of one ranking at once, which is what makes 2,000
replicates over 14,000 queries a matter of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import DataError, OptionError
from metarouter.types import FloatArray, IntArray

__all__ = [
    "Curve",
    "Ranking",
    "area_between",
    "as_column",
    "collected_gain_curve",
    "efficiency_gain_curve",
    "pgr_curve",
    "quality_curve",
    "rank_queries",
]

# A sum of gains this small beside its largest partial sum is what rounding left of 0.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A piecewise-linear curve over the premium share.

    Parameters
    ----------
    share : array, shape (n_points,)
        Premium share c, increasing from 0 to 1.
    value : array, shape (n_points,)
        Height at each share, in the unit of the function that made it.

    Examples
    --------
    >>> curve = Curve(share=np.array([0.0, 1.0]), value=np.array([0.0, 2.0]))
    >>> float(curve.at(0.25)), curve.area()
    (0.5, 1.0)
    """

    share: FloatArray
    value: FloatArray

    def at(self, share: ArrayLike) -> FloatArray:
        """Height at one or more shares in [0, 1]."""
        grid = np.asarray(share, dtype=np.float64)
        return np.asarray(np.interp(grid, self.share, self.value), dtype=np.float64)

    def area(self, low: float = 0.0, high: float = 1.0) -> float:
        """Exact integral of the curve over the shares from `low` to `high`."""
        return float(area_between(self.share, self.value, low, high))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Queries in the order in which they go to the premium model.

    Parameters
    ----------
    order : int array, shape (n,)
        Rows by decreasing score.
    ends : int array, shape (n_blocks,)
        Position in `order` of the last query of each block of equal scores.
    """

    order: IntArray
    ends: IntArray

    def cumulate(self, values: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Share and weighted mean collected at each block end, starting at 0.

        Parameters
        ----------
        values : array, shape (n,)
        weights : array, shape (n_replicates, n)
            Non-negative, each row with a positive sum.

        Returns
        -------
        share, collected : arrays, shape (n_replicates, n_blocks + 1)
        """
        ordered = np.take(weights, self.order, axis=1)
        share = self._running_sum(ordered)
        ordered *= values[self.order]
        collected = self._running_sum(ordered)
        total = share[:, -1:].copy()
        share /= total
        collected /= total
        return share, collected

    def _running_sum(self, ordered: FloatArray) -> FloatArray:
        sums = np.zeros((len(ordered), len(self.ends) + 1))
        if len(self.ends) == len(self.order):
            np.cumsum(ordered, axis=1, out=sums[:, 1:])
        else:
            starts = np.append(0, self.ends[:-1] + 1)
            np.cumsum(np.add.reduceat(ordered, starts, axis=1), axis=1, out=sums[:, 1:])
        return sums


def rank_queries(score: ArrayLike) -> Ranking:
    """Rank queries by decreasing score, equal scores in one block.

    Parameters
    ----------
    score : array, shape (n,)
        Larger means more worth the premium model; ±inf is allowed, NaN is not.

    Raises
    ------
    DataError
        When `score` is empty, not one-dimensional, or holds NaN.

    Examples
    --------
    >>> rank_queries([0.1, 0.9, 0.1]).ends.tolist()
    [0, 2]
    """
    score = as_column("score", score, finite=False)
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    return Ranking(order=order, ends=ends)


def area_between(share: FloatArray, value: FloatArray, low: float, high: float) -> Any:
    """Exact integral over [low, high] of piecewise-linear curves.

    Parameters
    ----------
    share, value : arrays, shape (..., n_points)
        `share` does not decrease along the last axis.
    low, high : float
        ``0 <= low < high <= 1``.

    Returns
    -------
    float or array, shape (...)

    Raises
    ------
    OptionError
        When `low` and `high` are not an interval within [0, 1].

    Examples
    --------
    >>> float(area_between(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.0, 0.5))
    0.125
    """
    if not 0.0 <= low < high <= 1.0:
        raise OptionError.of("low, high", (low, high), "0 <= low < high <= 1")
    left, width = share[..., :-1], np.diff(share, axis=-1)
    if low == 0.0 and high == 1.0:
        return ((value[..., 1:] + value[..., :-1]) * width).sum(axis=-1) / 2
    slope = np.divide(np.diff(value, axis=-1), width, out=np.zeros_like(width), where=width > 0)
    start, stop = np.clip(left, low, high), np.clip(share[..., 1:], low, high)
    middle = value[..., :-1] + slope * ((start + stop) / 2 - left)
    return (middle * (stop - start)).sum(axis=-1)


def collected_gain_curve(score: ArrayLike, gain: ArrayLike) -> Curve:
    """Mean gold gain collected by sending the best-ranked share to premium.

    Parameters
    ----------
    score : array, shape (n,)
        The router's ranking of the queries, larger first.
    gain : array, shape (n,)
        Gold gain, premium minus cheap, in gain units.

    Returns
    -------
    Curve
        Sum of the gain over the first c·n queries, divided by n: gain units
        per query; 0 at c = 0 and the mean gain at c = 1.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.

    Examples
    --------
    >>> collected_gain_curve([2, 1], [1, 0]).value.tolist()
    [0.0, 0.5, 0.5]
    """
    ranking = rank_queries(score)
    gain = as_column("gain", gain, len(ranking.order))
    share, collected = ranking.cumulate(gain, np.ones((1, len(gain))))
    return Curve(share=share[0], value=collected[0])


def efficiency_gain_curve(score: ArrayLike, gain: ArrayLike) -> Curve:
    """Gold gain collected at each premium share above a random router's.

    Parameters
    ----------
    score : array, shape (n,)
        The router's ranking of the queries, larger first.
    gain : array, shape (n,)
        Gold gain, premium minus cheap, in gain units.

    Returns
    -------
    Curve
        EG(c) in gain units per query: 0 at both ends, positive where the
        ranking beats random.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.

    Notes
    -----
    ``EG(c) = 1/n · Σ_{i ≤ c·n} gain_(i) − c · mean(gain)``, the queries in the
    order of the score. The second term is the exact expectation of a random
    router, so no random run adds noise. The whole ranking is used: queries
    with a negative score are not left out.

    References
    ----------
    Zhang, Xie, Yang & Wu (2025), "Meta-Router", https://arxiv.org/abs/2509.25535.

    Examples
    --------
    >>> efficiency_gain_curve([2, 1], [1, 0]).value.tolist()
    [0.0, 0.25, 0.0]
    """
    curve = collected_gain_curve(score, gain)
    return Curve(share=curve.share, value=curve.value - curve.share * curve.value[-1])


def quality_curve(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike) -> Curve:
    """Mean gold quality of the router at each premium share.

    Parameters
    ----------
    score : array, shape (n,)
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.

    Returns
    -------
    Curve
        From the mean of `cheap` at c = 0 to the mean of `premium` at c = 1.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.

    Examples
    --------
    >>> quality_curve([2, 1], [0, 1], [1, 1]).value.tolist()
    [0.5, 1.0, 1.0]
    """
    cheap = as_column("cheap", cheap)
    premium = as_column("premium", premium, len(cheap))
    curve = collected_gain_curve(score, premium - cheap)
    return Curve(share=curve.share, value=cheap.mean() + curve.value)


def pgr_curve(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike) -> Curve:
    """Performance gap recovered at each premium share.

    Parameters
    ----------
    score : array, shape (n,)
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.

    Returns
    -------
    Curve
        PGR(c): 0 at c = 0, 1 at c = 1, above 1 where the router beats the
        premium model. NaN everywhere when the premium model is not better on
        average: there is no gap to recover.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.

    Notes
    -----
    ``PGR(c) = (quality(c) − mean(cheap)) / (mean(premium) − mean(cheap))``, and
    ``EG(c) = (PGR(c) − c) · mean(premium − cheap)``.

    References
    ----------
    Ong et al. (2025), "RouteLLM", ICLR, https://arxiv.org/abs/2406.18665.

    Examples
    --------
    >>> pgr_curve([2, 1], [0, 1], [1, 1]).value.tolist()
    [0.0, 1.0, 1.0]
    """
    cheap = as_column("cheap", cheap)
    curve = collected_gain_curve(score, as_column("premium", premium, len(cheap)) - cheap)
    return Curve(share=curve.share, value=recovered(curve.value[None, :])[0])


def recovered(collected: FloatArray) -> FloatArray:
    """Collected gain as a share of all of it; NaN where there is none to recover.

    That is where all of it is negative, or 0 up to the rounding of its sum.
    """
    gap = collected[:, -1:]
    rounding = _ROUNDING * np.abs(collected).max(axis=1, keepdims=True)
    return np.divide(collected, gap, out=np.full_like(collected, np.nan), where=gap > rounding)


def as_column(
    name: str, values: ArrayLike, length: int | None = None, *, finite: bool = True
) -> FloatArray:
    """A checked one-dimensional float array.

    Parameters
    ----------
    name : str
        How error messages call it.
    values : array, shape (n,)
    length : int, optional
        The number of rows it must have.
    finite : bool, default True
        Whether ±inf is refused too; NaN always is.

    Raises
    ------
    DataError
        When the array is empty, has another shape, or holds a value that is
        not allowed.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise DataError(f"{name} has shape {column.shape}: one value for each query is needed")
    if length is not None and len(column) != length:
        raise DataError(f"{name} has {len(column)} values for {length} queries")
    bad = ~np.isfinite(column) if finite else np.isnan(column)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"{name}[{row}] = {column[row]}: a number is needed for every query")
    return column
