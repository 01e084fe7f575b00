"""The one table that labels become: :class:`GainTable`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, shorten
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["ROW_COLUMNS", "GainTable", "make_gain_table"]

ROW_COLUMNS = (
    *("query", "candidate", "baseline", "gain", "is_gold", "judge", "weight", "variance"),
    *("candidate_score", "baseline_score", "prompt_tokens", "candidate_tokens", "baseline_tokens"),
)
"""Columns of a table with one entry for each row."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class GainTable:
    """Quality gains of models over others, from two label sources.

    Immutable and columnar; texts and names are stored once and rows hold
    their indices, so that a million rows stay small. Arrays are read-only.

    Parameters
    ----------
    queries, query_ids : tuple of str, one for each distinct query.
    models : tuple of str
        ``models[0]`` is the reference model. Every row has
        ``candidate > baseline`` as indices into `models`; a label given the
        other way round is negated on reading. A pair is
        ``models == (cheap, premium)``.
    judges, domains : tuple of str, names that `judge` and `domain` index.
    query, candidate, baseline, judge : int arrays, shape (n_rows,)
    domain : int array, shape (n_queries,); −1 where unknown.
    gain : float array, shape (n_rows,)
        Candidate minus baseline quality, in gain units.
    is_gold : bool array, shape (n_rows,); True gold, False preference.
    weight : float array, shape (n_rows,); how many labels a row stands for.
    variance : float array, shape (n_rows,)
        Variance of a pseudo-gold gain beyond that of a gold label; 0 for
        labels as they were given, ``inf`` for a row to be left out, negative
        (above −σ², the noise of a gold label) for an estimate of ψ that is
        more precise than one label.
    candidate_score, baseline_score : float arrays, shape (n_rows,)
        Absolute quality of both answers; NaN when only the gain is known.
    prompt_tokens, candidate_tokens, baseline_tokens : float arrays, (n_rows,)
        Token counts; NaN when unknown.
    features : float32 array, shape (n_queries, n_features), or None.
    """

    queries: tuple[str, ...]
    query_ids: tuple[str, ...]
    models: tuple[str, ...]
    judges: tuple[str, ...]
    domains: tuple[str, ...]
    query: IntArray
    candidate: IntArray
    baseline: IntArray
    gain: FloatArray
    is_gold: BoolArray
    judge: IntArray
    domain: IntArray
    weight: FloatArray
    variance: FloatArray
    candidate_score: FloatArray
    baseline_score: FloatArray
    prompt_tokens: FloatArray
    candidate_tokens: FloatArray
    baseline_tokens: FloatArray
    features: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        n_gold = int(self.is_gold.sum())
        parts = [
            f"{len(self)} rows: {n_gold} gold, {len(self) - n_gold} preference",
            f"{self.n_queries} queries",
            f"models {shorten(self.models)}",
            "no features" if self.features is None else f"{self.features.shape[1]} features",
        ]
        return f"GainTable({'; '.join(parts)})"

    def __len__(self) -> int:
        return len(self.gain)

    @property
    def n_queries(self) -> int:
        """Number of distinct queries."""
        return len(self.queries)

    @property
    def is_pair(self) -> bool:
        """True when there is one candidate and one baseline."""
        return len(self.models) == 2

    def row_features(self) -> NDArray[np.float32]:
        """Features of each row, shape (n_rows, n_features).

        Raises
        ------
        DataError
            When the table holds no features yet.
        """
        if self.features is None:
            raise DataError("the table has no features: call with_features first")
        if len(self.query) == len(self.features) and np.array_equal(
            self.query, np.arange(len(self.query))
        ):
            return self.features
        rows: NDArray[np.float32] = self.features[self.query]
        return rows

    def with_features(self, features: NDArray[np.float32]) -> GainTable:
        """The same table with `features`, one row for each distinct query."""
        if features.ndim != 2 or len(features) != self.n_queries:
            raise DataError(
                f"features of shape {features.shape} for {self.n_queries} queries; "
                "one row for each query is needed"
            )
        if not np.isfinite(features).all():
            raise DataError("features hold NaN or infinite values")
        return replace(self, features=_frozen(features.astype(np.float32, copy=False)))

    def with_gains(self, gain: FloatArray, variance: FloatArray) -> GainTable:
        """The same table with other gains and variances, one for each row."""
        return replace(
            self,
            gain=_frozen(np.asarray(gain, dtype=np.float64)),
            variance=_frozen(np.asarray(variance, dtype=np.float64)),
        )

    def rows(self, keep: BoolArray | IntArray) -> GainTable:
        """The table restricted to some rows; queries and features are kept."""
        columns: dict[str, Any] = {name: _frozen(getattr(self, name)[keep]) for name in ROW_COLUMNS}
        return replace(self, **columns)

    def gold(self) -> GainTable:
        """Gold rows only."""
        return self.rows(self.is_gold)

    def preference(self) -> GainTable:
        """Preference rows only."""
        return self.rows(~self.is_gold)


