"""Logistic regression of every model's success as a gain model: :class:`LogisticGain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.gain.logistic_rows import LogisticFit, LogisticRows, fit_logistic
from metarouter.gain.logistic_scorer import LogisticScorer, gains_of
from metarouter.gain.table_model import ScoredTableModel, TableRows, prepare_table
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["LogisticGain"]

_MIN_QUERIES = 20
# Prior of ln λ. On a thousand labels held-out errors hardly tell penalties apart; tens of
# thousands outweigh it.
_USUAL_PENALTY, _DOUBLINGS = 4.0 * 2**0.5, 1.0


@dataclass
class LogisticGain(ScoredTableModel):
    """Gains as differences of success probabilities, each a logistic regression.

    Where the table holds the scores of both answers, P_m(x) is model m's
    chance of success and the gain is s (P_m − P_0): both answers teach, where
    the gain alone keeps their difference only. Where it holds comparisons, P_m is
    the chance of beating the reference model and the gain is s (2 P_m − 1).
    Assumes that log-odds are linear in the features.

    Several *views* of a query (blocks of columns, such as different
    embeddings) give a regression each, averaged and then averaged with the
    one on all columns. The penalty is the most probable one by held-out
    errors inside the table and a prior around 6. Queries of one domain stay
    in one fold where there are at least twice as many domains as folds, so
    that the penalty suits subjects that training did not hold.

    Parameters
    ----------
    views : sequence of int, optional
        Widths of the blocks; by default all columns are one.
    penalties : sequence of float, positive
        λ of features whose rows have unit mean square.
    n_folds : int >= 2, default 5
    by_domain : bool, optional
        Whether domains stay in one fold; by default as told above.
    seed : int, default 0
        Draws the folds.

    Attributes
    ----------
    penalty_ : float, λ used in every regression.
    errors_ : array, one for each penalty
        Held-out squared error of the gain; empty below 20 queries.

    Notes
    -----
    The weights of the views are fixed: equal ones beat weights stacked by
    regression (Wolpert 1992) on held-out predictions here, as they often do
    (Bates and Granger 1969). The standard deviation is that of linear
    regression of the gain on all columns at a penalty of 4 λ, with the
    held-out squared error as noise; the choice of λ is not in it.

    References
    ----------
    Bates and Granger (1969), The combination of forecasts,
    https://doi.org/10.1057/jors.1969.103.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> table = make_gain_table(queries=[str(i) for i in range(200)], features=x,
    ...     gain=np.sign(x[:, 0]), is_gold=[True] * 200)
    >>> model = LogisticGain().fit(table)
    >>> bool(model.predict(np.array([[1.5, 0.0]])).mean[0, 0] > 0.5)
    True
    """

    views: Sequence[int] | None = None
    penalties: Sequence[float] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    n_folds: int = 5
    by_domain: bool | None = None
    seed: int = 0
    penalty_: float = field(init=False, repr=False)
    errors_: FloatArray = field(init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Choose the penalty by cross-validation, then fit on all rows."""
        if self.n_folds < 2 or not self.penalties or min(self.penalties) <= 0:
            stated = (self.n_folds, tuple(self.penalties))
            raise OptionError.of("n_folds, penalties", stated, "at least 2, and positive numbers")
        problem = _Problem.of(table)
        heads = _heads(problem.features, self.views)
        held_out = _held_out(problem, heads, self.penalties, self._folds(table, problem))
        self.errors_ = np.array([problem.squared_error(psi) for psi in held_out])
        best = _most_probable(self.errors_, self.penalties, len(problem.features))
        self.penalty_ = float(self.penalties[best])
        predicted = held_out[best] if held_out else np.zeros_like(problem.gain)
        fits = [fit_logistic(head.z, problem.rows, np.array([self.penalty_]))[0] for head in heads]
        state = _state(problem, heads, fits, self.penalty_, problem.noise(predicted))
        return self._keep(state, LogisticScorer(state))

    def _folds(self, table: GainTable, problem: _Problem) -> IntArray | None:
        """A fold for each query; None where they are too few to leave any out."""
        n = len(problem.features)
        if n < _MIN_QUERIES:
            return None
        rng = np.random.default_rng(self.seed)
        domains, domain = np.unique(table.domain[problem.used], return_inverse=True)
        by_domain = self.by_domain
        if by_domain is None:
            by_domain = int((domains >= 0).sum()) >= 2 * self.n_folds
        if not by_domain:
            return _balanced(n, self.n_folds, rng)
        return _balanced(len(domains), self.n_folds, rng)[domain]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """A regression on some columns, centred and scaled to rows of unit mean square."""

    columns: slice
    weight: float
    mean: FloatArray  # (q,)
    scale: FloatArray  # (q,)
    z: FloatArray  # (n_queries, q)

    @classmethod
    def view(cls, features: NDArray[Any], columns: slice, weight: float) -> _Head:
        """The head of one block of columns."""
        block = features[:, columns].astype(np.float64)
        mean = block.mean(axis=0)
        block -= mean
        size = float(np.sqrt((block**2).sum(axis=1).mean())) or 1.0
        scale = np.full(block.shape[1], 1.0 / size)
        return cls(columns=columns, weight=weight, mean=mean, scale=scale, z=block / size)

    @classmethod
    def joint(cls, views: Sequence[_Head], weight: float) -> _Head:
        """The head of all blocks, which count the same whatever their width and size."""
        share = 1.0 / np.sqrt(len(views))
        return cls(
            columns=slice(0, views[-1].columns.stop),
            weight=weight,
            mean=np.concatenate([head.mean for head in views]),
            scale=share * np.concatenate([head.scale for head in views]),
            z=share * np.hstack([head.z for head in views]),
        )

    def coefficients(self, fit: LogisticFit, width: int) -> FloatArray:
        """Level and slopes for features as they come, (1 + width, n_columns)."""
        out = np.zeros((1 + width, fit.slope.shape[1]))
        slope = self.scale[:, None] * fit.slope
        out[0] = fit.level - self.mean @ slope
        out[1:][self.columns] = slope
        return out


