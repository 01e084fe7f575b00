"""Work that no answer waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Aside"]


class Aside:
    """Threads of their own for what may be late, and a bound on how much may wait.

    Parameters
    ----------
    limit : int, tasks that may wait.
    threads : int

    Examples
    --------
    >>> aside, done = Aside(), []
    >>> aside.submit(lambda: done.append(1))
    True
    >>> aside.close()
    >>> done
    [1]
    """

    def __init__(self, limit: int = 1000, threads: int = 2) -> None:
        self._limit = limit
        self._waiting = 0
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="aside")
        self.is_closing = False

    def submit(self, work: Callable[[], None]) -> bool:
        """Do it later, without a word on how that went; False where too much waits already."""
        with self._lock:
            if self._waiting >= self._limit or self.is_closing:
                return False
            self._waiting += 1
        self._executor.submit(self._run, work)
        return True

    def close(self) -> None:
        """Wait until all is done; tasks may look at `is_closing` to be brief."""
        with self._lock:
            self.is_closing = True
        self._executor.shutdown()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._waiting -= 1
