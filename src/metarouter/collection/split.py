"""Share files out to training and test by query, before or after they become labels."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarouter.collection.rows import (
    PARQUET,
    QueryRow,
    Row,
    read_keyed,
    read_parquet,
    whole_file,
    write_jsonl,
)
from metarouter.errors import DataError, OptionError
from metarouter.labels.files import format_suffix

__all__ = ["query_groups", "split_files"]

_FORMATS = r"\.(?:jsonl|ndjson|json|csv|tsv|txt|parquet|pq)"
_SUFFIX = re.compile(rf"({_FORMATS})?(\.(?:gz|gzip|zst|zstd))?$", re.IGNORECASE)


def split_files(
    files: Sequence[Path], folder: Path, *, share: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Write each file twice, below ``train`` and ``test`` of a folder, under its name.

    Tables of text stay tables of text (CSV), where numbers are read from text,
    and Parquet stays Parquet; all else becomes JSONL.

    A query is on one side in all files, so that what is fitted on the training
    side, votes included, has seen no query of the test side. Queries that are in
    the same files are drawn apart from the others: both sides have the same
    share of graded queries, up to rounding.

    Parameters
    ----------
    files : queries, responses or labels: JSONL, JSON, CSV, TSV, Parquet, or ``.txt``, each
        plain or compressed with gzip or zstd.
    folder : path, where `train` and `test` are made.
    share : float in (0, 1), share of the queries on the test side.
    rng : numpy.random.Generator

    Returns
    -------
    list of dict
        For each file written: `file`, `rows`, `queries`.

    Raises
    ------
    OptionError
        When `share` is outside (0, 1), two files would have one name, or a
        file that is read would be written over.
    DataError
        When there are too few queries for two sides.
    """
    if not 0 < share < 1:
        raise OptionError.of("held_out", share, "a share between 0 and 1")
    names = _names(files)
    written = {folder / side / name for side in ("train", "test") for name in names}
    if {*map(os.path.realpath, written)} & {*map(os.path.realpath, files)}:
        raise OptionError.of("out", str(folder), "a folder in which no file is read")
    read = [read_keyed(file) for file in files]
    groups = query_groups([query for rows in read for query, _ in rows])
    sizes = np.cumsum([len(rows) for rows in read])[:-1]
    per_file = [part.tolist() for part in np.split(np.array(groups), sizes)]
    is_test = _drawn(per_file, share, rng)
    records = []
    for side, wanted in (("train", False), ("test", True)):
        for file, name, rows, numbers in zip(files, names, read, per_file, strict=True):
            kept = [i for i, number in enumerate(numbers) if is_test[number] == wanted]
            path = folder / side / name
            if path.suffix == ".parquet":
                _write_parquet(path, file, kept)
            else:
                _write(path, [rows[i][1] for i in kept])
            n_queries = len({numbers[i] for i in kept})
            records.append({"file": str(path), "rows": len(kept), "queries": n_queries})
    return records


def query_groups(queries: Sequence[QueryRow]) -> list[int]:
    """A number for each row; rows of one query_id or of one text have the same.

    Space around a text is no difference, as to `evaluate` when it asks what was fitted on.

    Examples
    --------
    >>> def row(query_id: str | None, text: str) -> QueryRow:
    ...     return QueryRow(text=text, messages=(), query_id=query_id, kept={})
    >>> query_groups([row("1", "a"), row("2", "b"), row(None, " a"), row("2", "B")])
    [0, 1, 0, 1]
    """
    parents: list[int] = []
    seen: dict[tuple[str, str], int] = {}

    def root(i: int) -> int:
        while parents[i] != i:
            i = parents[i]
        return i

    for i, query in enumerate(queries):
        parents.append(i)
        keys = [("text", query.text.strip())]
        keys += [] if query.query_id is None else [("id", query.query_id)]
        roots = [root(seen[key]) for key in keys if key in seen]
        for member in (i, *roots):
            parents[member] = min((i, *roots))
        seen.update(dict.fromkeys(keys, i))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(parents))]


def _names(files: Sequence[Path]) -> list[str]:
    """What each file is called on both sides."""
    names = []
    for file in files:
        kept = {".csv": ".csv", ".tsv": ".csv", **dict.fromkeys(PARQUET, ".parquet")}
        suffix = kept.get(format_suffix(file), ".jsonl")
        names.append(_SUFFIX.sub("", file.name, count=1) + suffix)
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"two files would be written as {name}; allowed: one name each")
    return names


def _write_parquet(path: Path, source: Path, kept: Sequence[int]) -> None:
    """Rows of a Parquet file, with its columns and types."""
    import pyarrow.parquet as pq

    table = read_parquet(source).take(list(kept))
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _write(path: Path, rows: Sequence[Row]) -> None:
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _drawn(
    per_file: Sequence[Sequence[int]], share: float, rng: np.random.Generator
) -> dict[int, bool]:
    """Which groups are on the test side, drawn among those that are in the same files."""
    where: dict[int, list[int]] = {}
    for file, numbers in enumerate(per_file):
        for number in dict.fromkeys(numbers):
            where.setdefault(number, []).append(file)
    strata: dict[tuple[int, ...], list[int]] = {}
    for number, files in where.items():
        strata.setdefault(tuple(files), []).append(number)
    is_test = dict.fromkeys(where, False)
    for members in strata.values():
        for number in rng.choice(members, size=round(share * len(members)), replace=False):
            is_test[int(number)] = True
    if len(set(is_test.values())) < 2:
        raise DataError(f"{len(is_test)} queries are too few for a training and a test side")
    return is_test
