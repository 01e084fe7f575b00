"""Clusters of queries as a gain model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.gain.kmeans import assign, k_means
from metarouter.gain.local import RowIndex, best_penalty, gains_of_all, held_out_queries
from metarouter.gain.similarity import unit_rows
from metarouter.gain.table_model import ScoredTableModel, TableRows, prepare_table
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["ClusterGain", "ClusterScorer"]

SIZES = (2, 4, 8, 16, 32, 64, 128)
"""Numbers of clusters that are tried."""

_MIN_QUERIES = 5  # a cluster of fewer on average tells noise


@dataclass
class ClusterGain(ScoredTableModel):
    """Mean gain of the cluster that a query falls in, shrunk to the mean of all.

    Assumes that prompts fall into kinds between which the gain differs. Clusters
    are found on the directions of the features, without the labels.

    Parameters
    ----------
    n_clusters : int >= 1, optional
        By default the number among 2, 4, …, 128 that predicts left-out
        training queries best.
    seed : int, default 0

    Attributes
    ----------
    n_clusters_ : int, the number used.
    penalty_ : float, how many gold labels the mean of all rows counts for.
    noise_variance_ : float, of a label of weight 1 around its cluster's mean.

    Notes
    -----
    The gains of a cluster minimise ``Σ w (gain − ψ_a + ψ_b)² + penalty · ‖ψ −
    ψ̄‖²`` over its rows, ψ̄ from all rows; the number of clusters and the
    penalty minimise the weighted squared error over training queries, each
    left out of its cluster's rows in turn.

    References
    ----------
    Jitkrittum et al. (2025), Universal model routing for efficient LLM
    inference. https://arxiv.org/abs/2502.08773

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> x = np.repeat(np.eye(2), 30, axis=0)
    >>> table = make_gain_table(queries=[str(i) for i in range(60)], features=x,
    ...     gain=np.repeat([1.0, -1.0], 30), is_gold=[True] * 60)
    >>> ClusterGain(n_clusters=2).fit(table).predict(np.eye(2)).mean.round(2).tolist()
    [[0.97], [-0.97]]
    """

    n_clusters: int | None = None
    seed: int = 0
    n_clusters_: int = field(init=False, repr=False)
    penalty_: float = field(init=False, repr=False)
    noise_variance_: float = field(init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Find clusters, choose their number and the penalty, and average."""
        if self.n_clusters is not None and self.n_clusters < 1:
            raise OptionError.of("n_clusters", self.n_clusters, "1 or more")
        rows = prepare_table(table)
        points, index = unit_rows(rows.features), RowIndex.of(rows)
        centre = gains_of_all(index)
        rng = np.random.default_rng(self.seed)
        held = held_out_queries(index, rng)
        own = index.sums(np.arange(len(held)), held, len(held))
        everyone = np.arange(len(points))
        centres = [k_means(points, size, rng) for size in self._sizes(len(points))]
        labels = [assign(points, found) for found in centres]
        sums = [
            index.sums(label, everyone, len(found))
            for label, found in zip(labels, centres, strict=True)
        ]
        others = [whole.take(label[held]) - own for whole, label in zip(sums, labels, strict=True)]
        chosen, self.penalty_, self.noise_variance_ = best_penalty(
            index, held, others, centre, rows.label_weight
        )
        self.n_clusters_ = len(centres[chosen])
        mean, variance = sums[chosen].solve(centre, self.penalty_)
        return self._finish(rows, centres[chosen], mean, self.noise_variance_ * variance)

    def _sizes(self, n_queries: int) -> list[int]:
        if self.n_clusters is not None:
            return [min(self.n_clusters, n_queries)]
        return [size for size in SIZES if size * _MIN_QUERIES <= n_queries] or [1]

    def _finish(
        self,
        rows: TableRows,
        centres: NDArray[np.float32],
        mean: FloatArray,
        variance: FloatArray,
    ) -> Self:
        state = ModelState(
            kind="cluster",
            config={"scale": rows.scale},
            arrays={
                "centres": centres,
                "mean": mean,
                "std": np.sqrt(variance + rows.shared_variance),
            },
        )
        return self._keep(state, ClusterScorer(state))


class ClusterScorer:
    """Scores :class:`ClusterGain` from its state, with NumPy alone."""

    def __init__(self, state: ModelState) -> None:
        self._centres = np.asarray(state.arrays["centres"], dtype=np.float32)
        self._mean = np.asarray(state.arrays["mean"], dtype=np.float64)
        self._std = np.asarray(state.arrays["std"], dtype=np.float64)
        self._scale = float(state.config["scale"])

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains over the reference model, shape (n, n_models − 1)."""
        if features.ndim != 2 or features.shape[1] != self._centres.shape[1]:
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {self._centres.shape[1]}), "
                "as in training"
            )
        label = assign(unit_rows(features), self._centres)
        return GainEstimate(mean=self._mean[label], std=self._std[label])

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """(1 + ψ̂ / s) / 2, cut to [0, 1], shape (n, n_models − 1)."""
        return np.clip(0.5 + 0.5 * self.predict(features).mean / self._scale, 0.0, 1.0)
