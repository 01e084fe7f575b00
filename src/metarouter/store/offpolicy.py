"""What a policy would have been worth, from a log of what another one did.

Arrays in, numbers with intervals out; nothing here knows of a database. Notation: request i was
answered by model aᵢ, drawn with probability pᵢ(aᵢ), and earned the reward rᵢ; the policy in
question would have drawn model a with probability πᵢ(a). Intervals are of the normal kind with a
Student quantile and standard errors over *clusters*: requests of one conversation, or of one key,
are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import DataError
from metarouter.records import Estimate
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = [
    "OffPolicyValue",
    "clustered_mean",
    "difference_of_means",
    "effective_sample_size",
    "importance_ratios",
    "mean_of_sums",
    "off_policy_value",
    "predict_reward",
    "t_quantile",
]

_FOLDS = 5
_FEWEST = 4  # independent units that an interval needs
_LOW_ESS = 10.0
_TOLERANCE = 1e-9  # propensities are sums of logged decimals
_NO_WIDTH = 1e-7  # errors below this share of the value are what rounding leaves of 0


@dataclass(frozen=True, kw_only=True, slots=True)
class OffPolicyValue:
    """The value of a policy that did not act.

    Attributes
    ----------
    ips : self-normalised inverse-propensity estimate.
    dr : doubly robust estimate.
    logged : mean reward of what was done.
    difference : `dr` minus `logged`, from the same requests.
    effective_n : requests that the weighted ones are worth.
    largest_ratio : largest weight.
    n : requests with a reward.
    """

    ips: Estimate
    dr: Estimate
    logged: Estimate
    difference: Estimate
    effective_n: float
    largest_ratio: float
    n: int


def importance_ratios(target: ArrayLike, propensities: ArrayLike, chosen: ArrayLike) -> FloatArray:
    """How much more often the policy would have done what was done, ρᵢ = πᵢ(aᵢ) / pᵢ(aᵢ).

    Parameters
    ----------
    target, propensities : arrays, shape (n, n_models)
        πᵢ and pᵢ; rows sum to 1.
    chosen : int array, shape (n,); aᵢ.

    Returns
    -------
    array, shape (n,)

    Raises
    ------
    DataError
        When the policy would do what the log could not: then no weight makes
        up for what was never seen. The message says what to switch on.

    Examples
    --------
    >>> importance_ratios([[0, 1], [1, 0]], [[0.8, 0.2], [0.8, 0.2]], [1, 1]).tolist()
    [5.0, 0.0]
    """
    target, propensities = _matrix("target", target), _matrix("propensities", propensities)
    chosen = np.asarray(chosen, dtype=np.int64)
    unseen = ((target > 0) & (propensities <= 0)).any(axis=1)
    if unseen.any():
        raise DataError(_unseen_message(int(unseen.sum()), propensities))
    rows = np.arange(len(chosen))
    drawn = propensities[rows, chosen]
    if (drawn <= 0).any():
        raise DataError(f"{int((drawn <= 0).sum())} requests were answered by a model of chance 0")
    ratios: FloatArray = target[rows, chosen] / drawn
    return ratios


def _unseen_message(count: int, propensities: FloatArray) -> str:
    n = len(propensities)
    advice = "serve with `exploration`, or put the policy into a split, and wait for new requests"
    if (propensities.max(axis=1) >= 1 - _TOLERANCE).all():
        return f"the log is deterministic: other models had no chance in {n} requests; {advice}"
    return (
        f"in {count} of {n} requests the policy would choose a model that had no chance; {advice}"
    )


def off_policy_value(
    target: ArrayLike,
    propensities: ArrayLike,
    chosen: ArrayLike,
    reward: ArrayLike,
    gains: ArrayLike | None,
    *,
    cluster: ArrayLike | None = None,
    level: float = 0.95,
) -> OffPolicyValue:
    """The mean reward that a policy would have earned on the logged requests.

    Assumes that the propensities are those that were drawn with, and that
    whether a request has a reward does not depend on its reward, given the query
    and the model. Where rewards come from users, the value is that of requests
    whose users speak.

    Parameters
    ----------
    target : array, shape (n, n_models); πᵢ.
    propensities : array, shape (n, n_models); pᵢ.
    chosen : int array, shape (n,); aᵢ.
    reward : array, shape (n,)
    gains : array, shape (n, n_models), or None
        Predicted gain of each model over the reference, 0 for itself; NaN where
        unknown. The outcome model of the doubly robust estimate is made of them, so
        they must be the same whichever model was drawn. Where each request has the
        predictions of the policy that was drawn for it, they are not: None.
    cluster : array, shape (n,), optional
        Equal for requests that are not independent; each its own by default.
    level : float, default 0.95

    Returns
    -------
    OffPolicyValue

    Raises
    ------
    DataError
        When the log never did what the policy would do; see
        :func:`importance_ratios`.

    Notes
    -----
    Self-normalised: ``V = Σ ρᵢrᵢ / Σ ρᵢ``, its error from the linearised
    ``ρᵢ(rᵢ − V) / mean ρ``. Doubly robust: the mean of
    ``Σₐ πᵢ(a) q̂(i, a) + ρᵢ (rᵢ − q̂(i, aᵢ))`` with q̂ as in
    :func:`predict_reward`, out of fold. As the propensities are known, it is
    unbiased for any q̂ that does not depend on what was drawn; a good q̂ makes it precise.

    References
    ----------
    Swaminathan & Joachims (2015), "The Self-Normalized Estimator for
    Counterfactual Learning", NeurIPS. Dudík, Erhan, Langford & Li (2014), "Doubly
    Robust Policy Evaluation and Optimization", Statistical Science 29(4),
    https://doi.org/10.1214/14-STS500.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> chosen = rng.integers(2, size=400)
    >>> half, gains = np.full((400, 2), 0.5), np.tile([0.0, 0.2], (400, 1))
    >>> reward = 0.5 + 0.2 * chosen
    >>> always_second = np.tile([0.0, 1.0], (400, 1))
    >>> found = off_policy_value(always_second, half, chosen, reward, gains)
    >>> round(found.ips.value, 3), round(found.dr.value, 3)
    (0.7, 0.7)
    >>> bool(round(found.effective_n) == chosen.sum())
    True
    """
    target, reward = _matrix("target", target), np.asarray(reward, dtype=np.float64)
    ratios = importance_ratios(target, propensities, chosen)
    if not ratios.any():
        raise DataError(f"the policy agrees with none of the {len(ratios)} requests with a reward")
    groups = _groups(cluster, len(reward))
    action = np.asarray(chosen, dtype=np.int64)
    guess = (
        _mean_reward(target.shape[1], action, reward, groups)
        if gains is None
        else predict_reward(gains, action, reward, groups)
    )
    rows = np.arange(len(action))
    score = (target * guess).sum(axis=1) + ratios * (reward - guess[rows, action])
    value = float((ratios * reward).sum() / ratios.sum())
    effective = effective_sample_size(ratios)
    warnings = _few(effective)
    return OffPolicyValue(
        ips=_estimate(value, ratios * (reward - value) / ratios.mean(), groups, level, warnings),
        dr=_mean(score, groups, level, warnings),
        logged=_mean(reward, groups, level),
        difference=_mean(score - reward, groups, level, warnings),
        effective_n=effective,
        largest_ratio=float(ratios.max()),
        n=len(reward),
    )


def predict_reward(
    gains: ArrayLike, chosen: IntArray, reward: FloatArray, groups: IntArray
) -> FloatArray:
    """What each model's answer would earn, by a line through the predicted gains.

    Parameters
    ----------
    gains : array, shape (n, n_models); NaN counts as 0.
    chosen : int array, shape (n,)
    reward : array, shape (n,)
    groups : int array, shape (n,)
        Cluster of each request; a cluster is predicted by a line that others gave.

    Returns
    -------
    array, shape (n, n_models)

    Notes
    -----
    ``q̂(i, a) = α + β·ψ̂ₐ(xᵢ)``, α and β by least squares on the other folds of
    clusters: gains are in their own unit, and rewards in another.

    Examples
    --------
    >>> gains = np.tile([0.0, 1.0], (20, 1))
    >>> chosen = np.arange(20) % 2
    >>> predict_reward(gains, chosen, 2.0 * chosen, np.arange(20)).round(6)[0].tolist()
    [0.0, 2.0]
    """
    x = np.nan_to_num(np.asarray(gains, dtype=np.float64))
    own = x[np.arange(len(chosen)), chosen]
    guess = np.zeros_like(x)
    for inside, outside in _folds(groups):
        level, slope = _line(own[outside], reward[outside])
        guess[inside] = level + slope * x[inside]
    return guess


def _mean_reward(
    n_models: int, chosen: IntArray, reward: FloatArray, groups: IntArray
) -> FloatArray:
    """What each model's answers earned in other folds, the same for every request of a fold."""
    guess = np.zeros((len(reward), n_models))
    for inside, outside in _folds(groups):
        count = np.bincount(chosen[outside], minlength=n_models)
        total = np.bincount(chosen[outside], reward[outside], minlength=n_models)
        overall = total.sum() / max(count.sum(), 1)
        guess[inside] = np.where(count > 0, total / np.maximum(count, 1), overall)
    return guess


