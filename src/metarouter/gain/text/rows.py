"""What text gain models share: rows with texts, a validation split, and the readout."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import NotFittedError, OptionError
from metarouter.features.stages import FeatureStage
from metarouter.gain.candidate_slopes import candidate_slopes
from metarouter.gain.scoring import GainScorer, load_gain_model
from metarouter.gain.table_model import TableRows, prepare_table
from metarouter.gain.weights import row_weights
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import BoolArray, FloatArray, IntArray, ModelState

__all__ = [
    "Readout",
    "StagedModel",
    "TextRows",
    "part_of",
    "prepare_texts",
    "row_inputs",
    "stage_of",
]


def stage_of(model: object) -> FeatureStage | None:
    """The stage through which a fitted gain model reads texts; None for one of features."""
    stage: FeatureStage | None = getattr(model, "stage_", None)
    return stage


def row_inputs(model: object, table: GainTable) -> NDArray[np.float32]:
    """What a fitted gain model predicts each row from, shape (n_rows, d).

    The table's features, or what the model's own stage makes of the texts.
    """
    stage = stage_of(model)
    if stage is None:
        return table.row_features()
    used, at = np.unique(table.query, return_inverse=True)
    rows: NDArray[np.float32] = stage.transform([table.queries[i] for i in used])[at]
    return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRows:
    """Rows that count, with the texts they are about.

    Attributes
    ----------
    texts : tuple of str, distinct; `rows.query` indexes it.
    rows : TableRows
    held_out : bool array, shape (n_rows,); rows that training never sees.
    """

    texts: tuple[str, ...]
    rows: TableRows
    held_out: BoolArray


def prepare_texts(table: GainTable, share: float, rng: np.random.Generator) -> TextRows:
    """Check a table, with features or without, and hold out a share of its queries.

    Equal texts are one query, so that none is on both sides.

    Raises
    ------
    OptionError
        When `share` is not inside (0, 1).
    DataError
        See :func:`~metarouter.gain.table_model.prepare_table`.
    """
    if not 0 < share < 1:
        raise OptionError.of("validation_share", share, "inside (0, 1)")
    table = table.with_features(np.zeros((table.n_queries, 1), dtype=np.float32))
    rows = prepare_table(table)
    used = np.unique(table.query[row_weights(table) > 0])
    code: dict[str, int] = {}
    text = np.array([code.setdefault(table.queries[i], len(code)) for i in used])
    n_held_out = int(share * len(code)) if len(code) > 1 else 0
    chosen = rng.permutation(len(code))[:n_held_out]
    query = text[rows.query]
    return TextRows(
        texts=tuple(code),
        rows=replace(rows, query=query, weight=rows.weight / rows.weight.mean()),
        held_out=np.isin(query, chosen),
    )


def part_of(rows: TableRows, keep: BoolArray | IntArray) -> TableRows:
    """Some of the rows."""
    names = ("query", "candidate", "baseline", "gain", "weight")
    return replace(rows, **{name: getattr(rows, name)[keep] for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class Readout:
    """Gain as a linear function of class probabilities, set right by held-out labels.

    Parameters
    ----------
    direction : array, shape (n_models − 1, d)
        Score of each candidate, in gain units, is ``direction @ probabilities``.
    level : array, shape (n_models − 1,); the gain at the mean score.
    """

    direction: FloatArray
    level: FloatArray

    def state(self, rows: TableRows, probabilities: NDArray[np.float32]) -> ModelState:
        """A scorer of kind "pool", from the probabilities of the held-out rows' texts.

        Parameters
        ----------
        rows : TableRows, the held-out ones.
        probabilities : float32 array, shape (n_rows, d)

        Notes
        -----
        ``ψ̂_m = level_m + b_m (score_m − mean score_m)`` with b_m the slope of the
        held-out labels against the reference on the scores. The standard
        deviation is that of b_m and of the level; what the network gets wrong
        beyond those is not in it.
        """
        scores = probabilities.astype(np.float64) @ self.direction.T
        centre = scores.mean(axis=0)
        slope, slope_std = candidate_slopes(
            scores - centre, self.level, rows, np.ones(len(scores), dtype=np.bool_)
        )
        floor = _standard_error(rows)
        members = [
            _linear(
                slope[m] * self.direction[m],
                self.level[m] - slope[m] * centre[m],
                _factor(self.direction[m], centre[m], slope_std[m], floor),
            )
            for m in range(len(slope))
        ]
        return ModelState(
            kind="pool",
            config={
                "members": [{"kind": "linear", "config": {}} for _ in members],
                "std_factor": [1.0] * len(members),
                "shared_variance": rows.shared_variance.tolist(),
                "slope": slope.tolist(),
            },
            arrays={f"{i}.{name}": a for i, m in enumerate(members) for name, a in m.items()},
        )


def _linear(coef: FloatArray, intercept: float, factor: FloatArray) -> dict[str, NDArray[Any]]:
    return {"coef": coef, "intercept": np.array(intercept), "factor": factor}


def _factor(direction: FloatArray, centre: float, slope_std: float, floor: float) -> FloatArray:
    """F with ‖[1, p] F‖² = floor² + (slope_std · (score − centre))², shape (d + 1, 2)."""
    factor = np.zeros((len(direction) + 1, 2))
    factor[0] = floor, -slope_std * centre
    factor[1:, 1] = slope_std * direction
    return factor


def _standard_error(rows: TableRows) -> float:
    weight = np.bincount(rows.query, weights=rows.weight)
    mean = np.average(rows.gain, weights=rows.weight)
    spread = math.sqrt(float(np.average((rows.gain - mean) ** 2, weights=rows.weight)))
    spread = spread or rows.scale  # labels all alike may be so by chance
    return spread * math.sqrt(float((weight**2).sum())) / float(weight.sum())


class StagedModel:
    """Predicts through its stage's output and the scorer of its readout."""

    stage_: FeatureStage
    state_: ModelState
    scorer_: GainScorer

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains of ``models[1:]`` over ``models[0]``, from ``stage_.transform(texts)``."""
        if not hasattr(self, "scorer_"):
            raise NotFittedError.of(self)
        return self.scorer_.predict(np.asarray(features))

    def state(self) -> ModelState:
        """State of the readout."""
        if not hasattr(self, "state_"):
            raise NotFittedError.of(self)
        return self.state_

    def _keep(self, stage: FeatureStage, state: ModelState) -> Self:
        self.stage_, self.state_, self.scorer_ = stage, state, load_gain_model(state)
        return self
