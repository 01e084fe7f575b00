"""Rows of a gain table as arrays, for a pair and for a pool alike."""

from __future__ import annotations

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import FloatArray

__all__ = ["contrast_inputs", "level_rows", "row_inputs"]

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


def row_inputs(table: GainTable) -> FloatArray:
    """Features of each row, and for a pool the models it compares.

    Shape (n_rows, d) for a pair, (n_rows, d + n_models − 1) for a pool.
    """
    features = table.row_features().astype(np.float64)
    if table.is_pair:
        return features
    size = np.sqrt(max(float((features**2).sum(axis=1).mean()), 1e-12))
    return np.hstack([features, size * level_rows(table)])


def contrast_inputs(table: GainTable) -> FloatArray:
    """Inputs in which a function that is linear for each model is linear for each row.

    With g_m(x) = a_m + x'b_m for each candidate m and g = 0 for the reference, a
    row about models a and b has g_a(x) − g_b(x), which is linear in the outer
    product of its +1 and −1 (:func:`level_rows`) and (1, x). Of a pool with many
    models only the leading features enter, so that rows stay below some 1,500
    numbers. For a pair these are the features, to which learners add a level.

    Shape (n_rows, d) for a pair, (n_rows, (n_models − 1) · (1 + k)), k ≤ d, for a
    pool.
    """
    features = table.row_features().astype(np.float64)
    if table.is_pair:
        return features
    levels = level_rows(table)
    kept = features[:, : max(_POOL_DIM // levels.shape[1] - 1, 2)]
    size = np.sqrt(max(float((kept**2).sum(axis=1).mean()), 1e-12))
    own = np.hstack([np.full((len(table), 1), size), kept])
    rows: FloatArray = (levels[:, :, None] * own[:, None, :]).reshape(len(table), -1)
    return rows
