"""How much a row of a gain table counts: :func:`row_weights`."""

from __future__ import annotations

import numpy as np

from metarouter.errors import DataError
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray

__all__ = ["label_noise", "row_weights"]


def row_weights(table: GainTable) -> FloatArray:
    """Precision of each row, relative to that of one gold label.

    Parameters
    ----------
    table : GainTable
        `variance` is what a pseudo-gold gain has beyond a gold label's own
        noise; 0 for labels as they were given.

    Returns
    -------
    array, shape (n_rows,)
        ``weight · σ² / (σ² + variance)`` with σ² from :func:`label_noise`. A
        row of infinite variance gets 0, which leaves it out.

    Raises
    ------
    DataError
        When a weight or a variance is negative or NaN.

    Notes
    -----
    A gold label has variance σ² around ψ and a pseudo-gold label σ² +
    variance, so this is inverse-variance weighting in units of a gold label.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b", "c"], gain=[0.0, 2.0, 1.0],
    ...     is_gold=[True, True, False], variance=[0.0, 0.0, 2.0])
    >>> row_weights(table).tolist()
    [1.0, 1.0, 0.5]
    """
    if not ((table.weight >= 0).all() and (table.variance >= 0).all()):
        raise DataError("weight or variance holds negative or NaN values; allowed: [0, inf]")
    noise = label_noise(table)
    weights: FloatArray = table.weight * noise / (noise + table.variance)
    return weights


def label_noise(table: GainTable) -> float:
    """Estimate σ², the variance of a gold label given its query.

    The variance of gold gains around the mean of their contrast (candidate,
    baseline), pooled over contrasts. It contains the variance of ψ itself
    over queries, so it is an upper limit, above σ² by the factor 1/(1 − R²)
    where R² is the share of gold variance that features explain (a few
    percent on real labels). Too large a σ² lets pseudo-gold rows count a
    little more than they should.

    Rows other than gold are used where the gold rows cannot tell: fewer than
    two in every contrast, or all equal. Where no row can, it is the median of
    the positive variances, or 1.
    """
    usable = np.isfinite(table.variance) & (table.weight > 0)
    for chosen in (usable & table.is_gold, usable):
        noise = _pooled_variance(table, chosen)
        if noise > 0:
            return noise
    stated = table.variance[usable & (table.variance > 0)]
    return float(np.median(stated)) if len(stated) else 1.0


def _pooled_variance(table: GainTable, chosen: BoolArray) -> float:
    if not chosen.any():
        return 0.0
    contrast = table.candidate[chosen] * len(table.models) + table.baseline[chosen]
    _, group = np.unique(contrast, return_inverse=True)
    gain, weight = table.gain[chosen], table.weight[chosen]
    mean = np.bincount(group, weight * gain) / np.bincount(group, weight)
    residual = gain - mean[group]
    residual[np.abs(residual) < 1e-9 * np.abs(mean[group])] = 0.0  # rounding of a constant
    freedom = len(gain) - len(mean)
    return float((weight * residual**2).sum() / freedom) if freedom else 0.0
