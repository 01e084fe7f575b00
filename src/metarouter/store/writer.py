"""Decisions to the database, in batches, by a thread of its own.

Nothing is lost while the process lives long enough to write a file: what does
not fit into the queue, or cannot be written when the writer closes, goes to a
file of JSON lines beside the database, and back into it the next time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from metarouter.store.tables import decisions

__all__ = ["DecisionWriter"]

Row = Mapping[str, Any]

_BATCH = 1000  # rows of one transaction
_PAUSE = 0.5  # seconds before a batch that failed is tried again
_COLUMNS = tuple(column.name for column in decisions.columns)


class DecisionWriter:
    """Takes rows at once, writes them soon.

    Parameters
    ----------
    engine : the store's database.
    spill : path of the file for what cannot be written.
    size : int, rows that may wait.
    flush_seconds : float, how often what waits is written.
    """

    def __init__(
        self, engine: sa.Engine, spill: Path, *, size: int = 10_000, flush_seconds: float = 0.1
    ) -> None:
        self._engine = engine
        self._spill = spill
        self._queue: queue.Queue[Row] = queue.Queue(size)
        self._flush_seconds = flush_seconds
        self._stop = threading.Event()
        self._spill_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="decision-writer", daemon=True)
        self.written = 0
        self.spilled = 0
        self.failures = 0

    @property
    def waiting(self) -> int:
        """Rows in the queue, about."""
        return self._queue.qsize()

    def start(self) -> None:
        """Write what an earlier run could not, then start the thread."""
        self.replay()
        self._thread.start()

    def put(self, row: Row) -> None:
        """Take a row; one that does not fit into the queue goes to the spill file."""
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self._to_file([row])

    def close(self, seconds: float = 40.0) -> None:
        """Write what waits, for at most `seconds`; the rest goes to the spill file."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        self._to_file(self._taken(self._queue.qsize()))

    def replay(self) -> int:
        """Rows of the spill file to the database; their number.

        The file is removed once the rows are there. A row that was written
        before, or a line cut short by a crash, does no harm.
        """
        with self._spill_lock:
            if not self._spill.exists():
                return 0
            rows = [row for line in self._spill.read_bytes().splitlines() if (row := _row(line))]
            self._insert(rows)
            self._spill.unlink()
        return len(rows)

    def _run(self) -> None:
        # It sleeps by the clock: a thread that woke for every row would cost requests their time.
        while not self._stop.wait(self._flush_seconds) or not self._queue.empty():
            while batch := self._taken(_BATCH):
                self._write(batch)

    def _write(self, batch: Sequence[Row]) -> None:
        """Into the database, however long that takes; while closing, one try."""
        while True:
            is_last = self._stop.is_set()
            try:
                self._insert(batch)
            except sa.exc.SQLAlchemyError:
                self.failures += 1
                if is_last:
                    self._to_file(batch)
                    return
                self._stop.wait(_PAUSE)
            else:
                self.written += len(batch)
                return

    def _taken(self, limit: int) -> list[Row]:
        """Rows that wait, up to `limit`."""
        rows: list[Row] = []
        while len(rows) < limit:
            try:
                rows.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return rows

    def _insert(self, rows: Sequence[Row]) -> None:
        if rows:
            with self._engine.begin() as connection:
                connection.execute(insert(decisions).on_conflict_do_nothing(), list(rows))

    def _to_file(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        with self._spill_lock:
            self._spill.touch(mode=0o600, exist_ok=True)
            with self._spill.open("ab") as file:
                file.write(lines)
        self.spilled += len(rows)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        return None  # the crash that cut it is what the file is for
    return row if row.keys() == set(_COLUMNS) else None
