"""Decisions to the database, in batches, by a thread of its own.

While the store is down, requests are served all the same: what should be
written goes to files (:mod:`metarouter.store.spill`), and into the store when
it is back. Rows are lost in two cases only: a process that is killed loses what
it took since the last flush, and rows above the limit of the files are dropped
and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from metarouter.store.database import insert_new, make_sibling, name_error
from metarouter.store.remembered import save_remembered
from metarouter.store.retention import Retention, prune
from metarouter.store.spill import Spill, without_odd_text
from metarouter.store.tables import decisions, feedback, remembered

__all__ = ["LONGEST_PROMPT", "DecisionWriter", "StoreState"]

Row = dict[str, Any]
StoreState = Literal["ok", "catching up", "down"]

LONGEST_PROMPT = 200_000
"""Characters of a prompt that are kept; patterns over more would hold up requests."""
_BATCH = 1000  # rows of one transaction
_BATCH_CHARS = 2_000_000  # of their prompts
_SECONDS = 3.0  # that a batch may take; what comes meanwhile waits in memory
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds until a store that is down is asked again
_PING_SECONDS = 2.0  # between two looks at a store to which nothing is written
_ADOPT_SECONDS = 60.0  # between two looks for files of dead processes
_THREADS = 8  # for callers that wait for the store, so that nobody else waits for them
_PRUNE_SECONDS = 3600.0
# The row is at fault, not the store; the last three are raised before the database is asked.
_REFUSALS = sa.exc.IntegrityError, sa.exc.DataError, ValueError, TypeError, OverflowError
_EVENTS = "try", "ping", "adopt", "prune", "drop"
_REPORT_SECONDS = 10.0  # between two reports of rows that were dropped


class DecisionWriter:
    """Takes rows at once, writes them soon, and keeps them while the store is down.

    Parameters
    ----------
    engine : the store's database.
    spill : Spill
        Where rows wait while the store is down.
    size : int, rows that may wait in memory.
    flush_seconds : float, how often what waits is written.
    prepare : callable, optional
        Has to succeed before the first row is written: it makes the tables, where the
        store was down at the start.
    redact : callable, optional
        What becomes of a prompt before it is queued.
    retention : Retention, optional
        What is erased and deleted, looked for once an hour.
    report : callable, optional
        Gets the name of an event and its details, for the log.

    Attributes
    ----------
    threads : executor for callers that have to wait until the store answers.
    turn : context manager that whoever writes enters. SQLite takes one writer at a
        time, and lets those that wait starve.
    """

    def __init__(
        self,
        engine: sa.Engine,
        spill: Spill,
        *,
        size: int = 10_000,
        flush_seconds: float = 0.1,
        prepare: Callable[[], None] | None = None,
        redact: Callable[[str], str] | None = None,
        retention: Retention | None = None,
        report: Callable[..., object] = lambda event, **details: None,
    ) -> None:
        self._shared = engine
        self._engine = make_sibling(engine, seconds=_SECONDS)
        self._spill = spill
        self._queue: deque[Row] = deque()  # takes an eighth of the time of a Queue
        self._size = size
        self._flush_seconds = flush_seconds
        self._prepare = prepare
        self._redact = redact
        self._retention = retention
        self.report = report
        self._stop = threading.Event()
        is_server = engine.dialect.name == "postgresql"
        self.turn: AbstractContextManager[object] = nullcontext() if is_server else threading.Lock()
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._thread = threading.Thread(target=self._run, name="decision-writer", daemon=True)
        self._is_down = prepare is not None
        self._pause = _FIRST_PAUSE
        self._due = dict.fromkeys(_EVENTS, 0.0)  # by time.monotonic
        self.written = 0
        self.spilled = 0
        self.replayed = 0
        self.dropped = 0
        self.refused = 0
        self.failures = 0

    @property
    def waiting(self) -> int:
        """Rows in memory, about."""
        return len(self._queue)

    @property
    def bytes_waiting(self) -> int:
        """Bytes put aside on the disk."""
        return self._spill.bytes_waiting

    @property
    def late_seconds(self) -> float:
        """After which what another process put is in the store, as a rule."""
        return min(2.0 * self._flush_seconds, 0.5)

    @property
    def is_down(self) -> int:
        """1 while the store does not answer, else 0."""
        return int(self._is_down)

    @property
    def state(self) -> StoreState:
        """How the store is doing, as far as the writer knows: about two seconds ago."""
        if self._is_down or not self._is_running():
            return "down"
        return "catching up" if self.bytes_waiting else "ok"

    def _is_running(self) -> bool:
        """Whether the thread is as it should be: not yet started, or alive."""
        return self._thread.ident is None or self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; it begins with what an earlier process could not write.

        Raises
        ------
        OptionError
            When rows could not be put aside on the disk.
        """
        self._spill.open()
        self._thread.start()

    def put(self, row: Row) -> None:
        """Take a row; one that does not fit into the queue is put aside."""
        if row.get("prompt") is not None:
            row = {**row, "prompt": self._readied(row["prompt"])}
        if len(self._queue) < self._size:
            self._queue.append(row)
        else:
            self._put_aside([row], is_safe=False)

    def _readied(self, prompt: str) -> str:
        """A prompt as it is kept: not endless, and redacted."""
        if len(prompt) > LONGEST_PROMPT:
            left_out = len(prompt) - LONGEST_PROMPT
            prompt = f"{prompt[:LONGEST_PROMPT]} [{left_out} characters left out]"
        return prompt if self._redact is None else self._redact(prompt)

    def keep(self, row: Row) -> bool:
        """Put a row aside at once; whether the disk has it."""
        return self._put_aside([row])

    def replay_all(self) -> int:
        """Take over what processes that are gone put aside, write it, and close; rows written.

        In place of :meth:`start`, which does so beside other work.
        """
        self._spill.open()
        self._spill.adopt()
        while not self._is_down and self.bytes_waiting:
            self._replay()
        self.close()
        return self.replayed

    def close(self, seconds: float = 40.0) -> None:
        """Write what waits, for at most `seconds`; the rest is put aside."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        while rows := self._taken(_BATCH):
            self._put_aside(rows)
        self.threads.shutdown()
        self._spill.close()
        if self._engine is not self._shared:
            self._engine.dispose()

    def _run(self) -> None:
        # It sleeps by the clock: a thread that woke for every row would cost requests their time.
        while not self._stop.wait(self._flush_seconds):
            self._flush()
            try:
                if self._is_down:
                    self._try_again()
                else:
                    self._tidy()
            except OSError as error:  # of the folder; the next round tries again
                self.report("spill", error=str(error))
        self._flush()

    def _flush(self) -> None:
        """What waits in memory to the store, or to the disk while the store is down."""
        while batch := self._taken(_BATCH):
            if self._is_down or not self._insert(batch):
                self._put_aside(batch)
            else:
                self.written += len(batch)

    def _tidy(self) -> None:
        """What a store that answers is asked between two batches."""
        if self._is_due("adopt", _ADOPT_SECONDS):
            self._spill.adopt()
        self._replay()
        if self._is_due("ping", _PING_SECONDS):
            self._try(self._ping)
        if self._retention is not None and self._is_due("prune", _PRUNE_SECONDS):
            self._try(self._prune)

    def _replay(self) -> None:
        """One batch of what was put aside."""
        batch = self._spill.next_batch(_BATCH)
        if batch is not None and self._insert(batch.rows):
            self._spill.done(batch)
            self.replayed += len(batch.rows)

    def _try_again(self) -> None:
        if time.monotonic() >= self._due["try"] and self._try(self._come_back):
            self._is_down, self._pause = False, _FIRST_PAUSE
            self.report("store is back", bytes_waiting=self._spill.bytes_waiting)

    def _come_back(self) -> None:
        self._ping()
        if self._prepare is not None:
            self._prepare()
            self._prepare = None

    def _ping(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(sa.select(1))

    def _prune(self) -> None:
        with self.turn:
            done = prune(self._engine, self._retention or Retention(), time.time())
        if not done.is_all:
            self._due["prune"] = 0.0  # there may be more

    def _insert(self, rows: Sequence[Row]) -> bool:
        """Whether the store has the rows; one that it never will is set down in a file."""
        try:
            return self._try(partial(self._insert_all, rows))
        except _REFUSALS:
            return all(self._insert_one(_fitting(row)) for row in rows)

    def _insert_one(self, row: Row) -> bool:
        try:
            return self._try(partial(self._insert_all, [row]))
        except _REFUSALS as error:
            self.refused += 1
            try:
                place = str(self._spill.set_down(row))
            except OSError as full:  # a row that nothing takes must not stop all others
                self.dropped += 1
                place = f"none: {full}"
            self.report("row refused", error=name_error(error), file=place)
            return True

    def _insert_all(self, rows: Sequence[Row]) -> None:
        parts = _by_table(rows)
        parts[decisions] = [
            row if row.get("instance") else {**row, "instance": self._spill.instance}
            for row in parts[decisions]
        ]
        with self.turn, self._engine.begin() as connection:
            insert_new(connection, decisions, parts[decisions])
            insert_new(connection, feedback, parts[feedback])
            save_remembered(connection, parts[remembered])

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether it was done; a store that does not do what it is asked is down from then on."""
        try:
            action()
        except _REFUSALS:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, rows are kept
            self._go_down(error)
            return False
        return True

    def _go_down(self, error: Exception) -> None:
        self.failures += 1
        if not self._is_down:
            self.report("store is down", error=name_error(error))
        self._is_down = True
        self._due["try"] = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _put_aside(self, rows: Sequence[Row], *, is_safe: bool = True) -> bool:
        kept = self._spill.append(rows, is_safe=is_safe) if rows else 0
        self.spilled += kept
        self.dropped += len(rows) - kept
        if kept < len(rows) and self._is_due("drop", _REPORT_SECONDS):
            self.report("decisions dropped", dropped=self.dropped, folder=str(self._spill.folder))
        return kept == len(rows)

    def _taken(self, limit: int) -> list[Row]:
        """Rows that wait, up to `limit`, or to prompts of a length that one statement takes."""
        rows: list[Row] = []
        size = 0
        while len(rows) < limit and size < _BATCH_CHARS:
            try:
                rows.append(self._queue.popleft())
            except IndexError:
                break
            size += len(rows[-1].get("prompt") or "")
        return rows

    def _is_due(self, what: str, seconds: float) -> bool:
        """Whether it is time; if so, the next time is that many seconds away."""
        now = time.monotonic()
        if now < self._due[what]:
            return False
        self._due[what] = now + seconds
        return True


def _by_table(rows: Sequence[Row]) -> dict[sa.Table, list[Row]]:
    parts: dict[sa.Table, list[Row]] = {decisions: [], feedback: [], remembered: []}
    for row in rows:
        parts[_table_of(row)].append(row)
    return parts


def _table_of(row: Row) -> sa.Table:
    if "feedback_id" in row:
        return feedback
    return remembered if "upstream" in row else decisions


def _fitting(row: Row) -> Row:
    """The row as a database may take it, where it refused the row as it was."""
    mended = without_odd_text(msgspec.to_builtins(row))
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(mended))
    for column in decisions.columns:
        value = plain.get(column.name)
        if isinstance(column.type, sa.String) and isinstance(value, str):
            plain[column.name] = value[: column.type.length]
    return plain
