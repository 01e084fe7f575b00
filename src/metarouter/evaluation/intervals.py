"""Intervals: over the queries of one test set, and over repeated splits.

Two different questions. The bootstrap over queries says how far a number of a
*fixed* router could be off because the test queries are a sample. The
corrected resampled test says whether a *method* is better when training and
test sets are drawn again and again from the same data, so that the runs share
rows and are not independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import DataError, MissingDependencyError, OptionError
from metarouter.evaluation.curves import as_column
from metarouter.evaluation.metrics import WeightedStatistic
from metarouter.records import Estimate
from metarouter.types import FloatArray

__all__ = [
    "Band",
    "PairedTest",
    "bootstrap_interval",
    "bootstrap_replicates",
    "corrected_resampled_ttest",
    "difference_statistic",
    "mean_interval",
    "mean_ratio_statistic",
    "mean_statistic",
    "ratio_of_means",
    "simultaneous_band",
    "t_estimate",
    "without_interval",
]

_CHUNK_CELLS = 2_000_000  # weights held at once: 16 MB of float64


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedTest:
    """A mean difference over repeated splits, with its corrected t-test.

    Attributes
    ----------
    difference : the mean difference with its corrected interval.
    statistic : the corrected t-statistic.
    p_value : two-sided. Both are NaN where all differences are equal and not 0:
        then nothing says how far they might be off.
    """

    difference: Estimate
    statistic: float
    p_value: float


_SMALLEST_TAIL = 1e-12  # no resampling tells a smaller one, and quantiles overflow


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """A curve on a grid with a band that holds all of it at once.

    Attributes
    ----------
    value, low, high : arrays, shape (k,).
    critical : standard errors on either side; 1.96 would be pointwise.
    level : probability that the whole true curve is inside.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    critical: float
    level: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Estimate:
    """Mean of independent values with its Student t interval.

    Parameters
    ----------
    values : array, shape (n,)
        One value for each query, for instance the gold quality of the answer
        that a policy chose.
    level : float, default 0.95
        Confidence level in (0, 1).

    Returns
    -------
    Estimate
        With one value, or all values equal, a warning says that the width of
        the interval means nothing.

    Raises
    ------
    DataError
        When `values` is empty or holds NaN or infinite values.

    Examples
    --------
    >>> estimate = mean_interval([0.0, 1.0, 1.0, 0.0])
    >>> round(estimate.low, 3), round(estimate.high, 3)
    (-0.419, 1.419)
    """
    values = as_column("values", values)
    return t_estimate(float(values.mean()), _standard_error(values), len(values), level)


def t_estimate(
    value: float,
    error: float,
    n: int,
    level: float = 0.95,
    warnings: tuple[str, ...] = (),
    df: int | None = None,
) -> Estimate:
    """A number with a standard error, and its Student t interval.

    Parameters
    ----------
    value, error : float
    n : int
        Units that it is from.
    level : float, default 0.95
    warnings : tuple of str
    df : int, optional
        Degrees of freedom; n − 1 when not given.

    Returns
    -------
    Estimate

    Examples
    --------
    >>> round(t_estimate(1.0, 0.1, 11).high, 3)
    1.223
    """
    df = n - 1 if df is None else df
    error = 0.0 if error <= 1e-14 * abs(value) else error  # of equal values, rounding
    half = error * _t_quantile(0.5 + _checked_level(level) / 2, df) if df > 0 else 0.0
    if error == 0:
        warnings = (*warnings, f"all {n} values are equal: the interval has no width")
    return Estimate(
        value=value,
        std_error=error,
        low=value - half,
        high=value + half,
        n=n,
        level=level,
        warnings=warnings,
    )


def without_interval(value: float, n: int, *warnings: str, level: float = 0.95) -> Estimate:
    """A number whose interval is not known; the warnings say why."""
    nan = float("nan")
    return Estimate(
        value=value, std_error=nan, low=nan, high=nan, n=n, level=level, warnings=warnings
    )


