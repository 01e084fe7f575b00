"""Bytes to an upstream and back: pooled connections, retries, fallback, breakers.

Everything that may be tried again happens before the first byte reaches the
caller: connecting, the status, the first piece of a stream, and the whole of an
answer that is no stream. What breaks after that is told, and never sent twice.

HTTP is aiohttp's work, even where connections of our own would be a third faster:
a server of others' secrets does not run a parser that few people read.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import aiohttp
import msgspec
from yarl import URL

from metarouter.gateway.any_llm import ProviderClient, ProviderRefusal
from metarouter.gateway.breaker import CircuitBreaker
from metarouter.gateway.coarse_timer import CoarseTimer
from metarouter.gateway.settings import UpstreamSettings
from metarouter.gateway.wire import answer_kind
from metarouter.providers.chat import is_quota_error
from metarouter.providers.failures import CallError, kind_of_status
from metarouter.providers.retries import RetryPolicy, read_retry_after

__all__ = [
    "Answer",
    "Attempt",
    "Dialect",
    "StreamBrokenError",
    "Target",
    "UpstreamCall",
    "Upstreams",
]

Dialect = Literal["openai", "anthropic"]
Headers = Sequence[tuple[bytes, bytes]]

_LARGEST_KEPT = 16 * 2**20  # bytes of an answer that are read before any is sent on
_LARGEST_ERROR = 2**20
_LONGEST_LINE = 2**17  # bytes of a header; more is a broken answer
_LARGE_BODY = 2**20  # aiohttp wants larger ones as files
_BREAKERS = 1024  # of an upstream
_NAMES = 256  # of headers that are remembered as they go on

# Of the connection, of us, or private to the caller's side; never sent on.
_NOT_SENT = frozenset(
    b"accept-encoding api-key authorization connection content-length cookie expect forwarded host "
    b"keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade x-api-key x-goog-api-key x-real-ip".split()
)
_OUR_PREFIX = b"x-metarouter-"
_NOT_SENT_PREFIXES = (_OUR_PREFIX, b"x-forwarded-")
_NOT_RETURNED = frozenset(
    b"connection content-length date keep-alive proxy-authenticate server set-cookie te trailer "
    b"transfer-encoding upgrade".split()
)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A model at an upstream: our name for it, and the name there."""

    upstream: str
    model: str
    name: str


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try: where, how it ended ("ok" or what failed), and after how long."""

    upstream: str
    model: str
    outcome: str
    seconds: float


class UpstreamCall(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent, whichever target gets it.

    Attributes
    ----------
    path : below the upstream's base, e.g. "chat/completions".
    dialect : Dialect
    body : makes the body for a model's name at the upstream.
    headers : the caller's own, names in lower case.
    is_stream : whether the caller asked for a stream of events.
    client_key : the caller's key, for upstreams that are to get it.
    deadline : when all tries have to be over, by ``time.monotonic``.
    query : the part of the caller's address from "?" on, or "".
    before_try : what a try sends in place of this call, for traces; None sends it as it is.
    """

    path: str
    dialect: Dialect
    body: Callable[[str], bytes]
    headers: Headers
    is_stream: bool = False
    client_key: str | None = None
    query: str = ""
    deadline: float = math.inf
    before_try: Callable[[Target, UpstreamCall], UpstreamCall] | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream's answer, its first bytes read.

    Attributes
    ----------
    target : who answered.
    status, headers : as sent on to the caller.
    kind : "stream", "json" or "other".
    first : bytes read so far; all of them when `rest` is None.
    rest : the pieces that follow; raises StreamBrokenError when they end early.
    close : gives the connection back; may be called twice.
    """

    target: Target
    status: int
    headers: list[tuple[bytes, bytes]]
    kind: str
    first: bytes
    rest: AsyncIterator[bytes] | None
    close: Callable[[], None]


class StreamBrokenError(CallError):
    """An answer ended early after its first byte was sent on."""


class _RefusedError(CallError):
    """A failure that came with an answer, which may be sent on."""

    def __init__(self, error: CallError, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(
            str(error),
            kind=error.kind,
            status=status,
            retry_after=error.retry_after,
            quota=error.quota,
        )
        self.headers = headers
        self.body = body


class _PassedOverError(CallError):
    """The upstream is not asked at all: its breaker is open, or it is full."""


class Upstreams:
    """All upstreams over one pool of connections; use as an async context manager.

    Parameters
    ----------
    settings : mapping of name to UpstreamSettings, best first.
    fallbacks : mapping of model to the models that stand in for it, in order.
    rng : source of the jitter.
    on_attempt : called with each attempt that ended, for metrics.
    """

    def __init__(
        self,
        settings: Mapping[str, UpstreamSettings],
        fallbacks: Mapping[str, Sequence[str]],
        *,
        rng: random.Random | None = None,
        on_attempt: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        self._upstreams = {name: _Upstream(name, entry) for name, entry in settings.items()}
        self._fallbacks = fallbacks
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._on_attempt = on_attempt
        self._pool = _Pool()
        self._serving = lru_cache(1024)(self._find)

    def renewed(
        self,
        settings: Mapping[str, UpstreamSettings],
        fallbacks: Mapping[str, Sequence[str]],
    ) -> Upstreams:
        """Upstreams of other settings over the same pool of connections.

        One whose name and settings stay keeps its breakers and its places; the
        others live on until the last request that holds them has ended.
        """
        new = Upstreams({}, fallbacks, rng=self._rng, on_attempt=self._on_attempt)
        new._pool = self._pool
        for name, entry in settings.items():
            old = self._upstreams.get(name)
            is_same = old is not None and old.settings == entry
            new._upstreams[name] = old if old is not None and is_same else _Upstream(name, entry)
        return new

    async def __aenter__(self) -> Upstreams:
        self._pool.timer = CoarseTimer()  # of this event loop
        self._pool.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            request_class=_PlainRequest,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool.session is not None:
            await self._pool.session.close()

    @property
    def timer(self) -> CoarseTimer:
        """For time limits of requests; one for the pool."""
        return self._pool.timer

    @property
    def models(self) -> list[str]:
        """Models that upstreams name, each once."""
        names = (name for up in self._upstreams.values() for name in up.settings.models)
        return list(dict.fromkeys(names))

    @property
    def open_breakers(self) -> list[str]:
        """Names of upstreams that are left alone just now, with all of their models."""
        return [name for name, up in self._upstreams.items() if up.rest]

    @property
    def failing(self) -> dict[str, bool]:
        """Of each upstream, whether a model's breaker is open, and the model asked for lately."""
        return {name: up.is_failing for name, up in self._upstreams.items()}

    @property
    def rests(self) -> dict[str, float]:
        """Seconds until each upstream is asked again; 0 for those that are asked."""
        return {name: up.rest for name, up in self._upstreams.items()}

    def serves(self, model: str, dialect: Dialect) -> bool:
        """Whether an upstream of the dialect has the model."""
        return bool(self._serving(model, dialect))

    def _find(self, model: str, dialect: Dialect) -> list[Target]:
        found = (up.target(model, dialect) for up in self._upstreams.values())
        return [target for target in found if target is not None]

    def targets(
        self, model: str, dialect: Dialect, allowed: Callable[[str], bool] = lambda model: True
    ) -> list[Target]:
        """Where a request for `model` may go, best first, fallback models last."""
        models = [model, *filter(allowed, self._fallbacks.get(model, ()))]
        return [target for name in models for target in self._serving(name, dialect)]

    async def open(
        self, targets: Sequence[Target], call: UpstreamCall, attempts: list[Attempt]
    ) -> Answer:
        """Send a call to the first target that answers it.

        A failure that another target may not have (no connection, time out,
        5xx, 429, a refused key) leads to the next one; the caller's own
        mistakes (other 4xx) come back as they are.

        Parameters
        ----------
        targets : where it may go, in order.
        call : what is sent.
        attempts : every try is appended, the last one last.

        Raises
        ------
        CallError
            When no target gave any answer.
        """
        failure: CallError | None = None
        for target in targets:
            upstream = self._upstreams[target.upstream]
            try:
                return await self._try(upstream, target, call, attempts)
            except CallError as error:
                # what an upstream said is worth more than that another was not asked
                if not (isinstance(error, _PassedOverError) and isinstance(failure, _RefusedError)):
                    failure = error
                if not (error.is_retryable or error.is_fatal):
                    break
        if isinstance(failure, _RefusedError):
            return _refusal(failure, attempts)
        raise failure or CallError("no upstream serves this model", kind="unsent")

    async def _try(
        self, upstream: _Upstream, target: Target, call: UpstreamCall, attempts: list[Attempt]
    ) -> Answer:
        """Ask one upstream, again where that may help and time is left."""
        tried = 0
        while True:
            tried += 1
            start = time.monotonic()
            sent = call if call.before_try is None else call.before_try(target, call)
            try:
                answer = await self._ask(upstream, target, sent)
            except CallError as error:
                self._note(attempts, target, _outcome(error), start)
                if isinstance(error, _PassedOverError):
                    raise
                pause = upstream.retries.pause(error, tried, self._rng)
                if pause is None or time.monotonic() + pause >= call.deadline:
                    raise
            else:
                self._note(attempts, target, "ok", start)
                return answer
            await asyncio.sleep(pause)

    def _note(self, attempts: list[Attempt], target: Target, outcome: str, start: float) -> None:
        attempt = Attempt(
            upstream=target.upstream,
            model=target.model,
            outcome=outcome,
            seconds=time.monotonic() - start,
        )
        attempts.append(attempt)
        self._on_attempt(attempt)

    async def _ask(self, upstream: _Upstream, target: Target, call: UpstreamCall) -> Answer:
        """One try, which ends with the first bytes of an answer below 400."""
        session = self._pool.session
        if session is None:
            raise RuntimeError("Upstreams is used outside its `async with`")
        breaker = upstream.breaker(target.name)
        await upstream.enter(breaker, target)
        limit = time.monotonic() + upstream.settings.total_timeout
        held = _Held(upstream, breaker, self.timer, min(limit, call.deadline))
        try:
            if upstream.provider is None:
                answer = await _send(session, upstream, target, call, held)
            else:
                answer = await _say(upstream.provider, target, call, held)
        except CallError as error:
            held.release()
            # who answers, if only that it will not, has not failed
            breaker.note(error.status is not None and error.status < 500)
            upstream.line.note(error.status is not None)
            raise
        except BaseException:
            held.release()
            raise
        breaker.note(True)
        upstream.line.note(True)
        return answer


