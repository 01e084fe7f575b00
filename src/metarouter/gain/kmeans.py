"""K-means with NumPy alone: :func:`k_means`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarouter.types import FloatArray, IntArray

__all__ = ["assign", "k_means"]

_MAX_ROWS = 20_000  # rows that centres are learned on
_MAX_ROUNDS = 20
_BLOCK_CELLS = 4_000_000


def k_means(points: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Centres that are close to all points, shape (k, d).

    Starts far apart at random (k-means++) and moves each centre to the mean
    of its points until few points change sides. Learned on at most 20,000
    points, drawn at random.

    Parameters
    ----------
    points : float32 array, shape (n, d)
    k : int, at most n.
    rng : numpy.random.Generator

    References
    ----------
    Arthur & Vassilvitskii (2007), k-means++: The advantages of careful seeding.

    Examples
    --------
    >>> points = np.array([[0.0], [0.2], [9.0], [9.2]], dtype=np.float32)
    >>> sorted(k_means(points, 2, np.random.default_rng(0)).round(1).ravel().tolist())
    [0.10000000149011612, 9.100000381469727]
    """
    part = points[np.sort(rng.permutation(len(points))[:_MAX_ROWS])]
    centres = _spread_out(part, k, rng)
    label = assign(part, centres)
    for _ in range(_MAX_ROUNDS):
        size = np.bincount(label, minlength=k)
        filled = size > 0  # an empty cluster keeps its centre
        centres[filled] = (_sums(part, label, k)[filled].T / size[filled]).T
        moved = assign(part, centres)
        if (moved != label).mean() < 1e-3:
            break
        label = moved
    return centres


def assign(points: NDArray[np.float32], centres: NDArray[np.float32]) -> IntArray:
    """Index of the nearest centre of each point, shape (n,)."""
    label = np.empty(len(points), dtype=np.int64)
    half = 0.5 * np.einsum("ij,ij->i", centres, centres)
    step = max(1, _BLOCK_CELLS // len(centres))
    for start in range(0, len(points), step):
        at = slice(start, start + step)
        label[at] = (points[at] @ centres.T - half).argmax(axis=1)
    return label


def _sums(points: NDArray[np.float32], label: IntArray, k: int) -> NDArray[np.float32]:
    """Sum of the points of each cluster, by products with blocks of an indicator matrix."""
    sums = np.zeros((k, points.shape[1]), dtype=np.float32)
    step = max(1, _BLOCK_CELLS // k)
    for start in range(0, len(points), step):
        part = label[start : start + step]
        member = np.zeros((len(part), k), dtype=np.float32)
        member[np.arange(len(part)), part] = 1.0
        sums += member.T @ points[start : start + step]
    return sums


def _spread_out(
    points: NDArray[np.float32], k: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Points drawn one by one with probability in proportion to squared distance."""
    chosen = [int(rng.integers(len(points)))]
    square = np.einsum("ij,ij->i", points, points)
    distance = _squared_distance(points, square, chosen[0])
    for _ in range(1, k):
        total = float(distance.sum())
        share = None if total <= 0 else distance / total  # all points are centres already
        chosen.append(int(rng.choice(len(points), p=share)))
        distance = np.minimum(distance, _squared_distance(points, square, chosen[-1]))
    return points[chosen].copy()


def _squared_distance(
    points: NDArray[np.float32], square: NDArray[np.float32], to: int
) -> FloatArray:
    distance: NDArray[np.float32] = square + square[to] - 2.0 * (points @ points[to])
    return np.maximum(np.asarray(distance, dtype=np.float64), 0.0)
