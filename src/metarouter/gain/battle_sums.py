"""Weighted sums over battles near a query: by a scan of all, or by cells.

Both give the same two things for each query: the weighted wins between tiers,
and the second moments of the weights that the variance needs.

A scan compares the query with every prompt. *Cells* are groups of similar
prompts (k-means). Prompts of the cells nearest to the query are compared one by
one; a far cell acts as a whole, through the mean and the spread of its
similarities: its mean weight is that of normal similarities cut off at the
largest one of the near cells (:func:`cut_normal_weight`). No battle is dropped,
so far cells keep their say in the overall ranking.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.kmeans import assign, k_means
from metarouter.gain.similarity import SAME_PROMPT
from metarouter.types import FloatArray, IntArray

__all__ = ["BattleCells", "BattleScan", "BattleSums", "TierBattles"]

# 2 million float64 are 16 MB: products of a batch stay near the cache of one core.
_CHUNK_CELLS = 2_000_000
_CHUNK_QUERIES = 256
_PROBED_SHARE = 1 / 64  # of the cells, whose prompts are compared one by one
_MIN_PROBED = 8
_DENSE = 4  # with so few pairs a battle's prompt, sums over pairs are products of matrices
_POWERS = np.array([1.0, 2.0], dtype=np.float32)[:, None, None]  # weights, and their squares
_SMALLEST_NORM = 1e-6
_SMALLEST_VARIANCE = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class TierBattles:
    """Battles between tiers, and the prompts they were fought on.

    Parameters
    ----------
    points : float32 array, shape (n_prompts, d), of unit length.
    query : int array, shape (n,); index into `points`.
    pair : int array, shape (n,); candidate tier · n_tiers + baseline tier.
    win, weight : float arrays, shape (n,)
    n_tiers : int
    """

    points: NDArray[np.float32]
    query: IntArray
    pair: IntArray
    win: FloatArray
    weight: FloatArray
    n_tiers: int

    def __len__(self) -> int:
        return len(self.query)

    def take(self, rows: IntArray) -> TierBattles:
        """Some battles, by index; the prompts stay."""
        columns = {name: getattr(self, name)[rows] for name in ("query", "pair", "win", "weight")}
        return replace(self, **columns)

    def in_cells(self, n_cells: int, rng: np.random.Generator) -> tuple[TierBattles, IntArray]:
        """The same with prompts in order of k-means cells, and the size of each cell."""
        cell = assign(self.points, k_means(self.points, n_cells, rng))
        order = np.argsort(cell, kind="stable")
        place = np.argsort(order)  # where each prompt stands now
        sorted_battles = replace(self, points=self.points[order], query=place[self.query])
        return sorted_battles, np.bincount(cell, minlength=n_cells)

    def total_wins(self) -> FloatArray:
        """Weighted wins between tiers over all prompts, shape (t, t)."""
        pairs, place = np.unique(self.pair, return_inverse=True)
        sums = [np.bincount(place, term, len(pairs)) for term in _terms(self.win, self.weight)]
        wins, _ = _squares(np.array(sums, dtype=np.float64)[:, None], pairs, self.n_tiers)
        return np.asarray(wins[0])


def _terms(y: FloatArray, weight: FloatArray) -> tuple[FloatArray, ...]:
    """What each battle adds to Σ w y, Σ w (1 − y), Σ w², Σ w² y and Σ w² y²."""
    squared = weight * weight
    won, squared_won = weight * y, squared * y
    return won, weight - won, squared, squared_won, squared_won * y


def _squares(sums: FloatArray, pairs: IntArray, n_tiers: int) -> tuple[FloatArray, FloatArray]:
    """Sums of some pairs, (5, n, n_pairs), as wins of either side and second moments."""
    square = np.zeros((5, sums.shape[1], n_tiers, n_tiers))
    square.reshape(*sums.shape[:2], n_tiers**2)[..., pairs] = sums
    return square[0] + square[1].swapaxes(-1, -2), square[2:]


class BattleSums(Protocol):
    """Sums over battles, for queries of unit length."""

    def __call__(self, unit: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """Wins (n, t, t), and Σ w², Σ w² y, Σ w² y² of ordered pairs of tiers (3, n, t, t)."""
        ...


class BattleScan:
    """Compares a query with every prompt.

    Parameters
    ----------
    battles : TierBattles
    log_gamma : float
    largest : array, shape (n_prompts,), optional
        What similarities are divided by; the query's own largest by default.
    leave_out_same : bool, default False
        Take battles of the very same prompt as absent.
    """

    def __init__(
        self,
        battles: TierBattles,
        log_gamma: float,
        largest: FloatArray | None = None,
        *,
        leave_out_same: bool = False,
    ) -> None:
        # In order of pairs, so that the sum over a pair is over neighbours in memory.
        self._battles = battles.take(np.argsort(battles.pair, kind="stable"))
        self._pairs, self._starts = np.unique(self._battles.pair, return_index=True)
        self._log_gamma = log_gamma
        self._rate = None if largest is None else (log_gamma / largest).astype(np.float32)
        self._leave_out_same = leave_out_same
        is_dense = len(battles.points) * len(self._pairs) <= _DENSE * len(battles)
        self._tables = self._sums_of_prompts() if is_dense else None

    def __call__(self, unit: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """See :class:`BattleSums`."""
        battles = self._battles
        sums = np.empty((5, len(unit), len(self._pairs)))
        widest = len(battles.points) if self._tables else max(len(battles.points), len(battles))
        step = max(1, _CHUNK_CELLS // widest)
        for start in range(0, len(unit), step):
            at = slice(start, start + step)
            sums[:, at] = self._of_pairs(self._kernel(unit[at]))
        return _squares(sums, self._pairs, battles.n_tiers)

    def _kernel(self, unit: NDArray[np.float32]) -> FloatArray:
        """γ^(similarity / norm − 1) of each prompt for each query, shape (n, n_prompts)."""
        similarity = unit @ self._battles.points.T
        if self._leave_out_same:
            similarity[similarity > SAME_PROMPT] = -np.inf
        rate = self._rate
        if rate is None:
            norm = np.maximum(similarity.max(axis=1, keepdims=True), _SMALLEST_NORM)
            rate = np.float32(self._log_gamma) / norm
        similarity *= rate  # in place: one query's similarities fill the cache
        similarity -= np.float32(self._log_gamma)
        return np.asarray(np.exp(similarity, dtype=np.float64))

    def _of_pairs(self, kernel: FloatArray) -> FloatArray:
        """The five sums of the pairs that occur, shape (5, n, n_pairs)."""
        if self._tables is not None:
            first, second = self._tables
            sums = np.hstack([kernel @ first, (kernel * kernel) @ second])
            return sums.reshape(len(kernel), 5, len(self._pairs)).swapaxes(0, 1)
        weight = np.take(kernel, self._battles.query, axis=1) * self._battles.weight
        terms = _terms(self._battles.win, weight)
        return np.stack([np.add.reduceat(term, self._starts, axis=1) for term in terms])

    def _sums_of_prompts(self) -> tuple[FloatArray, FloatArray]:
        """The sums over the battles of each prompt, (n_prompts, 2 · and 3 · n_pairs)."""
        battles, n_pairs = self._battles, len(self._pairs)
        cell = battles.query * n_pairs + np.searchsorted(self._pairs, battles.pair)
        size = len(battles.points) * n_pairs
        sums = [
            np.bincount(cell, term, size).reshape(-1, n_pairs)
            for term in _terms(battles.win, battles.weight)
        ]
        return np.hstack(sums[:2]), np.hstack(sums[2:])


class BattleCells:
    """Compares a query with the prompts of near cells, and with far cells as wholes.

    Parameters
    ----------
    battles : TierBattles, from :meth:`TierBattles.in_cells`.
    size : int array, shape (n_cells,); prompts in each cell.
    log_gamma : float
    """

    def __init__(self, battles: TierBattles, size: IntArray, log_gamma: float) -> None:
        size = size[size > 0]
        battles = battles.take(np.argsort(battles.query, kind="stable"))
        self._points, self._n_tiers, self._log_gamma = battles.points, battles.n_tiers, log_gamma
        self._pairs, place = np.unique(battles.pair, return_inverse=True)
        self._columns = place, battles.win, battles.weight
        self._repeats = np.bincount(battles.query, minlength=len(battles.points))
        edges = np.concatenate([[0], np.cumsum(size)])
        row_edges = np.searchsorted(battles.query, edges)
        self._prompts, self._rows = _runs(edges), _runs(row_edges)
        self._probed = min(len(size), max(_MIN_PROBED, math.ceil(_PROBED_SHARE * len(size))))
        self._centres, self._spread = _cell_moments(battles.points, size)
        self._tables = self._sums_of_cells(np.diff(row_edges))

    def __call__(self, unit: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """See :class:`BattleSums`."""
        sums = np.empty((5, len(unit), len(self._pairs)))
        for start in range(0, len(unit), _CHUNK_QUERIES):
            at = slice(start, start + _CHUNK_QUERIES)
            sums[:, at] = self._of_pairs(unit[at]).swapaxes(0, 1)
        return _squares(sums, self._pairs, self._n_tiers)

    def _of_pairs(self, unit: NDArray[np.float32]) -> FloatArray:
        """The five sums of the pairs that occur, shape (n, 5, n_pairs)."""
        mean = unit @ self._centres.T
        near = mean.argpartition(-self._probed, axis=1)[:, -self._probed :]
        cells = near.tolist()
        own = [self._similarities(unit[i], cells[i]) for i in range(len(unit))]
        norm = np.maximum([[part.max()] for part in own], np.float32(_SMALLEST_NORM))
        mean[np.arange(len(unit))[:, None], near] = -np.inf  # summed one by one
        variance = np.einsum("ij,ij->i", unit @ self._spread, unit)[:, None]
        far = cut_normal_weight(_POWERS * (self._log_gamma / norm), norm - mean, variance)
        first, second = self._tables
        sums = np.empty((len(unit), 5, len(self._pairs)))
        sums[:, :2] = (far[0] @ first).reshape(len(unit), 2, -1)
        sums[:, 2:] = (far[1] @ second).reshape(len(unit), 3, -1)
        for i, part in enumerate(own):
            kernel = np.exp(self._log_gamma * (part / norm[i] - 1.0))
            sums[i] += self._near_sums(cells[i], kernel)
        return sums

    def _similarities(self, query: NDArray[np.float32], cells: list[int]) -> NDArray[np.float32]:
        """Similarities to the prompts of some cells, end to end."""
        return np.concatenate([self._points[self._prompts[cell]] @ query for cell in cells])

    def _near_sums(self, cells: list[int], kernel: NDArray[np.float32]) -> FloatArray:
        """The five sums over the battles of some cells, shape (5, n_pairs)."""
        repeats = np.concatenate([self._repeats[self._prompts[cell]] for cell in cells])
        place, win, weight = (
            np.concatenate([column[self._rows[cell]] for cell in cells]) for column in self._columns
        )
        terms = _terms(win, np.repeat(kernel, repeats) * weight)
        return np.array([np.bincount(place, term, len(self._pairs)) for term in terms])

    def _sums_of_cells(self, n_rows: IntArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sums over each cell, all similarities alike: (n_cells, 2 · and 3 · n_pairs)."""
        place, win, weight = self._columns
        n_cells, n_pairs = len(n_rows), len(self._pairs)
        at = np.repeat(np.arange(n_cells), n_rows) * n_pairs + place
        sums = [np.bincount(at, term, n_cells * n_pairs) for term in _terms(win, weight)]
        # half the memory of float64 to read for each query; what cells lose is far larger
        by_cell = np.array(sums, dtype=np.float32).reshape(5, n_cells, n_pairs)
        return np.hstack(list(by_cell[:2])), np.hstack(list(by_cell[2:]))


