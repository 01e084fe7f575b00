"""Files that label making reads and writes: queries, responses, and answers to grade by."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from metarouter.errors import InputError, LabelError, cause_of
from metarouter.labels.fields import is_encodable
from metarouter.labels.files import format_suffix, open_bytes
from metarouter.labels.formats import find_delimiter
from metarouter.labels.frames import require_arrow
from metarouter.labels.messages import CHAT_ALLOWED, read_chat, read_query_chat

__all__ = [
    "QueryRow",
    "Response",
    "query_of",
    "read_keyed",
    "read_objects",
    "read_parquet",
    "read_queries",
    "read_responses",
    "whole_file",
    "write_jsonl",
]

Row = Mapping[str, Any]

PARQUET = (".parquet", ".pq")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryRow:
    """One query of a file.

    Parameters
    ----------
    text : what is asked, a chat rendered to one text.
    messages : the chat, as it is sent to a model.
    query_id : as the file gives it, or None.
    kept : the fields of the file that identify the query in label files.
    """

    text: str
    messages: tuple[Mapping[str, Any], ...]
    query_id: str | None
    kept: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """What makes two rows the same query: the id, else the text."""
        return self.text if self.query_id is None else self.query_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """What a model answered to a query.

    Parameters
    ----------
    query : QueryRow
    model, text : who answered, and what.
    completion_tokens : int, optional, what the endpoint counted; costs are learned from it.
    """

    query: QueryRow
    model: str
    text: str
    completion_tokens: int | None = None

    def counted(self, suffix: str = "") -> dict[str, int]:
        """The field of a label file with the count; none where it is unknown.

        Examples
        --------
        >>> query = QueryRow(text="Hi", messages=(), query_id=None, kept={})
        >>> Response(query=query, model="m", text="Hi!", completion_tokens=3).counted("_a")
        {'completion_tokens_a': 3}
        """
        if self.completion_tokens is None:
            return {}
        return {f"completion_tokens{suffix}": self.completion_tokens}


def read_queries(path: Path) -> list[QueryRow]:
    """Queries of a file, each once.

    Parameters
    ----------
    path : path
        ``.txt``: each line that is not blank is a query. Otherwise JSONL, a
        JSON array, CSV, TSV or Parquet with a column `query` or `messages`, and
        optionally `query_id` and `domain`. All may be compressed, with gzip or zstd.

    Raises
    ------
    LabelError
        When a row has no usable query, naming file, row and field.
    InputError
        When the file cannot be read or holds no query.
    """
    found: dict[str, QueryRow] = {}
    for number, row in _rows(path):
        query = query_of(path, number, row)
        earlier = found.setdefault(query.identity, query)
        if earlier.text != query.text:
            raise _bad(path, number, "query_id", query.query_id, "one query for each query_id")
    if not found:
        raise InputError(f"{path}: holds no query; allowed: one a line, or a column query")
    return list(found.values())


def read_keyed(path: Path) -> list[tuple[QueryRow, Row]]:
    """Every row of a file of queries, responses or labels, with the query it is about.

    Raises
    ------
    LabelError
        When a row has no usable query, naming file, row and field.
    InputError
        When the file cannot be read.
    """
    return [(query_of(path, number, row), row) for number, row in _rows(path)]


def read_responses(path: Path) -> list[Response]:
    """Responses of a file with `query` or `messages`, `model` and `response`.

    `completion_tokens` is read where it stands.

    Raises
    ------
    LabelError
        When a row lacks one of them, its count is none, or a model answers a
        query twice.
    InputError
        When the file cannot be read or is empty.
    """
    found: dict[tuple[str, str], Response] = {}
    for number, row in read_objects(path):
        model = text_field(path, number, row, "model")
        query = query_of(path, number, row)
        key = (query.identity, model)
        if key in found:
            raise _bad(path, number, "model", model, "one response of a model to a query")
        text = row.get("response")
        if not isinstance(text, str):
            raise _bad(path, number, "response", text, "the text that the model answered")
        tokens = _count(path, number, row, "completion_tokens")
        found[key] = Response(query=query, model=model, text=text, completion_tokens=tokens)
    if not found:
        raise InputError(f"{path}: holds no response; allowed: what `metarouter collect` writes")
    return list(found.values())


def query_of(path: Path, number: int, row: Row) -> QueryRow:
    """The query that a row is about, read as labels are read: a text, or a chat.

    A chat stands in `messages`, or in place of a text in `query`, as a list or as
    JSON. Either way it is kept as the list in `messages`.

    Raises
    ------
    LabelError
        When there is none, naming file, row and field.
    """
    given = row.get("query_id")
    if isinstance(given, bool) or not isinstance(given, str | int | None):
        raise _bad(path, number, "query_id", given, "a text or an integer")
    text, chat = _text_and_chat(path, number, row)
    known = dict(row)
    if chat is not None:
        if row.get("messages") is None:
            del known["query"]
        known["messages"] = chat
    names = ("query_id", "query", "messages", "domain")
    return QueryRow(
        text=text,
        messages=tuple(chat or [{"role": "user", "content": text}]),
        query_id=None if given is None or given == "" else str(given),
        kept={name: known[name] for name in names if known.get(name) is not None},
    )


def read_objects(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of a JSONL, JSON, CSV, TSV or Parquet file, with their numbers.

    The file may be compressed, with gzip or zstd. Rows are numbered from 1; for
    JSONL the number is that of the line.

    Raises
    ------
    LabelError
        When a row is no object.
    InputError
        When the file cannot be read.
    """
    try:
        if format_suffix(path) in PARQUET:
            yield from enumerate(read_parquet(path).to_pylist(), 1)
            return
        with _opened(path) as file:
            yield from _text_rows(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {cause_of(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def read_parquet(path: Path) -> Any:
    """The Arrow table of a Parquet file, compressed as a whole or not.

    Raises
    ------
    InputError
        When the file cannot be read.
    """
    arrow = require_arrow()
    import pyarrow.parquet as pq

    try:
        with open_bytes(path) as file:  # whose errors say more than Arrow's
            return pq.read_table(file if file.seekable() else io.BytesIO(file.read()))
    except arrow.ArrowException as error:
        raise InputError(f"{path}: not a Parquet file that can be read: {error}") from error


def text_field(path: Path, number: int, row: Row, name: str) -> str:
    """A field that must be a text that is not blank."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _bad(path, number, name, value, "a text that is not blank")
    return value


def write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    """Write rows to a new file that takes the old one's place when it is whole.

    Returns
    -------
    int, the number of rows.

    Raises
    ------
    InputError
        When the file cannot be written; an old one is left as it is.
    """
    n = 0
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            n += 1
    return n


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file takes the place of `path` when all is on the disk.

    Raises
    ------
    InputError
        When it cannot be written; an old file is left as it is.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _text_and_chat(
    path: Path, number: int, row: Row
) -> tuple[str, Sequence[Mapping[str, Any]] | None]:
    """The text of a row's query, and the chat that it is the text of."""
    messages, text = row.get("messages"), row.get("query")
    found = read_query_chat(text) if messages is None else read_chat(messages)
    if found is not None:
        if not found[1]:
            name = "query" if messages is None else "messages"
            raise _bad(path, number, name, row[name], "a text that is not blank (empty text)")
        return found[1], found[0]
    if messages is not None:
        raise _bad(path, number, "messages", messages, f"{CHAT_ALLOWED} (not a chat)")
    if "query" not in row:
        columns = ", ".join(sorted(map(str, row)))
        allowed = f"a field query or messages; there are: {columns or 'none'}"
        raise _bad(path, number, "query", None, allowed)
    if text is None:
        raise _bad(path, number, "query", None, "a text, or a chat in messages (missing)")
    if not isinstance(text, str):
        raise _bad(path, number, "query", text, "a text (not a text)")
    if not text.strip():
        raise _bad(path, number, "query", text, "a text that is not blank (empty text)")
    return text, None


def _count(path: Path, number: int, row: Row, name: str) -> int | None:
    value = row.get(name)
    if value is None or value != value:  # NaN is what a data frame writes for "none"
        return None
    try:
        count = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        count = math.nan
    if not (count >= 0 and count.is_integer()):
        raise _bad(path, number, name, value, "a count, at least 0")
    return int(count)


def _bad(path: Path, number: int, name: str, value: Any, allowed: str) -> LabelError:
    return LabelError.at(file=str(path), row=number, field=name, value=value, allowed=allowed)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """The text of a file; gzip needs none of what other compressions do."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    with (
        gzip.open(path) if is_gzip else open_bytes(path) as content,
        io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as text,
    ):
        yield text


def _rows(path: Path) -> Iterator[tuple[int, Row]]:
    return _lines(path) if format_suffix(path) == ".txt" else read_objects(path)


def _lines(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with _opened(path) as file:
            text = file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {cause_of(error)}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, {"query": line.rstrip("\r")}


def _text_rows(file: IO[str], path: Path) -> Iterator[tuple[int, Row]]:
    suffix, text = format_suffix(path), file.read()
    if suffix not in (".csv", ".tsv"):
        return _json_rows(text, path)
    text = text.lstrip("\r\n")  # blank lines before the header
    header = text.partition("\n")[0]
    return _csv_rows(text, path, "\t" if suffix == ".tsv" else find_delimiter(header))


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    has_surrogates = "\\ud" in text or "\\uD" in text
    if text.lstrip().startswith("["):
        rows: Iterable[tuple[int, Any]] = enumerate(_decoded(text, path, None), 1)
    else:
        # only line feeds end a line of JSON: a text may hold other separators
        lines = enumerate(text.split("\n"), 1)
        rows = ((i, _decoded(line, path, i)) for i, line in lines if line.strip())
    for number, row in rows:
        if not isinstance(row, dict):
            allowed = 'one JSON object a row, like {"query": …}'
            raise LabelError.at(file=str(path), row=number, field=None, value=None, allowed=allowed)
        if has_surrogates and not is_encodable(json.dumps(row, ensure_ascii=False)):
            allowed = "valid Unicode, without half of a surrogate pair"
            raise LabelError.at(file=str(path), row=number, field=None, value=None, allowed=allowed)
        yield number, row


def _decoded(text: str, path: Path, number: int | None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        allowed = f"JSON, one object a line ({str(error)[:80]})"
        raise LabelError.at(
            file=str(path), row=number, field=None, value=None, allowed=allowed
        ) from error


def _csv_rows(text: str, path: Path, delimiter: str) -> Iterator[tuple[int, Row]]:
    limit = csv.field_size_limit(2**31 - 1)  # prompts can be long
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                allowed = "as many cells as the header"
                raise LabelError.at(
                    file=str(path), row=number, field=None, value=None, allowed=allowed
                )
            yield number, {name: value for name, value in row.items() if value != ""}
    except csv.Error as error:
        raise InputError(f"{path}: not CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
