"""The class that talks: one connection pool for any number of endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Self

from metarouter.errors import MissingDependencyError, shorten
from metarouter.providers.chat import (
    ChatAnswer,
    ChatRequest,
    chat_body,
    error_text,
    is_quota_error,
    read_answer,
)
from metarouter.providers.endpoints import Endpoint, Target
from metarouter.providers.failures import CallError, kind_of_status
from metarouter.providers.retries import read_retry_after

if TYPE_CHECKING:
    import aiohttp

__all__ = ["ProviderClient", "Reply"]

_LARGEST_ANSWER = 64 * 2**20  # bytes; a completion is a few thousand


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """A complete HTTP answer with status 2xx."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


class ProviderClient:
    """Sends requests, each exactly once; trying again is the caller's choice.

    Use as an asynchronous context manager. Each endpoint has its own limit of
    requests in flight, and after a ``Retry-After`` no new request goes to that
    endpoint before the time is over. Redirects are not followed, so that a key
    goes nowhere but to the address given.

    Raises
    ------
    MissingDependencyError
        On entering, when aiohttp is not installed.

    Examples
    --------
    >>> async def ask(target: Target, question: str) -> str:
    ...     request = ChatRequest(
    ...         messages=({"role": "user", "content": question},), max_tokens=100
    ...     )
    ...     async with ProviderClient() as client:
    ...         return (await client.chat(target, request)).text
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._gates: dict[tuple[str, str], _Gate] = {}

    async def __aenter__(self) -> Self:
        aiohttp = _aiohttp()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # the gates limit, by endpoint
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def chat(
        self, target: Target, request: ChatRequest, *, idempotency_key: str | None = None
    ) -> ChatAnswer:
        """Ask a model once.

        Parameters
        ----------
        target, request : who is asked, and what.
        idempotency_key : str, optional
            Sent as ``Idempotency-Key``: a provider that knows the header does
            not do, or charge, the same work twice.

        Raises
        ------
        CallError
            When it fails; nothing is tried again.
        """
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        body = chat_body(target, request)
        reply = await self.post(target.endpoint, "chat/completions", body, headers=headers)
        try:
            return read_answer(reply.body, reply.seconds)
        except CallError as error:
            raise _with_place(error, target.endpoint) from None

    async def post(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send JSON bytes and return the complete answer.

        Raises
        ------
        CallError
            When there is no answer, or its status is not 2xx.
        OptionError
            When the endpoint's key is not in the environment.
        """
        secret = endpoint.secret_headers()
        sent = {"Content-Type": "application/json", **secret, **(headers or {})}
        place = (endpoint.name, endpoint.base_url)
        gate = self._gates.setdefault(place, _Gate(endpoint.concurrency))
        async with gate.entered():
            try:
                return await self._send(endpoint, path, body, sent, secret.values())
            except CallError as error:
                if error.retry_after is not None:
                    gate.close_for(min(error.retry_after, endpoint.retries.longest_pause))
                raise _with_place(error, endpoint) from None

    async def _send(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        secrets: Collection[str],
    ) -> Reply:
        aiohttp = _aiohttp()
        if self._session is None:
            raise RuntimeError("ProviderClient is used outside its `async with`")
        timeout = aiohttp.ClientTimeout(
            total=endpoint.timeout, sock_connect=endpoint.connect_timeout
        )
        start = time.monotonic()
        try:
            async with self._session.post(
                endpoint.url(path),
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                content = await _read_limited(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise CallError(f"no connection: {shorten(str(error), 160)}", kind="unsent") from None
        except TimeoutError:
            message = f"no complete answer within {endpoint.timeout:g} s"
            raise CallError(message, kind="timeout") from None
        except aiohttp.ClientError as error:
            message = f"connection ended early ({type(error).__name__})"
            raise CallError(message, kind="broken") from None
        if not 200 <= response.status < 300:
            raise _status_error(response.status, response.headers, content, secrets)
        return Reply(
            status=response.status,
            headers=response.headers,
            body=content,
            seconds=time.monotonic() - start,
        )


class _Gate:
    """Requests in flight at one endpoint, and until when no new one may start."""

    def __init__(self, size: int) -> None:
        self._places = asyncio.Semaphore(size)
        self._closed_until = 0.0  # monotonic seconds

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        async with self._places:
            while (rest := self._closed_until - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            yield

    def close_for(self, seconds: float) -> None:
        self._closed_until = max(self._closed_until, time.monotonic() + seconds)


async def _read_limited(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _LARGEST_ANSWER:
            raise CallError(f"answer above {_LARGEST_ANSWER} bytes", kind="malformed")
    return b"".join(parts)


def _status_error(
    status: int, headers: Mapping[str, str], content: bytes, secrets: Collection[str]
) -> CallError:
    return CallError(
        f"status {status}: {error_text(content, secrets)}",
        kind=kind_of_status(status),
        status=status,
        retry_after=read_retry_after(headers.get("Retry-After")),
        quota=status == 429 and is_quota_error(content),
    )


def _with_place(error: CallError, endpoint: Endpoint) -> CallError:
    """The error with the endpoint in front."""
    hint = ""
    if error.is_fatal:
        hint = f"; check the address, the model and the key in {endpoint.api_key_env or '(none)'}"
    return CallError(
        f"endpoint {endpoint.name} ({endpoint.base_url}): {error}{hint}",
        kind=error.kind,
        status=error.status,
        retry_after=error.retry_after,
        quota=error.quota,
    )


def _aiohttp() -> ModuleType:
    try:
        import aiohttp
    except ImportError:
        raise MissingDependencyError.of("calling a model endpoint", "collect") from None
    return aiohttp