def bootstrap_replicates(
    statistic: WeightedStatistic, n: int, rng: np.random.Generator, n_boot: int = 2000
) -> FloatArray:
    """Values of a statistic on bootstrap resamples of the queries.

    Parameters
    ----------
    statistic : callable
        Weights of shape (r, n) to values of shape (r,) or (r, k).
    n : int
        Number of queries.
    rng : numpy.random.Generator
    n_boot : int, default 2000
        Number of resamples.

    Returns
    -------
    array, shape (n_boot,) or (n_boot, k)

    Notes
    -----
    A resample is a row of multinomial counts. Statistics are computed on
    chunks of rows, so the memory does not grow with `n_boot`.

    Examples
    --------
    >>> values = np.array([0.0, 1.0, 2.0])
    >>> rng = np.random.default_rng(0)
    >>> bootstrap_replicates(mean_statistic(values), 3, rng, n_boot=5).shape
    (5,)
    """
    if n < 1 or n_boot < 1:
        raise OptionError.of("n, n_boot", (n, n_boot), "whole numbers of at least 1")
    chunk = max(1, _CHUNK_CELLS // n)
    sizes = [min(chunk, n_boot - start) for start in range(0, n_boot, chunk)]
    return np.concatenate([statistic(_counts(n, size, rng)) for size in sizes])


def bootstrap_interval(
    statistic: WeightedStatistic,
    n: int,
    rng: np.random.Generator,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """A statistic of the queries with its bootstrap interval.

    The queries must be independent. For a comparison of two routers on the
    same queries give one statistic that holds both, such as
    :func:`difference_statistic`: both then see the same resamples, which is
    what makes the comparison paired.

    Parameters
    ----------
    statistic : callable
        Weights of shape (r, n) to values of shape (r,).
    n : int
        Number of queries.
    rng : numpy.random.Generator
    n_boot : int, default 2000
        Number of resamples.
    level : float, default 0.95
        Confidence level in (0, 1).

    Returns
    -------
    Estimate
        NaN bounds, with a warning, when the statistic itself is undefined. A
        warning also says in how many resamples it was.

    Notes
    -----
    Percentiles of the bootstrap distribution at the expanded levels
    ``Φ(±t_{n−1} √(n/(n−1)))``. Plain percentiles are too narrow in small
    samples: the resamples' variance lacks the factor n/(n−1), and their tails
    are normal rather than Student's.

    References
    ----------
    Hesterberg (2015), "What Teachers Should Know About the Bootstrap", The
    American Statistician 69(4), https://doi.org/10.1080/00031305.2015.1089789.

    Examples
    --------
    >>> values = np.arange(100.0)
    >>> rng = np.random.default_rng(0)
    >>> estimate = bootstrap_interval(mean_statistic(values), 100, rng)
    >>> estimate.value, bool(estimate.low < 49.5 < estimate.high)
    (49.5, True)
    """
    value = float(statistic(np.ones((1, n)))[0])
    replicates = bootstrap_replicates(statistic, n, rng, n_boot)
    tail = _expanded_tail(n, _checked_level(level))
    defined = replicates[np.isfinite(replicates)]
    low = high = error = float("nan")
    warnings: tuple[str, ...] = ("the statistic is undefined on these queries",)
    if not np.isnan(value) and len(defined) > 1:
        low, high = np.quantile(defined, [tail, 1 - tail])
        error, warnings = float(defined.std(ddof=1)), _undefined(len(defined), n_boot)
    return Estimate(
        value=value,
        std_error=error,
        low=float(low),
        high=float(high),
        n=n,
        level=level,
        warnings=warnings,
    )


def mean_statistic(values: ArrayLike) -> WeightedStatistic:
    """Mean of `values`, shape (n,), as a function of query weights."""
    values = as_column("values", values)
    return lambda weights: weights @ values / weights.sum(axis=1)


def mean_ratio_statistic(numerator: ArrayLike, denominator: ArrayLike) -> WeightedStatistic:
    """Ratio of two means over the same queries, as a function of query weights.

    With the router's and the premium model's quality it is the share of
    premium quality that the router keeps. Undefined (NaN) where the
    denominator's mean is 0.
    """
    numerator = as_column("numerator", numerator)
    denominator = as_column("denominator", denominator, len(numerator))

    def statistic(weights: FloatArray) -> FloatArray:
        above, below = weights @ numerator, weights @ denominator
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)

    return statistic


def difference_statistic(first: WeightedStatistic, second: WeightedStatistic) -> WeightedStatistic:
    """First minus second on the same weights, for paired comparisons."""
    return lambda weights: first(weights) - second(weights)


def corrected_resampled_ttest(
    differences: ArrayLike, test_share: float, level: float = 0.95
) -> PairedTest:
    """Test of a mean difference between two methods over repeated splits.

    Assumes that each split draws its training and test sets at random from
    the same rows. The plain t-test would take the splits as independent and
    reject far too often.

    Parameters
    ----------
    differences : array, shape (n_splits,)
        Method A minus method B on each split.
    test_share : float
        n_test / (n_test + n_train) in [0, 1). 0 gives the plain t-test.
    level : float, default 0.95
        Confidence level in (0, 1).

    Returns
    -------
    PairedTest

    Raises
    ------
    DataError
        With fewer than two splits.
    OptionError
        When `test_share` is outside [0, 1).

    Notes
    -----
    Variance of the mean of J differences: ``(1/J + n_test/n_train) · s²``, with
    J − 1 degrees of freedom.

    References
    ----------
    Nadeau & Bengio (2003), "Inference for the Generalization Error", Machine
    Learning 52, https://doi.org/10.1023/A:1024068626366.

    Examples
    --------
    >>> test = corrected_resampled_ttest([0.1, 0.2, 0.3, 0.2], test_share=0.2)
    >>> round(test.statistic, 3), round(test.p_value, 3)
    (3.464, 0.041)
    """
    differences = _splits("differences", differences)
    error = _split_error(differences, test_share)
    mean = float(differences.mean())
    # of equal differences rounding may leave an error above 0
    error = error if error > 1e-12 * abs(mean) else 0.0
    statistic = mean / error if error else 0.0 if mean == 0 else math.nan
    return PairedTest(
        difference=t_estimate(mean, error, len(differences), level),
        statistic=statistic,
        p_value=2 * _t_cdf(-abs(statistic), len(differences) - 1),
    )


def ratio_of_means(
    numerator: ArrayLike, denominator: ArrayLike, test_share: float = 0.0, level: float = 0.95
) -> Estimate:
    """Ratio of two methods' means over the same splits, with its interval.

    Parameters
    ----------
    numerator, denominator : arrays, shape (n_splits,)
        One value of each method on each split.
    test_share : float, default 0
        n_test / (n_test + n_train) in [0, 1); 0 takes the splits as
        independent.
    level : float, default 0.95
        Confidence level in (0, 1).

    Returns
    -------
    Estimate
        A warning says so when the denominator's mean is within two standard
        errors of 0, where the delta method does not hold.

    Raises
    ------
    DataError
        With fewer than two splits, or a denominator whose mean is 0.

    Notes
    -----
    Delta method: the t interval of the residuals ``(a_j − R·b_j) / mean(b)``,
    corrected for overlapping splits as in :func:`corrected_resampled_ttest`.

    Examples
    --------
    >>> estimate = ratio_of_means([2.0, 2.2, 1.8], [1.0, 1.1, 0.9])
    >>> round(estimate.value, 6), round(estimate.std_error, 6)
    (2.0, 0.0)
    """
    numerator = _splits("numerator", numerator)
    denominator = as_column("denominator", denominator, len(numerator))
    below = float(denominator.mean())
    if below == 0:
        raise DataError("the denominator's mean over the splits is 0: the ratio is undefined")
    ratio = float(numerator.mean()) / below
    error = _split_error((numerator - ratio * denominator) / below, test_share)
    weak = abs(below) < 2 * _split_error(denominator, test_share)
    warnings = ("the denominator is not clearly different from 0",) if weak else ()
    return t_estimate(ratio, error, len(numerator), level, warnings)


def simultaneous_band(
    statistic: WeightedStatistic,
    n: int,
    rng: np.random.Generator,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Band:
    """A curve on a grid with a band that covers all its points at once.

    Parameters
    ----------
    statistic : callable
        Weights of shape (r, n) to curves of shape (r, k).
    n : int
        Number of queries.
    rng : numpy.random.Generator
    n_boot : int, default 2000
        Number of resamples.
    level : float, default 0.95
        Probability that the whole curve is inside the band.

    Returns
    -------
    Band

    Notes
    -----
    Sup-t: ``value ± q · se`` with q the `level` quantile over resamples of the
    largest ``|replicate − value| / se`` on the grid, carried to the same tail of Student's
    distribution and widened by ``√(n/(n−1))``, which resamples of few queries lack. Points
    that never vary, such as the ends of an efficiency-gain curve, have no width.

    References
    ----------
    Montiel Olea & Plagborg-Møller (2019), "Simultaneous confidence bands",
    Journal of Applied Econometrics 34(1), https://doi.org/10.1002/jae.2656.

    Examples
    --------
    >>> values = np.arange(50.0)
    >>> curve = lambda weights: (weights @ values / weights.sum(axis=1))[:, None]
    >>> band = simultaneous_band(curve, 50, np.random.default_rng(0))
    >>> bool(band.low[0] < 24.5 < band.high[0])
    True
    """
    value = statistic(np.ones((1, n)))[0]
    replicates = bootstrap_replicates(statistic, n, rng, n_boot)
    error = replicates.std(axis=0, ddof=1)
    varies = error > 1e-12 * max(1.0, float(np.abs(value).max()))
    distance = np.abs(replicates - value)[:, varies] / error[varies]
    normal = float(np.quantile(distance.max(axis=1), level)) if varies.any() else 0.0
    critical = _student(normal, n)
    half = np.where(varies, critical * error, 0.0)
    return Band(value=value, low=value - half, high=value + half, critical=critical, level=level)


def _counts(n: int, size: int, rng: np.random.Generator) -> FloatArray:
    counts = np.empty((size, n))
    for row in counts:
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return counts


def _undefined(defined: int, n_boot: int) -> tuple[str, ...]:
    missing = n_boot - defined
    return (f"undefined in {missing} of {n_boot} resamples",) if missing else ()


def _standard_error(values: FloatArray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _splits(name: str, values: ArrayLike) -> FloatArray:
    values = as_column(name, values)
    if len(values) < 2:
        raise DataError(f"{name} holds {len(values)} split: at least 2 are needed")
    return values


def _split_error(values: FloatArray, test_share: float) -> float:
    if not 0 <= test_share < 1:
        raise OptionError.of("test_share", test_share, "n_test / (n_test + n_train) in [0, 1)")
    overlap = test_share / (1 - test_share)
    return float(np.sqrt((1 / len(values) + overlap) * values.var(ddof=1)))


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise OptionError.of("level", level, "a probability between 0 and 1")
    return level


def _student(normal: float, n: int) -> float:
    """The multiple of a bootstrap error of n queries that stands for a normal one."""
    if n < 2 or normal <= 0:
        return 0.0
    tail = max(NormalDist().cdf(-normal), _SMALLEST_TAIL)
    return max(normal, -_t_quantile(tail, n - 1)) * math.sqrt(n / (n - 1))


def _expanded_tail(n: int, level: float) -> float:
    if n < 2:
        return (1 - level) / 2
    distance = _t_quantile((1 - level) / 2, n - 1) * np.sqrt(n / (n - 1))
    return NormalDist().cdf(float(distance))


def _t_quantile(p: float, df: int) -> float:
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise MissingDependencyError.of("an interval", "train") from error
    return float(stdtrit(df, p))


def _t_cdf(t: float, df: int) -> float:
    from scipy.special import stdtr

    return float(stdtr(df, t))
