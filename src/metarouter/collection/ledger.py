"""The ledger: what was sent, what it cost, and what came back, safe against any kill.

Rows are only ever added. A row of `attempts` is on disk before its request is
sent; a row of `outcomes`, with the answer in the same transaction, after it. An
attempt without an outcome was in flight when a run was killed: whether it was
charged is not known, and so it counts at the most that it could have cost.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from metarouter.collection.calls import Call
from metarouter.collection.money import to_usd
from metarouter.errors import DataError, InputError
from metarouter.providers.chat import ChatAnswer

__all__ = ["Ledger", "SharedCommits", "Spending"]

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
            with ExitStack() as failing:
                self._db = failing.enter_context(closing(_connected(path)))
                _prepare(self._db)
                self._run = self._insert_run(settings)
                failing.pop_all()
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
        return self.write([partial(self._begin, call, held)])[0]

    def fail(self, attempt: int, *, kind: str, charged: int, detail: str) -> None:
        """Write down a request that gave no answer to keep."""
        self.write([partial(self._end, attempt, kind, charged, detail)])

    def finish(
        self, attempt: int, call: Call, answer: ChatAnswer, charged: int, *, kind: str = "answered"
    ) -> None:
        """Write down an answer to keep, with what it cost."""
        self.write([partial(self._finish, attempt, call.key, answer, charged, kind)])

    def write(self, statements: Sequence[Callable[[], int]]) -> list[int]:
        """Run statements in one transaction, which is on disk when this returns."""
        with self._written():
            return [statement() for statement in statements]

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

    def _begin(self, call: Call, held: int) -> int:
        target = call.target
        row = (self._run, call.key, call.label, target.name, target.endpoint.name, held, _now())
        cursor = self._db.execute(
            "INSERT INTO attempts (run, key, label, model, endpoint, held, sent)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        return int(cursor.lastrowid or 0)

    def _end(self, attempt: int, kind: str, charged: int, detail: str) -> int:
        self._db.execute(
            "INSERT INTO outcomes (attempt, kind, charged, detail, ended) VALUES (?, ?, ?, ?, ?)",
            (attempt, kind, charged, detail, _now()),
        )
        return attempt

    def _finish(self, attempt: int, key: str, answer: ChatAnswer, charged: int, kind: str) -> int:
        self._db.execute(
            "INSERT INTO answers (key, attempt, answer) VALUES (?, ?, ?)",
            (key, attempt, msgspec.json.encode(answer).decode()),
        )
        return self._end(attempt, kind, charged, "")

    def _insert_run(self, settings: Mapping[str, Any]) -> int:
        text = msgspec.json.encode(settings).decode()
        with self._db:
            cursor = self._db.execute(
                "INSERT INTO runs (started, settings) VALUES (?, ?)", (_now(), text)
            )
        return int(cursor.lastrowid or 0)


class SharedCommits:
    """Writes of many tasks in few commits, off the event loop.

    A commit waits for the disk; what comes meanwhile goes into the next one. So
    each task still waits until its own rows are on disk, and no more.

    Parameters
    ----------
    ledger : Ledger, used by nothing else while there are writes.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Callable[[], int], asyncio.Future[int]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def begin(self, call: Call, held: int) -> int:
        """See :meth:`Ledger.begin`."""
        return await self._written(partial(self._ledger._begin, call, held))

    async def fail(self, attempt: int, *, kind: str, charged: int, detail: str) -> None:
        """See :meth:`Ledger.fail`."""
        await self._written(partial(self._ledger._end, attempt, kind, charged, detail))

    async def finish(
        self, attempt: int, call: Call, answer: ChatAnswer, charged: int, *, kind: str
    ) -> None:
        """See :meth:`Ledger.finish`."""
        statement = partial(self._ledger._finish, attempt, call.key, answer, charged, kind)
        await self._written(statement)

    async def _written(self, statement: Callable[[], int]) -> int:
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((statement, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results = await asyncio.to_thread(self._ledger.write, [s for s, _ in batch])
            except Exception as error:  # noqa: BLE001 - handed to every task that waits
                outcomes: list[int | Exception] = [error] * len(batch)
            else:
                outcomes = [*results]
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                _settle(done, outcome)


def _settle(done: asyncio.Future[int], outcome: int | Exception) -> None:
    """Hand an outcome to a task, unless it was cancelled meanwhile."""
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)


def _connected(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    # one thread at a time: SharedCommits writes in another than the one that reads
    return sqlite3.connect(path, timeout=0.5, check_same_thread=False)


def _prepare(db: sqlite3.Connection) -> None:
    # held until the process ends, however it ends; journal and commits reach the disk
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"ledger of version {version}, this metarouter knows 1")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
