"""What other processes remember of conversations, through the store.

A process remembers by itself who answered what. Three kinds of names are also
written to the store, by the writer, beside decisions: ids of responses, ids that
callers give their conversations, and ids of tool calls. A request that brings one
which is unknown here is looked up there, for a short time and in a thread of its
own. One statement asks for all that came up during the one before it, so however
many names a caller invents, nobody waits for more than two statements. While the
store does not answer nobody waits for it, and the request is decided as if nobody
had answered before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import sqlalchemy as sa

from metarouter.gateway.conversation import digest_text
from metarouter.gateway.sticky import Kept, StickyModels
from metarouter.store.database import make_sibling, name_error
from metarouter.store.remembered import find_remembered
from metarouter.store.writer import DecisionWriter

__all__ = ["Recall"]

Rows = Mapping[str, Mapping[str, Any]]

_STATEMENT_SECONDS = 1.0  # that the thread waits
_FAILURES = 3  # of rounds in a row, after which nobody asks for a while
_REST_SECONDS = 2.0
_LOOKS = 0.5, 0.5, 1.0  # pauses before further looks, in parts of what a batch may take


class Recall:
    """Shares what is remembered of conversations with other processes.

    Parameters
    ----------
    memory : StickyModels
        This process's own, which is asked first.
    engine : the store's database.
    writer : writes what is to be remembered.
    seconds : float
        That a request waits for the store, at most.
    report : callable, optional
        Gets the name of an event and its details, for the log.
    """

    def __init__(
        self,
        memory: StickyModels,
        engine: sa.Engine,
        writer: DecisionWriter,
        *,
        seconds: float = 0.5,
        report: Callable[..., object] = lambda event, **details: None,
    ) -> None:
        self.memory = memory
        self._shared = engine
        self._engine = make_sibling(engine, seconds=_STATEMENT_SECONDS)
        self._writer = writer
        self._seconds = seconds
        self._report = report
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall")
        self._turn = asyncio.Lock()
        self._asked: set[str] = set()
        self._next: asyncio.Task[Rows | None] | None = None
        self._failures = 0
        self._rests_until = 0.0

    def put(self, name: str, kept: Kept) -> None:
        """Remember who answered, here and soon in the store."""
        self.memory.put(name, kept)
        self._writer.put(
            {
                "name": digest_text(name),
                "used": time.time(),
                "model": kept.model,
                "upstream": kept.upstream,
                "policy": kept.policy,
                "conversation": kept.conversation,
            }
        )

    async def fetch(self, names: Sequence[str], *, is_certain: bool = False) -> None:
        """Remember what the store knows of the names, unless one is remembered here.

        Parameters
        ----------
        names : in no order.
        is_certain : whether somebody answered under them, perhaps just now: what is
            not there is looked for again, until it should have been written.
        """
        if any(self.memory.get(name) is not None for name in names):
            return
        by_digest = {digest_text(name): name for name in names}
        found = await self._look(by_digest)
        for part in _LOOKS if is_certain else ():
            if found or found is None:
                break
            await asyncio.sleep(part * self._writer.late_seconds)
            found = await self._look(by_digest)
        now = time.time()
        for digest, row in (found or {}).items():
            name, kept = by_digest[digest], {field: row[field] for field in Kept.__slots__}
            if self.memory.get(name) is None:  # else this process answered meanwhile
                self.memory.put(name, Kept(**kept), max(0.0, now - row["used"]))

    async def _look(self, digests: Collection[str]) -> Rows | None:
        """The rows that are there; None where the store is not asked, or does not answer."""
        if not digests or self._rests():
            return None
        self._asked.update(digests)
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._round())
        try:
            found = await asyncio.wait_for(asyncio.shield(self._next), self._seconds)
        except TimeoutError:
            return None
        return found and {digest: found[digest] for digest in digests if digest in found}

    async def _round(self) -> Rows | None:
        """What the store knows of all that was asked for during the round before."""
        async with self._turn:
            names, self._asked, self._next = list(self._asked), set(), None
            since, start = time.time() - self.memory.seconds, time.monotonic()
            ask = partial(find_remembered, self._engine, names, since)
            try:
                rows = await asyncio.get_running_loop().run_in_executor(self._thread, ask)
            except Exception as error:  # noqa: BLE001 - the boundary: requests are served without
                self._note_failure(error)
                return None
        if time.monotonic() - start > self._seconds:
            self._note_failure(TimeoutError())
        else:
            self._failures = 0
        return {row["name"]: row for row in rows}

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._rests_until = time.monotonic() + _REST_SECONDS
            self._report("memory", error=name_error(error))

    def close(self) -> None:
        """Let go of the thread and its connection."""
        self._thread.shutdown()
        if self._engine is not self._shared:
            self._engine.dispose()

    def _rests(self) -> bool:
        return bool(self._writer.is_down) or time.monotonic() < self._rests_until
