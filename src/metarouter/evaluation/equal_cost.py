"""The price at which one router costs what another does, and how many queries would part them.

A router that spends more is easily the better one. So the challenger's price of
cost is set to where it spends what the incumbent spends, and only what is
left between them counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = ["equal_cost_w", "queries_needed"]

_Z_TEST, _Z_POWER = 1.959964, 0.841621  # one-sided 2.5 % level, 80 % power


def equal_cost_w(
    mean: FloatArray, own_costs: FloatArray, choice: IntArray, costs: FloatArray
) -> float:
    """The smallest price of cost at which a challenger costs no more than an incumbent.

    Parameters
    ----------
    mean : array, shape (n,) or (n, n_models − 1)
        The challenger's predicted gains over the first model.
    own_costs : array, shape (n, n_models)
        Costs that the challenger expects, which it decides by.
    choice : int array, shape (n,)
        The incumbent's choices at the threshold that it serves with.
    costs : array, shape (n, n_models)
        The yardstick that both are charged by; the incumbent's own.

    Returns
    -------
    float
        The largest price there is where every one costs more, which the two kinds
        of costs allow.

    Notes
    -----
    It is set by predictions and costs alone, before any gold is looked at. Queries
    with equal scores cannot be parted: where they are many, the challenger
    costs less than the incumbent, and what it loses by that counts against it.

    Examples
    --------
    >>> costs = np.tile([0.0, 1.0], (4, 1))
    >>> equal_cost_w(np.array([0.1, 0.2, 0.3, 0.4]), costs, np.array([0, 0, 1, 1]), costs)
    0.25
    """
    gains, own = gains_and_costs(mean, own_costs)
    rows = np.arange(len(gains))
    target = float(costs[rows, choice].mean())

    def fits(w: float) -> bool:
        spent = float(costs[rows, best_model(gains, own, w)].mean())
        return spent <= target + 1e-12 * abs(target)

    return _first(_prices(gains, own), fits)


def queries_needed(difference: Estimate, margin: float = 0.0) -> int | None:
    """About how many held-out queries would show a difference of this size.

    Returns
    -------
    int or None
        Groups, where queries come in groups. For a one-sided level of 2.5 % and a
        power of 80 %, if the difference is what it was estimated to be; None where
        it is not above `margin`, as then no number would.

    Notes
    -----
    ``n · ((z₀.₉₇₅ + z₀.₈₀) · SE / (d − margin))²``.

    Examples
    --------
    >>> found = Estimate(value=0.02, std_error=0.02, low=-0.02, high=0.06, n=100)
    >>> queries_needed(found)
    785
    """
    above = difference.value - margin
    if not above > 0:
        return None
    ratio = (_Z_TEST + _Z_POWER) * difference.std_error / above
    return int(np.ceil(difference.n * ratio**2))


def _prices(gains: FloatArray, costs: FloatArray) -> FloatArray:
    """Ascending prices between the points where a choice changes, and one beyond each end."""
    points = []
    for a in range(gains.shape[1]):
        for b in range(a):
            dearer = costs[:, a] - costs[:, b]
            differs = dearer != 0
            points.append((gains[differs, a] - gains[differs, b]) / dearer[differs])
    switch = np.unique(np.concatenate(points))
    if not len(switch):
        return np.zeros(1)
    reach = max(1.0, float(np.abs(switch).max()))
    ends = np.concatenate([[switch[0] - reach], switch, [switch[-1] + reach]])
    return np.asarray((ends[:-1] + ends[1:]) / 2)


def _first(prices: FloatArray, fits: Callable[[float], bool]) -> float:
    """The smallest price that fits, by bisection; the largest where none does."""
    low, high = 0, len(prices) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(float(prices[middle])) else (middle + 1, high)
    return float(prices[low])
