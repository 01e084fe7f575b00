"""What table gain models share: usable rows, the scale of a win, and scoring.

A *table gain model* (:class:`metarouter.types.TableGainModel`) learns from a
whole :class:`~metarouter.labels.GainTable`. The routers of the RouteLLM family
are such models. All of them tie a gain to the probability of a win by one line,

    ψ = s · (2 P − 1),    P = P(win) + P(tie) / 2,

where s is the largest gain a label states (1 for votes and for right or wrong).
So a label of gain g counts as a win with probability ``(1 + g / s) / 2``: 1, ½
and 0 for a win, a tie and a loss, and what lies between for a corrected or a
graded label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import NotFittedError
from metarouter.gain.pool import check_linked
from metarouter.gain.rows import check_rows
from metarouter.gain.scoring import WinScorer
from metarouter.gain.weights import row_weights, shared_variance
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["ScoredTableModel", "TableRows", "gain_scale", "prepare_table"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRows:
    """Rows of a table that count, ready for a table gain model.

    Parameters
    ----------
    features : float32 array, shape (n_queries, d), of the queries with a row.
    query : int array, shape (n_rows,); index into `features`.
    candidate, baseline : int arrays, shape (n_rows,); indices into the models.
    gain : float array, shape (n_rows,), in gain units.
    weight : float array, shape (n_rows,); precision relative to one gold label.
    label_weight : float
        Mean weight of the gold labels, or of all labels where none is gold: the noise
        of such a label shows in the residuals, whatever weights are counted in.
    scale : float, s above.
    shared_variance : float array, shape (n_models − 1,)
        Error that a candidate's corrected rows have in common, which no model averages out;
        see :func:`metarouter.gain.weights.shared_variance`.
    n_models : int
    """

    features: NDArray[np.float32]
    query: IntArray
    candidate: IntArray
    baseline: IntArray
    gain: FloatArray
    weight: FloatArray
    label_weight: float
    scale: float
    shared_variance: FloatArray
    n_models: int

    @property
    def win(self) -> FloatArray:
        """(1 + gain / s) / 2 of each row: 1 a win of the candidate, ½ a tie, 0 a loss.

        Pseudo-gold gains beyond ±s fall outside [0, 1]; they are kept, since
        cutting them off would bring back a bias.
        """
        win: FloatArray = 0.5 + 0.5 * self.gain / self.scale
        return win


def prepare_table(table: GainTable) -> TableRows:
    """Check a table with features and keep the rows that have weight.

    Raises
    ------
    DataError
        When there are no features or no usable rows, or a model cannot be
        compared with the reference.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b", "c"], gain=[1.0, 0.0, -1.0],
    ...     is_gold=[True] * 3, weight=[1.0, 1.0, 0.0], features=np.eye(3))
    >>> rows = prepare_table(table)
    >>> rows.win.tolist(), rows.features.shape
    ([1.0, 0.5], (2, 3))
    """
    features = table.row_features()
    weight = row_weights(table)
    check_rows(features, table.gain, weight)
    keep = weight > 0
    kept = table.rows(keep)
    check_linked(kept, weight[keep])
    used, query = np.unique(kept.query, return_inverse=True)
    assert kept.features is not None  # noqa: S101 - row_features has checked it
    return TableRows(
        features=np.ascontiguousarray(kept.features[used]),
        query=query.astype(np.int64),
        candidate=kept.candidate,
        baseline=kept.baseline,
        gain=kept.gain,
        weight=weight[keep],
        label_weight=_label_weight(kept),
        scale=gain_scale(table),
        shared_variance=shared_variance(table),
        n_models=len(table.models),
    )


def gain_scale(table: GainTable) -> float:
    """The gain of a certain win, s: the largest that a label states.

    Labels as they were given decide, since a pseudo-gold gain can be anything;
    corrected rows do where there are no others. 1 where all gains are 0.
    """
    usable = np.isfinite(table.variance) & (table.weight > 0)
    for chosen in (usable & (table.variance == 0), usable):
        largest = float(np.abs(table.gain[chosen]).max(initial=0.0))
        if largest > 0:
            return largest
    return 1.0


def _label_weight(table: GainTable) -> float:
    chosen = table.is_gold if table.is_gold.any() else np.ones(len(table), dtype=np.bool_)
    return float(table.weight[chosen].mean())


class ScoredTableModel:
    """Predicts through the NumPy scorer of the exported state.

    A subclass calls `_keep` at the end of its ``fit``.
    """

    state_: ModelState
    scorer_: WinScorer

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains of ``models[1:]`` over ``models[0]``, mean and std (n, n_models − 1)."""
        return self._fitted().predict(np.asarray(features))

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats ``models[0]``), ties counting half, (n, n_models − 1)."""
        return self._fitted().win_probability(np.asarray(features))

    def state(self) -> ModelState:
        """Arrays from which the NumPy-only scorer predicts the same values."""
        self._fitted()
        return self.state_

    def _fitted(self) -> WinScorer:
        if not hasattr(self, "scorer_"):
            raise NotFittedError.of(self)
        return self.scorer_

    def _keep(self, state: ModelState, scorer: WinScorer) -> Self:
        self.state_, self.scorer_ = state, scorer
        return self