def _most_probable(errors: FloatArray, penalties: Sequence[float], n: int) -> int:
    """Position of the penalty of largest posterior, held-out errors being normal."""
    doublings = np.log2(np.asarray(penalties) / _USUAL_PENALTY) / _DOUBLINGS
    cost = doublings**2 / 2
    if len(errors):
        cost = cost + n * errors / (2 * max(float(errors.min()), 1e-300))
    return int(np.argmin(cost))


def _heads(features: NDArray[Any], views: Sequence[int] | None) -> list[_Head]:
    """The regression on all columns, then one for each view where there are several."""
    width = features.shape[1]
    widths = [width] if views is None else list(views)
    if sum(widths) != width or min(widths) < 1:
        raise DataError(
            f"features of width {width} for views of {widths}: widths must add up to it"
        )
    if len(widths) == 1:
        return [_Head.view(features, slice(0, width), 1.0)]
    ends = np.cumsum(widths).tolist()
    blocks = [slice(end - each, end) for end, each in zip(ends, widths, strict=True)]
    own = [_Head.view(features, block, 0.5 / len(widths)) for block in blocks]
    return [_Head.joint(own, 0.5), *own]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """A table as outcomes of a logistic model, and the gains that it is judged by."""

    features: NDArray[np.float32]  # (n_queries, d)
    used: IntArray  # of the table's queries
    rows: LogisticRows
    query: IntArray
    candidate: IntArray
    baseline: IntArray
    gain: FloatArray
    weight: FloatArray
    label_weight: float
    scale: float
    shared_variance: FloatArray
    n_candidates: int
    is_scored: bool

    @classmethod
    def of(cls, table: GainTable) -> _Problem:
        rows = prepare_table(table)
        counts = np.isfinite(table.variance) & (table.weight > 0)
        scores = _scores(table.rows(counts))
        return cls(
            features=rows.features,
            used=np.unique(table.query[counts]),
            rows=_win_rows(rows) if scores is None else _success_rows(rows, scores),
            query=rows.query,
            candidate=rows.candidate,
            baseline=rows.baseline,
            gain=rows.gain,
            weight=rows.weight,
            label_weight=rows.label_weight,
            scale=rows.scale if scores is None else float(np.ptp(scores)),
            shared_variance=rows.shared_variance,
            n_candidates=rows.n_models - 1,
            is_scored=scores is not None,
        )

    def of_rows(self, psi: FloatArray) -> FloatArray:
        """ψ_candidate − ψ_baseline of each row, from ψ (n_queries, n_candidates)."""
        padded = np.hstack([np.zeros((len(psi), 1)), psi])
        difference: FloatArray = (
            padded[self.query, self.candidate] - padded[self.query, self.baseline]
        )
        return difference

    def squared_error(self, predicted: FloatArray) -> float:
        """Mean weighted squared error of row predictions, in squared gain units."""
        return float(self.weight @ (self.gain - predicted) ** 2 / self.weight.sum())

    def noise(self, predicted: FloatArray) -> float:
        """Variance of a label of weight 1 around its prediction, never nothing."""
        return self.label_weight * max(self.squared_error(predicted), 1e-6 * self.scale**2)


