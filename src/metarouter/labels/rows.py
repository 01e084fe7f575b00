"""Checked rows of all files as arrays of codes: :class:`LabelRows`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from metarouter.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LabelRows", "Names", "group_mean", "group_rows", "make_label_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What the codes of :class:`LabelRows` stand for (Arrow arrays of texts)."""

    text: pa.Array
    query_id: pa.Array
    model: tuple[str, ...]
    judge: tuple[str, ...]
    domain: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRows:
    """One entry for each label, arrays of shape (n_rows,).

    Codes are −1 where nothing is given. `model_b` is −1 for a score. `value`
    is a score, or the gain of model a over model b; `is_vote` tells counted
    votes from measurements. `text` is the code of the query's text; `query` is
    the same until the queries are told apart.
    """

    file: IntArray
    row: IntArray
    is_gold: BoolArray
    is_vote: BoolArray
    text: IntArray
    query: IntArray
    query_id: IntArray
    model_a: IntArray
    model_b: IntArray
    judge: IntArray
    annotator: IntArray
    domain: IntArray
    value: FloatArray
    weight: FloatArray
    prompt_tokens: FloatArray
    tokens_a: FloatArray
    tokens_b: FloatArray

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: IntArray | BoolArray) -> LabelRows:
        """Some rows, by index or mask."""
        if rows.dtype == np.bool_ and rows.all():
            return self
        return LabelRows(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def with_columns(self, **columns: Any) -> LabelRows:
        """The same rows with other columns."""
        return replace(self, **columns)


def make_label_rows(table: pa.Table) -> tuple[LabelRows, Names]:
    """Codes and names of the canonical columns of checked batches.

    `table` has the columns of :func:`validate_batch` and `file`, `is_gold`,
    `is_vote`.
    """
    codes: dict[str, Any] = {}
    names: dict[str, Any] = {}
    for column in ("query", "query_id", "judge", "annotator", "domain"):
        codes[column], names[column] = _encoded(table.column(column))
    codes["model_a"], codes["model_b"], models = _shared_codes(table)
    plain = ("file", "row", "is_gold", "is_vote", "value", "weight", "prompt_tokens")
    arrays = {name: table.column(name).to_numpy() for name in (*plain, "tokens_a", "tokens_b")}
    rows = LabelRows(text=codes["query"], **codes, **arrays)
    return rows, Names(
        text=names["query"],
        query_id=names["query_id"],
        model=models,
        judge=tuple(names["judge"].to_pylist()),
        domain=tuple(names["domain"].to_pylist()),
    )


def group_rows(*columns: Any) -> tuple[IntArray, IntArray]:
    """Group code of each row (equal in all `columns`), and each group's first row.

    Groups are numbered by their first appearance.

    Examples
    --------
    >>> group, first = group_rows(np.array([5, 3, 5]), np.array([0.1, 0.2, 0.1]))
    >>> group.tolist(), first.tolist()
    ([0, 1, 0], [0, 1])
    """
    code, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        values, n_values = _dense(column)
        # codes are numbers of base n_values; renumber before they overflow 64 bits
        if size * n_values > 2**62:
            code = np.unique(code, return_inverse=True)[1]
            size = int(code.max(initial=0)) + 1
        code, size = code * n_values + values, size * n_values
    _, first, group = np.unique(code, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[group], first[order]


def group_mean(group: IntArray, value: FloatArray, weight: FloatArray) -> FloatArray:
    """Weighted mean of each group; NaN where the weights are all 0."""
    total = np.bincount(group, weight)
    with np.errstate(invalid="ignore"):
        mean: FloatArray = np.bincount(group, weight * np.nan_to_num(value)) / total
    return mean


def _dense(column: Any) -> tuple[IntArray, int]:
    """Integers from 0 that are equal where the column is, and one more than the largest."""
    if column.dtype.kind == "f":
        values, codes = np.unique(column, return_inverse=True)
        return codes, len(values)
    low = int(column.min(initial=0))
    return column.astype(np.int64) - low, int(column.max(initial=0)) - low + 1


def _encoded(column: pa.ChunkedArray) -> tuple[IntArray, pa.Array]:
    """Codes of a column, −1 where null, and the names that they stand for."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if not column.num_chunks:
        return np.empty(0, dtype=np.int64), pa.array([], type=column.type.value_type)
    # all chunks have the same dictionary, so that copying the texts can be avoided
    codes = [np.asarray(chunk.indices.fill_null(-1), dtype=np.int64) for chunk in column.chunks]
    return np.concatenate(codes), column.chunk(0).dictionary


def _shared_codes(table: pa.Table) -> tuple[IntArray, IntArray, tuple[str, ...]]:
    """Codes of both model columns in one list of names."""
    code_a, names_a = _encoded(table.column("model_a"))
    code_b, names_b = _encoded(table.column("model_b"))
    a, b = names_a.to_pylist(), names_b.to_pylist()
    models = tuple(sorted({*a, *b}))
    index = {name: i for i, name in enumerate(models)}
    # the last entry serves code −1, where no model is given
    to_a = np.array([*(index[name] for name in a), -1], dtype=np.int64)
    to_b = np.array([*(index[name] for name in b), -1], dtype=np.int64)
    return to_a[code_a], to_b[code_b], models
