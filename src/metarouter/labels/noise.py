"""The noise of a gold label: :func:`label_noise`."""

from __future__ import annotations

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import BoolArray

__all__ = ["label_noise"]


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
