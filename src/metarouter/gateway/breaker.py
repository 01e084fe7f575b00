"""A circuit breaker: an upstream that keeps failing is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["CircuitBreaker"]

_ASKED_SECONDS = 600.0  # after which a model that nobody asks for fails nobody


class CircuitBreaker:
    """Opens after failures in a row; once per period, one request tries again.

    Parameters
    ----------
    failures : int, failures in a row that open it.
    seconds : float, how long it stays open before each trial.
    clock : callable, default ``time.monotonic``

    Examples
    --------
    >>> breaker = CircuitBreaker(failures=2, seconds=10.0, clock=lambda: 0.0)
    >>> breaker.note(False)
    >>> breaker.note(False)
    >>> breaker.admits()
    False
    """

    def __init__(
        self, *, failures: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._seconds = seconds
        self._clock = clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it holds requests back, trials apart."""
        return self._failures >= self._limit

    @property
    def is_failing(self) -> bool:
        """Whether it is open, and requests came lately: without any it would stay open for ever."""
        return self.is_open and self._clock() < self._open_until + _ASKED_SECONDS

    @property
    def rest(self) -> float:
        """Seconds until the next trial; 0 when a request may go now."""
        return max(0.0, self._open_until - self._clock()) if self.is_open else 0.0

    def admits(self) -> bool:
        """Whether a request may go; of an open breaker, one that is a trial."""
        if not self.is_open:
            return True
        if self._clock() < self._open_until:
            return False
        # the next trial has to wait, whatever becomes of this one
        self._open_until = self._clock() + self._seconds
        return True

    def note(self, success: bool) -> None:
        """Tell how a request went."""
        if success:
            self._failures = 0
            return
        self._failures += 1
        if self.is_open:
            self._open_until = self._clock() + self._seconds