class _PlainRequest(aiohttp.ClientRequest):
    """A request with no headers but those it is given; `skip_auto_headers` takes 9 us for that."""

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """Add nothing."""


@dataclass(slots=True)
class _Pool:
    """Connections that generations of upstreams share."""

    session: aiohttp.ClientSession | None = None
    timer: CoarseTimer = field(default_factory=CoarseTimer)


class _Upstream:
    """One upstream's settings, places, and a breaker for each of its models."""

    def __init__(self, name: str, settings: UpstreamSettings) -> None:
        self.name = name
        self.settings = settings
        self._breakers: dict[str, CircuitBreaker] = {}
        # tells whether anything answers there at all; holds no request back
        self.line = self._new_breaker()
        self.places = asyncio.Semaphore(settings.concurrency)
        self.retries = RetryPolicy(
            attempts=settings.attempts,
            first_pause=settings.first_pause,
            longest_pause=settings.longest_pause,
        )
        self.provider = None if settings.provider is None else _provider(name, settings)
        self._own = frozenset(name.lower().encode() for name in settings.headers)
        self.timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout)
        self.url = lru_cache(64)(self._url)
        self._sent_name = lru_cache(_NAMES)(self._find_sent_name)

    def target(self, model: str, dialect: Dialect) -> Target | None:
        """Where a model is asked for here; None where it is not served."""
        if self.provider is None and self.settings.dialect not in (dialect, "any"):
            return None
        name = self.settings.models.get(model) if self.settings.models else model
        return None if name is None else Target(upstream=self.name, model=model, name=name)

    def _url(self, path: str, query: str) -> URL:
        return URL(f"{self.settings.base_url}/{path}{query}", encoded=True)

    def breaker(self, model: str) -> CircuitBreaker:
        """That of a model, by its name at the upstream: one may fail where others do not."""
        found = self._breakers.get(model)
        if found is None:
            if len(self._breakers) >= _BREAKERS:  # callers make up names
                self._forget_a_breaker()
            found = self._breakers[model] = self._new_breaker()
        return found

    def _forget_a_breaker(self) -> None:
        """The longest known of those that hold nothing back, or of all."""
        known = self._breakers
        closed = (name for name, breaker in known.items() if not breaker.is_open)
        del known[next(closed, next(iter(known)))]

    def _new_breaker(self) -> CircuitBreaker:
        return CircuitBreaker(
            failures=self.settings.breaker_failures, seconds=self.settings.breaker_seconds
        )

    @property
    def is_failing(self) -> bool:
        """Whether any model's breaker is open, of those that are asked for."""
        # a copy: metrics are told in a thread, while requests make breakers
        return any(breaker.is_failing for breaker in list(self._breakers.values()))

    @property
    def rest(self) -> float:
        """Seconds until it is asked again, where nothing answers or all models rest; else 0."""
        known = self._breakers.copy()
        named = self.settings.models.values() or known
        rests = (known[name].rest if name in known else 0.0 for name in named)
        return max(self.line.rest, min(rests, default=0.0))

    async def enter(self, breaker: CircuitBreaker, target: Target) -> None:
        """Take a place, or pass the model of the upstream over."""
        if not breaker.admits():
            message = f"{target.model} failed too often at upstream {self.name}, next trial soon"
            raise _PassedOverError(message, kind="unsent", retry_after=breaker.rest)
        try:
            if self.places.locked():
                async with asyncio.timeout(self.settings.connect_timeout):
                    await self.places.acquire()
            else:
                await self.places.acquire()
        except TimeoutError:
            message = f"upstream {self.name} has {self.settings.concurrency} requests in flight"
            raise _PassedOverError(message, kind="unsent") from None

    def headers(self, call: UpstreamCall) -> list[tuple[str, str]]:
        given = ((self._sent_name(name), value) for name, value in call.headers)
        sent = [(name, _text(value)) for name, value in given if name]
        sent += self.settings.headers.items()
        # bytes go back as they come, and usage can be read from them
        sent.append(("accept-encoding", "identity"))
        key = self._key(call)
        if key and self.settings.dialect == "anthropic":
            sent.append(("x-api-key", key))
        elif key:
            sent.append(("authorization", f"Bearer {key}"))
            if call.dialect == "anthropic":
                sent.append(("x-api-key", key))
        return sent

    def _find_sent_name(self, name: bytes) -> str:
        """A caller's header as it is sent on; "" for one that is not."""
        stays = name in _NOT_SENT or name in self._own or name.startswith(_NOT_SENT_PREFIXES)
        return "" if stays else _text(name)

    def _key(self, call: UpstreamCall) -> str | None:
        if self.settings.api_key_env is not None:
            # an end of line, as files of secrets have it, would begin another header
            return os.environ.get(self.settings.api_key_env, "").strip()
        return call.client_key if self.settings.forward_client_key else None


