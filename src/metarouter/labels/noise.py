"""The noise of a gold label, and how many labels tell it."""

from __future__ import annotations

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray

__all__ = ["MIN_LABELS", "is_enough", "label_noise"]

MIN_LABELS = 10
"""Fewer queries than this in a source cannot tell of its bias."""

_PLENTY = 100  # labels of which a gain that none of them shows is the gain of 3 % at most


def is_enough(n: int, gain: FloatArray) -> bool:
    """Whether `n` labels tell how far off their mean may be.

    Labels that are mostly alike show their spread less often than their number says: the
    variance of n draws is as uncertain as that of about 3n/κ normal ones, κ being the
    kurtosis. That has to be at least :data:`MIN_LABELS`, or n a hundred.

    Parameters
    ----------
    n : int
    gain : array, shape (m,)
        Gains, or residuals, that show the kurtosis: those of all labels of the source, of
        which the n may be some.

    Examples
    --------
    >>> gain = np.array([-1.0, 0.0, 0.0, 1.0])
    >>> is_enough(9, gain), is_enough(10, gain), is_enough(99, np.zeros(99))
    (False, True, False)
    """
    if not len(gain):
        return False
    fourth = float(((gain - gain.mean()) ** 4).mean())
    share = 3.0 * float(gain.var()) ** 2 / fourth if fourth > 0 else 0.0
    return n * min(share, 1.0) >= MIN_LABELS or n >= _PLENTY


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
