"""What decisions lose against an oracle, at every price of cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import DataError
from metarouter.evaluation.curves import as_column
from metarouter.evaluation.intervals import Band, simultaneous_band
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.types import FloatArray

__all__ = ["RegretCurve", "price_grid", "regret_curve"]

_TAIL = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class RegretCurve:
    """Utility lost at each price of cost w; all arrays have shape (k,).

    Attributes
    ----------
    w : price of cost, in gain units per unit of cost.
    band : utility of the oracle minus the router's, in gain units per query.
    constant : the same of the best single model at that price: what a router
        has to stay below to be of use there.
    """

    w: FloatArray
    band: Band
    constant: FloatArray


def regret_curve(
    mean: ArrayLike,
    scores: ArrayLike,
    costs: ArrayLike,
    w: ArrayLike,
    rng: np.random.Generator,
    *,
    n_boot: int = 2000,
    level: float = 0.95,
) -> RegretCurve:
    """Utility that the rule loses against the oracle, at each price of cost.

    Parameters
    ----------
    mean : array, shape (n,) for a pair or (n, n_models − 1)
        Predicted gains over the reference model: their level counts, not only
        their ranking.
    scores : array, shape (n, n_models)
        Gold scores, or gold gains over the reference model (0 for itself).
    costs : array, shape (n, n_models) or (n_models,)
        Expected costs.
    w : array, shape (k,)
        Prices of cost.
    rng : numpy.random.Generator
        Of the bootstrap over queries.
    n_boot : int, default 2000
    level : float, default 0.95
        Probability that the whole curve is inside its band.

    Returns
    -------
    RegretCurve
        Not negative. The oracle sees the label noise of each query, so even
        the best router has regret.

    Raises
    ------
    DataError
        When shapes do not fit or a value is not finite.

    Notes
    -----
    With q the gold quality, C the cost and π the rule at w,
    ``regret(w) = mean_i [max_m (q_im − w C_im) − (q_iπ − w C_iπ)]``. For a pair
    under unit costs that is ``mean(max(g − w, 0)) − mean(1{ψ̂ > w}·(g − w))``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> scores, costs = [[0.0, 1.0], [0.0, 0.0]], [0.0, 1.0]
    >>> regret_curve([0.4, 0.1], scores, costs, [0.2, 0.5], rng).band.value.tolist()
    [0.0, 0.25]
    """
    gains, costs = gains_and_costs(np.asarray(mean), np.asarray(costs))
    quality = np.asarray(scores, dtype=np.float64)
    if quality.shape != gains.shape or not np.isfinite(quality).all():
        raise DataError(f"scores of shape {quality.shape}: finite, of shape {gains.shape}")
    prices = as_column("w", np.atleast_1d(w))
    lost, constant = [], []
    for price in prices.tolist():
        utility = quality - price * costs
        best = utility.max(axis=1)
        choice = best_model(gains, costs, price)
        lost.append(best - np.take_along_axis(utility, choice[:, None], axis=1)[:, 0])
        constant.append(best.mean() - utility.mean(axis=0).max())
    matrix = np.column_stack(lost)
    band = simultaneous_band(
        lambda weights: weights @ matrix / weights.sum(axis=1, keepdims=True),
        len(matrix),
        rng,
        n_boot,
        level,
    )
    return RegretCurve(w=prices, band=band, constant=np.array(constant))


def price_grid(mean: ArrayLike, costs: ArrayLike, w: float, n: int = 41) -> FloatArray:
    """Prices of cost at which decisions differ, from free calls to none.

    Parameters
    ----------
    mean, costs : as in :func:`regret_curve`
    w : float
        The price in use; it is on the grid where queries change model near it.
    n : int, default 41

    Returns
    -------
    array, increasing, at least n prices
        From 0, or the price in use when that is negative, to where 1 % of the
        queries still leave the reference model.

    Examples
    --------
    >>> price_grid([0.1, 0.2, 0.3], [0.0, 1.0], 0.25, n=3).round(3).tolist()
    [0.0, 0.149, 0.25, 0.298]
    """
    gains, costs = gains_and_costs(np.asarray(mean), np.asarray(costs))
    extra = costs[:, 1:] - costs[:, :1]
    dearer = extra > 0
    switch = gains[:, 1:][dearer] / extra[dearer]
    if not len(switch):
        return np.array([w])
    low, high = np.quantile(switch, [_TAIL, 1 - _TAIL])
    used = float(np.clip(w, min(low, 0.0), max(high, 0.0)))
    ends = min(0.0, used), max(high, used, 0.0)
    return np.unique(np.append(np.linspace(*ends, n), used))