@dataclass(slots=True)
class _Held:
    """A place and a connection that are given back once."""

    upstream: _Upstream
    breaker: CircuitBreaker
    timer: CoarseTimer
    deadline: float  # of the try, by time.monotonic
    response: aiohttp.ClientResponse | None = None
    is_held: bool = field(default=True)

    def release(self) -> None:
        if self.is_held:
            self.is_held = False
            self.upstream.places.release()
            if self.response is not None:
                # a no-op where the answer was read to its end
                self.response.close()


async def _send(
    session: aiohttp.ClientSession,
    upstream: _Upstream,
    target: Target,
    call: UpstreamCall,
    held: _Held,
) -> Answer:
    limit = _first_limit(call, held)
    body = call.body(target.name)
    try:
        with held.timer.limit(limit):
            response = await session.post(
                upstream.url(call.path, call.query),
                data=body if len(body) < _LARGE_BODY else io.BytesIO(body),
                headers=upstream.headers(call),
                timeout=upstream.timeout,
                allow_redirects=False,
            )
            held.response = response
            if response.status >= 300:
                raise await _refused(response, upstream)
            kind = answer_kind(response.headers.get("Content-Type", ""))
            first, is_whole = await _first_bytes(response, is_stream=kind == "stream")
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        # callers learn the name of the upstream, not its address
        cause = type(getattr(error, "os_error", error)).__name__
        message = f"upstream {upstream.name}: no connection ({cause})"
        raise CallError(message, kind="unsent") from None
    except TimeoutError:
        message = f"upstream {upstream.name}: no answer within {limit:g} s"
        raise CallError(message, kind="timeout") from None
    except aiohttp.ClientError as error:
        message = f"upstream {upstream.name}: connection ended early ({type(error).__name__})"
        raise CallError(message, kind="broken") from None
    if is_whole:
        held.release()
    return Answer(
        target=target,
        status=response.status,
        headers=_returned(response.raw_headers),
        kind=kind,
        first=first,
        rest=None if is_whole else _rest(response.content.readany, held),
        close=held.release,
    )


