"""Unlabelled queries from a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from metarouter.errors import InputError, LabelError, cause_of, shorten
from metarouter.labels.files import format_suffix, open_bytes, read_file
from metarouter.labels.formats import RawBatch
from metarouter.labels.messages import CHAT_ALLOWED, read_chat, read_query_chat
from metarouter.router import query_text

__all__ = ["read_queries"]


def read_queries(path: str | Path) -> list[str]:
    """Read queries from a text file with one a line, or from the columns of a table.

    Parameters
    ----------
    path : str or path
        ``.txt``: each line that is not blank is a query. Otherwise JSONL, JSON,
        CSV or Parquet with a column `query` or `messages`; label files will do.
        All may be compressed. Each text is taken once.

    Returns
    -------
    list of str, all different, in the order of the file.

    Raises
    ------
    InputError
        When the file cannot be read, a row has no query, or there is none.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "traffic.txt")
    ...     _ = path.write_text("Is 91 prime?", encoding="utf-8")
    ...     read_queries(path)
    ['Is 91 prime?']
    """
    path = Path(path)
    found = _lines(path) if format_suffix(path) == ".txt" else _column(path)
    queries = list(dict.fromkeys(found))
    if not queries:
        raise InputError(f"{path}: holds no query; allowed: one a line, or a column query")
    return queries


def _lines(path: Path) -> list[str]:
    try:
        with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as content:
            text = content.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {cause_of(error)}") from error
    # only line feeds end a line: a text may hold other separators
    texts = (_text(line, None) for line in text.split("\n"))
    return [text for text in texts if text.strip()]


def _column(path: Path) -> list[str]:
    return [text for batch in read_file(path) for text in _texts(batch, path)]


def _texts(batch: RawBatch, path: Path) -> list[str]:
    if batch.broken:
        row = batch.broken[0]
        raise LabelError.at(
            file=str(path), row=row.row, field=row.field, value=row.value, allowed=row.allowed
        )
    pairs = zip(_listed(batch, "query"), _listed(batch, "messages"), strict=True)
    texts = []
    for number, (query, messages) in zip(batch.rows.tolist(), pairs, strict=True):
        try:
            text = _text(query, messages)
        except InputError as error:
            raise LabelError(f"{path}: row {number}: {error}") from error
        if text.strip():
            texts.append(text)
    return texts


def _text(query: Any, messages: Any) -> str:
    """The text of a row as labels have it: of the chat in either field, else of the query."""
    found = read_query_chat(query) if messages is None else read_chat(messages)
    if found is not None:
        return found[1]
    if messages is not None:
        raise InputError(f"messages = {shorten(messages)}; allowed: {CHAT_ALLOWED}")
    if query is None:
        raise InputError("no query; allowed: a text in a field query, or a chat in messages")
    return query_text(query)


def _listed(batch: RawBatch, name: str) -> list[Any]:
    column = batch.column(name)
    return column.to_pylist() if hasattr(column, "to_pylist") else list(column)
