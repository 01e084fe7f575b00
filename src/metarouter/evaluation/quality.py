"""What a policy is worth on held-out gold: quality, cost, calibration.

A policy is a choice of one model for each query, shape (n,), or a matrix of
probabilities, shape (n, n_models); see :mod:`metarouter.policy.baselines`.
Quality is judged by gold labels only: corrected labels are never the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import DataError, OptionError
from metarouter.evaluation.curves import as_column
from metarouter.evaluation.frontier import best_mixture
from metarouter.evaluation.intervals import (
    mean_interval,
    t_estimate,
)
from metarouter.policy.baselines import (
    always,
    deterministic,
    oracle,
    premium_index,
    random_mix,
)
from metarouter.policy.calibrate import calibrate_budget, mix_at_share
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.policy.spread import differ_in_cost
from metarouter.records import Estimate, PolicyValue
from metarouter.types import FloatArray, IntArray

__all__ = [
    "CalibrationBin",
    "GainCalibration",
    "calibration_of_gain",
    "policy_values",
]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """Queries of similar predicted gain: mean prediction, mean gold gain.

    `predicted_std` is the mean standard deviation of the predictions.
    """

    predicted: float
    predicted_std: float
    gold: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class GainCalibration:
    """Whether predicted gains mean what they say.

    Attributes
    ----------
    bins : by increasing predicted gain.
    slope, intercept : of gold gain on predicted gain; 1 and 0 when calibrated.
        A slope below 1 says that predictions are too extreme.
    coverage : share of bins whose gold mean agrees with the prediction, within
        the joint interval of both. At least about `level` when the deviations are
        right: errors of a bin's predictions count as if they were one error.
    """

    bins: tuple[CalibrationBin, ...]
    slope: Estimate
    intercept: Estimate
    coverage: float


def policy_values(
    mean: ArrayLike,
    scores: ArrayLike,
    costs: ArrayLike,
    w: float,
    level: float = 0.95,
    *,
    choice: IntArray | None = None,
) -> list[PolicyValue]:
    """Value of the router and of everything it should be compared with.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
        Predicted gain over the reference model, the first one.
    scores : array, shape (n, n_models)
        Gold scores, or gold gains over the reference model (0 for itself).
    costs : array, shape (n, n_models)
        Expected costs, in cost units.
    w : float
        The router's price of cost.
    level : float, default 0.95
    choice : int array, shape (n,), optional
        The model that the router chose for each query, where that is not the
        one with the largest gain − w · cost.

    Returns
    -------
    list of PolicyValue
        ``always_premium`` (the dearest model, of equally dear ones the last),
        ``always_cheap`` (the cheapest),
        ``router`` (as it chose), ``random`` (as many queries to each model as the
        router sends), ``hull`` (the best mixture of single models at the router's
        cost), ``oracle`` (by gold score, cost deciding ties), and ``router_10`` …
        ``router_90`` (the router's ranking at a premium share of 10 … 90 %); of a
        pool whose models differ in cost ``budget_10`` … ``budget_90`` instead (its
        rule within 10 … 90 % of the premium model's cost). The premium share is the
        share of queries that do not go to the reference model.

    Raises
    ------
    DataError
        When shapes do not fit or a value is not finite.

    Notes
    -----
    Intervals take each policy as fixed. The shares need no gold label, so only
    the sampling of the queries, not of the labels, is left out there.

    Examples
    --------
    >>> scores, costs = np.array([[0, 1], [1, 1], [0, 0]]), np.array([[0.0, 1.0]] * 3)
    >>> values = policy_values([0.9, 0.1, 0.2], scores, costs, w=0.5)
    >>> {v.policy: round(v.quality.value, 2) for v in values[:4]}
    {'always_premium': 0.67, 'always_cheap': 0.33, 'router': 0.67, 'random': 0.44}
    """
    scores = _matrix("scores", scores)
    gains, costs = gains_and_costs(np.asarray(mean), np.asarray(costs))
    if gains.shape != scores.shape:
        raise DataError(f"gains of {gains.shape[1]} models for scores of shape {scores.shape}")
    ceiling = float(costs.mean(axis=0).max())
    choice = best_model(gains, costs, w) if choice is None else choice
    return [
        _policy_value(name, policy, scores, costs, ceiling, level)
        for name, policy in _policies(gains, scores, costs, choice)
    ]


def _policies(
    gains: FloatArray, scores: FloatArray, costs: FloatArray, choice: IntArray
) -> Iterator[tuple[str, FloatArray]]:
    n, n_models = scores.shape
    mean_cost = costs.mean(axis=0)
    dearest, cheapest = premium_index(mean_cost), int(np.argmin(mean_cost))
    router = deterministic(choice, n_models)
    yield "always_premium", always(dearest, n, n_models)
    yield "always_cheap", always(cheapest, n, n_models)
    yield "router", router
    yield "random", random_mix(router)
    yield "hull", _hull_policy(scores, costs, float((router * costs).sum(axis=1).mean()))
    yield "oracle", oracle(scores, costs)
    if differ_in_cost(costs):
        yield from _at_budgets(gains, costs, float(mean_cost[dearest]))
        return
    for part in SHARES:
        yield f"router_{round(100 * part)}", mix_at_share(gains[:, 1:], costs, part)


def _at_budgets(
    gains: FloatArray, costs: FloatArray, ceiling: float
) -> Iterator[tuple[str, FloatArray]]:
    """The rule at shares of a cost; not where even the cheapest choice costs more."""
    cheapest = 1000 * float(costs.min(axis=1).mean())
    for part in SHARES:
        budget = 1000 * part * ceiling
        if budget >= cheapest:
            w = calibrate_budget(gains[:, 1:], costs, budget).w
            yield (
                f"budget_{round(100 * part)}",
                deterministic(best_model(gains, costs, w), gains.shape[1]),
            )


def _hull_policy(scores: FloatArray, costs: FloatArray, budget: float) -> FloatArray:
    """The mixture of single models that costs `budget` and is best on these scores."""
    mixture = best_mixture(costs.mean(axis=0), scores.mean(axis=0), budget)
    return np.tile(mixture, (len(scores), 1))


def _policy_value(
    name: str,
    policy: FloatArray,
    scores: FloatArray,
    costs: FloatArray,
    ceiling: float,
    level: float,
) -> PolicyValue:
    cost = float((policy * costs).mean(axis=0).sum())
    return PolicyValue(
        policy=name,
        premium_share=float(1 - policy[:, 0].mean()),
        quality=mean_interval((policy * scores).sum(axis=1), level),
        cost_per_1k=1000 * cost,
        saving_share=1 - cost / ceiling if ceiling > 0 else 0.0,
    )


def calibration_of_gain(
    predicted: ArrayLike,
    std: ArrayLike,
    gold: ArrayLike,
    n_bins: int = 10,
    level: float = 0.95,
) -> GainCalibration:
    """Compare predicted gains with held-out gold gains.

    Parameters
    ----------
    predicted, std : arrays, shape (n,)
        ψ̂ and its standard deviation, label noise not included.
    gold : array, shape (n,)
        Gold gains of the same queries.
    n_bins : int, default 10
        Bins of about equally many queries; fewer where predictions are tied.
    level : float, default 0.95

    Returns
    -------
    GainCalibration
        Slope and intercept are NaN, with a warning, when all predictions are
        equal.

    Raises
    ------
    OptionError
        When `n_bins` is below 1.
    DataError
        With fewer than three queries, differing lengths or a value that is not
        finite.

    Notes
    -----
    Slope and intercept by least squares with heteroscedasticity-consistent
    (HC3) standard errors, as the noise of a gain depends on the query.

    References
    ----------
    Long & Ervin (2000), "Using heteroscedasticity consistent standard errors",
    The American Statistician 54(3), https://doi.org/10.1080/00031305.2000.10474549.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 40)
    >>> found = calibration_of_gain(x, np.full(40, 0.1), x / 2, n_bins=4)
    >>> round(found.slope.value, 6), len(found.bins)
    (0.5, 4)
    """
    if n_bins < 1:
        raise OptionError.of("n_bins", n_bins, "a whole number of at least 1")
    predicted = as_column("predicted", predicted)
    std, gold = as_column("std", std, len(predicted)), as_column("gold", gold, len(predicted))
    if len(predicted) < 3:
        raise DataError(f"{len(predicted)} queries: a calibration needs at least 3")
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, n_bins + 1)[1:-1]))
    place = np.searchsorted(edges, predicted, side="right")
    bins = tuple(
        CalibrationBin(
            predicted=float(predicted[place == one].mean()),
            predicted_std=float(std[place == one].mean()),
            gold=mean_interval(gold[place == one], level),
        )
        for one in np.unique(place)
    )
    intercept, slope = _line(predicted, gold, level)
    return GainCalibration(
        bins=bins, slope=slope, intercept=intercept, coverage=_bin_coverage(bins, level)
    )


def _bin_coverage(bins: tuple[CalibrationBin, ...], level: float) -> float:
    z = NormalDist().inv_cdf(0.5 + level / 2)
    agree = []
    for one in bins:
        # Errors of similar queries move together, so averaging does not shrink their deviation.
        widths = one.gold.high - one.gold.value, z * one.predicted_std
        agree.append(abs(one.gold.value - one.predicted) <= float(np.hypot(*widths)))
    return float(np.mean(agree))


def _line(x: FloatArray, y: FloatArray, level: float) -> tuple[Estimate, Estimate]:
    n = len(x)
    if np.ptp(x) == 0:
        nan = float("nan")
        unknown = t_estimate(nan, nan, n, level, ("all predictions are equal",))
        return unknown, unknown
    design = np.column_stack([np.ones(n), x - x.mean()])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ (design.T @ y)
    leverage = ((design @ inverse) * design).sum(axis=1)
    residual = (y - design @ coefficients) / (1 - np.minimum(leverage, 0.999))
    covariance = inverse @ (design.T * residual**2) @ design @ inverse
    # Back from the centred line: intercept = level at the mean − slope · mean.
    back = np.array([[1.0, -x.mean()], [0.0, 1.0]])
    coefficients, covariance = back @ coefficients, back @ covariance @ back.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    both = [
        t_estimate(float(value), float(error), n, level, df=n - 2)
        for value, error in zip(coefficients, errors, strict=True)
    ]
    return both[0], both[1]


def _matrix(name: str, values: ArrayLike) -> FloatArray:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise DataError(f"{name} of shape {matrix.shape}: finite, a row a query, a column a model")
    return matrix