def _first_limit(call: UpstreamCall, held: _Held) -> float:
    """Seconds until the first bytes that can be sent on."""
    left = max(0.0, held.deadline - time.monotonic())
    return min(held.upstream.settings.first_token_timeout, left) if call.is_stream else left


def _provider(name: str, settings: UpstreamSettings) -> ProviderClient:
    key = settings.api_key_env and os.environ.get(settings.api_key_env)
    return ProviderClient(
        name, settings.provider or "", api_key=key, base_url=settings.base_url or None
    )


async def _say(provider: ProviderClient, target: Target, call: UpstreamCall, held: _Held) -> Answer:
    """What _send does, for an upstream that any-llm speaks to."""
    limit = _first_limit(call, held)
    try:
        async with asyncio.timeout(limit):
            said = await provider.ask(call.path, target.name, call.body(target.name))
    except TimeoutError:
        message = f"upstream {held.upstream.name}: no answer within {limit:g} s"
        raise CallError(message, kind="timeout") from None
    except ProviderRefusal as error:
        headers = [(b"content-type", b"application/json")]
        raise _RefusedError(error, error.status or 502, headers, error.body) from None
    pieces = said.rest
    if pieces is None:
        held.release()
    return Answer(
        target=target,
        status=200,
        headers=said.headers,
        kind="json" if pieces is None else "stream",
        first=said.first,
        rest=None if pieces is None else _said(pieces, held),
        close=held.release,
    )


