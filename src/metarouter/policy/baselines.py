"""Policies to compare a router with.

A policy is a matrix of probabilities, shape (n, n_models): row i says with what
probability each model answers query i. A random router is then its expectation,
exactly, and no random run adds noise.
"""

from __future__ import annotations

import numpy as np

from metarouter.policy.rule import best_model
from metarouter.types import FloatArray, IntArray

__all__ = [
    "always",
    "cost_quality_hull",
    "deterministic",
    "oracle",
    "premium_index",
    "random_mix",
]


def always(model: int, n: int, n_models: int) -> FloatArray:
    """The policy that sends all `n` queries to one model.

    Examples
    --------
    >>> always(1, 2, 2).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    """
    return deterministic(np.full(n, model % n_models, dtype=np.int64), n_models)


def deterministic(choice: IntArray, n_models: int) -> FloatArray:
    """The policy that sends query i to model ``choice[i]``.

    Examples
    --------
    >>> deterministic(np.array([0, 2]), 3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return np.asarray(np.eye(n_models)[choice])


def random_mix(policy: FloatArray) -> FloatArray:
    """The policy that calls each model as often as `policy` does, whatever the query.

    Examples
    --------
    >>> random_mix(deterministic(np.array([0, 0, 0, 1]), 2))[0].tolist()
    [0.75, 0.25]
    """
    return np.tile(policy.mean(axis=0), (len(policy), 1))


def premium_index(mean_costs: FloatArray) -> int:
    """The premium model: the dearest on average, of equally dear ones the last.

    Models are in ascending order of mean gold quality, so under unit costs,
    which price all but the reference model alike, the premium model of a pool
    is the one that was best in training.

    Parameters
    ----------
    mean_costs : array, shape (n_models,)
        Mean cost of each model, the reference model first.

    Examples
    --------
    >>> premium_index(np.array([0.0, 1.0, 1.0]))
    2
    """
    return int(np.flatnonzero(mean_costs == mean_costs.max())[-1])


def oracle(scores: FloatArray, costs: FloatArray, w: float = 0.0) -> FloatArray:
    """The policy that knows every answer's gold score: the ceiling, not a method.

    With noisy labels it profits from the noise too, so that no router can reach
    it.

    Parameters
    ----------
    scores, costs : arrays, shape (n, n_models)
        Gold quality (or gains over one model), and costs.
    w : float, default 0
        Price of cost. Equal utilities go to the cheaper model.

    Examples
    --------
    >>> oracle(np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.0, 1.0]] * 2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return deterministic(best_model(scores, costs, w), scores.shape[1])


def cost_quality_hull(cost: FloatArray, quality: FloatArray) -> IntArray:
    """The single models that no random mixture of others beats.

    Parameters
    ----------
    cost, quality : arrays, shape (n_models,)
        Mean cost and mean quality of each model used alone.

    Returns
    -------
    int array, shape (k,)
        Models by increasing cost and quality, at the corners of the upper
        concave hull. What lies between two neighbours is reached by tossing a
        coin between them, so a router is worth its name above the hull only.

    Examples
    --------
    >>> cost_quality_hull(np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.2, 0.9])).tolist()
    [0, 2]
    """
    hull: list[int] = []
    for model in np.lexsort((-quality, cost)).tolist():
        if hull and quality[model] <= quality[hull[-1]]:
            continue
        while len(hull) > 1 and _is_below(cost, quality, hull[-2], hull[-1], model):
            hull.pop()
        hull.append(model)
    return np.array(hull, dtype=np.int64)


def _is_below(cost: FloatArray, quality: FloatArray, a: int, b: int, c: int) -> bool:
    """Whether b lies on or below the line from a to c."""
    rise = (quality[b] - quality[a]) * (cost[c] - cost[a])
    return bool(rise <= (quality[c] - quality[a]) * (cost[b] - cost[a]))
