"""Nearest neighbours as a gain model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.gain.local import (
    GroupSums,
    RowIndex,
    best_penalty,
    gains_of_all,
    held_out_queries,
)
from metarouter.gain.similarity import SAME_PROMPT, unit_rows
from metarouter.gain.table_model import ScoredTableModel, prepare_table
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["NeighbourGain", "NeighbourScorer"]

SIZES = (5, 10, 20, 40, 80, 160, 320)
"""Numbers of neighbours that are tried."""

_CHUNK_CELLS = 4_000_000


@dataclass
class NeighbourGain(ScoredTableModel):
    """Mean gain of the k most similar queries, shrunk to the mean of all.

    Assumes that the gain changes little among similar prompts; needs no other
    form. In a pool the gains of all candidates are found together from the
    neighbours' contrasts, so a label on any two models counts.

    Parameters
    ----------
    k : int >= 1, optional
        Neighbours, in distinct queries. By default the number among 5, 10, …,
        320 that predicts left-out training queries best.
    seed : int, default 0
        Draws the left-out queries where there are more than 1,000.

    Attributes
    ----------
    k_ : int, the number used.
    penalty_ : float, how many gold labels the mean of all rows counts for.
    noise_variance_ : float, of a label of weight 1 around its neighbours' mean.

    Notes
    -----
    ψ̂(x) minimises ``Σ w (gain − ψ_a + ψ_b)² + penalty · ‖ψ − ψ̄‖²`` over the
    neighbours' rows, ψ̄ from all rows; both k and the penalty minimise the
    weighted squared error over training queries left out in turn. The
    standard deviation is that of the mean, ``√(σ² [A⁻¹]_mm)`` with A the matrix of
    that sum: bias from unlike neighbours is not in it.

    References
    ----------
    Li (2025), Rethinking predictive modeling for LLM routing: When simple kNN
    beats complex learned routers. https://arxiv.org/abs/2505.12601

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> x = np.repeat(np.eye(2), 30, axis=0) + 0.1 * np.random.default_rng(0).normal(size=(60, 2))
    >>> table = make_gain_table(queries=[str(i) for i in range(60)], features=x,
    ...     gain=np.repeat([1.0, -1.0], 30), is_gold=[True] * 60)
    >>> NeighbourGain(k=10).fit(table).predict(np.eye(2)).mean.round(1).tolist()
    [[0.9], [-0.9]]
    """

    k: int | None = None
    seed: int = 0
    k_: int = field(init=False, repr=False)
    penalty_: float = field(init=False, repr=False)
    noise_variance_: float = field(init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Choose k and the penalty, and keep the rows."""
        if self.k is not None and self.k < 1:
            raise OptionError.of("k", self.k, "1 or more")
        rows = prepare_table(table)
        points, index = unit_rows(rows.features), RowIndex.of(rows)
        centre = gains_of_all(index)
        held = held_out_queries(index, np.random.default_rng(self.seed))
        sizes = self._sizes(len(points))
        near = _nested_sums(index, points, held, sizes)
        size, self.penalty_, self.noise_variance_ = best_penalty(
            index, held, near, centre, rows.label_weight
        )
        self.k_ = sizes[size]
        state = ModelState(
            kind="knn",
            config={
                "k": self.k_,
                "penalty": self.penalty_,
                "noise_variance": self.noise_variance_,
                "scale": rows.scale,
                "shared_variance": rows.shared_variance.tolist(),
            },
            arrays={
                "points": points,
                "query": index.query.astype(np.int32),
                "candidate": index.candidate.astype(np.int32),
                "baseline": index.baseline.astype(np.int32),
                "gain": index.gain,
                "weight": index.weight,
                "centre": centre,
            },
        )
        return self._keep(state, NeighbourScorer(state))

    def _sizes(self, n_queries: int) -> list[int]:
        if self.k is not None:
            return [min(self.k, n_queries)]
        return [size for size in SIZES if size < n_queries] or [n_queries]


class NeighbourScorer:
    """Scores :class:`NeighbourGain` from its state, with NumPy alone."""

    def __init__(self, state: ModelState) -> None:
        arrays, config = state.arrays, state.config
        self._points = np.asarray(arrays["points"], dtype=np.float32)
        self._centre = np.asarray(arrays["centre"], dtype=np.float64)
        self._index = RowIndex(
            query=np.asarray(arrays["query"], dtype=np.int64),
            candidate=np.asarray(arrays["candidate"], dtype=np.int64),
            baseline=np.asarray(arrays["baseline"], dtype=np.int64),
            gain=np.asarray(arrays["gain"], dtype=np.float64),
            weight=np.asarray(arrays["weight"], dtype=np.float64),
            n_queries=len(self._points),
            n_models=len(self._centre) + 1,
        )
        self._k, self._penalty = int(config["k"]), float(config["penalty"])
        self._noise, self._scale = float(config["noise_variance"]), float(config["scale"])
        self._shared_variance = np.asarray(config["shared_variance"], dtype=np.float64)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains over the reference model, shape (n, n_models − 1)."""
        if features.ndim != 2 or features.shape[1] != self._points.shape[1]:
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {self._points.shape[1]}), "
                "as in training"
            )
        mean = np.empty((len(features), len(self._centre)))
        variance = np.empty_like(mean)
        step = max(1, _CHUNK_CELLS // max(len(self._points), len(self._centre) ** 2))
        for start in range(0, len(features), step):
            at = slice(start, start + step)
            similarity = unit_rows(features[at]) @ self._points.T
            sums = _sums_of(self._index, _nearest(similarity, self._k))
            mean[at], variance[at] = sums.solve(self._centre, self._penalty)
        std = np.sqrt(self._noise * variance + self._shared_variance)
        return GainEstimate(mean=mean, std=std)

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """(1 + ψ̂ / s) / 2, cut to [0, 1], shape (n, n_models − 1)."""
        return np.clip(0.5 + 0.5 * self.predict(features).mean / self._scale, 0.0, 1.0)


def _nearest(similarity: NDArray[np.float32], k: int) -> IntArray:
    """Columns of the k largest entries of each row, in no order."""
    n = similarity.shape[1]
    if k >= n:
        return np.tile(np.arange(n), (len(similarity), 1))
    chosen: IntArray = np.argpartition(similarity, n - k, axis=1)[:, n - k :]
    return chosen


def _sums_of(index: RowIndex, neighbours: IntArray) -> GroupSums:
    group = np.repeat(np.arange(len(neighbours)), neighbours.shape[1])
    return index.sums(group, neighbours.ravel(), len(neighbours))


def _nested_sums(
    index: RowIndex, points: NDArray[np.float32], held: IntArray, sizes: list[int]
) -> list[GroupSums]:
    """Sums over the nearest other queries of each left-out one, for each size."""
    most = sizes[-1]
    near = np.empty((len(held), most), dtype=np.int64)
    step = max(1, _CHUNK_CELLS // len(points))
    for start in range(0, len(held), step):
        similarity = points[held[start : start + step]] @ points.T
        similarity[similarity > SAME_PROMPT] = -2.0  # so is the query itself
        chosen = _nearest(similarity, most)
        by_rank = np.argsort(-np.take_along_axis(similarity, chosen, axis=1), axis=1)
        near[start : start + step] = np.take_along_axis(chosen, by_rank, axis=1)
    sums, before = [_sums_of(index, near[:, : sizes[0]])], sizes[0]
    for size in sizes[1:]:
        sums.append(sums[-1] + _sums_of(index, near[:, before:size]))
        before = size
    return sums
