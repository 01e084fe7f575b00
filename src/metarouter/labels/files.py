"""Label files: find the format and the encoding, decompress, hand on raw batches."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from metarouter.errors import LabelError, cause_of
from metarouter.labels.formats import RawBatch, read_csv, read_json, read_parquet
from metarouter.labels.frames import require_arrow

__all__ = ["format_suffix", "open_bytes", "read_file"]

# A byte order mark names the encoding; the longer mark of UTF-32 LE comes first.
BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
PARQUET_MAGIC = b"PAR1"


def read_file(path: Path) -> Iterator[RawBatch]:
    """Raw batches of a JSONL, JSON, CSV, TSV or Parquet file, compressed or not.

    The compression is taken from the first bytes, the format from the first
    bytes and the suffix. Text is UTF-8, or UTF-16 or UTF-32 with a byte order
    mark; bytes that are not valid UTF-8 make their rows bad.

    Raises
    ------
    LabelError
        When the file is missing, damaged, or in no known format.
    """
    try:
        with open_bytes(path) as file:
            yield from _batches(file, path)
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {cause_of(error)}") from error
    except UnicodeDecodeError as error:
        raise LabelError(
            f"{path}: not valid {error.encoding} at byte {error.start}; save it as UTF-8"
        ) from error


def _batches(file: IO[bytes], path: Path) -> Iterator[RawBatch]:
    start = _peek(file)
    suffix = format_suffix(path)
    if start.startswith(PARQUET_MAGIC):
        yield from _parquet_batches(file, path)
        return
    if suffix in {".parquet", ".pq"}:
        raise LabelError(f"{path}: not a Parquet file: it does not start with PAR1")
    is_json = start.lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1] in {b"{", b"["}
    is_lines = is_json and suffix not in {".csv", ".tsv"}
    if is_lines or suffix in {".jsonl", ".ndjson", ".json"}:
        with _text(file, start, newline="\n") as text:
            yield from read_json(text, str(path))
        return
    with _text(file, start, newline="") as text:
        yield from read_csv(text, str(path), "\t" if suffix == ".tsv" else None)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a file; which compression, its first bytes tell."""
    with path.open("rb") as file:
        magic = file.peek(4)[:4]
        kind = next((name for start, name in COMPRESSIONS.items() if magic.startswith(start)), None)
        if kind is None:
            yield file
            return
        with (
            require_arrow().CompressedInputStream(file, kind) as stream,
            io.BufferedReader(stream) as inner,
        ):
            yield inner


def _parquet_batches(file: IO[bytes], path: Path) -> Iterator[RawBatch]:
    arrow = require_arrow()
    # the index of a Parquet file is at its end, and decompression cannot jump there
    source = file if file.seekable() else io.BytesIO(file.read())
    try:
        yield from read_parquet(source, str(path))
    except arrow.ArrowException as error:
        raise LabelError(f"{path}: damaged Parquet file: {cause_of(error)}") from error


def _peek(file: Any) -> bytes:
    start: bytes = file.peek(64)[:64]
    return start


def _text(file: IO[bytes], start: bytes, *, newline: str) -> IO[str]:
    marks = (name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark))
    encoding = next(marks, "utf-8")
    # Bytes that cannot be decoded become lone surrogates, which the row checks find.
    errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)


def format_suffix(path: Path) -> str:
    """The suffix that names a file's format, in small letters, without that of a compression.

    Examples
    --------
    >>> format_suffix(Path("votes.NDJSON.gz"))
    '.ndjson'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in {".gz", ".gzip", ".zst", ".zstd"}:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
