"""The append-only file that lets an interrupted comparison go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from metarouter.errors import InputError, OptionError
from metarouter.evaluation.comparison import Cell, CompareRecord

__all__ = ["StudyLog"]

# Every line of a log starts so: a file that does not is somebody else's.
_HEAD = '{"study": '


class StudyLog:
    """Finished records of one or more comparisons, one JSON object a line.

    A line that was cut off when the process was killed is skipped, and its
    cell computed again. Lines of other studies (other data or settings, told
    apart by `fingerprint`) are left alone, so that one file may serve several.

    Parameters
    ----------
    path : path of the file, made when the first record is added.
    fingerprint : str
        Identity of all that a record depends on but its cell.
    codes : mapping, optional
        Identities of one's own correctors and gain models, by field of the cell
        and name: a change of one leaves the cells of all others finished.

    Raises
    ------
    OptionError
        When `path` is a file that is not such a log: it is not written to.
    """

    def __init__(
        self,
        path: str | Path,
        fingerprint: str,
        codes: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self.codes = dict(codes or {})

    def load(self) -> dict[Cell, CompareRecord]:
        """The finished records of this study, by cell; empty without a file."""
        text = self._text()
        if text and not text.startswith(_HEAD[: len(text)]):
            raise OptionError.of(
                "resume", str(self.path), "a new path, or the log of an earlier compare"
            )
        return {record.cell: record for record in self._records(text)}

    @contextmanager
    def appending(self) -> Iterator[Appender]:
        """Open the file to add records, each safe on disk when `add` returns."""
        text = self._text()
        torn = bool(text) and not text.endswith("\n")
        try:
            file = self.path.open("a", encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}") from error
        with file:
            if torn:
                file.write("\n")
            yield Appender(file, self._study)

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror}") from error

    def _records(self, text: str) -> Iterator[CompareRecord]:
        for line in text.splitlines():
            entry = _parsed(line)
            record = CompareRecord.from_dict(entry.get("record"))
            if record is not None and entry.get("study") == self._study(record.cell):
                yield record

    def _study(self, cell: Cell) -> str:
        """The fingerprint, with the identity of what is one's own in the cell."""
        parts = (("corrector", cell.corrector), ("gain_model", cell.gain_model))
        own = [self.codes[part] for part in parts if part in self.codes]
        if not own:
            return self.fingerprint
        return sha256("\0".join((self.fingerprint, *own)).encode()).hexdigest()[:16]


class Appender:
    """Writes records to an open log."""

    def __init__(self, file: IO[str], study: Callable[[Cell], str]) -> None:
        self._file = file
        self._study = study

    def add(self, record: CompareRecord) -> None:
        """Append one record as one line and flush it."""
        entry = {"study": self._study(record.cell), "record": record.as_dict()}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()


def _parsed(line: str) -> Mapping[str, object]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) else {}
