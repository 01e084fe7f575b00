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
_PROBED_SHARE = 1 / 32  # of the cells, whose prompts are compared one by one
_MIN_PROBED = 8
_DENSE = 4  # with so few pairs a battle's prompt, sums over pairs are products of matrices
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
        sums = [
            np.bincount(self.pair, term, self.n_tiers**2)
            for term in self.terms(self.weight, slice(None))
        ]
        wins, _ = self.shaped(np.array(sums, dtype=np.float64)[:, None])
        return np.asarray(wins[0])

    def terms(self, weight: FloatArray, rows: slice) -> tuple[FloatArray, ...]:
        """What each battle adds to Σ w y, Σ w (1 − y), Σ w², Σ w² y and Σ w² y²."""
        y, squared = self.win[rows], weight * weight
        return weight * y, weight * (1.0 - y), squared, squared * y, squared * (y * y)

    def shaped(self, sums: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sums (5, n, t²) as wins of either side and second moments."""
        pairs = sums.reshape(5, sums.shape[1], self.n_tiers, self.n_tiers)
        return pairs[0] + np.swapaxes(pairs[1], -1, -2), pairs[2:]


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
        self._log_gamma, self._largest = log_gamma, largest
        self._leave_out_same = leave_out_same
        is_dense = len(battles.points) * len(self._pairs) <= _DENSE * len(battles)
        self._tables = self._sums_of_prompts() if is_dense else None

    def __call__(self, unit: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """See :class:`BattleSums`."""
        battles = self._battles
        sums = np.zeros((5, len(unit), battles.n_tiers**2))
        widest = len(battles.points) if self._tables else max(len(battles.points), len(battles))
        step = max(1, _CHUNK_CELLS // widest)
        for start in range(0, len(unit), step):
            at = slice(start, start + step)
            sums[:, at, self._pairs] = self._of_pairs(self._kernel(unit[at]))
        return battles.shaped(sums)

    def _kernel(self, unit: NDArray[np.float32]) -> FloatArray:
        """γ^(similarity / norm − 1) of each prompt for each query, shape (n, n_prompts)."""
        similarity = (unit @ self._battles.points.T).astype(np.float64)
        if self._leave_out_same:
            similarity[similarity > SAME_PROMPT] = -np.inf
        norm = self._largest
        if norm is None:
            norm = np.maximum(similarity.max(axis=1, keepdims=True), _SMALLEST_NORM)
        return np.asarray(np.exp(self._log_gamma * (similarity / norm - 1.0)))

    def _of_pairs(self, kernel: FloatArray) -> FloatArray:
        """The five sums of the pairs that occur, shape (5, n, n_pairs)."""
        if self._tables is not None:
            first, second = self._tables
            sums = np.hstack([kernel @ first, (kernel * kernel) @ second])
            return sums.reshape(len(kernel), 5, len(self._pairs)).swapaxes(0, 1)
        weight = kernel[:, self._battles.query] * self._battles.weight
        terms = self._battles.terms(weight, slice(None))
        return np.stack([np.add.reduceat(term, self._starts, axis=1) for term in terms])

    def _sums_of_prompts(self) -> tuple[FloatArray, FloatArray]:
        """The sums over the battles of each prompt, (n_prompts, 2 · and 3 · n_pairs)."""
        battles, n_pairs = self._battles, len(self._pairs)
        cell = battles.query * n_pairs + np.searchsorted(self._pairs, battles.pair)
        size = len(battles.points) * n_pairs
        sums = [
            np.bincount(cell, term, size).reshape(-1, n_pairs)
            for term in battles.terms(battles.weight, slice(None))
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
        self._battles = battles.take(np.argsort(battles.query, kind="stable"))
        self._every = np.arange(len(battles))
        self._log_gamma = log_gamma
        self._edges = np.concatenate([[0], np.cumsum(size)])
        self._row_edges = np.searchsorted(self._battles.query, self._edges)
        self._probed = min(len(size), max(_MIN_PROBED, math.ceil(_PROBED_SHARE * len(size))))
        self._centres, self._spread = _cell_moments(battles.points, size)
        self._cell_sums = self._sums_of_cells(len(size))

    def __call__(self, unit: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        """See :class:`BattleSums`."""
        similarity = (unit @ self._centres.T).astype(np.float64)
        variance = np.einsum("ij,ij->i", unit @ self._spread, unit)
        sums = np.empty((5, len(unit), self._battles.n_tiers**2))
        for i in range(len(unit)):
            sums[:, i] = self._one(unit[i], similarity[i], max(float(variance[i]), 0.0))
        return self._battles.shaped(sums)

    def _one(
        self, unit: NDArray[np.float32], similarity: FloatArray, variance: float
    ) -> FloatArray:
        """The five sums of one query, shape (5, t²)."""
        near = np.argpartition(-similarity, self._probed - 1)[: self._probed]
        starts, ends = self._edges[near], self._edges[near + 1]
        points = self._battles.points
        own = np.concatenate([points[a:b] @ unit for a, b in zip(starts, ends, strict=True)])
        norm = max(float(own.max(initial=-1.0)), _SMALLEST_NORM)
        rate = self._log_gamma / norm
        far = cut_normal_weight(rate, norm - similarity, variance)
        far_squared = cut_normal_weight(2.0 * rate, norm - similarity, variance)
        far[near] = far_squared[near] = 0.0
        first, second = self._cell_sums
        sums = np.concatenate([first @ far, second @ far_squared])
        kernel = np.exp(rate * (own.astype(np.float64) - norm))
        battles, kernel = self._near_battles(near, kernel)
        for total, term in enumerate(battles.terms(kernel * battles.weight, slice(None))):
            sums[total] += np.bincount(battles.pair, term, sums.shape[1])
        return sums

    def _near_battles(self, near: IntArray, kernel: FloatArray) -> tuple[TierBattles, FloatArray]:
        """Battles of some cells, and the kernel of each, given it for their prompts in turn."""
        first, last = self._row_edges[near], self._row_edges[near + 1]
        rows = np.concatenate([self._every[a:b] for a, b in zip(first, last, strict=True)])
        size = self._edges[near + 1] - self._edges[near]
        shift = np.cumsum(size) - size - self._edges[near]
        battles = self._battles.take(rows)
        return battles, kernel[battles.query + np.repeat(shift, last - first)]

    def _sums_of_cells(self, n_cells: int) -> tuple[FloatArray, FloatArray]:
        """Sums over the battles of each cell, all similarities alike: (2 and 3, t², n_cells)."""
        cell = np.searchsorted(self._edges, self._battles.query, side="right") - 1
        n_pairs = self._battles.n_tiers**2
        sums = [
            np.bincount(self._battles.pair * n_cells + cell, term, n_pairs * n_cells)
            for term in self._battles.terms(self._battles.weight, slice(None))
        ]
        shaped = np.array(sums, dtype=np.float64).reshape(5, n_pairs, n_cells)
        return shaped[:2], shaped[2:]


def cut_normal_weight(rate: float, gap: FloatArray, variance: float) -> FloatArray:
    """E[e^(rate (s − norm)) | s ≤ norm] for s normal with mean norm − gap.

    Without the cut a large rate would be ruled by similarities that no prompt
    has: the mean of e^(rate s) lies rate · variance beyond that of s.

    Parameters
    ----------
    rate : float, positive.
    gap : array, shape (n,); the norm above the mean similarity of each cell.
    variance : float, of similarities within a cell.

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
    sigma = math.sqrt(max(variance, _SMALLEST_VARIANCE))
    z, b = gap / sigma, rate * sigma
    t = b - z
    near, far = np.minimum(t, 1.0), np.maximum(t, 1.0)
    mills = 4.0 / (3.0 * far + np.sqrt(far * far + 8.0))
    # b² / 2 − b z = (t² − z²) / 2, at most ½ where t ≤ 1 and z ≥ 0
    inner = np.exp(np.minimum(0.5 * (near * near - z * z), 0.5)) * _normal_cdf(-near)
    outer = np.exp(-0.5 * z * z) * mills / math.sqrt(2.0 * math.pi)
    mean = np.where(t <= 1.0, inner, outer) / np.maximum(_normal_cdf(z), _SMALLEST_NORM)
    result: FloatArray = np.minimum(mean, 1.0)
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
    centres = np.zeros((len(size), points.shape[1]), dtype=np.float32)
    np.add.at(centres, cell, points)
    centres /= np.maximum(size, 1)[:, None].astype(np.float32)
    spread = np.zeros((points.shape[1], points.shape[1]), dtype=np.float32)
    for start in range(0, len(points), 8_192):
        at = slice(start, start + 8_192)
        left = points[at] - centres[cell[at]]
        spread += left.T @ left
    return centres, spread / np.float32(len(points))