def _runs(edges: IntArray) -> list[slice]:
    return list(map(slice, edges[:-1].tolist(), edges[1:].tolist()))


def cut_normal_weight(
    rate: float | FloatArray, gap: FloatArray, variance: float | FloatArray
) -> FloatArray:
    """E[e^(rate (s − norm)) | s ≤ norm] for s normal with mean norm − gap.

    Without the cut a large rate would be ruled by similarities that no prompt
    has: the mean of e^(rate s) lies rate · variance beyond that of s.

    Parameters
    ----------
    rate : float or array, positive.
    gap : array; the norm above the mean similarity of each cell.
    variance : float or array, of similarities within a cell.

    Returns
    -------
    array, of the shape that the parameters have together; 0 to 1.

    Notes
    -----
    With z = gap / σ, b = rate σ and t = b − z the mean is ``φ(z) M(t) / Φ(z)``, M
    the Mills ratio; for t > 1 it is taken as ``4 / (3 t + √(t² + 8))``, which is
    above it by at most 2 %.

    References
    ----------
    Sampford (1953), Some inequalities on Mill's ratio and related functions,
    https://doi.org/10.1214/aoms/1177729093.

    Examples
    --------
    >>> cut_normal_weight(2.0, np.array([0.0, 0.5]), 1e-12).round(3).tolist()
    [1.0, 0.368]
    """
    sigma: FloatArray = np.sqrt(np.maximum(variance, _SMALLEST_VARIANCE))
    z, b = gap / sigma, rate * sigma
    t = b - z
    # at most ½ where t ≤ 1 and z ≥ 0
    mean = np.exp(np.minimum(b * (0.5 * b - z), 0.5)) * _normal_cdf(-t)
    if t.max(initial=0.0) > 1.0:
        far = np.maximum(t, 1.0)
        mills = 4.0 / (3.0 * far + np.sqrt(far * far + 8.0))
        density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        mean = np.where(t <= 1.0, mean, density * mills)
    result: FloatArray = np.minimum(mean / np.maximum(_normal_cdf(z), _SMALLEST_NORM), 1.0)
    return result


def _normal_cdf(x: FloatArray) -> FloatArray:
    """Φ, to 2·10⁻⁴ (Page 1977)."""
    value: FloatArray = 0.5 + 0.5 * np.tanh(x * (0.7988 + 0.03528 * x * x))
    return value


def _cell_moments(
    points: NDArray[np.float32], size: IntArray
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of each cell (n_cells, d), and the covariance within cells, pooled (d, d)."""
    cell = np.repeat(np.arange(len(size)), size)
    totals = np.add.reduceat(points, np.cumsum(size) - size, axis=0)
    centres = (totals / size[:, None]).astype(np.float32)
    spread = np.zeros((points.shape[1], points.shape[1]), dtype=np.float32)
    for start in range(0, len(points), 8_192):
        at = slice(start, start + 8_192)
        left = points[at] - centres[cell[at]]
        spread += left.T @ left
    return centres, spread / np.float32(len(points))
