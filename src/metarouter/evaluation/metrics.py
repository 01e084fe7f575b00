"""Numbers that say how well a score ranks queries for the premium model.

Each metric comes twice: as a plain function of the data, and as a
``*_statistic`` that returns a function of bootstrap weights, shape
(n_replicates, n) to (n_replicates,), for :mod:`metarouter.evaluation.intervals`.
The first is the second at equal weights.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import OptionError
from metarouter.evaluation.curves import area_between, as_column, rank_queries, recovered
from metarouter.types import FloatArray

__all__ = [
    "WeightedStatistic",
    "apgr",
    "apgr_grid",
    "apgr_random_std",
    "apgr_statistic",
    "collected_at_statistic",
    "cost_saving_ratio",
    "cpt",
    "cpt_statistic",
    "efficiency_gain_area",
    "efficiency_gain_area_statistic",
    "efficiency_gain_at_statistic",
    "folded_area_statistic",
    "gap_statistic",
]

WeightedStatistic = Callable[[FloatArray], FloatArray]


def efficiency_gain_area(
    score: ArrayLike, gain: ArrayLike, low: float = 0.0, high: float = 1.0
) -> float:
    """Area of the efficiency-gain curve over premium shares [low, high].

    Parameters
    ----------
    score : array, shape (n,)
        The router's ranking of the queries, larger first.
    gain : array, shape (n,)
        Gold gain, premium minus cheap, in gain units.
    low, high : float, default 0 and 1
        Range of the premium share; the Meta-Router figures use 0.2 and 0.8.

    Returns
    -------
    float
        Gain units per query; 0 for a random or constant score. It is the
        integral, not the mean height: over [0.2, 0.8] divide by 0.6 for that.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.
    OptionError
        When `low` and `high` are not an interval within [0, 1].

    Examples
    --------
    >>> efficiency_gain_area([2, 1], [1, 0])
    0.125
    """
    gain = as_column("gain", gain)
    return _at_equal_weights(efficiency_gain_area_statistic(score, gain, low, high), len(gain))


def efficiency_gain_area_statistic(
    score: ArrayLike, gain: ArrayLike, low: float = 0.0, high: float = 1.0
) -> WeightedStatistic:
    """:func:`efficiency_gain_area` as a function of query weights."""
    ranking = rank_queries(score)
    gain = as_column("gain", gain, len(ranking.order))

    def statistic(weights: FloatArray) -> FloatArray:
        share, collected = ranking.cumulate(gain, weights)
        random = collected[:, -1] * (high**2 - low**2) / 2
        return np.asarray(area_between(share, collected, low, high) - random)

    return statistic


def folded_area_statistic(score: ArrayLike, gain: ArrayLike, fold: ArrayLike) -> WeightedStatistic:
    """Efficiency-gain area of cross-fitted scores, as a function of query weights.

    The mean over folds, by their weight, of the area within each. The model of a fold has the
    level of the other folds' labels, which is low where its own labels are high: one ranking of
    all queries by such scores falls behind a random one where there is nothing to learn.

    Parameters
    ----------
    score, gain : arrays, shape (n,)
    fold : array, shape (n,)
        Equal for queries that the same model scored.

    References
    ----------
    Airola, Pahikkala, Waegeman, De Baets and Salakoski (2011), An experimental comparison of
    cross-validation techniques for estimating the area under the ROC curve,
    https://doi.org/10.1016/j.csda.2010.11.018.

    Examples
    --------
    >>> statistic = folded_area_statistic([2, 1, 9, 8], [1, 0, 1, 0], [0, 0, 1, 1])
    >>> statistic(np.ones((1, 4))).tolist()
    [0.125]
    """
    gain = as_column("gain", gain)
    score = as_column("score", score, len(gain), finite=False)
    folds = np.asarray(fold)
    parts = [np.flatnonzero(folds == one) for one in np.unique(folds)]
    areas = [efficiency_gain_area_statistic(score[at], gain[at]) for at in parts]

    def statistic(weights: FloatArray) -> FloatArray:
        total = np.zeros(len(weights))
        for at, area in zip(parts, areas, strict=True):
            held = weights[:, at]
            size = held.sum(axis=1)
            # A fold that was not drawn has no area, and no weight either.
            total += size * area(np.where(size[:, None] > 0, held, 1.0))
        return np.asarray(total / weights.sum(axis=1))

    return statistic


def apgr(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike) -> float:
    """Average performance gap recovered: exact area under the PGR curve.

    Parameters
    ----------
    score : array, shape (n,)
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.

    Returns
    -------
    float
        0.5 for a random or constant score; can exceed 1. NaN when the
        premium model is not better on average: there is no gap to recover.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.

    Notes
    -----
    ``APGR = ∫₀¹ PGR(c) dc = 0.5 + efficiency_gain_area / mean(premium − cheap)``.

    References
    ----------
    Ong et al. (2025), "RouteLLM", ICLR, https://arxiv.org/abs/2406.18665.

    Examples
    --------
    >>> apgr([2, 1], [0, 1], [1, 1])
    0.75
    """
    cheap = as_column("cheap", cheap)
    return _at_equal_weights(apgr_statistic(score, cheap, premium), len(cheap))


def apgr_statistic(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike) -> WeightedStatistic:
    """:func:`apgr` as a function of query weights; the gap is resampled too."""
    ranking = rank_queries(score)
    gain = _gain(cheap, premium, len(ranking.order))

    def statistic(weights: FloatArray) -> FloatArray:
        share, collected = ranking.cumulate(gain, weights)
        return np.asarray(area_between(share, recovered(collected), 0.0, 1.0))

    return statistic


def apgr_random_std(cheap: ArrayLike, premium: ArrayLike) -> float:
    """Standard deviation of the APGR of one random order of the queries.

    A random router's APGR is 0.5 on average; this is by how much one of them
    misses that on these queries.

    Parameters
    ----------
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.

    Returns
    -------
    float
        NaN when the premium model is not better on average, or n is 1.

    Notes
    -----
    The APGR is a linear statistic of a random permutation, ``Σ g_i b_r(i)`` over
    the total gain, where the query of rank r is counted with
    ``b_r = 1 − (r − ½) / n``. Its variance is
    ``Σ (g_i − ḡ)² Σ (b_r − b̄)² / (n − 1)``, exactly, over the squared total.

    References
    ----------
    Hoeffding (1951), A combinatorial central limit theorem,
    https://doi.org/10.1214/aoms/1177729545.

    Examples
    --------
    >>> apgr_random_std([0, 0], [1, 0])
    0.25
    """
    cheap = as_column("cheap", cheap)
    gain = _gain(cheap, premium, len(cheap))
    n, total = len(gain), float(gain.sum())
    if n < 2 or total <= 0:
        return float("nan")
    counted = (np.arange(n) + 0.5) / n
    variance = n**2 * gain.var() * counted.var() / (n - 1)
    return float(np.sqrt(variance) / total)


def gap_statistic(
    score: ArrayLike, cheap: ArrayLike, premium: ArrayLike, shares: ArrayLike
) -> WeightedStatistic:
    """APGR, then the CPT of each share of the gap, as a function of query weights.

    One pass gives what :func:`apgr_statistic` and :func:`cpt_statistic` give.

    Parameters
    ----------
    score, cheap, premium : arrays, shape (n,)
    shares : array, shape (k,), for instance 0.2, 0.5 and 0.8.

    Returns
    -------
    callable
        Weights of shape (r, n) to values of shape (r, 1 + k).
    """
    ranking = rank_queries(score)
    gain = _gain(cheap, premium, len(ranking.order))
    wanted = as_column("shares", np.atleast_1d(shares))

    def statistic(weights: FloatArray) -> FloatArray:
        share, collected = ranking.cumulate(gain, weights)
        curve = recovered(collected)
        area = area_between(share, curve, 0.0, 1.0)
        return np.column_stack([area, *(_first_crossing(share, curve, x) for x in wanted)])

    return statistic


def apgr_grid(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike, n_bins: int = 10) -> float:
    """APGR as RouteLLM's evaluation script computes it, for comparison only.

    The curve is cut at the `n_bins` quantiles of the score and integrated by
    the trapezoidal rule over those points. Where RouteLLM stops with an error,
    on scores with so many ties that two quantiles are equal, the equal
    quantiles count once.

    Parameters
    ----------
    score : array, shape (n,)
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.
    n_bins : int, default 10
        At least 1.

    Returns
    -------
    float
        Below :func:`apgr` for good rankings, as chords lie below a concave
        curve. NaN when the premium model is not better on average.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.
    OptionError
        When `n_bins` is below 1.

    References
    ----------
    Ong et al. (2025), "RouteLLM", ICLR, https://arxiv.org/abs/2406.18665.

    Examples
    --------
    >>> apgr_grid([4, 3, 2, 1], [0, 0, 1, 1], [1, 1, 1, 1], n_bins=2)
    0.75
    """
    if n_bins < 1:
        raise OptionError.of("n_bins", n_bins, "a whole number of at least 1")
    score = as_column("score", score)
    gain = _gain(cheap, premium, len(score))
    edges = np.unique(np.quantile(score, np.linspace(0, 1, n_bins + 1)))
    lower = edges[:-1] if len(edges) > 1 else edges
    chosen = score[None, :] >= lower[::-1, None]
    share = np.append(0.0, chosen.mean(axis=1))
    collected = np.append(0.0, (chosen * gain).mean(axis=1))
    return float(area_between(share, recovered(collected[None, :])[0], 0.0, 1.0))


def cpt(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike, x: float) -> float:
    """Call-performance threshold: premium share at which PGR first reaches x.

    Parameters
    ----------
    score : array, shape (n,)
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.
    x : float
        Share of the performance gap to recover: 0.5 for CPT(50 %).

    Returns
    -------
    float
        Share in [0, 1]; x for a random or constant score. NaN when the curve
        never reaches x, or the premium model is not better on average.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.

    Notes
    -----
    The first crossing on the piecewise-linear curve. RouteLLM's script
    interpolates the share as a function of the quality, which is not defined
    where the curve goes up and down again, as good routers' curves do.

    References
    ----------
    Ong et al. (2025), "RouteLLM", ICLR, https://arxiv.org/abs/2406.18665.

    Examples
    --------
    >>> cpt([2, 1], [0, 1], [1, 1], 0.5)
    0.25
    """
    cheap = as_column("cheap", cheap)
    return _at_equal_weights(cpt_statistic(score, cheap, premium, x), len(cheap))


def cpt_statistic(
    score: ArrayLike, cheap: ArrayLike, premium: ArrayLike, x: float
) -> WeightedStatistic:
    """:func:`cpt` as a function of query weights."""
    ranking = rank_queries(score)
    gain = _gain(cheap, premium, len(ranking.order))

    def statistic(weights: FloatArray) -> FloatArray:
        share, collected = ranking.cumulate(gain, weights)
        return _first_crossing(share, recovered(collected), x)

    return statistic


def _first_crossing(share: FloatArray, value: FloatArray, x: float) -> FloatArray:
    reached = value >= x
    first = np.argmax(reached, axis=1)
    row = np.arange(len(value))
    before = np.maximum(first - 1, 0)
    rise = value[row, first] - value[row, before]
    part = np.divide(x - value[row, before], rise, out=np.zeros_like(rise), where=rise > 0)
    crossing = share[row, before] + part * (share[row, first] - share[row, before])
    return np.where(reached.any(axis=1), np.where(first == 0, 0.0, crossing), np.nan)


def cost_saving_ratio(score: ArrayLike, cheap: ArrayLike, premium: ArrayLike, x: float) -> float:
    """How many times fewer premium calls than a random router reach PGR = x.

    Parameters
    ----------
    score : array, shape (n,)
    cheap, premium : arrays, shape (n,)
        Gold quality of both models' answers, in score units.
    x : float
        Share of the performance gap to recover, in (0, 1].

    Returns
    -------
    float
        ``x / CPT(x)``: 1 for a random score, above 1 for a better one. The
        cost of the cheap model is not in it. NaN where CPT(x) is NaN.

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.
    OptionError
        When `x` is outside (0, 1].

    References
    ----------
    Ong et al. (2025), "RouteLLM", ICLR, https://arxiv.org/abs/2406.18665.

    Examples
    --------
    >>> cost_saving_ratio([2, 1], [0, 1], [1, 1], 0.5)
    2.0
    """
    if not 0.0 < x <= 1.0:
        raise OptionError.of("x", x, "a share above 0, at most 1")
    return x / cpt(score, cheap, premium, x)


def collected_at_statistic(
    score: ArrayLike, gain: ArrayLike, share: ArrayLike
) -> WeightedStatistic:
    """Mean gain collected at given premium shares, as a function of query weights.

    Parameters
    ----------
    score, gain : arrays, shape (n,)
    share : array, shape (k,)
        Premium shares in [0, 1].

    Returns
    -------
    callable
        Weights of shape (n_replicates, n) to gains of shape (n_replicates, k).

    Raises
    ------
    DataError
        When lengths differ, or a value is not finite.
    """
    ranking = rank_queries(score)
    gain = as_column("gain", gain, len(ranking.order))
    grid = as_column("share", np.atleast_1d(share))

    def statistic(weights: FloatArray) -> FloatArray:
        shares, collected = ranking.cumulate(gain, weights)
        return np.array([np.interp(grid, *pair) for pair in zip(shares, collected, strict=True)])

    return statistic


def efficiency_gain_at_statistic(
    score: ArrayLike, gain: ArrayLike, share: ArrayLike
) -> WeightedStatistic:
    """Efficiency gain at given premium shares, as a function of query weights.

    The arguments are those of :func:`collected_at_statistic`.
    """
    gain = as_column("gain", gain)
    grid = as_column("share", np.atleast_1d(share))
    collected = collected_at_statistic(score, gain, grid)

    def statistic(weights: FloatArray) -> FloatArray:
        mean = weights @ gain / weights.sum(axis=1)
        return np.asarray(collected(weights) - mean[:, None] * grid)

    return statistic


def _gain(cheap: ArrayLike, premium: ArrayLike, n: int) -> FloatArray:
    return as_column("premium", premium, n) - as_column("cheap", cheap, n)


def _at_equal_weights(statistic: WeightedStatistic, n: int) -> float:
    return float(statistic(np.ones((1, n)))[0])