def _scores(table: GainTable) -> FloatArray | None:
    """Scores of both answers, (n_rows, 2); None unless every gain is their difference."""
    pairs = np.column_stack([table.candidate_score, table.baseline_score])
    # NaN, and corrected gains, are no difference of the scores.
    if not np.isclose(pairs[:, 0] - pairs[:, 1], table.gain).all() or np.ptp(pairs) == 0:
        return None
    return pairs


def _win_rows(rows: TableRows) -> LogisticRows:
    """Comparisons: a candidate's column against the baseline's; the reference has none."""
    return LogisticRows(
        query=rows.query,
        plus=rows.candidate - 1,
        minus=rows.baseline - 1,
        outcome=rows.win,
        weight=rows.weight,
        n_columns=rows.n_models - 1,
    )


def _success_rows(rows: TableRows, scores: FloatArray) -> LogisticRows:
    """One outcome for each query and model: its score, moved to [0, 1].

    The reference's answer is in a row of every candidate and counts once.
    """
    query, model = np.tile(rows.query, 2), np.concatenate([rows.candidate, rows.baseline])
    value = (scores.T.ravel() - scores.min()) / np.ptp(scores)
    weight = np.tile(rows.weight, 2)
    cells, at = np.unique(query * rows.n_models + model, return_inverse=True)
    per_cell = np.bincount(at, weight)
    repeats = np.where(cells % rows.n_models == 0, _candidates_of(rows, cells), 1.0)
    return LogisticRows(
        query=cells // rows.n_models,
        plus=cells % rows.n_models,
        minus=np.full(len(cells), -1),
        outcome=np.bincount(at, weight * value) / per_cell,
        weight=per_cell / repeats,
        n_columns=rows.n_models,
    )


def _candidates_of(rows: TableRows, cells: IntArray) -> FloatArray:
    """How many candidates the query of each cell has labels of."""
    known = np.unique(rows.query * rows.n_models + rows.candidate) // rows.n_models
    counts = np.bincount(known, minlength=int(rows.query.max()) + 1)
    result: FloatArray = counts[cells // rows.n_models].astype(np.float64)
    return result


def _balanced(n: int, n_folds: int, rng: np.random.Generator) -> IntArray:
    folds: IntArray = rng.permutation(np.arange(n) % n_folds)
    return folds


def _held_out(
    problem: _Problem, heads: Sequence[_Head], penalties: Sequence[float], folds: IntArray | None
) -> list[FloatArray]:
    """Predicted gain of every row at each penalty, from fits that did not see its fold."""
    if folds is None:
        return []
    out = [np.zeros_like(problem.gain) for _ in penalties]
    for fold in range(int(folds.max()) + 1):
        inside = folds != fold
        rows = problem.rows.of_queries(inside)
        left_out = ~inside[problem.query]
        psi = [np.zeros((len(inside), problem.n_candidates)) for _ in penalties]
        for head in heads:
            fits = fit_logistic(head.z[inside], rows, np.asarray(penalties), rough=True)
            for each, fit in zip(psi, fits, strict=True):
                logits = fit.logits(head.z[~inside])
                each[~inside] += head.weight * gains_of(logits, problem.scale, problem.is_scored)
        for predicted, each in zip(out, psi, strict=True):
            predicted[left_out] = problem.of_rows(each)[left_out]
    return out


def _state(
    problem: _Problem,
    heads: Sequence[_Head],
    fits: Sequence[LogisticFit],
    penalty: float,
    noise: float,
) -> ModelState:
    width = problem.features.shape[1]
    coef = [head.coefficients(fit, width) for head, fit in zip(heads, fits, strict=True)]
    return ModelState(
        kind="logistic",
        config={
            "penalty": penalty,
            "scale": problem.scale,
            "is_scored": problem.is_scored,
            "noise": noise,
            "shared_variance": problem.shared_variance.tolist(),
        },
        arrays={
            "weight": np.array([head.weight for head in heads]),
            "coef": np.stack(coef),
            "factor": _spread(heads[0], problem.rows, penalty),
        },
    )


def _spread(head: _Head, rows: LogisticRows, penalty: float) -> FloatArray:
    """F, (1 + d, q + 1): ‖[1, x] F‖² is the variance of ψ̂ per unit of label noise."""
    load = rows.query_weights(len(head.z))
    design = np.hstack([np.ones((len(head.z), 1)), head.z])
    gram = (design * load[:, None]).T @ design
    # σ' is at most ¼, so λ on log-odds is 4 λ or more on probabilities.
    gram[np.diag_indices_from(gram)] += np.append(
        1e-9 * load.sum(), [4.0 * penalty] * len(head.mean)
    )
    values, basis = np.linalg.eigh(gram)
    root = basis / np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    slope = head.scale[:, None] * root[1:]
    factor: FloatArray = np.vstack([root[0] - head.mean @ slope, slope])
    return factor
