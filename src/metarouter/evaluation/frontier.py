"""What a pool is worth at every cost: the router, an oracle, and fixed mixtures of models.

With more than two models a share of premium calls does not say which of them
are called, nor what that costs. So everything here is over the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from metarouter.evaluation.metrics import WeightedStatistic
from metarouter.policy.rule import best_model
from metarouter.policy.spread import spread_prices
from metarouter.types import FloatArray, IntArray

__all__ = ["Frontier", "hull_advantage_statistic", "hull_quality", "price_frontier"]


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


def hull_advantage_statistic(
    quality: FloatArray, costs: FloatArray, choice: IntArray
) -> WeightedStatistic:
    """Mean quality of a router minus that of the best fixed mixture at its cost.

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
    flatters the mixture, so the difference is, if anything, too small.
    """
    rows = np.arange(len(choice))
    own_quality, own_cost = quality[rows, choice], costs[rows, choice]

    def statistic(weights: FloatArray) -> FloatArray:
        part = weights / weights.sum(axis=1, keepdims=True)
        fixed = hull_quality(part @ costs, part @ quality, part @ own_cost)
        return np.asarray(part @ own_quality - fixed)

    return statistic
