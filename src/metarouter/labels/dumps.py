"""Rows of data sets as they were published, all columns, one mapping a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metarouter.errors import LabelError, cause_of
from metarouter.labels.formats import long_cells
from metarouter.labels.frames import require_arrow

__all__ = ["read_dump"]

_BATCH_ROWS = 4_096


def read_dump(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet, CSV, JSONL or JSON file, whichever its suffix says.

    Unlike :func:`metarouter.labels.read_gain_table` it knows nothing of labels:
    columns keep their names and values. Pickle files are refused, because
    reading one runs what it says.

    Raises
    ------
    LabelError
        When the file is missing, damaged or of another format.
    """
    readers = {
        ".parquet": _parquet,
        ".csv": _csv,
        ".jsonl": _json_lines,
        ".ndjson": _json_lines,
        ".json": _json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        allowed = ", ".join(readers)
        raise LabelError(f"{path}: allowed: files ending in {allowed}; convert it to one of them")
    try:
        yield from reader(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: cannot be read: {cause_of(error)}") from error


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    arrow = require_arrow()
    import pyarrow.parquet as pq

    try:
        # opened here, for Python's errors say more than Arrow's
        with path.open("rb") as file, pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except arrow.ArrowException as error:
        first = str(error).splitlines()[0]
        raise LabelError(f"{path}: damaged Parquet file: {first}") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with long_cells(), path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _object(_decoded(line, f"{path}: row {number}"), path, number)


def _json(path: Path) -> Iterator[dict[str, Any]]:
    values = _decoded(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(values, list):
        raise LabelError(f"{path}: allowed: one JSON array of objects")
    for number, value in enumerate(values, 1):
        yield _object(value, path, number)


def _decoded(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{place}: not JSON: {error}") from error


def _object(value: Any, path: Path, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LabelError.at(
            file=str(path), row=number, field=None, value=None, allowed="one JSON object a row"
        )
    return value
