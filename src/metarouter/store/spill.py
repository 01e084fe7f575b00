r"""Rows put aside on the disk, until the store takes them.

A folder holds the rows of all processes of a host, as JSON lines in files that
carry the name of their process. Each process holds a lock on a file of that
name; the system lets go of it when the process ends, however it ends. Files
whose name is not locked belong to nobody: any process takes them over.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from metarouter.errors import OptionError

try:
    import fcntl
except ImportError:  # Windows: a process reads the files of its own name alone
    fcntl = None  # type: ignore[assignment]

__all__ = ["Batch", "Spill", "make_instance_name", "without_odd_text"]

Row = Mapping[str, Any]

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows read back, and where the next ones begin."""

    rows: list[dict[str, Any]]
    end: int


@dataclass(kw_only=True, slots=True)
class _File:
    path: Path
    read: int = 0  # bytes that are in the store
    size: int = 0


@dataclass(kw_only=True, slots=True)
class _Owned:
    """A name whose lock is ours; it is given back when its last file is gone."""

    lock: FileIO
    files: int = 0


class Spill:
    """The rows of one process, and of dead ones, in a folder.

    Parameters
    ----------
    folder : path, made where it is missing, for its owner alone to read.
    instance : str, a name that no other process has.
    limit : int, bytes that this process may have put aside at a time.
    file_bytes : int, after which another file is begun.
    batch_bytes : int, of one batch, unless a row alone is longer.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     spill = Spill(Path(folder), instance="a")
    ...     spill.open()
    ...     kept = spill.append([{"decision_id": "d1"}])
    ...     batch = spill.next_batch(10)
    ...     spill.done(batch)
    ...     spill.close()
    >>> kept, batch.rows
    (1, [{'decision_id': 'd1'}])
    """

    def __init__(
        self,
        folder: Path,
        *,
        instance: str,
        limit: int = 2**30,
        file_bytes: int = 2**24,
        batch_bytes: int = 2**22,
    ) -> None:
        self.folder = folder
        self.instance = instance
        self.limit = limit
        self._file_bytes = file_bytes
        self._batch_bytes = batch_bytes
        self._mutex = threading.RLock()
        self._owned: dict[str, _Owned] = {}
        self._waiting: deque[_File] = deque()
        self._current: FileIO | None = None
        self._number = 0

    @property
    def bytes_waiting(self) -> int:
        """Bytes that are not in the store yet."""
        return self._behind(lambda name: True)

    def make_folder(self) -> None:
        """Make the folder, and see that it can be written to.

        Raises
        ------
        OptionError
            When it cannot.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise self._refused("not allowed")

    def open(self) -> None:
        """Make the folder and take this process's name.

        Raises
        ------
        OptionError
            When nothing can be written there.
        """
        self.make_folder()
        try:
            self._own(self.instance, wait=True)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error

    def append(self, rows: Sequence[Row], *, is_safe: bool = True) -> int:
        """Put rows aside.

        Parameters
        ----------
        rows : they hold what JSON can.
        is_safe : bool
            Whether to wait until the disk has them, so that they outlive the
            machine's power; without it they outlive the process.

        Returns
        -------
        int
            How many were kept; the others would be above the limit, or the disk
            took no more.
        """
        lines = b"".join(map(_line, rows))
        with self._mutex:
            if not self._has_room(lines):
                return self._append_some(rows)
            return len(rows) if self._write(lines, is_safe=is_safe) else 0

    def next_batch(self, limit: int) -> Batch | None:
        """The oldest rows, up to `limit`, or None where none wait."""
        with self._mutex:
            if not self._waiting:
                self._turn()
            if not self._waiting:
                return None
            file = self._waiting[0]
        lines = _read_lines(file, limit, self._batch_bytes)
        rows = [row for line in lines if (row := _row(line)) is not None]
        # no line left: somebody cut the file or removed it
        end = file.read + sum(map(len, lines)) if lines else file.size
        return Batch(rows=rows, end=end)

    def done(self, batch: Batch) -> None:
        """Forget a batch, which is in the store; its file is removed after its last row."""
        with self._mutex:
            file = self._waiting[0]
            file.read = batch.end
            if file.read >= file.size:
                self._waiting.popleft()
                file.path.unlink(missing_ok=True)
                self._release(file.path)

    def set_down(self, row: Row) -> Path:
        """Write a row that no store takes to a file for people to look at; its path."""
        path = self.folder / f"{self.instance}.refused"
        with self._mutex, os.fdopen(os.open(path, _APPEND, 0o600), "ab") as file:
            file.write(_line(row))
        return path

    def adopt(self) -> int:
        """Take over the files of processes that are gone; how many."""
        paths = self.folder.iterdir()
        names = {_name_of(path) for path in paths if path.suffix in (".jsonl", ".lock")}
        with self._mutex:
            return sum(map(self._adopt_name, sorted(names - self._owned.keys())))

    def _adopt_name(self, name: str) -> int:
        if not self._own(name):
            return 0
        paths = sorted(self.folder.glob(f"{name}@*.jsonl"))
        self._waiting.extend(_File(path=path, size=path.stat().st_size) for path in paths)
        self._owned[name].files = len(paths)
        if not paths:
            self._give_back(name)
        return len(paths)

    def close(self) -> None:
        """Let go of the files; what they hold is for the next process."""
        with self._mutex:
            self._turn()
            for name in list(self._owned):
                self._give_back(name)
            self._waiting.clear()

    def _refused(self, why: str) -> OptionError:
        return OptionError(f"store.spill = {self.folder}: cannot be written: {why}")

    def _append_some(self, rows: Sequence[Row]) -> int:
        """One by one, as long as there is room."""
        kept = 0
        for line in map(_line, rows):
            if not self._has_room(line) or not self._write(line, is_safe=False):
                break
            kept += 1
        return kept

    def _write(self, lines: bytes, *, is_safe: bool) -> bool:
        try:
            file = self._file()
        except OSError:
            return False
        start = file.tell()
        try:
            if file.write(lines) != len(lines):
                raise OSError("the disk is full")
            if is_safe:
                os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), start)  # half a line would spoil the next one
            file.seek(start)
            return False
        if file.tell() >= self._file_bytes:
            self._turn()
        return True

    def _file(self) -> FileIO:
        if self._current is None:
            self._number += 1
            path = self.folder / f"{self.instance}@{self._number:06d}.jsonl"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self._current = FileIO(handle, "r+")
            self._owned[self.instance].files += 1
        return self._current

    def _turn(self) -> None:
        """The current file is whole: it may be read."""
        if self._current is not None:
            path = self.folder / f"{self.instance}@{self._number:06d}.jsonl"
            self._waiting.append(_File(path=path, size=self._current.tell()))
            self._current.close()
            self._current = None

    def _own(self, name: str, *, wait: bool = False) -> bool:
        """Whether the name is ours, now."""
        path = self.folder / f"{name}.lock"
        while True:
            lock = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
            if not _lock(lock, wait=wait):
                lock.close()
                return False
            with suppress(FileNotFoundError):  # its last owner removed it before we had it
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    self._owned[name] = _Owned(lock=lock)
                    return True
            lock.close()

    def _behind(self, counts: Callable[[str], bool]) -> int:
        with self._mutex:
            whole = sum(f.size - f.read for f in self._waiting if counts(_name_of(f.path)))
            return whole + (0 if self._current is None else self._current.tell())

    def _has_room(self, lines: bytes) -> bool:
        mine = self._behind(lambda name: name == self.instance)
        return mine + len(lines) <= self.limit

    def _release(self, path: Path) -> None:
        name = _name_of(path)
        self._owned[name].files -= 1
        if not self._owned[name].files and name != self.instance:
            self._give_back(name)

    def _give_back(self, name: str) -> None:
        owned = self._owned.pop(name)
        if not owned.files:
            (self.folder / f"{name}.lock").unlink(missing_ok=True)
        owned.lock.close()


def make_instance_name() -> str:
    """A name for this process that no other has: host, process id and chance.

    Examples
    --------
    >>> len(make_instance_name()) <= 40
    True
    """
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname())
    return f"{host[:20]}-{os.getpid()}-{secrets.token_hex(4)}"


def without_odd_text(value: Any) -> Any:
    r"""The value with each character that a database refuses made U+FFFD.

    Examples
    --------
    >>> without_odd_text({"a": ["b\x00", "\ud800"]})
    {'a': ['b\ufffd', '\ufffd']}
    """
    if isinstance(value, str):
        return _ODD.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {without_odd_text(k): without_odd_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_odd_text(item) for item in value]
    return value


_ODD = re.compile("[\x00\ud800-\udfff]")  # PostgreSQL has no NUL; a half surrogate is no text


def _line(row: Row) -> bytes:
    try:
        return msgspec.json.encode(row) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(without_odd_text(msgspec.to_builtins(row))) + b"\n"


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return None  # the crash that cut it is what the file is for


def _read_lines(file: _File, limit: int, most: int) -> list[bytes]:
    """Lines that follow what was read, up to `limit` of them or about `most` bytes."""
    lines: list[bytes] = []
    size = 0
    try:
        content = file.path.open("rb")
    except FileNotFoundError:
        return lines
    with content:
        content.seek(file.read)
        while len(lines) < limit and size < most and (line := content.readline()):
            lines.append(line)
            size += len(line)
    return lines


def _name_of(path: Path) -> str:
    return path.stem.partition("@")[0]


def _lock(file: FileIO, *, wait: bool) -> bool:
    if fcntl is None:
        return wait
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
