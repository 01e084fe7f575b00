"""Whether one router is worth more than another that costs the same.

A router that spends more is easily the better one. So the challenger's price of
cost is set to where it spends what the incumbent spends, and only what is
left between them counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metarouter.errors import DataError
from metarouter.evaluation.intervals import bootstrap_interval
from metarouter.evaluation.metrics import WeightedStatistic
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = ["difference_at_equal_cost", "equal_cost_statistic", "equal_cost_w", "queries_needed"]

_STEPS = 255  # prices between those of neighbours are mixed, so more would change nothing
_Z_TEST, _Z_POWER = 1.959964, 0.841621  # one-sided 2.5 % level, 80 % power


def difference_at_equal_cost(
    mean: FloatArray,
    own_costs: FloatArray,
    choice: IntArray,
    quality: FloatArray,
    costs: FloatArray,
    rng: np.random.Generator,
    *,
    groups: IntArray | None = None,
    n_boot: int = 2000,
) -> Estimate:
    """Value of a challenger minus value of an incumbent that costs the same.

    Assumes that the groups of queries are a random sample of those to come and
    that neither router was fitted on them.

    Parameters
    ----------
    mean : array, shape (n,) or (n, n_models − 1)
        The challenger's predicted gains over the first model.
    own_costs : array, shape (n, n_models)
        Costs that the challenger expects, which it decides by.
    choice : int array, shape (n,)
        The incumbent's choices at the threshold that it serves with.
    quality : array, shape (n, n_models), gold.
    costs : array, shape (n, n_models)
        The yardstick that both are charged by; the incumbent's own.
    rng : numpy.random.Generator
    groups : int array, shape (n,), optional
        From 0 on; equal for queries that are not independent, such as turns of one
        conversation. Each its own by default.
    n_boot : int, default 2000

    Returns
    -------
    Estimate
        In gain units a query; above 0 the challenger is better. `n` counts groups.

    Raises
    ------
    DataError
        When shapes do not fit or a value is not finite.

    Notes
    -----
    Paired bootstrap over groups of :func:`equal_cost_statistic`: each resample
    sets the challenger's price anew, so the interval holds the uncertainty of
    the matching too.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> gain = rng.normal(0.1, 0.3, 300)
    >>> quality = np.column_stack([np.zeros(300), gain])
    >>> costs, coin = np.tile([0.0, 1.0], (300, 1)), rng.integers(2, size=300)
    >>> difference_at_equal_cost(gain, costs, coin, quality, costs, rng).low > 0
    True
    """
    statistic = equal_cost_statistic(mean, own_costs, choice, quality, costs)
    if groups is None:
        return bootstrap_interval(statistic, len(quality), rng, n_boot)
    n_groups = int(groups.max()) + 1
    return bootstrap_interval(lambda w: statistic(w[:, groups]), n_groups, rng, n_boot)


def equal_cost_statistic(
    mean: FloatArray,
    own_costs: FloatArray,
    choice: IntArray,
    quality: FloatArray,
    costs: FloatArray,
) -> WeightedStatistic:
    """The difference of :func:`difference_at_equal_cost` as a function of query weights.

    Notes
    -----
    The challenger's cost falls and its value changes in steps as its price w
    rises; both are computed on a grid of prices that takes in the quantiles of
    all points where a choice changes. Between two prices it tosses a coin
    (values are interpolated), so it meets the incumbent's cost exactly. Where
    it cannot, its nearest price is taken.
    """
    gains, own = gains_and_costs(mean, own_costs)
    quality, costs = _matrix(quality, gains.shape), _matrix(costs, gains.shape)
    rows = np.arange(len(quality))
    grid = [best_model(gains, own, w) for w in _prices(gains, own)]
    value = np.column_stack([quality[rows, one] for one in grid])
    spent = np.column_stack([costs[rows, one] for one in grid])
    held, charged = quality[rows, choice], costs[rows, choice]

    def statistic(weights: FloatArray) -> FloatArray:
        part = weights / weights.sum(axis=1, keepdims=True)
        return np.asarray(_at_cost(part @ spent, part @ value, part @ charged) - part @ held)

    return statistic


def equal_cost_w(
    mean: FloatArray, own_costs: FloatArray, choice: IntArray, costs: FloatArray
) -> float:
    """The smallest price of cost at which a challenger costs no more than an incumbent.

    Parameters
    ----------
    mean, own_costs, choice, costs : as in :func:`difference_at_equal_cost`

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


def _at_cost(cost: FloatArray, value: FloatArray, target: FloatArray) -> FloatArray:
    """Value where a falling cost curve, shape (r, k), crosses each target, shape (r,)."""
    above = (cost >= target[:, None]).sum(axis=1)
    high = np.clip(above - 1, 0, cost.shape[1] - 1)
    low = np.clip(above, 0, cost.shape[1] - 1)
    rows = np.arange(len(cost))
    gap = cost[rows, high] - cost[rows, low]
    part = np.divide(target - cost[rows, low], gap, out=np.zeros(len(gap)), where=gap > 0)
    part = np.clip(part, 0.0, 1.0)
    return np.asarray(part * value[rows, high] + (1 - part) * value[rows, low])


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
    if len(switch) > _STEPS:
        switch = np.unique(np.quantile(switch, np.linspace(0, 1, _STEPS), method="nearest"))
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


def _matrix(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise DataError(f"a matrix of shape {matrix.shape}; allowed: finite, of shape {shape}")
    return matrix
