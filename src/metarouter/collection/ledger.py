"""The ledger: what was sent, what it cost, and what came back, safe against any kill.

Rows are only ever added. A row of `attempts` is on disk before its request is
sent; a row of `outcomes`, with the answer in the same transaction, after it. An
attempt without an outcome was in flight when a run was killed: whether it was
charged is not known, and so it counts at the most that it could have cost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from metarouter.collection.calls import Call
from metarouter.collection.money import to_usd
from metarouter.errors import DataError, InputError
from metarouter.providers.chat import ChatAnswer

__all__ = ["Ledger", "Spending"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, started TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, key TEXT NOT NULL, label TEXT NOT NULL,
    model TEXT NOT NULL, endpoint TEXT NOT NULL, held INTEGER NOT NULL, sent TEXT NOT NULL);
CREATE TABLE outcomes (
    attempt INTEGER PRIMARY KEY REFERENCES attempts, kind TEXT NOT NULL,
    charged INTEGER NOT NULL, detail TEXT NOT NULL, ended TEXT NOT NULL);
CREATE TABLE answers (
    key TEXT PRIMARY KEY, attempt INTEGER NOT NULL REFERENCES attempts, answer TEXT NOT NULL);
CREATE TABLE grades (key TEXT PRIMARY KEY, passed INTEGER NOT NULL, detail TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spending:
    """What a ledger's requests cost, in picodollars.

    Parameters
    ----------
    known : for answers, from the tokens that the endpoint counted (or at the
        most they could cost, where it did not count).
    at_risk : the most that requests could have cost of which it is not known
        whether they were charged: broken off, malformed, or in flight at a kill.
    """

    known: int
    at_risk: int

    @property
    def total(self) -> int:
        """What counts against the budget."""
        return self.known + self.at_risk


class Ledger:
    """One SQLite file, used by one process at a time; use as a context manager.

    Parameters
    ----------
    path : path of the file, which is made when it is missing.
    settings : what this run was asked to do, for the audit; no secrets.

    Raises
    ------
    InputError
        When the file is no ledger, is damaged, or is in use.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self._db = _opened(path)
            self._run = self._insert_run(settings)
        except sqlite3.Error as error:
            busy = "locked" in str(error)
            allowed = "one run at a time" if busy else "a ledger that metarouter wrote, or no file"
            raise InputError(
                f"{path}: {'is in use' if busy else error}; allowed: {allowed}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def begin(self, call: Call, held: int) -> int:
        """Write down that a request is about to be sent; returns the attempt's number."""
        target = call.target
        row = (self._run, call.key, call.label, target.name, target.endpoint.name, held, _now())
        with self._written():
            cursor = self._db.execute(
                "INSERT INTO attempts (run, key, label, model, endpoint, held, sent)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return int(cursor.lastrowid or 0)

    def fail(self, attempt: int, *, kind: str, charged: int, detail: str) -> None:
        """Write down a request that gave no answer to keep."""
        with self._written():
            self._outcome(attempt, kind, charged, detail)

    def finish(
        self, attempt: int, call: Call, answer: ChatAnswer, charged: int, *, kind: str = "answered"
    ) -> None:
        """Write down an answer to keep, with what it cost."""
        text = msgspec.json.encode(answer).decode()
        with self._written():
            self._outcome(attempt, kind, charged, "")
            self._db.execute(
                "INSERT INTO answers (key, attempt, answer) VALUES (?, ?, ?)",
                (call.key, attempt, text),
            )

    def keep_grade(self, key: str, *, passed: bool, detail: str) -> None:
        """Write down how a program ended, which costs time but no money."""
        with self._written():
            self._db.execute("INSERT INTO grades VALUES (?, ?, ?)", (key, passed, detail))

    def grades(self) -> dict[str, tuple[bool, str]]:
        """Whether each program passed, and what it said if not, by key."""
        rows = self._db.execute("SELECT key, passed, detail FROM grades")
        return {key: (bool(passed), detail) for key, passed, detail in rows}

    def answers(self) -> dict[str, tuple[ChatAnswer, int]]:
        """All answers with what they cost, by key of their call."""
        rows = self._db.execute(
            "SELECT key, answer, charged FROM answers JOIN outcomes USING (attempt)"
        )
        return {
            key: (msgspec.json.decode(text, type=ChatAnswer), charged)
            for key, text, charged in rows
        }

    def spending(self) -> Spending:
        """What all runs spent, or may have spent."""
        rows = self._db.execute(
            "SELECT kind IN ('answered', 'unreadable'), COALESCE(SUM(COALESCE(charged, held)), 0)"
            " FROM attempts LEFT JOIN outcomes ON attempt = id GROUP BY 1"
        ).fetchall()
        known = sum(amount for is_known, amount in rows if is_known)
        return Spending(known=known, at_risk=sum(amount for _, amount in rows) - known)

    def audit(self) -> Iterator[dict[str, Any]]:
        """Every run and every attempt, oldest first, as JSON values."""
        for run, started, settings in self._db.execute("SELECT id, started, settings FROM runs"):
            yield {"record": "run", "run": run, "started": started, **msgspec.json.decode(settings)}
        names = ("run", "attempt", "label", "key", "model", "endpoint", "sent", "ended")
        rows = self._db.execute(
            f"SELECT {', '.join(('run', 'id', *names[2:]))}, kind, held, charged, detail"  # noqa: S608 - names of columns
            " FROM attempts LEFT JOIN outcomes ON attempt = id ORDER BY id"
        )
        for *values, kind, held, charged, detail in rows:
            yield {
                "record": "attempt",
                **dict(zip(names, values, strict=True)),
                "outcome": kind or "unknown: in flight when the run ended",
                "held_usd": to_usd(held),
                "charged_usd": to_usd(held if charged is None else charged),
                "detail": detail or "",
            }

    @contextmanager
    def _written(self) -> Iterator[None]:
        """A transaction, which is on disk when the block has ended."""
        try:
            with self._db:
                yield
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: cannot be written ({error}); run again when it can: nothing that "
                "is in it is lost"
            ) from error

    def _outcome(self, attempt: int, kind: str, charged: int, detail: str) -> None:
        self._db.execute(
            "INSERT INTO outcomes (attempt, kind, charged, detail, ended) VALUES (?, ?, ?, ?, ?)",
            (attempt, kind, charged, detail, _now()),
        )

    def _insert_run(self, settings: Mapping[str, Any]) -> int:
        text = msgspec.json.encode(settings).decode()
        with self._db:
            cursor = self._db.execute(
                "INSERT INTO runs (started, settings) VALUES (?, ?)", (_now(), text)
            )
        return int(cursor.lastrowid or 0)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=1.0)
    # held until the process ends, however it ends; journal and commits reach the disk
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"ledger of version {version}, this metarouter knows 1")
    return db


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
