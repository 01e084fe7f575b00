"""The meta-learners of :mod:`metarouter.causal` as correctors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.causal import DRLearner, Propensity, RLearner, SLearner, TLearner, XLearner
from metarouter.correction.alignment import estimate_scale
from metarouter.correction.contrasts import contrast_inputs, is_open, level_size, open_levels
from metarouter.correction.simple import align
from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["META_LEARNERS", "MetaCorrector"]

META_LEARNERS = ("s", "t", "x", "r", "dr")
_MIN_GOLD = 10  # fewer cannot be split into folds that train anything


class _Learner(Protocol):
    out_of_fold_: FloatArray
    shift_variance_: FloatArray
    diagnostics_: Any

    def fit(self, X: Any, y: Any, t: Any, sample_weight: Any = None, groups: Any = None) -> Any: ...

    def predict(self, X: NDArray[Any]) -> FloatArray: ...

    def predict_variance(self, X: NDArray[Any]) -> FloatArray: ...


@dataclass
class MetaCorrector:
    """Pseudo-gold = preference gain + Δ̂(x), with Δ̂ by a cross-fitted meta-learner.

    Estimates the shift Δ(x) = E[gain given gold, x] − E[gain given preference,
    x] assuming that, given the features, who got gold-labelled does not depend
    on the gain, and that both sources cover the same queries. A preference row
    is corrected by models that did not see it. Rows of models that a source does
    not link get infinite variance, as nothing is known of their shift; but "s"
    takes it from the other models, with a variance that is too small where the
    bias differs from model to model.

    Parameters
    ----------
    learner : {"s", "t", "x", "r", "dr"}
    annotation_propensity : float, array of shape (n_rows,), or None
        P(gold given x) when known by design: one for all, or that of each row
        of the fitted table; :func:`~metarouter.correction.learn_gain` fits to rows
        merged by :func:`~metarouter.labels.repeats.merge_repeats`. Else the share of
        gold rows is taken when `estimate_propensity` is False and a calibrated
        logistic regression is fitted when it is True.
    estimate_propensity : bool, default True
    alignment : str, default "none"
    n_folds, n_repeats, seed : int

    Attributes
    ----------
    learner_ : the fitted learner.
    scale_ : float
    diagnostics_ : dict
        Mean and spread of Δ̂, fit of the nuisances, overlap.

    References
    ----------
    Künzel et al. (2019), https://doi.org/10.1073/pnas.1804597116; Nie and Wager
    (2021), https://arxiv.org/abs/1712.04912; Kennedy (2023),
    https://arxiv.org/abs/2004.14497; Zhang et al. (2025),
    https://arxiv.org/abs/2509.25535.
    """

    learner: str = "dr"
    annotation_propensity: float | FloatArray | None = None
    estimate_propensity: bool = True
    alignment: Literal["none", "range", "variance", "wasserstein"] = "none"
    n_folds: int = 5
    n_repeats: int = 1
    seed: int = 0
    learner_: _Learner | None = field(default=None, init=False, repr=False)
    scale_: float = field(default=1.0, init=False, repr=False)
    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Learn Δ̂ from both label sources."""
        self._check_propensity(len(table))
        counts = table.weight > 0
        table = table.rows(counts)
        n_gold = int(table.is_gold.sum())
        if n_gold < _MIN_GOLD or len(table) - n_gold < _MIN_GOLD:
            raise DataError(
                f"the {self.learner} corrector needs at least {_MIN_GOLD} labels of each "
                f"source; the table has {n_gold} gold and {len(table) - n_gold} preference"
            )
        self.scale_ = estimate_scale(table.gold().gain, table.preference().gain, self.alignment)
        table = align(table, self.scale_)
        self._level_size = level_size(table)
        learner = self._make(table.is_gold, counts)
        self.learner_ = learner.fit(
            contrast_inputs(table, self._level_size),
            table.gain,
            table.is_gold,
            sample_weight=table.weight,
            groups=table.query,
        )
        self._open = open_levels(table)
        self._seen = _SeenRows.of(table, learner.out_of_fold_, learner.shift_variance_)
        self.diagnostics_ = {"scale": self.scale_, "learner": self.learner, **_plain(learner)}
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The table with corrected preference gains and the variance of Δ̂.

        Rows about queries of the fitted table are corrected out of fold. They
        are recognised while tables share their ``queries``, as those made by
        :meth:`GainTable.rows` and the like do; rows of another table are taken
        for new.
        """
        if self.learner_ is None:
            raise NotFittedError.of(self)
        table = align(table, self.scale_)
        shift, variance, known = self._seen.find(table)
        new = ~known & ~table.is_gold
        if new.any():
            inputs = contrast_inputs(table.rows(new), self._level_size)
            shift[new] = self.learner_.predict(inputs)
            variance[new] = self.learner_.predict_variance(inputs)
        if self.learner != "s":  # which takes it from the other models
            variance[is_open(self._open, table)] = np.inf
        return table.with_gains(
            np.where(table.is_gold, table.gain, table.gain + shift),
            np.where(table.is_gold, table.variance, variance),
        )

    def _check_propensity(self, n_rows: int) -> None:
        if self.annotation_propensity is None:
            return
        given = np.asarray(self.annotation_propensity, dtype=np.float64)
        n_given = given.size
        if not ((given > 0) & (given < 1)).all():
            raise OptionError.of(
                "annotation_propensity", self.annotation_propensity, "strictly between 0 and 1"
            )
        if n_given not in (1, n_rows):
            raise OptionError(
                f"`annotation_propensity` has {n_given} values; allowed: one, or {n_rows} values, "
                "that of each row. A router's fit counts the labels of one query once: merge them "
                "first with metarouter.labels.repeats.merge_repeats, and give that of the rows left"
            )

    def _make(self, is_gold: BoolArray, counts: BoolArray) -> Any:
        common: dict[str, Any] = {
            "n_folds": self.n_folds,
            "n_repeats": self.n_repeats,
            "seed": self.seed,
        }
        if self.learner in ("s", "t"):
            return (SLearner if self.learner == "s" else TLearner)(**common)
        known = self.annotation_propensity
        if known is None and not self.estimate_propensity:
            known = float(is_gold.mean())
        elif known is not None and np.size(known) > 1:
            known = np.asarray(known)[counts]
        makers: dict[str, Any] = {"x": XLearner, "r": RLearner, "dr": DRLearner}
        if self.learner not in makers:
            raise OptionError.of("learner", self.learner, ", ".join(META_LEARNERS))
        return makers[self.learner](propensity=Propensity(known=known), **common)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SeenRows:
    """Out-of-fold Δ̂ and its variance by query and models compared."""

    queries: tuple[str, ...]
    key: IntArray  # (k,) sorted
    shift: FloatArray
    variance: FloatArray

    @classmethod
    def of(cls, table: GainTable, shift: FloatArray, variance: FloatArray) -> _SeenRows:
        # Folds go by query, so any row of a query has the same Δ̂ up to the models compared.
        key, first = np.unique(_row_keys(table), return_index=True)
        return cls(queries=table.queries, key=key, shift=shift[first], variance=variance[first])

    def find(self, table: GainTable) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Shift and variance of each row, and whether the row's query was seen."""
        if table.queries is not self.queries:
            nothing = np.zeros(len(table))
            return nothing, nothing.copy(), np.zeros(len(table), dtype=np.bool_)
        keys = _row_keys(table)
        at = np.minimum(np.searchsorted(self.key, keys), len(self.key) - 1)
        return self.shift[at], self.variance[at], self.key[at] == keys


def _row_keys(table: GainTable) -> IntArray:
    size = len(table.models)
    return (table.query * size + table.candidate) * size + table.baseline


def _plain(learner: Any) -> dict[str, Any]:
    found = learner.diagnostics_
    overlap = found.overlap
    plain: dict[str, Any] = {"mean_shift": found.mean_shift, "shift_sd": found.shift_sd}
    if overlap is not None:
        plain["overlap"] = {
            "low": overlap.low,
            "high": overlap.high,
            "effective_gold": overlap.ess_treated,
            "source_auc": overlap.auc.value,
            "warnings": list(overlap.warnings),
        }
    return plain
