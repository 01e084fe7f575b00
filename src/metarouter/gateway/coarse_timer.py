"""Time limits of many requests over one timer.

Nearly no limit is ever reached, but each ``asyncio.timeout`` takes 5 us to set and
take back, where one of these takes 1.3. They wait in one set, which is looked through
20 times a second while there is any.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["CoarseTimer", "Handle"]

_LOOK_SECONDS = 0.05  # by which an action may be late


class Handle:
    """An action that waits for its time."""

    __slots__ = ("_action", "_timer", "when")

    def __init__(self, timer: CoarseTimer, when: float, action: Callable[[], None]) -> None:
        self._timer = timer
        self._action: Callable[[], None] | None = action
        self.when = when

    def act(self) -> None:
        """Do it, unless it was cancelled."""
        action, self._action = self._action, None
        if action is not None:
            action()

    def cancel(self) -> None:
        """Forget the action, if it is still to come."""
        self._action = None  # which may hold whoever holds this
        self._timer.forget(self)


class CoarseTimer:
    """Does things when their time has come, or up to 50 ms later.

    For tasks and callbacks of one event loop.
    """

    def __init__(self) -> None:
        self._waiting: set[Handle] = set()
        self._next: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, and nothing looks."""
        return self._next is None

    def call_later(self, seconds: float, action: Callable[[], None]) -> Handle:
        """Call `action` once `seconds` have passed, unless the handle is cancelled."""
        handle = Handle(self, time.monotonic() + seconds, action)
        self._waiting.add(handle)
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
        return handle

    def forget(self, handle: Handle) -> None:
        """What :meth:`Handle.cancel` does."""
        self._waiting.discard(handle)

    def limit(self, seconds: float) -> _Limit:
        """A context that raises TimeoutError in its task once `seconds` have passed."""
        return _Limit(self, seconds)

    def _look(self) -> None:
        now, loop = time.monotonic(), asyncio.get_running_loop()
        for handle in [handle for handle in self._waiting if handle.when <= now]:
            self._waiting.discard(handle)
            loop.call_soon(handle.act)
        self._next = loop.call_later(_LOOK_SECONDS, self._look) if self._waiting else None


class _Limit:
    """What ``asyncio.timeout`` does, over a coarse timer."""

    __slots__ = ("_before", "_handle", "_is_over", "_seconds", "_task", "_timer")

    def __init__(self, timer: CoarseTimer, seconds: float) -> None:
        self._timer = timer
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit is used outside a task")
        self._task, self._before = task, task.cancelling()
        self._handle = self._timer.call_later(self._seconds, self._stop)

    def _stop(self) -> None:
        self._is_over = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._handle.cancel()
        if not self._is_over:
            return
        is_ours = self._task.uncancel() <= self._before  # else another cancelled the task too
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError
