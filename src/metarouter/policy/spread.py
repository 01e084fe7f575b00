"""Prices of cost at which a pool spends more and more, for curves over the cost.

In a pool of models with prices, a share of premium calls does not say which
models are called, so that settings are told apart by what they cost.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from metarouter.policy.rule import best_model
from metarouter.types import FloatArray

__all__ = ["differ_in_cost", "spread_prices"]

_TRIED = 400  # neighbours differ by a quarter of a percent of all switches
_KEPT = 51  # about evenly over the cost


def differ_in_cost(costs: FloatArray) -> bool:
    """Whether a pool's models, beside the reference, cost different amounts.

    Parameters
    ----------
    costs : array, shape (n, n_models)

    Examples
    --------
    >>> differ_in_cost(np.array([[0.0, 1.0, 1.0]])), differ_in_cost(np.array([[0.0, 1.0, 2.0]]))
    (False, True)
    """
    return costs.shape[1] > 2 and bool(np.ptp(costs.mean(axis=0)[1:]) > 0)


def spread_prices(gains: FloatArray, costs: FloatArray) -> FloatArray:
    """Prices of cost, largest first, whose choices cost about evenly more each time.

    The first chooses the cheapest model for each query, the last is 0.

    Parameters
    ----------
    gains, costs : arrays, shape (n, n_models)
        Gains over the reference model, its zeros included, and expected costs.

    Returns
    -------
    array, shape (k,), with k at most 51

    Examples
    --------
    >>> gains, costs = np.array([[0.0, 0.5], [0.0, 0.1]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    >>> spread_prices(gains, costs).round(3).tolist()
    [2.0, 0.3, 0.0]
    """
    prices = _between_switches(gains, costs)
    rows = np.arange(len(gains))
    cost = np.asarray([costs[rows, best_model(gains, costs, float(w))].mean() for w in prices])
    even = np.linspace(cost.min(), cost.max(), _KEPT)
    kept = np.unique(np.abs(cost[:, None] - even).argmin(axis=0))
    kept = kept[np.unique(cost[kept], return_index=True)[1]]
    spread: FloatArray = prices[kept]
    return spread


def _between_switches(gains: FloatArray, costs: FloatArray) -> FloatArray:
    """Prices between those at which a query changes its model, 0 first."""
    points = [np.zeros(1)]
    for a, b in combinations(range(gains.shape[1]), 2):
        extra = costs[:, a] - costs[:, b]
        dearer = extra != 0
        points.append((gains[dearer, a] - gains[dearer, b]) / extra[dearer])
    every = np.unique(np.concatenate(points))
    every = every[every >= 0]
    if len(every) > _TRIED:
        every = np.quantile(every, np.linspace(0, 1, _TRIED))
    beyond = 2 * every[-1] + 1.0
    return np.concatenate([[0.0], (every[:-1] + every[1:]) / 2, [beyond]])
