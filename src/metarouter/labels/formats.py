"""Each file format and kind of in-memory table to raw batches of rows."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import msgspec
import numpy as np

from metarouter.errors import LabelError
from metarouter.labels.ledger import BadRow
from metarouter.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

    from metarouter.labels.fields import RawColumn

__all__ = [
    "COLUMNS",
    "FORMS",
    "RawBatch",
    "find_delimiter",
    "long_cells",
    "read_arrow",
    "read_csv",
    "read_json",
    "read_parquet",
    "read_records",
]

# For each form: the columns that every row needs, and those of which it needs one.
FORMS = {
    "scores": (("model",), ("score",)),
    "gains": (("model_a", "model_b"), ("gain",)),
    "votes": (("model_a", "model_b"), ("winner", "p_a")),
}
COLUMNS = frozenset(
    (
        *("query", "messages", "query_id", "judge", "annotator", "domain", "timestamp", "weight"),
        *("prompt_tokens", "completion_tokens", "completion_tokens_a", "completion_tokens_b"),
        *(name for needed, values in FORMS.values() for name in (*needed, *values)),
    )
)

# Large enough for the vectorised checks to pay, small enough to hold Python rows.
BATCH_ROWS = 65_536
ROW_OBJECT = 'one JSON object a row, like {"query": …, "model": …, "score": …}'


@dataclass(frozen=True, kw_only=True, slots=True)
class RawBatch:
    """Some rows as they were found.

    `rows` are one-based row numbers, `columns` the known columns with one value
    for each row, `broken` the rows that could not be taken apart, `names` all
    column names seen, `is_text` True where the format writes numbers as text.
    """

    rows: IntArray
    columns: dict[str, RawColumn]
    broken: list[BadRow] = field(default_factory=list)
    names: frozenset[str] = frozenset()
    is_text: bool = False

    def column(self, name: str) -> RawColumn:
        """The raw column, all missing when the source does not have it."""
        found = self.columns.get(name)
        return [None] * len(self.rows) if found is None else found


def read_json(text: IO[str], name: str) -> Iterator[RawBatch]:
    """One object a line, or one array of objects, whichever the text starts with."""
    # blank lines at the top count, so that a row's number is its line
    first_row, start = 1, text.read(1)
    while start.isspace():
        first_row += start == "\n"
        start = text.read(1)
    if start == "[":
        return _batches(enumerate(_array(start + text.read(), name), 1))
    lines = enumerate(itertools.chain([start + text.readline()], text), first_row)
    return _batches(
        (row, _decoded(line, row)) for row, line in lines if not line.isspace() and line
    )


def read_records(records: Iterable[Any]) -> Iterator[RawBatch]:
    """Rows given as mappings from column to value."""
    return _batches(enumerate(records, 1))


def read_csv(text: IO[str], name: str, delimiter: str | None = None) -> Iterator[RawBatch]:
    """Rows below a header; the delimiter is the one that finds most known columns."""
    head = text.readline()
    while head.isspace():
        head = text.readline()
    delimiter = delimiter or find_delimiter(head)
    header = _header(head, delimiter)
    require_once(header, name)
    rows = enumerate(_csv_rows(text, delimiter), 1)
    while True:
        with long_cells():
            part = list(itertools.islice(rows, BATCH_ROWS))
        if not part:
            return
        yield _csv_batch(part, header)


def find_delimiter(header: str) -> str:
    """The mark between the cells of a header: the one that finds most known columns.

    Examples
    --------
    >>> find_delimiter("query;model;score")
    ';'
    """
    return max(",;\t", key=lambda mark: len(COLUMNS & set(_header(header, mark))))


def require_once(columns: Sequence[str], name: str) -> None:
    """Raise LabelError when a known column is there more than once."""
    repeated = [column for column in COLUMNS if list(columns).count(column) > 1]
    if repeated:
        raise LabelError(f"{name}: column {min(repeated)!r} is there more than once")


def read_parquet(source: Any, name: str) -> Iterator[RawBatch]:
    """A Parquet file, a batch of rows at a time, known columns only.

    `source` is a path or a seekable binary file.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        names = file.schema_arrow.names
        require_once(names, name)
        columns = [column for column in names if column in COLUMNS]
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        yield from _arrow_batches(batches, names)


