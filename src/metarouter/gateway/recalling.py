"""What other processes remember of conversations, through the store.

A process remembers by itself who answered what. Three kinds of names are also
written to the store, by the writer, beside decisions: ids of responses, ids that
callers give their conversations, and ids of tool calls. A request that brings one
which is unknown here is looked up there, for a short time and in a thread of its
own. While the store does not answer nobody waits for it, and the request is
decided as if nobody had answered before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa

from metarouter.gateway.conversation import digest_text
from metarouter.gateway.sticky import Kept, StickyModels
from metarouter.store.database import make_sibling, name_error
from metarouter.store.remembered import find_remembered
from metarouter.store.writer import DecisionWriter

__all__ = ["Recall"]

_STATEMENT_SECONDS = 1.0  # that the thread waits
_FAILURES = 3  # in a row, after which nobody asks for a while
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
        self._memory = memory
        self._shared = engine
        self._engine = make_sibling(engine, seconds=_STATEMENT_SECONDS)
        self._writer = writer
        self._seconds = seconds
        self._report = report
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recall")
        self._failures = 0
        self._rests_until = 0.0

    def put(self, name: str, kept: Kept) -> None:
        """Remember who answered, here and soon in the store."""
        self._memory.put(name, kept)
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
        is_known = any(self._memory.get(name) is not None for name in names)
        if not names or is_known or self._rests():
            return
        late = self._writer.late_seconds
        try:
            found = await self._find(names)
            for part in _LOOKS if is_certain else ():
                if found:
                    break
                await asyncio.sleep(part * late)
                found = await self._find(names)
        except Exception as error:  # noqa: BLE001 - the boundary: the request is served without
            self._note_failure(error)
            return
        self._failures = 0
        by_digest, now = {digest_text(name): name for name in names}, time.time()
        for row in found:
            age, name = max(0.0, now - row.pop("used")), by_digest[row.pop("name")]
            if self._memory.get(name) is None:  # else this process answered meanwhile
                self._memory.put(name, Kept(**row), age)

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

    async def _find(self, names: Sequence[str]) -> list[dict[str, Any]]:
        digests = [digest_text(name) for name in names]
        since = time.time() - self._memory.seconds
        asked = asyncio.get_running_loop().run_in_executor(
            self._thread, find_remembered, self._engine, digests, since
        )
        return await asyncio.wait_for(asked, self._seconds)
