"""Gains of a group of rows by least squares, shrunk to the gains of all rows.

Neighbours of a query and clusters of queries both reduce a group of rows to
two sums: how much each pair of models was compared, and each model's weighted
gain over its rivals. Gains follow from these, and a group's are the gains of
all rows where the group says little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metarouter.gain.bradley_terry import laplacian
from metarouter.gain.table_model import TableRows
from metarouter.types import FloatArray, IntArray

__all__ = ["GroupSums", "RowIndex", "best_penalty", "gains_of_all", "held_out_queries"]

PENALTIES = (1.0, 4.0, 16.0, 64.0)
"""Weights of the gains of all rows within a group's, in gold labels, that are tried."""

_MAX_HELD_OUT = 1_000
_HELD_OUT_CELLS = 4_000_000  # 32 MB of float64


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSums:
    """What groups of rows say of the models, g groups of m models.

    Parameters
    ----------
    games : array, shape (g, m, m), symmetric
        Summed weight of the rows that compare two models.
    moment : array, shape (g, m)
        Σ w · gain over rows where the model is the candidate, minus that over
        rows where it is the baseline.
    """

    games: FloatArray
    moment: FloatArray

    def __add__(self, other: GroupSums) -> GroupSums:
        return GroupSums(games=self.games + other.games, moment=self.moment + other.moment)

    def __sub__(self, other: GroupSums) -> GroupSums:
        return GroupSums(games=self.games - other.games, moment=self.moment - other.moment)

    def take(self, groups: IntArray) -> GroupSums:
        """Some groups, by index."""
        return GroupSums(games=self.games[groups], moment=self.moment[groups])

    def solve(self, centre: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
        """Gains of each group over the reference, and their variance over σ².

        Parameters
        ----------
        centre : array, shape (m − 1,); what gains are shrunk to.
        penalty : float > 0; how many labels `centre` counts for.

        Returns
        -------
        mean, variance : arrays, shape (g, m − 1)

        Notes
        -----
        Minimises ``Σ w (gain − ψ_a + ψ_b)² + penalty · ‖ψ − centre‖²`` with
        ψ = 0 for the reference: the posterior mean under a normal prior of
        variance σ² / penalty, whose variance over σ² is returned.
        """
        precision = laplacian(self.games)[:, 1:, 1:]
        right = self.moment[:, 1:] + penalty * centre
        if precision.shape[1] == 1:  # a pair, for which a mean is enough
            variance = 1.0 / (precision[:, 0] + penalty)
            return right * variance, variance
        inverse = np.linalg.inv(precision + penalty * np.eye(len(centre)))
        return np.einsum("gij,gj->gi", inverse, right), np.einsum("gii->gi", inverse).copy()


class RowIndex:
    """Rows of a table in the order of their queries, and sums over queries.

    Parameters
    ----------
    query : int array, shape (n_rows,); index into `n_queries` queries.
    candidate, baseline, gain, weight : arrays, shape (n_rows,)
    n_queries, n_models : int
    """

    def __init__(
        self,
        *,
        query: IntArray,
        candidate: IntArray,
        baseline: IntArray,
        gain: FloatArray,
        weight: FloatArray,
        n_queries: int,
        n_models: int,
    ) -> None:
        order = np.argsort(query, kind="stable")
        self.query, self.candidate, self.baseline = query[order], candidate[order], baseline[order]
        self.gain, self.weight = gain[order], weight[order]
        self.count = np.bincount(query, minlength=n_queries)
        self.start = np.cumsum(self.count) - self.count
        self.n_models = n_models

    @classmethod
    def of(cls, rows: TableRows) -> RowIndex:
        """The index of a table's usable rows."""
        return cls(
            query=rows.query,
            candidate=rows.candidate,
            baseline=rows.baseline,
            gain=rows.gain,
            weight=rows.weight,
            n_queries=len(rows.features),
            n_models=rows.n_models,
        )

    def rows_of(self, queries: IntArray) -> tuple[IntArray, IntArray]:
        """Rows of some queries, and the position in `queries` of each row's query."""
        count = self.count[queries]
        owner = np.repeat(np.arange(len(queries)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return self.start[queries][owner] + within, owner

    def sums(self, group: IntArray, queries: IntArray, n_groups: int) -> GroupSums:
        """Sums over groups of queries; `group` and `queries` have the same length."""
        row, owner = self.rows_of(queries)
        at, m = group[owner], self.n_models
        a, b, w = self.candidate[row], self.baseline[row], self.weight[row]
        weighted = w * self.gain[row]
        games = _total((at * m + a) * m + b, w, (n_groups, m, m))
        gained = _total(at * m + a, weighted, (n_groups, m))
        lost = _total(at * m + b, weighted, (n_groups, m))
        return GroupSums(games=games + np.swapaxes(games, 1, 2), moment=gained - lost)


def _total(cell: IntArray, weight: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    total = np.bincount(cell, weight, math.prod(shape))
    return np.asarray(total, dtype=np.float64).reshape(shape)


def gains_of_all(index: RowIndex) -> FloatArray:
    """Gains over the reference from all rows together, shape (m − 1,)."""
    queries = np.arange(len(index.count))
    sums = index.sums(np.zeros(len(queries), dtype=np.int64), queries, 1)
    # Only rounding is left to this penalty: every model is linked to the reference.
    mean, _ = sums.solve(np.zeros(index.n_models - 1), 1e-9 * float(sums.games.max()))
    return np.asarray(mean[0])


def held_out_queries(index: RowIndex, rng: np.random.Generator) -> IntArray:
    """Queries on which choices are made by leaving each out in turn, at most 1,000."""
    most = min(_MAX_HELD_OUT, max(50, _HELD_OUT_CELLS // index.n_models**2))
    return np.sort(rng.permutation(len(index.count))[:most])


def best_penalty(
    index: RowIndex,
    held: IntArray,
    sums: Sequence[GroupSums],
    centre: FloatArray,
    label_weight: float = 1.0,
) -> tuple[int, float, float]:
    """Which of several groupings, and which penalty, predicts left-out queries best.

    Parameters
    ----------
    index : RowIndex
    held : int array, shape (g,); the queries left out, one at a time.
    sums : sequence of GroupSums of g groups
        For each grouping, the rows near each left-out query without its own.
    centre : array, shape (m − 1,)
    label_weight : float, default 1
        See :class:`~metarouter.gain.table_model.TableRows`.

    Returns
    -------
    grouping, penalty : the best of `sums` and of `PENALTIES`.
    variance : float
        Noise of a label of weight 1: the weighted mean squared error of those
        predictions, with one label of the largest gain added, so that a few
        equal labels do not look like certainty.
    """
    row, owner = index.rows_of(held)
    a, b, gain, weight = (
        index.candidate[row],
        index.baseline[row],
        index.gain[row],
        index.weight[row],
    )
    best = (np.inf, 0, PENALTIES[-1])
    for grouping, near in enumerate(sums):
        for penalty in PENALTIES:
            mean = np.pad(near.solve(centre, penalty)[0], ((0, 0), (1, 0)))
            residual = gain - mean[owner, a] + mean[owner, b]
            best = min(best, (float(weight @ residual**2), grouping, penalty))
    largest = float(np.abs(index.gain).max())
    error = best[0] if np.isfinite(best[0]) else 0.0
    n_labels = float(weight.sum()) / label_weight
    return best[1], best[2], (error + label_weight * largest**2) / (n_labels + 1.0)
