"""When to try again, and after how long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from metarouter.errors import OptionError
from metarouter.providers.failures import CallError

__all__ = ["RetryPolicy", "call_with_retries", "read_retry_after"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Exponential pauses with full jitter; a wish of the endpoint goes first.

    Parameters
    ----------
    attempts : int, at least 1, default 6, tries of one request in all.
    first_pause : float, seconds, default 0.5
        Upper end of the first pause; each later one doubles.
    longest_pause : float, seconds, default 60
        No pause is longer. An endpoint that asks for more is not tried again.

    Notes
    -----
    The pause after try k is uniform on (0, min(longest, first · 2^(k−1))]: with
    full jitter, clients that failed together do not come back together. After
    ``Retry-After: r`` it is r plus a uniform part of the first pause.

    References
    ----------
    M. Brooker (2015), "Exponential Backoff And Jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Examples
    --------
    >>> policy = RetryPolicy(attempts=3, first_pause=1.0)
    >>> error = CallError("status 429", kind="refused", status=429, retry_after=7.0)
    >>> 7.0 <= policy.pause(error, 1, random.Random(0)) <= 8.0
    True
    >>> policy.pause(error, 3, random.Random(0)) is None
    True
    """

    attempts: int = 6
    first_pause: float = 0.5
    longest_pause: float = 60.0

    def __post_init__(self) -> None:
        """Refuse sizes out of range."""
        if self.attempts < 1:
            raise OptionError.of("attempts", self.attempts, "an integer from 1")
        for name in ("first_pause", "longest_pause"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OptionError.of(name, getattr(self, name), "seconds, at least 0")

    def pause(self, error: CallError, tried: int, rng: random.Random) -> float | None:
        """Seconds to wait after try number `tried`; None: do not try again."""
        if tried >= self.attempts or not error.is_retryable:
            return None
        if error.retry_after is not None:
            wish = error.retry_after
            return None if wish > self.longest_pause else wish + rng.random() * self.first_pause
        # 2^62 is past every pause, and stays a float
        longest = min(self.longest_pause, self.first_pause * 2.0 ** min(tried - 1, 62))
        return longest * (1.0 - rng.random())


async def call_with_retries(
    attempt: Callable[[int], Awaitable[T]],
    policy: RetryPolicy,
    *,
    rng: random.Random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Await ``attempt(1)``, ``attempt(2)``, … until one does not raise CallError.

    Parameters
    ----------
    attempt : called with the number of the try, from 1.
    policy : says whether and when to try again.
    rng : source of the jitter.
    sleep : waits; replaced in tests.

    Raises
    ------
    CallError
        That of the last try.
    """
    tried = 0
    while True:
        tried += 1
        try:
            return await attempt(tried)
        except CallError as error:
            pause = policy.pause(error, tried, rng)
            if pause is None:
                raise
        await sleep(pause)


def read_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a ``Retry-After`` header, which is a number or a date; None when neither.

    Examples
    --------
    >>> read_retry_after("2.5")
    2.5
    >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    >>> read_retry_after("Thu, 01 Jan 2026 12:00:30 GMT", noon)
    30.0
    >>> read_retry_after("soon") is None
    True
    """
    if value is None:
        return None
    text = value.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
