"""Penalised logistic regression of several columns of outcomes on shared features.

The same features serve every column and every penalty, so that one
eigendecomposition of their Gram matrix preconditions all fits: a step is then
two products with the features instead of a Newton matrix of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["LogisticFit", "LogisticRows", "fit_logistic", "sigmoid"]

_MAX_STEPS = 200
_TOLERANCE = 1e-3  # of a logit: far below what labels can tell
_ROUGH_TOLERANCE = 1e-2
_HALF = 0.5  # success and failure that a level starts with (Krichevsky and Trofimov 1981)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticRows:
    """Outcomes with P(y = 1) = σ(f_plus − f_minus).

    Parameters
    ----------
    query : int array, shape (n_rows,); row of the features.
    plus, minus : int arrays, shape (n_rows,)
        Columns of f; −1 stands for f = 0. With ``minus == -1`` an outcome is
        one model's own success, else a comparison.
    outcome : float array, shape (n_rows,); 1, 0 or what lies between.
    weight : float array, shape (n_rows,); positive.
    n_columns : int
    """

    query: IntArray
    plus: IntArray
    minus: IntArray
    outcome: FloatArray
    weight: FloatArray
    n_columns: int

    @property
    def is_comparison(self) -> bool:
        """Whether any outcome compares two columns."""
        return bool((self.minus >= 0).any())

    def of_queries(self, chosen: BoolArray) -> LogisticRows:
        """Rows of some queries, which are numbered anew."""
        keep = chosen[self.query]
        return replace(
            self,
            query=(np.cumsum(chosen) - 1)[self.query[keep]],
            plus=self.plus[keep],
            minus=self.minus[keep],
            outcome=self.outcome[keep],
            weight=self.weight[keep],
        )

    def difference(self, logits: FloatArray) -> FloatArray:
        """f_plus − f_minus of each row, from logits (n_queries, n_columns)."""
        padded = np.hstack([logits, np.zeros((len(logits), 1))])  # column −1
        result: FloatArray = padded[self.query, self.plus] - padded[self.query, self.minus]
        return result

    def scatter(self, values: FloatArray, n_queries: int, sign: float = -1.0) -> FloatArray:
        """Σ values by query and plus column, and `sign` times it by minus column."""
        width = self.n_columns + 1
        at, size = self.query * width, n_queries * width
        out = np.bincount(at + self.plus % width, values, minlength=size).astype(np.float64)
        if self.is_comparison:
            out = out + sign * np.bincount(at + self.minus % width, values, minlength=size)
        summed: FloatArray = out.reshape(n_queries, width)[:, :-1]
        return summed

    def query_weights(self, n_queries: int) -> FloatArray:
        """Weight that a query's outcomes have in the column where it is largest."""
        load = self.scatter(self.weight, n_queries, sign=1.0)
        largest: FloatArray = load.max(axis=1)
        return largest


@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticFit:
    """f = level + z'slope for each column."""

    level: FloatArray  # (n_columns,)
    slope: FloatArray  # (q, n_columns)

    def logits(self, z: FloatArray) -> FloatArray:
        """Log-odds at rows z (n, q), shape (n, n_columns)."""
        result: FloatArray = self.level + z @ self.slope
        return result


def fit_logistic(
    z: FloatArray, rows: LogisticRows, penalties: FloatArray, *, rough: bool = False
) -> list[LogisticFit]:
    """Fit at each penalty; a fit starts from that of the next larger penalty.

    Parameters
    ----------
    z : array, shape (n_queries, q)
    rows : LogisticRows
    penalties : array, shape (k,), positive.
    rough : bool, default False
        Single precision and a coarser stop: a third of the time, enough to
        compare penalties.

    Returns
    -------
    list of LogisticFit, in the order of `penalties`.

    Notes
    -----
    Minimises ``Σ_i w_i [log(1 + e^{f_i}) − y_i f_i] + λ/2 ‖slope‖²``, f_i the
    row's difference. As σ' ≤ ¼, ``H = ¼ z' diag(v) z + λ`` is no less than the
    curvature, v the weights of the queries (doubled for comparisons, whose
    Laplacian is at most twice its diagonal), and steps ``H⁻¹ gradient`` never
    overshoot. The level has a prior of half a success and half a failure.

    References
    ----------
    Böhning and Lindsay (1988), Monotonicity of quadratic-approximation
    algorithms, https://doi.org/10.1007/BF00049423.

    Examples
    --------
    >>> z = np.linspace(-2, 2, 41)[:, None]
    >>> rows = LogisticRows(query=np.arange(41), plus=np.zeros(41, int), outcome=sigmoid(z[:, 0]),
    ...     minus=np.full(41, -1), weight=np.ones(41), n_columns=1)
    >>> round(float(fit_logistic(z, rows, np.array([1e-3]))[0].slope[0, 0]), 2)
    1.0
    """
    load = rows.query_weights(len(z)) * (2.0 if rows.is_comparison else 1.0)
    values, basis = np.linalg.eigh((z * load[:, None]).T @ z)
    turned: NDArray[Any] = (z @ basis).astype(np.float32 if rough else np.float64)
    tolerance = _ROUGH_TOLERANCE if rough else _TOLERANCE
    curvature = 0.25 * np.maximum(values, 0.0)
    of_level = 0.25 * float(load.sum())
    fit = LogisticFit(level=np.zeros(rows.n_columns), slope=np.zeros((z.shape[1], rows.n_columns)))
    found: dict[float, LogisticFit] = {}
    for penalty in sorted({float(each) for each in penalties}, reverse=True):
        fit = _descend(turned, rows, fit, penalty, (curvature, of_level), tolerance)
        found[penalty] = LogisticFit(level=fit.level, slope=basis @ fit.slope)
    return [found[float(penalty)] for penalty in penalties]


def sigmoid(logit: FloatArray) -> FloatArray:
    """1 / (1 + e^−f), without overflow.

    Examples
    --------
    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    result: FloatArray = 0.5 * (1.0 + np.tanh(0.5 * logit))
    return result


def _descend(
    z: NDArray[Any],
    rows: LogisticRows,
    start: LogisticFit,
    penalty: float,
    curvatures: tuple[FloatArray, float],
    tolerance: float,
) -> LogisticFit:
    level, slope = start.level, start.slope
    bound, of_level = (curvatures[0] + penalty)[:, None], curvatures[1] + _HALF / 2
    for _ in range(_MAX_STEPS):
        f = rows.difference(level + z @ slope.astype(z.dtype))
        residual = rows.scatter(rows.weight * (rows.outcome - sigmoid(f)), len(z))
        step = (residual.sum(axis=0) + _HALF - 2.0 * _HALF * sigmoid(level)) / of_level
        turn = (z.T @ residual.astype(z.dtype) - penalty * slope) / bound
        level, slope = level + step, slope + turn
        # A row is about as long as 1, so no logit moves by much more than this.
        moved = max(np.abs(step).max(), np.sqrt((turn**2).sum(axis=0).max()))
        if moved < tolerance:
            break
    return LogisticFit(level=level, slope=slope)
