"""Decisions to the database, in batches, by a thread of its own.

Nothing is lost while the process lives long enough to write a file: what does
not fit into the queue, or cannot be written when the writer closes, goes to a
file of JSON lines beside the database, and back into it the next time.
"""

from __future__ import annotations

import queue
import threading
import time
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
    flush_seconds : float, how long rows are gathered before they are written.
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
        self._to_file(self._gathered(0.0, limit=self._queue.qsize()))

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
        while not self._stop.is_set() or not self._queue.empty():
            batch = self._gathered(self._flush_seconds, limit=_BATCH)
            while batch:
                try:
                    self._insert(batch)
                except sa.exc.SQLAlchemyError:
                    self.failures += 1
                    if self._stop.is_set():
                        self._to_file(batch)
                        return
                    self._stop.wait(_PAUSE)
                else:
                    self.written += len(batch)
                    break

    def _gathered(self, seconds: float, limit: int) -> list[Row]:
        """What comes within `seconds` of the first row, up to `limit` rows."""
        rows: list[Row] = []
        end = None
        while len(rows) < limit:
            wait = self._flush_seconds if end is None else end - time.monotonic()
            try:
                rows.append(self._queue.get(timeout=max(wait, 0.0)) if seconds else self._next())
            except queue.Empty:
                break
            end = end or time.monotonic() + seconds
        return rows

    def _next(self) -> Row:
        return self._queue.get_nowait()

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
