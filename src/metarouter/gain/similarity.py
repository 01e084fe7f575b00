"""Cosine similarity of feature rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.types import FloatArray

__all__ = ["SAME_PROMPT", "largest_similarities", "unit_rows"]

SAME_PROMPT = 1.0 - 1e-6
"""A cosine above this is that of the same prompt, whatever its id."""

_BLOCK = 2_048


def unit_rows(features: NDArray[Any]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean length; a row of zeros stays one.

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).round(3).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    x = np.asarray(features, dtype=np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", x, x))
    length[length == 0] = 1.0
    unit: NDArray[np.float32] = x / length[:, None]
    return unit


def largest_similarities(unit: NDArray[np.float32]) -> FloatArray:
    """Largest cosine of each row to any other row, at least 1e-6, shape (n,).

    Examples
    --------
    >>> largest_similarities(unit_rows(np.array([[1, 0], [1, 1], [0, 1]]))).round(3).tolist()
    [0.707, 0.707, 0.707]
    """
    largest = np.full(len(unit), 1e-6)
    for start in range(0, len(unit), _BLOCK):
        similarity = unit[start : start + _BLOCK] @ unit.T
        own = np.arange(len(similarity))
        similarity[own, start + own] = -1.0
        part = largest[start : start + _BLOCK]
        np.maximum(part, similarity.max(axis=1), out=part)
    return largest
