"""What a pool is worth at every cost: the router, an oracle, and fixed mixtures of models.

With more than two models a share of premium calls does not say which of them
are called, nor what that costs. So everything here is over the cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from metarouter.evaluation.intervals import bootstrap_interval, mean_interval, without_interval
from metarouter.evaluation.metrics import WeightedStatistic
from metarouter.policy.baselines import cost_quality_hull
from metarouter.policy.rule import best_model
from metarouter.policy.spread import spread_prices
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = [
    "Frontier",
    "best_mixture",
    "hull_advantage",
    "hull_advantage_statistic",
    "hull_quality",
    "price_frontier",
]

_SPLITS = 10  # into halves; with a single one the seed has a say


@dataclass(frozen=True, kw_only=True, slots=True)
class Frontier:
    """A rule at several prices of cost, cheapest first.

    Attributes
    ----------
    cost : array, shape (k,), mean cost of a query.
    quality : array, shape (n, k), gold quality of the answers it chooses.
    share : array, shape (k,), of queries that leave the reference model.
    """

    cost: FloatArray
    quality: FloatArray
    share: FloatArray


def price_frontier(gains: FloatArray, costs: FloatArray, quality: FloatArray) -> Frontier:
    """The choices of largest gain − w · cost, from the cheapest to w = 0.

    Parameters
    ----------
    gains : array, shape (n, n_models)
        What the rule believes, the reference model's zeros included; gold gains
        make it an oracle.
    costs, quality : arrays, shape (n, n_models)
        Expected costs and gold quality.

    Examples
    --------
    >>> gains = np.array([[0.0, 0.5], [0.0, 0.1]])
    >>> costs, quality = np.array([[0.0, 1.0]] * 2), np.array([[0.0, 1.0], [1.0, 1.0]])
    >>> found = price_frontier(gains, costs, quality)
    >>> found.cost.tolist(), found.quality.mean(axis=0).tolist()
    ([0.0, 0.5, 1.0], [0.5, 1.0, 1.0])
    """
    rows = np.arange(len(gains))
    choices = [best_model(gains, costs, float(w)) for w in spread_prices(gains, costs)]
    return Frontier(
        cost=np.asarray([costs[rows, choice].mean() for choice in choices]),
        quality=np.column_stack([quality[rows, choice] for choice in choices]),
        share=np.asarray([(choice != 0).mean() for choice in choices]),
    )


def hull_quality(cost: FloatArray, quality: FloatArray, budget: FloatArray) -> FloatArray:
    """Quality of the best fixed mixture of single models within a budget.

    Parameters
    ----------
    cost, quality : arrays, shape (b, n_models)
        Mean cost and quality of each model alone.
    budget : array, shape (b,)
        One below the smallest cost counts as that.

    Returns
    -------
    array, shape (b,)

    Notes
    -----
    A mixture that is best under one constraint needs two models at most.

    Examples
    --------
    Half of the third model is better than the second:

    >>> models = np.array([[0.0, 1.0, 2.0]]), np.array([[0.1, 0.2, 0.9]])
    >>> hull_quality(*models, np.array([1.0])).round(3).tolist()
    [0.5]
    """
    # rounding may put the cost of always the cheapest model below its own
    budget = np.maximum(budget, cost.min(axis=1))
    spare, over = budget[:, None] - cost, cost - budget[:, None]
    best = np.where(spare >= 0, quality, -np.inf).max(axis=1)
    for a, b in combinations(range(cost.shape[1]), 2):
        for low, high in ((a, b), (b, a)):
            between = (spare[:, low] >= 0) & (over[:, high] > 0)
            width = np.where(between, cost[:, high] - cost[:, low], 1.0)
            part = spare[:, low] / width
            mixed = (1 - part) * quality[:, low] + part * quality[:, high]
            best = np.where(between, np.maximum(best, mixed), best)
    return np.asarray(best)


def best_mixture(cost: FloatArray, quality: FloatArray, budget: float) -> FloatArray:
    """The fixed mixture of single models that is best within a budget.

    Parameters
    ----------
    cost, quality : arrays, shape (n_models,)
    budget : float
        One below the smallest cost counts as that.

    Returns
    -------
    array, shape (n_models,), shares that sum to 1; two at most are above 0.

    Examples
    --------
    >>> cost, quality = np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.2, 0.9])
    >>> best_mixture(cost, quality, 1.0).tolist()
    [0.5, 0.0, 0.5]
    """
    corners = cost_quality_hull(cost, quality)
    number = np.arange(len(corners))
    mixture = np.zeros(len(cost))
    # weights fall to 0 within one corner of where the budget lies
    position = np.interp(budget, cost[corners], number)
    mixture[corners] = np.maximum(0.0, 1.0 - np.abs(number - position))
    return mixture


def hull_advantage(
    quality: FloatArray,
    costs: FloatArray,
    choice: IntArray,
    rng: np.random.Generator,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """Mean quality of a router minus that of the best fixed mixture at its cost.

    Assumes that the queries are a random sample of those to come, and that the
    router was not fitted on them.

    Parameters
    ----------
    quality, costs : arrays, shape (n, n_models)
    choice : int array, shape (n,), the router's.
    rng : numpy.random.Generator
    n_boot : int, default 2000
    level : float, default 0.95

    Returns
    -------
    Estimate
        Value and error are of mixtures that one half of the queries chose and the
        other judges. A single query has no halves: it gives the difference to the
        mixture that it chose itself, without an interval.

    Notes
    -----
    Which mixture is best is not known, only which one is on some labels. Chosen by
    the labels that judge it, it looks better than it is: of routers as good as every
    mixture a third were called worse. Chosen by one half of the queries, judged on the
    other and the other way round, mean of ten splits, it is fairly judged but worse
    than the best: of routers as good as the best one up to a third were called better.
    So the interval reaches from the lower end of the first, a bootstrap that chooses
    anew in each resample, to the upper end of the second, a Student interval; and
    holds both.

    Examples
    --------
    >>> quality = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    >>> costs, right = np.tile([0.0, 1.0], (100, 1)), np.array([1, 0] * 50)
    >>> hull_advantage(quality, costs, right, np.random.default_rng(0)).low > 0
    True
    """
    statistic, n = hull_advantage_statistic(quality, costs, choice), len(choice)
    if n == 1:
        alone = float(statistic(np.ones((1, 1)))[0])
        return without_interval(alone, n, "one query: no interval", level=level)
    flattered = bootstrap_interval(statistic, n, rng, n_boot, level)
    fair = mean_interval(_judged_by_halves(quality, costs, choice, rng), level)
    low, high = min(flattered.low, fair.low), max(flattered.high, fair.high)
    return replace(fair, low=low, high=high)


def _judged_by_halves(
    quality: FloatArray, costs: FloatArray, choice: IntArray, rng: np.random.Generator
) -> FloatArray:
    """Each query's advantage over mixtures that it did not choose; costs need no label."""
    rows, cost = np.arange(len(choice)), costs.mean(axis=0)
    budget, mixed = float(costs[rows, choice].mean()), np.zeros(len(choice))
    for _ in range(_SPLITS):
        half = rng.permutation(len(choice)) % 2 == 0
        for judging in (half, ~half):
            mixture = best_mixture(cost, quality[~judging].mean(axis=0), budget)
            mixed[judging] += quality[judging] @ mixture / _SPLITS
    return np.asarray(quality[rows, choice] - mixed)


def hull_advantage_statistic(
    quality: FloatArray, costs: FloatArray, choice: IntArray
) -> WeightedStatistic:
    """Mean quality of a router minus that of the mixture that is best on the same labels.

    Parameters
    ----------
    quality, costs : arrays, shape (n, n_models)
    choice : int array, shape (n,), the router's.

    Returns
    -------
    WeightedStatistic
        Weights of queries, shape (b, n), to differences, shape (b,).

    Notes
    -----
    Each resample picks its own best mixture, by the labels that judge: that
    flatters the mixture, so the difference is too small; see :func:`hull_advantage`.
    """
    rows = np.arange(len(choice))
    own_quality, own_cost = quality[rows, choice], costs[rows, choice]

    def statistic(weights: FloatArray) -> FloatArray:
        part = weights / weights.sum(axis=1, keepdims=True)
        fixed = hull_quality(part @ costs, part @ quality, part @ own_cost)
        return np.asarray(part @ own_quality - fixed)

    return statistic