async def _said(pieces: AsyncGenerator[bytes], held: _Held) -> AsyncIterator[bytes]:
    """The pieces of a provider's answer; the provider stops when nobody reads on."""
    async with aclosing(pieces):
        async for part in _rest(lambda: anext(pieces, b""), held):
            yield part


async def _first_bytes(response: aiohttp.ClientResponse, *, is_stream: bool) -> tuple[bytes, bool]:
    """What is read before anything is sent on, and whether that is all."""
    parts: list[bytes] = []
    size = 0
    while True:
        part = await response.content.readany()
        if not part:
            return b"".join(parts), True
        parts.append(part)
        size += len(part)
        if is_stream or size > _LARGEST_KEPT:
            return b"".join(parts), False


async def _rest(read: Callable[[], Awaitable[bytes]], held: _Held) -> AsyncIterator[bytes]:
    """The pieces of an answer as they come."""
    upstream, idle = held.upstream, held.upstream.settings.idle_timeout
    try:
        while True:
            left = held.deadline - time.monotonic()
            with held.timer.limit(min(idle, left)):
                part = await read()
            if not part:
                return
            yield part
    except TimeoutError:
        if left <= idle:  # a long answer, or a caller who reads slowly: no fault of the upstream
            message = f"upstream {upstream.name}: the answer took longer than a request may"
            raise StreamBrokenError(message, kind="timeout") from None
        held.breaker.note(False)
        message = f"upstream {upstream.name}: the stream stood still for {idle:g} s"
        raise StreamBrokenError(message, kind="timeout") from None
    except (aiohttp.ClientError, CallError) as error:
        held.breaker.note(False)
        message = f"upstream {upstream.name}: the stream ended early ({type(error).__name__})"
        raise StreamBrokenError(message, kind="broken") from None
    finally:
        held.release()


async def _refused(response: aiohttp.ClientResponse, upstream: _Upstream) -> CallError:
    body = b""
    while len(body) < _LARGEST_ERROR and (part := await response.content.readany()):
        body += part
    status = response.status
    error = CallError(
        f"upstream {upstream.name}: status {status}",
        kind="broken" if status < 400 else kind_of_status(status),
        status=status,
        retry_after=read_retry_after(response.headers.get("Retry-After")),
        quota=status == 429 and is_quota_error(body),
    )
    if status < 400:  # it leads elsewhere, to an address that is not the caller's business
        return error
    if status == 401 and upstream.settings.api_key_env is not None:
        # said of the gateway's key, which the caller can neither know nor mend
        message = f"upstream {upstream.name} does not take the gateway's key"
        return CallError(message, kind="refused", status=status)
    return _RefusedError(error, status, _returned(response.raw_headers), body)


def _returned(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers that go back to the caller."""
    return [(lower, value) for name, value in headers if (lower := _returned_name(name))]


@lru_cache(_NAMES)
def _returned_name(name: bytes) -> bytes:
    """A header as it goes back; b"" for one that does not."""
    lower = name.lower()
    return b"" if lower in _NOT_RETURNED or lower.startswith(_OUR_PREFIX) else lower


def _refusal(failure: _RefusedError, attempts: Sequence[Attempt]) -> Answer:
    """What the upstream said instead of an answer."""
    last = attempts[-1]
    return Answer(
        target=Target(upstream=last.upstream, model=last.model, name=last.model),
        status=failure.status or 502,
        headers=list(failure.headers),
        kind="other",
        first=failure.body,
        rest=None,
        close=lambda: None,
    )


def _text(header: bytes) -> str:
    """A header as aiohttp takes it, which sends text as UTF-8."""
    try:
        return header.decode("utf-8")
    except UnicodeDecodeError:
        return header.decode("latin-1")


def _outcome(error: CallError) -> str:
    if isinstance(error, _PassedOverError):
        return "passed over"
    return f"status {error.status}" if error.status is not None else error.kind
