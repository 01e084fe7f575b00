"""What a policy would have done at other prices of cost, on decisions that it made.

The choices are those of the policy's own code, on gains and costs as they were
logged: nothing is predicted again, and nothing is computed in the browser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metarouter.errors import DataError
from metarouter.policy.baselines import cost_quality_hull, premium_index
from metarouter.policy.calibrate import share_prices
from metarouter.policy.rule import best_model
from metarouter.policy.spread import differ_in_cost, spread_prices
from metarouter.store.offpolicy import clustered_mean
from metarouter.types import FloatArray, IntArray

__all__ = ["read_options", "what_if_view"]

_SHARES = np.linspace(0.0, 1.0, 51)

Row = Mapping[str, Any]


def read_options(
    rows: Sequence[Row], models: Sequence[str]
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Logged gains and costs of some models, and which of them belong together.

    Parameters
    ----------
    rows : mappings with `options`, each a list of models weighed, and `conversation`.
    models : their order; decisions that weighed not all of them are left out.

    Returns
    -------
    gains, costs : arrays, shape (n, n_models)
        Gains over ``models[0]``.
    units : int array, shape (n,)
        Equal for the requests of one conversation.

    Examples
    --------
    >>> options = [{"model": "b", "gain": 0.5, "cost": 2.0}, {"model": "a", "gain": 0.0, "cost": 1}]
    >>> read_options([{"options": options, "conversation": None}], ["a", "b"])
    (array([[0. , 0.5]]), array([[1., 2.]]), array([0]))
    """
    found = [{o["model"]: (o["gain"], o["cost"]) for o in row["options"] or ()} for row in rows]
    kept = [number for number, one in enumerate(found) if all(m in one for m in models)]
    whole = [[found[number][model] for model in models] for number in kept]
    table = np.array(whole, dtype=np.float64).reshape(len(whole), len(models), 2)
    names = [rows[number]["conversation"] or f"alone {number}" for number in kept]
    units = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return table[:, :, 0] - table[:, :1, 0], table[:, :, 1], units


def what_if_view(
    gains: FloatArray, costs: FloatArray, units: IntArray, *, w: float
) -> dict[str, Any]:
    """The policy at many prices of cost, and at its own.

    Parameters
    ----------
    gains, costs, units : as :func:`read_options` gives them.
    w : the policy's price of cost.

    Returns
    -------
    dict
        `points`, dearest first, and `now`: for each the share of requests that
        leave the reference model, the expected cost of 1,000 and the mean
        predicted gain over always the reference, and their differences to
        `now` on the same requests. Points are spread over that share, for a pool
        whose models differ in cost (`by_cost`) over the cost. `singles` has cost
        and gain of each model alone, `always` the premium model's cost, and
        `hull` the corners of the best fixed mixtures. Intervals are for the conversations being a
        sample of those to come; that predictions may be wrong is not in them.

    Raises
    ------
    DataError
        When there are fewer than two decisions, or the price changes nothing.
    """
    if len(gains) < 2:
        raise DataError(f"{len(gains)} decisions with gains of these models: too few to go by")
    by_cost = differ_in_cost(costs)
    spread = spread_prices(gains, costs) if by_cost else share_prices(gains[:, 1:], costs, _SHARES)
    prices = np.unique(np.append(spread, w))
    cost, gain = 1000 * costs.mean(axis=0), gains.mean(axis=0)
    now = best_model(gains, costs, w)
    points = [_point(gains, costs, units, float(price), now) for price in prices]
    return {
        "n": len(gains),
        "units": len(np.unique(units)),
        "points": points,
        "by_cost": by_cost,
        "always": float(cost[premium_index(cost)]),
        "singles": [[float(c), float(g)] for c, g in zip(cost, gain, strict=True)],
        "hull": [[float(cost[m]), float(gain[m])] for m in cost_quality_hull(cost, gain)],
        "now": _point(gains, costs, units, w, now),
    }


def _point(
    gains: FloatArray, costs: FloatArray, units: IntArray, w: float, now: IntArray
) -> dict[str, Any]:
    choice = best_model(gains, costs, w)
    rows = np.arange(len(choice))
    gain, cost = gains[rows, choice], 1000 * costs[rows, choice]
    return {
        "w": w,
        "premium_share": float((choice != 0).mean()),
        "gain": clustered_mean(gain, units),
        "cost": clustered_mean(cost, units),
        "changed": float((choice != now).mean()),
        "gain_difference": clustered_mean(gain - gains[rows, now], units),
        "cost_difference": clustered_mean(cost - 1000 * costs[rows, now], units),
    }
