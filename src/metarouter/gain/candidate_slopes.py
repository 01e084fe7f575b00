"""Predictions of every candidate set right by held-out labels: :func:`candidate_slopes`."""

from __future__ import annotations

import numpy as np

from metarouter.gain.slope import Slope, held_out_slope
from metarouter.gain.table_model import TableRows
from metarouter.types import BoolArray, FloatArray

__all__ = ["candidate_slopes"]

_FEWEST = 20  # queries below which a slope says nothing


def candidate_slopes(
    departure: FloatArray, level: FloatArray, rows: TableRows, held_out: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Slope of the held-out labels of each candidate on what was predicted for it.

    Only battles with the reference count: where wins saturate, a battle of two
    candidates says little of either's battle with the reference.

    Parameters
    ----------
    departure : array, shape (n_rows, n_models − 1)
        Predicted gains over the reference for each row's query, less `level`.
    level : array, shape (n_models − 1,)
    rows : TableRows
    held_out : bool array, shape (n_rows,); rows that the prediction did not see.

    Returns
    -------
    slope, std_error : arrays, shape (n_models − 1,)
        1 and 0 for a candidate with fewer than 20 such queries. See
        :func:`metarouter.gain.slope.held_out_slope`.
    """
    found = [
        _slope_of(
            departure[:, m],
            rows.gain - level[m],
            rows,
            held_out & (rows.baseline == 0) & (rows.candidate == m + 1),
        )
        for m in range(rows.n_models - 1)
    ]
    return (
        np.array([slope.value for slope in found]),
        np.array([slope.std_error for slope in found]),
    )


def _slope_of(
    predicted: FloatArray, target: FloatArray, rows: TableRows, chosen: BoolArray
) -> Slope:
    if len(np.unique(rows.query[chosen])) < _FEWEST:
        return Slope()
    return held_out_slope(
        predicted[chosen], target[chosen], rows.weight[chosen], rows.query[chosen]
    )
