"""Rows of a gain table as arrays, for a pair and for a pool alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray

__all__ = [
    "ROUNDING",
    "contrast_inputs",
    "is_open",
    "level_rows",
    "level_size",
    "open_levels",
    "row_inputs",
]

ROUNDING = 1e-9
"""Of a contrast's squared length, 1 or 2, and of the largest eigenvalue."""

_POOL_DIM = 1_500  # bounds the inputs of a pool


def level_rows(table: GainTable) -> FloatArray:
    """+1 for the candidate and −1 for the baseline, shape (n_rows, n_models − 1).

    The reference model has no column; for a pair it is a column of ones.
    """
    rows = np.zeros((len(table), len(table.models)))
    at = np.arange(len(table))
    rows[at, table.candidate] += 1.0
    rows[at, table.baseline] -= 1.0
    return rows[:, 1:]


def open_levels(table: GainTable) -> FloatArray:
    """Projector onto the levels that one source or the other does not tell.

    Shape (n_models − 1, n_models − 1), or a sum of two such; for :func:`is_open`.
    """
    found = np.zeros((len(table.models) - 1,) * 2)
    for source in (table.gold(), table.preference()):
        rows = level_rows(source)
        gram = rows.T @ rows
        inverse = np.linalg.pinv(gram, rcond=ROUNDING, hermitian=True)
        found += np.eye(len(gram)) - inverse @ gram
    return found


def is_open(levels: FloatArray, table: GainTable) -> BoolArray:
    """Which rows compare models that a source does not link, by its :func:`open_levels`."""
    rows = level_rows(table)
    return np.asarray(np.einsum("ij,jk,ik->i", rows, levels, rows) > ROUNDING)


def level_size(table: GainTable) -> float:
    """Root mean square length of a row's features: how large a model's own column is.

    It is learned from the table that a corrector is fitted to and kept, because
    rows of another table must be written as those were. 1 for a pair, which has
    no such column.
    """
    if table.is_pair:
        return 1.0
    kept = _leading(table)
    total = float(np.einsum("ij,ij->", kept, kept, dtype=np.float64))
    return float(np.sqrt(max(total / len(kept), 1e-12)))


def row_inputs(table: GainTable, size: float) -> NDArray[Any]:
    """Features of each row, and for a pool the models it compares.

    `size` is :func:`level_size` of the fitted table. Shape (n_rows, d) for a
    pair, (n_rows, d + n_models − 1) for a pool.
    """
    features = table.row_features().astype(np.float64)
    if table.is_pair:
        return features
    return np.hstack([features, size * level_rows(table)])


def contrast_inputs(table: GainTable, size: float) -> NDArray[Any]:
    """Inputs in which a function that is linear for each model is linear for each row.

    With g_m(x) = a_m + x'b_m for each candidate m and g = 0 for the reference, a
    row about models a and b has g_a(x) − g_b(x), which is linear in the outer
    product of its +1 and −1 (:func:`level_rows`) and (1, x), where `size`,
    :func:`level_size` of the fitted table, stands for 1. Of a pool with many
    models only the leading features enter, in single precision, so that rows
    stay below some 1,500 numbers of 4 bytes. For a pair these are the features,
    to which learners add a level.

    Shape (n_rows, d) for a pair, (n_rows, (n_models − 1) · (1 + k)), k ≤ d, for a
    pool.
    """
    if table.is_pair:
        return table.row_features().astype(np.float64)
    levels = level_rows(table).astype(np.float32)
    kept = _leading(table)
    own = np.hstack([np.full((len(table), 1), size, dtype=np.float32), kept])
    return (levels[:, :, None] * own[:, None, :]).reshape(len(table), -1)


def _leading(table: GainTable) -> NDArray[np.float32]:
    """The features of each row that a pool of this size has room for."""
    return table.row_features()[:, : max(_POOL_DIM // (len(table.models) - 1) - 1, 2)]