def _folds(groups: IntArray) -> Iterator[tuple[BoolArray, BoolArray]]:
    """Requests of each fold of clusters, and those of the others; of a single one, itself."""
    n_folds = min(_FOLDS, int(groups.max(initial=0)) + 1)
    for fold in range(n_folds):
        inside = groups % n_folds == fold
        yield inside, ~inside if n_folds > 1 else inside


def effective_sample_size(ratios: ArrayLike) -> float:
    """Number of equally weighted requests that are worth as much, ``(Σρ)² / Σρ²``.

    References
    ----------
    Kish (1965), Survey Sampling.

    Examples
    --------
    >>> effective_sample_size([1.0, 1.0, 0.0, 0.0])
    2.0
    """
    ratios = np.asarray(ratios, dtype=np.float64)
    squares = float((ratios**2).sum())
    return float(ratios.sum()) ** 2 / squares if squares else 0.0


def clustered_mean(
    values: ArrayLike, cluster: ArrayLike | None = None, level: float = 0.95
) -> Estimate:
    """Mean of values whose clusters are independent, with its interval.

    Parameters
    ----------
    values : array, shape (n,)
    cluster : array, shape (n,), optional; each value its own by default.
    level : float, default 0.95

    Returns
    -------
    Estimate
        `n` counts clusters, the independent units. With fewer than four of them
        there is no interval, and where all say the same it has no width, which
        is no proof; a warning says so.

    Raises
    ------
    DataError
        When there is no value.

    Notes
    -----
    ``SE² = G/(G−1) · Σ_g (Σ_{i∈g} (vᵢ − v̄))² / n²`` for G clusters, with G − 1
    degrees of freedom; without clusters the usual standard error.

    References
    ----------
    Liang & Zeger (1986), "Longitudinal data analysis using generalized linear
    models", Biometrika 73(1), https://doi.org/10.1093/biomet/73.1.13.

    Examples
    --------
    >>> found = clustered_mean([0.0, 1.0, 1.0, 0.0, 1.0])
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.6, -0.08, 1.28)
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise DataError("no value to average")
    return _mean(values, _groups(cluster, len(values)), level)


def mean_of_sums(n: int, total: float, squares: float, level: float = 0.95) -> Estimate:
    """Mean of independent values of which only sums are known, with its interval.

    Parameters
    ----------
    n : int, at least 1
    total, squares : Σ v and Σ v² over the values.
    level : float, default 0.95

    Returns
    -------
    Estimate
        That of :func:`clustered_mean` without clusters, up to rounding.

    Examples
    --------
    >>> found = mean_of_sums(5, 3.0, 3.0)
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.6, -0.08, 1.28)
    """
    mean = total / n
    # equal values may leave a rest below 0
    return _with_interval(mean, max(0.0, squares - n * mean * mean), n, n, level)


def difference_of_means(first: Estimate, second: Estimate, level: float = 0.95) -> Estimate:
    """First minus second mean of independent groups, with Welch's interval.

    The degrees of freedom are those of each mean's independent units, its `n`.

    References
    ----------
    Welch (1947), "The generalization of Student's problem when several different
    population variances are involved", Biometrika 34(1–2),
    https://doi.org/10.1093/biomet/34.1-2.28.

    Examples
    --------
    >>> a, b = clustered_mean([1.0, 2.0, 3.0, 4.0]), clustered_mean([0.0, 1.0, 2.0, 3.0])
    >>> found = difference_of_means(a, b)
    >>> round(found.value, 2), round(found.low, 2)
    (1.0, -1.23)
    """
    parts = np.array([first.std_error**2, second.std_error**2])
    total = float(parts.sum())
    error, value = math.sqrt(total), first.value - second.value
    freedom = np.array([max(first.n - 1, 1), max(second.n - 1, 1)])
    df = total**2 / float((parts**2 / freedom).sum()) if total > 0 else float(freedom.sum())
    half = error * t_quantile(0.5 + level / 2, df) if math.isfinite(error) else math.nan
    return Estimate(
        value=value,
        std_error=error,
        low=value - half,
        high=value + half,
        n=first.n + second.n,
        level=level,
        warnings=tuple(dict.fromkeys(first.warnings + second.warnings)),
    )


def _mean(
    values: FloatArray, groups: IntArray, level: float, warnings: tuple[str, ...] = ()
) -> Estimate:
    mean = float(values.mean())
    return _estimate(mean, values - mean, groups, level, warnings)


def _estimate(
    value: float,
    influence: FloatArray,
    groups: IntArray,
    level: float,
    warnings: tuple[str, ...] = (),
) -> Estimate:
    """A value whose error is the mean of `influence`, independent between groups."""
    n_groups, sums = int(groups.max()) + 1, np.bincount(groups, influence)
    squares = float((sums**2).sum())
    return _with_interval(value, squares, len(influence), n_groups, level, warnings)


def _with_interval(
    value: float,
    squares: float,
    n: int,
    n_groups: int,
    level: float,
    warnings: tuple[str, ...] = (),
) -> Estimate:
    """A value with the sum over groups of the squares of their summed influence."""
    error = half = math.nan
    if n_groups >= _FEWEST:
        error = math.sqrt(n_groups / (n_groups - 1) * squares) / n
        half = error * t_quantile(0.5 + level / 2, n_groups - 1)
        if error <= _NO_WIDTH * abs(value):
            warnings = (*warnings, "all independent units say the same: the interval has no width")
    else:
        warnings = (*warnings, f"{n_groups} independent units are too few for an interval")
    return Estimate(
        value=value,
        std_error=error,
        low=value - half,
        high=value + half,
        n=n_groups,
        level=level,
        warnings=warnings,
    )


def t_quantile(p: float, df: float) -> float:
    """Student's quantile by its expansion in 1/df, to half a percent from 4 on.

    Parameters
    ----------
    p : float in (0, 1)
    df : float above 0, degrees of freedom.

    References
    ----------
    Abramowitz & Stegun (1964), "Handbook of Mathematical Functions", 26.7.5; the
    gateway has no SciPy.

    Examples
    --------
    >>> round(t_quantile(0.975, 10), 3)
    2.228
    """
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / df**power for power, term in enumerate(terms, 1))


def _few(effective: float) -> tuple[str, ...]:
    if effective >= _LOW_ESS:
        return ()
    return (f"the weights are worth {effective:.1f} requests: the interval cannot be relied on",)


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Level and slope by least squares; no slope where x does not vary."""
    if not len(y):
        return 0.0, 0.0
    centred = x - x.mean()
    spread = float((centred**2).sum())
    slope = float((centred * y).sum()) / spread if spread > 0 else 0.0
    return float(y.mean() - slope * x.mean()), slope


def _groups(cluster: ArrayLike | None, n: int) -> IntArray:
    if cluster is None:
        return np.arange(n)
    return np.unique(np.asarray(cluster), return_inverse=True)[1].astype(np.int64)


def _matrix(name: str, values: ArrayLike) -> FloatArray:
    matrix = np.asarray(values, dtype=np.float64)
    wrong = matrix.ndim != 2 or not np.isfinite(matrix).all() or (matrix < 0).any()
    if wrong or (np.abs(matrix.sum(axis=1) - 1) > 1e-6).any():
        raise DataError(f"{name}: allowed: probabilities, a row a request, rows that sum to 1")
    return matrix
