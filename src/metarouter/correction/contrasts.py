"""Rows of a gain table as arrays, for a pair and for a pool alike."""

from __future__ import annotations

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import FloatArray

__all__ = ["level_rows", "row_inputs"]


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