def read_arrow(table: pa.Table, name: str) -> Iterator[RawBatch]:
    """An Arrow table."""
    require_once(table.column_names, name)
    columns = [column for column in table.column_names if column in COLUMNS]
    batches = table.select(columns).to_batches(max_chunksize=BATCH_ROWS)
    return _arrow_batches(batches, table.column_names)


def _arrow_batches(batches: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[RawBatch]:
    import pyarrow as pa

    start = 1
    for batch in batches:
        yield RawBatch(
            rows=np.arange(start, start + batch.num_rows),
            # plain columns only, so that the checks need not know of dictionaries
            columns={
                name: column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            },
            names=frozenset(names),
        )
        start += batch.num_rows


def _batches(rows: Iterable[tuple[int, Any]]) -> Iterator[RawBatch]:
    rows = iter(rows)
    while part := list(itertools.islice(rows, BATCH_ROWS)):
        good, broken = [], []
        for row, value in part:
            if isinstance(value, dict | Mapping):  # dict first: it is the quicker test
                good.append((row, value))
            else:
                broken.append(_broken(row, value))
        # most rows have the same keys, so the sets of keys are few
        names = frozenset(str(key) for keys in {tuple(value) for _, value in good} for key in keys)
        yield RawBatch(
            rows=np.array([row for row, _ in good], dtype=np.int64),
            columns={key: [value.get(key) for _, value in good] for key in names & COLUMNS},
            broken=broken,
            names=names,
        )


def _broken(row: int, value: Any) -> BadRow:
    if isinstance(value, BadRow):
        return value
    reason = f"a {type(value).__name__}, not an object"
    return BadRow(row=row, field=None, reason=reason, value=value, allowed=ROW_OBJECT)


def _decoded(line: str, row: int) -> Any:
    try:
        return msgspec.json.decode(line)
    except (ValueError, RecursionError):
        pass  # the standard library reads NaN and undecodable text, for a better message
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return BadRow(row=row, field=None, reason="not JSON", value=None, allowed=ROW_OBJECT)


def _array(text: str, name: str) -> list[Any]:
    value = _decoded(text, 0)
    if isinstance(value, BadRow):
        raise LabelError(f"{name}: starts with '[' and is not a JSON array; check its end")
    return list(value)


def _header(line: str, delimiter: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [column.strip() for column in cells]


@contextmanager
def long_cells() -> Iterator[None]:
    """Prompts can be longer than the 131,072 characters that csv allows a cell."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _csv_rows(text: IO[str], delimiter: str) -> Iterator[list[str] | str]:
    """Rows as lists of cells, or the message of a row that is not CSV."""
    # strict, because a quote that is never closed would swallow the rest of the file
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield str(error)
        else:
            if row:
                yield row


def _csv_batch(part: list[tuple[int, list[str] | str]], header: list[str]) -> RawBatch:
    good, broken = [], []
    for row, cells in part:
        if isinstance(cells, list) and len(cells) == len(header):
            good.append((row, cells))
        else:
            broken.append(_broken_csv(row, cells, len(header)))
    # an empty cell is a missing value: CSV has no other way to write one
    columns = {
        name: [cells[i] or None for _, cells in good]
        for i, name in enumerate(header)
        if name in COLUMNS
    }
    rows = np.array([row for row, _ in good], dtype=np.int64)
    names = frozenset(filter(None, header))
    return RawBatch(rows=rows, columns=columns, broken=broken, names=names, is_text=True)


def _broken_csv(row: int, cells: list[str] | str, width: int) -> BadRow:
    reason = f"not CSV, {cells}" if isinstance(cells, str) else f"{len(cells)} cells"
    allowed = f"{width} cells, as in the header; quotes inside a cell doubled"
    return BadRow(row=row, field=None, reason=reason, value=None, allowed=allowed)
