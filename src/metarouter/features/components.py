"""Principal components of tall matrices that need not be dense, arrays only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.features.hashed import SparseRows
from metarouter.types import FloatArray, IntArray

__all__ = ["CentredDense", "CentredSparse", "Components", "fit_components"]

_OVERSAMPLING = 12
_POWER_STEPS = 4
_EXACT_UP_TO = 1_024
_BLOCK_ROWS = 4_096
# Directions with less than this share of the first one's variance are rounding noise.
_RANK_TOLERANCE = 1e-9


class Centred(Protocol):
    """A matrix less its column means, known by what it does to vectors."""

    mean: FloatArray
    shape: tuple[int, int]

    def dot(self, right: FloatArray) -> FloatArray:
        """The centred matrix times `right`, shape (n_rows, k)."""
        ...

    def t_dot(self, left: FloatArray) -> FloatArray:
        """The transposed centred matrix times `left`, shape (n_columns, k)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Orthonormal directions and the variance along each, largest first.

    Parameters
    ----------
    mean : array, shape (n_columns,)
    directions : array, shape (n_columns, k), orthonormal columns.
    variance : array, shape (k,), in squared units of the data, divisor n.
    """

    mean: FloatArray
    directions: FloatArray
    variance: FloatArray


class CentredDense:
    """A dense matrix less its column means, worked on in blocks of rows."""

    def __init__(self, rows: NDArray[Any]) -> None:
        self.mean = rows.mean(axis=0, dtype=np.float64)
        self.shape = rows.shape
        self._rows = rows

    def dot(self, right: FloatArray) -> FloatArray:
        """The centred matrix times `right`."""
        return np.concatenate([block @ right for _, block in self._blocks()])

    def t_dot(self, left: FloatArray) -> FloatArray:
        """The transposed centred matrix times `left`."""
        out = np.zeros((self.shape[1], left.shape[1]))
        for part, block in self._blocks():
            out += block.T @ left[part]
        return out

    def _blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        for start in range(0, self.shape[0], _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            yield part, self._rows[part] - self.mean


class CentredSparse:
    """Sparse rows less their column means, never made dense."""

    def __init__(self, rows: SparseRows) -> None:
        n, n_columns = len(rows), rows.n_columns
        self.shape = (n, n_columns)
        values = rows.values
        self._by_row = _Groups(starts=rows.starts, index=rows.columns, value=values)
        order = np.argsort(rows.columns, kind="stable")
        per_column = np.bincount(rows.columns, minlength=n_columns)
        row_of = np.repeat(np.arange(n), np.diff(rows.starts))
        self._by_column = _Groups(
            starts=np.concatenate(([0], np.cumsum(per_column))),
            index=row_of[order],
            value=values[order],
        )
        self.mean = np.bincount(rows.columns, values, minlength=n_columns) / n

    def dot(self, right: FloatArray) -> FloatArray:
        """The centred matrix times `right`."""
        return self._by_row.dot(right) - self.mean @ right

    def t_dot(self, left: FloatArray) -> FloatArray:
        """The transposed centred matrix times `left`."""
        return self._by_column.dot(left) - np.outer(self.mean, left.sum(axis=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Groups:
    """Rows of a sparse matrix: group i is value[starts[i]:starts[i+1]] at index[...]."""

    starts: IntArray
    index: IntArray
    value: NDArray[np.float32]

    def dot(self, right: FloatArray) -> FloatArray:
        """Σ value · right[index] over each group, shape (n_groups, k)."""
        # Gathering rows is the cost: half the bytes take half the time.
        table = np.ascontiguousarray(right, dtype=np.float32)
        out = np.zeros((len(self.starts) - 1, table.shape[1]))
        for i in np.flatnonzero(np.diff(self.starts)):
            part = slice(self.starts[i], self.starts[i + 1])
            out[i] = self.value[part] @ table.take(self.index[part], axis=0)
        return out


def fit_components(matrix: Centred, k: int, rng: np.random.Generator) -> Components:
    """The first `k` principal components, fewer when the rank is lower.

    Exact for up to 1,024 columns, else by a randomised range finder with four
    power steps.

    Parameters
    ----------
    matrix : rows less their column means, shape (n_rows, n_columns).
    k : int, at least 1.
    rng : source of the random test matrix; the result for a given state is
        the same on every run.

    Returns
    -------
    Components
        Signs are such that the largest loading of each direction is positive.

    References
    ----------
    Halko, Martinsson, Tropp (2011), Finding structure with randomness,
    https://arxiv.org/abs/0909.4061 (algorithm 4.4)

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(size=(500, 3)) * [5.0, 1.0, 0.0]
    >>> fit = fit_components(CentredDense(rows), 3, rng)
    >>> fit.directions.shape
    (3, 2)
    """
    n_rows, n_columns = matrix.shape
    if n_columns <= _EXACT_UP_TO:
        covariance = matrix.t_dot(matrix.dot(np.eye(n_columns))) / n_rows
        variance, directions = np.linalg.eigh(covariance)
        variance, directions = variance[::-1], directions[:, ::-1]
    else:
        basis = _range_of(matrix, min(k + _OVERSAMPLING, n_rows, n_columns), rng)
        small = matrix.t_dot(basis)
        turn, squares = _principal(small)
        directions, variance = small @ turn, squares / n_rows
    keep = variance[:k] > _RANK_TOLERANCE * variance[:1].sum()
    directions = _with_fixed_signs(directions[:, :k][:, keep])
    return Components(mean=matrix.mean, directions=directions, variance=variance[:k][keep])


def _range_of(matrix: Centred, k: int, rng: np.random.Generator) -> FloatArray:
    """Orthonormal basis, shape (n_rows, k), of the leading left singular space."""
    basis = _orthonormal(matrix.dot(rng.standard_normal((matrix.shape[1], k))))
    for _ in range(_POWER_STEPS):
        basis = _orthonormal(matrix.dot(_orthonormal(matrix.t_dot(basis))))
    return basis


def _orthonormal(tall: FloatArray) -> FloatArray:
    """Orthonormal basis of the columns of a tall matrix, less those that are rounding noise."""
    turn, _ = _principal(tall)
    return tall @ turn


def _principal(tall: FloatArray) -> tuple[FloatArray, FloatArray]:
    """V / s and s², largest first, of the decomposition tall = U s Vᵀ.

    By the small matrix tallᵀ·tall, which is several times faster than a QR or
    singular value decomposition and exact enough for directions that hold more
    than 1e-9 of the largest variance.
    """
    squares, turn = np.linalg.eigh(tall.T @ tall)
    squares, turn = squares[::-1], turn[:, ::-1]
    keep = squares > _RANK_TOLERANCE * squares[:1].sum()
    return turn[:, keep] / np.sqrt(squares[keep]), squares[keep]


def _with_fixed_signs(directions: FloatArray) -> FloatArray:
    largest = np.abs(directions).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    fixed: FloatArray = directions * signs
    return fixed