def make_gain_table(
    *,
    queries: Sequence[str],
    gain: Any,
    is_gold: Any,
    query: Any | None = None,
    query_ids: Sequence[str] | None = None,
    models: Sequence[str] = ("cheap", "premium"),
    candidate: Any | None = None,
    baseline: Any | None = None,
    judge: Any | None = None,
    judges: Sequence[str] = ("",),
    domain: Any | None = None,
    domains: Sequence[str] = (),
    features: NDArray[Any] | None = None,
    **columns: Any,
) -> GainTable:
    """Build a :class:`GainTable`, filling the columns that are not given.

    By default row i is about query i, of a pair, with weight 1.

    Raises
    ------
    DataError
        When lengths differ, a gain is not finite, or a row has
        ``candidate <= baseline``.

    Examples
    --------
    >>> table = make_gain_table(queries=["a", "b"], gain=[1, 0], is_gold=[True, False])
    >>> len(table), table.is_pair
    (2, True)
    """
    gain = np.asarray(gain, dtype=np.float64)
    n = len(gain)
    query = np.arange(n) if query is None else query
    table = GainTable(
        queries=tuple(queries),
        query_ids=tuple(query_ids if query_ids is not None else map(str, range(len(queries)))),
        models=tuple(models),
        judges=tuple(judges),
        domains=tuple(domains),
        query=_ints(query),
        candidate=_ints(np.ones(n) if candidate is None else candidate),
        baseline=_ints(np.zeros(n) if baseline is None else baseline),
        gain=_frozen(gain),
        is_gold=_frozen(np.asarray(is_gold, dtype=np.bool_)),
        judge=_ints(np.zeros(n) if judge is None else judge),
        domain=_ints(np.full(len(queries), -1) if domain is None else domain),
        weight=_floats(columns, "weight", n, 1.0),
        variance=_floats(columns, "variance", n, 0.0),
        candidate_score=_floats(columns, "candidate_score", n, np.nan),
        baseline_score=_floats(columns, "baseline_score", n, np.nan),
        prompt_tokens=_floats(columns, "prompt_tokens", n, np.nan),
        candidate_tokens=_floats(columns, "candidate_tokens", n, np.nan),
        baseline_tokens=_floats(columns, "baseline_tokens", n, np.nan),
    )
    _check(table)
    return table if features is None else table.with_features(np.asarray(features))


def _check(table: GainTable) -> None:
    n = len(table)
    for name in ("query", "candidate", "baseline", "is_gold", "judge", "weight", "variance"):
        if len(getattr(table, name)) != n:
            raise DataError(f"column {name} has {len(getattr(table, name))} rows, gain has {n}")
    if not np.isfinite(table.gain).all():
        raise DataError("gain holds NaN or infinite values")
    if n and (table.candidate <= table.baseline).any():
        raise DataError("every row needs candidate > baseline as indices into models")
    if n and (table.query.max() >= len(table.queries) or table.query.min() < 0):
        raise DataError("query indexes outside queries")
    if len(table.query_ids) != len(table.queries) or len(table.domain) != len(table.queries):
        raise DataError("queries, query_ids and domain must have one entry for each query")


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = array.view()
    array.flags.writeable = False
    return array


def _ints(values: Any) -> IntArray:
    return _frozen(np.asarray(values).astype(np.int64))


def _floats(columns: dict[str, Any], name: str, n: int, default: float) -> FloatArray:
    values = columns.get(name)
    return _frozen(np.full(n, default) if values is None else np.asarray(values, dtype=np.float64))
