"""How much a row of a gain table counts: :func:`row_weights`."""

from __future__ import annotations

import numpy as np

from metarouter.errors import DataError
from metarouter.labels.noise import label_noise
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray

__all__ = ["row_weights", "shared_variance"]


def row_weights(table: GainTable) -> FloatArray:
    """Precision of each row, relative to that of one gold label.

    Parameters
    ----------
    table : GainTable
        `variance` is what a pseudo-gold gain has beyond a gold label's own
        noise; 0 for labels as they were given, negative for an estimate of ψ
        that is more precise than one label.

    Returns
    -------
    array, shape (n_rows,)
        ``σ² / (σ²/weight + variance)`` with σ² from :func:`label_noise`: repeats
        average out a label's noise, not the error of its correction. An
        estimate of ψ (negative variance) counts ``weight · σ² / (σ² +
        variance)``. A row of infinite variance gets 0, which leaves it out.

    Raises
    ------
    DataError
        When a weight is negative or NaN, or σ² + variance is not positive.

    Notes
    -----
    A gold label has variance σ² around ψ and a pseudo-gold label σ²/weight +
    variance, votes being taken to be as noisy as gold labels are; so this is
    inverse-variance weighting in units of a gold label. An estimate of ψ has
    variance σ² + variance, which its repeats do not make smaller: it counts
    `weight` times because its query does among the queries that ψ is fitted to,
    not by inverse variance.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b", "c"], gain=[0.0, 2.0, 1.0],
    ...     is_gold=[True, True, False], variance=[0.0, 0.0, 2.0])
    >>> row_weights(table).tolist()
    [1.0, 1.0, 0.5]
    """
    noise = label_noise(table)
    if not ((table.weight >= 0).all() and (noise + table.variance > 0).all()):
        raise DataError(
            f"weight is negative or NaN, or variance is below −{noise:.3g}, the variance of a "
            "gold label; allowed: weight in [0, inf), variance above that"
        )
    repeats = np.where(table.variance > 0, np.maximum(table.weight, 1e-300), 1.0)
    weights: FloatArray = table.weight * noise / (noise + repeats * table.variance)
    return weights


def shared_variance(table: GainTable) -> FloatArray:
    """Error variance that the corrected rows of each candidate have in common.

    The errors of pseudo-gold gains come from one fitted correction, so they do
    not average out over rows as label noise does. Taken as wholly shared,
    which is the cautious limit, they add the square of the corrected rows'
    part of the weight, times their mean variance, to the variance of every
    prediction of the candidate that the rows are about. A corrected row of
    negative variance is an estimate of ψ and has no noise of its own: its whole
    variance σ² + variance is shared.

    Parameters
    ----------
    table : GainTable

    Returns
    -------
    array, shape (n_models − 1,)
        0 where all labels of a candidate are as they were given.
    """
    usable = np.isfinite(table.variance) & (table.weight > 0)
    corrected = usable & ~table.is_gold & (table.variance != 0)
    found = np.zeros(len(table.models) - 1)
    if not corrected.any():
        return found
    weight, noise = row_weights(table), label_noise(table)
    variance = np.where(table.variance < 0, noise + table.variance, table.variance)
    for model in range(1, len(table.models)):
        about = (table.candidate == model) | (table.baseline == model)
        mine = corrected & about
        if mine.any():
            part = float(weight[mine].sum() / weight[about].sum())
            error = float(np.average(variance[mine], weights=table.weight[mine]))
            found[model - 1] = part**2 * error
    return found
