"""Limits of keys: requests and tokens a minute, dollars a period.

What counts, exactly:

* A minute is one of the clock (UTC), not any 60 seconds: a caller may use up one
  minute's limit at its end and the next one's at its start. A budget's period is
  `budget_days` days long, the first begins with the minute the key was made in;
  without `budget_days` the period is for good.
* A request is let in while something of each limit is left. Then it counts as a
  request, and an estimate of its prompt and its answer, at the price of the chosen
  model, is held for it until it ends: four bytes of the body a token, 1,000 tokens a
  picture or file, and for the answer what the request allows (`max_tokens` and the
  like, 1,024 without), at most 4,096. So requests in flight are counted, and a
  process goes over a limit only by what the last one that it let in uses, and by
  what others use beyond their estimates.
* When it ends, the tokens that the upstream counted and their price take the
  estimate's place, in the minute of the end. An answer without a count is charged
  by its size; a request that nobody answered is charged nothing.
* Processes share one table. Each adds what it let in, and reads what all let in,
  every `FLUSH_SECONDS`. What one let in is unknown to the others for at most two
  such intervals and the time of two transactions, so together they go over a limit
  by at most what the others let in during that time, each never more than the limit.
* No request waits for the store. While it is down a process goes by what it read
  last and by what it let in itself; that is added once the store is back. A process
  that is killed loses what it had not added, at most one interval's worth, and so
  does one that stops while the store is down; the decisions have it still.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType

import sqlalchemy as sa

from metarouter.gateway.problems import RefusedError
from metarouter.gateway.wire import Body
from metarouter.store.database import name_error
from metarouter.store.keys import ApiKey
from metarouter.store.usage import Used, add_used, read_minutes, read_spent

__all__ = [
    "FLUSH_SECONDS",
    "KeyLimits",
    "Ledger",
    "LimitedError",
    "Ticket",
    "estimate_answer",
    "estimate_prompt",
]

FLUSH_SECONDS = 0.5
_FULL_SECONDS = 30.0  # between two sums over whole periods; other reads take the last minutes
_BYTES_OF_A_TOKEN = 4
_FILE = re.compile(rb"[A-Za-z0-9+/=_-]{2000,}")
_TOKENS_OF_A_FILE = 1000
_USUAL_ANSWER, _MOST_HELD = 1024, 4096  # tokens; most answers are much shorter than they may be
_NOTHING = Used()
_NO_MINUTES: Mapping[int, Used] = MappingProxyType({})

ByMinute = dict[str, dict[int, Used]]


class LimitedError(RefusedError):
    """A key has used up one of its limits."""


@dataclass(kw_only=True, slots=True, eq=False)
class Ticket:
    """One request that was let in, and what is held for it until it ends."""

    key: ApiKey
    held: Used
    prompt_tokens: int = 0
    is_open: bool = True


def estimate_prompt(content: bytes) -> int:
    """Tokens of a request, about, by all that its body holds; a long run of base64 is one file.

    Examples
    --------
    >>> estimate_prompt(b'{"prompt": "Why is the sky blue?"}')
    9
    >>> estimate_prompt(b'{"image": "data:image/png;base64,' + b"iVBO" * 100_000 + b'"}')
    1009
    """
    n_files = n_bytes = 0
    for found in _FILE.finditer(content):
        n_files += 1
        n_bytes += found.end() - found.start()
    return (len(content) - n_bytes) // _BYTES_OF_A_TOKEN + _TOKENS_OF_A_FILE * n_files + 1


def estimate_answer(body: Body) -> int:
    """Tokens that are held for an answer, in whichever protocol its most is given.

    Examples
    --------
    >>> from metarouter.gateway.wire import read_body
    >>> estimate_answer(read_body(b'{"max_tokens": 50}')), estimate_answer(read_body(b"{}"))
    (50, 1024)
    """
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        most = body.value(name, object)
        if isinstance(most, int) and most > 0:
            return min(most, _MOST_HELD)
    return _USUAL_ANSWER


class Ledger:
    """What keys used: as the store last told, and what it has not been told yet.

    Knows no clock and does no I/O. `take` hands out what the store is to be told,
    then either `settle` or `give_back` says how that went.
    """

    def __init__(self) -> None:
        self._told: ByMinute = {}  # by all processes, from `_since` on
        self._since = 0
        self._older: dict[str, tuple[int, float]] = {}  # first minute, dollars before `_since`
        self._new: ByMinute = {}
        self._taken: ByMinute = {}
        self._held: dict[str, Used] = {}

    def add(self, key_id: str, minute: int, used: Used) -> None:
        """Count something."""
        _add(self._new, key_id, minute, used)

    def hold(self, key_id: str, used: Used) -> None:
        """Set something aside for a request in flight."""
        self._held[key_id] = self._held.get(key_id, _NOTHING) + replace(used, requests=1)

    def let_go(self, key_id: str, used: Used) -> None:
        """Give back what was set aside."""
        less = Used(requests=-1, tokens=-used.tokens, spent=-used.spent)
        rest = self._held.pop(key_id) + less
        if rest.requests:  # the last one takes what rounding left along
            self._held[key_id] = rest

    def held(self, key_id: str) -> Used:
        """What is set aside; its requests are those in flight."""
        return self._held.get(key_id, _NOTHING)

    def used(self, key_id: str, minute: int) -> Used:
        """What all processes used in a minute, as far as is known here."""
        requests = tokens = 0
        spent = 0.0
        for part in (self._told, self._taken, self._new):
            used = part.get(key_id, _NO_MINUTES).get(minute)
            if used is not None:
                requests, tokens = requests + used.requests, tokens + used.tokens
                spent += used.spent
        return Used(requests=requests, tokens=tokens, spent=spent)

    def spent(self, key_id: str, start: int) -> float:
        """Dollars spent from the minute `start` on, as far as is known here."""
        older_start, older = self._older.get(key_id, (start, 0.0))
        recent = sum(
            used.spent
            for part in (self._told, self._taken, self._new)
            for minute, used in part.get(key_id, _NO_MINUTES).items()
            if minute >= start
        )
        return recent + (older if older_start == start else 0.0)

    def lacks(self, starts: Mapping[str, int]) -> bool:
        """Whether sums over whole periods have to be read."""
        has_late = any(min(minutes) < self._since for minutes in self._taken.values())
        known = {key_id: start for key_id, (start, _) in self._older.items()}
        return has_late or any(known.get(key_id) != start for key_id, start in starts.items())

    @property
    def since(self) -> int:
        """First minute that is read one by one."""
        return self._since

    def take(self) -> ByMinute:
        """What the store is to be told; counted here until it is."""
        self._taken, self._new = self._new, {}
        return self._taken

    def give_back(self) -> None:
        """The store was not told."""
        late, self._new, self._taken = self._new, self._taken, {}
        for key_id, minutes in late.items():
            for minute, used in minutes.items():
                _add(self._new, key_id, minute, used)

    def settle(
        self,
        told: ByMinute,
        since: int,
        older: Mapping[str, tuple[int, float]] | None,
    ) -> None:
        """The store was told, and told back what all processes used.

        Parameters
        ----------
        told : usage by key and minute, from `since` on.
        since : int
        older : first minute of each key's period and dollars spent before `since`;
            None where that was not read, and `since` is as before.
        """
        self._told, self._since, self._taken = told, since, {}
        if older is not None:
            self._older = dict(older)


def _add(table: ByMinute, key_id: str, minute: int, used: Used) -> None:
    minutes = table.setdefault(key_id, {})
    minutes[minute] = minutes.get(minute, _NOTHING) + used


class KeyLimits:
    """Lets requests of keys in or refuses them, and shares what was used through the store.

    Parameters
    ----------
    engine : the store's database.
    keys : gives the keys as they are now.
    turn : context manager, optional
        Entered to write; see :class:`~metarouter.store.writer.DecisionWriter`.
    report : callable, optional
        Gets the name of an event and its details, for the log.
    clock : callable, default ``time.time``
    """

    def __init__(
        self,
        engine: sa.Engine,
        keys: Callable[[], Iterable[ApiKey]],
        *,
        turn: AbstractContextManager[object] | None = None,
        report: Callable[..., object] = lambda event, **details: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._turn = turn or nullcontext()
        self._report = report
        self._clock = clock
        self._ledger = Ledger()
        self._full_at = -math.inf
        self._lock = threading.RLock()  # of the ledger; held for no I/O
        self._exchanging = threading.Lock()
        self._is_heard = True  # an outage is told once
        self.failures = 0

    def check(self, key: ApiKey) -> None:
        """Refuse a key that has nothing left.

        Raises
        ------
        LimitedError
        """
        with self._lock:
            self._check(key)

    def admit(
        self, key: ApiKey, *, tokens: int = 0, dollars: float = 0.0, prompt_tokens: int = 0
    ) -> Ticket:
        """Let a request in, or refuse it.

        Parameters
        ----------
        key : ApiKey
        tokens : int, estimate that is held until the request ends.
        dollars : float, likewise.
        prompt_tokens : int, the prompt's part of `tokens`.

        Returns
        -------
        Ticket
            To be given to :meth:`close` when the request ends, however it does.

        Raises
        ------
        LimitedError
        """
        held = Used(tokens=tokens, spent=dollars)
        with self._lock:
            self._check(key)
            self._ledger.add(key.key_id, self._minute(), Used(requests=1))
            self._ledger.hold(key.key_id, held)
        return Ticket(key=key, held=held, prompt_tokens=prompt_tokens)

    def close(self, ticket: Ticket, *, tokens: int = 0, dollars: float = 0.0) -> None:
        """Charge a request that ended; a second time changes nothing."""
        if not ticket.is_open:
            return
        ticket.is_open = False
        key_id, held = ticket.key.key_id, ticket.held
        with self._lock:
            self._ledger.let_go(key_id, held)
            if tokens or dollars:
                self._ledger.add(key_id, self._minute(), Used(tokens=tokens, spent=dollars))

    def used(self, key: ApiKey) -> Used:
        """Requests and tokens of this minute, dollars of this period; what is held included."""
        minute = self._minute()
        with self._lock:
            now = self._ledger.used(key.key_id, minute)
            held = self._ledger.held(key.key_id)
            spent = self._ledger.spent(key.key_id, key.first_minute(minute)) + held.spent
        return Used(requests=now.requests, tokens=now.tokens + held.tokens, spent=spent)

    def headers(self, key: ApiKey) -> list[tuple[bytes, bytes]]:
        """What is left of the limits of a key, as OpenAI's clients read it."""
        if key.requests_per_minute is None and key.tokens_per_minute is None:
            return []
        used, rest = self.used(key), f"{self._rest():.0f}s"
        limits = (
            ("requests", key.requests_per_minute, used.requests),
            ("tokens", key.tokens_per_minute, used.tokens),
        )
        return [
            (f"x-ratelimit-{what}-{name}".encode(), value.encode())
            for name, limit, count in limits
            if limit is not None
            for what, value in (
                ("limit", str(limit)),
                ("remaining", str(max(0, limit - count))),
                ("reset", rest),
            )
        ]

    async def keep_shared(self) -> None:
        """Exchange with the store every half second, until cancelled.

        In a thread that nothing else waits for: limits must not age because
        decisions or other answers of the store take long.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="limits") as thread:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await loop.run_in_executor(thread, self.exchange)

    def exchange(self) -> bool:
        """Tell the store what is new and read what all processes used; whether that went well."""
        with self._exchanging:
            try:
                self._exchange()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next round may do
                self.failures += 1
                if self._is_heard:
                    self._report("limits are not shared", error=name_error(error))
                self._is_heard = False
                with self._lock:
                    self._ledger.give_back()
                return False
        self._is_heard = True
        return True

    def _exchange(self) -> None:
        minute, now = self._minute(), self._clock()
        starts = {k.key_id: k.first_minute(minute) for k in self._keys() if k.budget is not None}
        with self._lock:
            taken = self._ledger.take()
            is_full = self._ledger.lacks(starts) or now - self._full_at >= _FULL_SECONDS
            since = minute - 1 if is_full else self._ledger.since
        older: dict[str, tuple[int, float]] | None = None
        with self._turn if taken else nullcontext(), self._engine.begin() as connection:
            add_used(connection, taken)
            told = read_minutes(connection, since)
            if is_full:
                spent = read_spent(connection, starts, since)
                older = {key_id: (start, spent[key_id]) for key_id, start in starts.items()}
        with self._lock:
            self._ledger.settle(told, since, older)
        self._full_at = now if is_full else self._full_at

    def _check(self, key: ApiKey) -> None:
        limits = (key.requests_per_minute, key.tokens_per_minute, key.budget)
        if limits == (None, None, None):
            return
        used = self.used(key)
        if key.requests_per_minute is not None and used.requests >= key.requests_per_minute:
            raise self._limited(key, "requests", key.requests_per_minute)
        if key.tokens_per_minute is not None and used.tokens >= key.tokens_per_minute:
            raise self._limited(key, "tokens", key.tokens_per_minute)
        if key.budget is not None and used.spent >= key.budget:
            held = self._ledger.held(key.key_id)
            if used.spent - held.spent < key.budget:
                raise self._held_up(key)
            raise self._out_of_budget(key)

    def _limited(self, key: ApiKey, what: str, limit: int) -> LimitedError:
        return LimitedError(
            429,
            "rate_limit_error",
            f"this key may use {limit} {what} per minute; try again in {self._rest():.0f} s",
            code="rate_limit_exceeded",
            retry_after=self._rest(),
            headers=self.headers(key),
        )

    def _held_up(self, key: ApiKey) -> LimitedError:
        """The budget is not spent, but may be once what is in flight has ended."""
        return LimitedError(
            429,
            "rate_limit_error",
            f"requests in flight may spend the rest of {key.budget:g} dollars; try again then",
            code="rate_limit_exceeded",
            retry_after=1.0,
            headers=self.headers(key),
        )

    def _out_of_budget(self, key: ApiKey) -> LimitedError:
        """429, as of OpenAI; its clients try a 429 again unless told not to."""
        now = self._clock()
        end, rest, when = key.period_end(now), None, "for good"
        if end is not None:
            rest = end - now
            when = f"in {key.budget_days:g} days, {rest:.0f} s of which are left"
        return LimitedError(
            429,
            "insufficient_quota",
            f"this key may spend {key.budget:g} dollars {when}",
            code="insufficient_quota",
            retry_after=rest,
            headers=[*self.headers(key), (b"x-should-retry", b"false")],
        )

    def _minute(self) -> int:
        return int(self._clock() // 60)

    def _rest(self) -> float:
        """Seconds until the next minute, rounded up."""
        return float(math.ceil(60 - self._clock() % 60))
