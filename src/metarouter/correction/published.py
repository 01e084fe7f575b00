"""The procedure of Meta-Router's released script, defects included.

For comparison only. Nuisances are forests evaluated on their own training
rows, the propensity is a clipped forest regression of a known constant, the DR
mask drops nearly all preference rows, Δ̂ is applied to the rows it was trained
on and clipped at a constant that depends on the unit of the labels. What each
defect does is in ``docs/correctors.md``. Implemented from the published
description of the procedure.

References
----------
Zhang, Xie, Yang and Wu (2025), Meta-Router, https://arxiv.org/abs/2509.25535.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from metarouter.correction.alignment import estimate_scale
from metarouter.correction.contrasts import level_size, row_inputs
from metarouter.correction.simple import align
from metarouter.errors import DataError, MissingDependencyError, NotFittedError
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray

__all__ = ["PublishedCorrector"]

_SEED = 42  # the script fixes it for every forest of every run
_SHIFT_LIMIT = 1.2


@dataclass
class PublishedCorrector:
    """The released R- or DR-learner recipe, to the letter.

    Parameters
    ----------
    learner : {"r", "dr"}
    alignment : str, default "variance"
        The scaling of the paper's main experiment.
    """

    learner: str = "r"
    alignment: Literal["none", "range", "variance", "wasserstein"] = "variance"
    scale_: float = field(default=1.0, init=False, repr=False)
    model_: Any = field(default=None, init=False, repr=False)
    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Fit the forests on the pooled rows that have weight."""
        table = table.rows(table.weight > 0)
        if table.is_gold.all() or not table.is_gold.any():
            raise DataError("the published learners need labels of both sources")
        self.scale_ = estimate_scale(table.gold().gain, table.preference().gain, self.alignment)
        table = align(table, self.scale_)
        self._level_size = level_size(table)
        X, y = row_inputs(table, self._level_size), table.gain
        t = table.is_gold.astype(np.float64)
        target, weight, keep = (_r_target if self.learner == "r" else _dr_target)(X, y, t)
        weight = None if weight is None else weight[keep]
        self.model_ = _final_forest().fit(X[keep], target[keep], sample_weight=weight)
        self.diagnostics_ = {"scale": self.scale_, "rows_in_final_stage": int(keep.sum())}
        return self

    def transform(self, table: GainTable) -> GainTable:
        """Preference gains plus the clipped in-sample shift, equal weights."""
        if self.model_ is None:
            raise NotFittedError.of(self)
        table = align(table, self.scale_)
        at = np.flatnonzero(~table.is_gold)
        gains = table.gain.copy()
        if len(at):
            shift = self.model_.predict(row_inputs(table.rows(at), self._level_size))
            gains[at] += np.clip(shift, -_SHIFT_LIMIT, _SHIFT_LIMIT)
        return table.with_gains(gains, table.variance)


_Target = tuple[FloatArray, FloatArray | None, Any]  # target, weight, rows kept


def _r_target(X: FloatArray, y: FloatArray, t: FloatArray) -> _Target:
    outcome = _nuisance_forest().fit(X, y).predict(X)
    propensity = np.clip(_nuisance_forest().fit(X, t).predict(X), 0.1, 0.9)
    residual = t - propensity
    return (y - outcome) / residual, residual**2, np.abs(residual) > 0.05


def _dr_target(X: FloatArray, y: FloatArray, t: FloatArray) -> _Target:
    outcome = _nuisance_forest().fit(np.column_stack([X, t]), y)
    if_gold = outcome.predict(np.column_stack([X, np.ones_like(t)]))
    if_preference = outcome.predict(np.column_stack([X, np.zeros_like(t)]))
    propensity = np.clip(_nuisance_forest().fit(X, t).predict(X), 0.05, 0.95)
    spread = propensity * (1 - propensity)
    own = np.where(t == 1, if_gold, if_preference)
    target = (t - propensity) / spread * (y - own) + if_gold - if_preference
    return target, None, spread > 0.05  # forests draw other rows for equal weights than for none


def _nuisance_forest() -> Any:
    return _forest(n_estimators=100, max_depth=20)


def _final_forest() -> Any:
    # The script also asks for out-of-bag scores, which it does not use.
    return _forest(n_estimators=200, max_depth=30, min_samples_split=5, min_samples_leaf=2)


def _forest(**settings: Any) -> Any:
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise MissingDependencyError.of("the published corrector", "train") from error
    return RandomForestRegressor(max_features="sqrt", random_state=_SEED, **settings)
