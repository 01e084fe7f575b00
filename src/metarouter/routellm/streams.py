"""Chat completions piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from metarouter.errors import MissingDependencyError
from metarouter.providers import CallError, Endpoint
from metarouter.providers.chat import error_text
from metarouter.providers.failures import kind_of_status
from metarouter.routellm.completions import Completion, is_in_loop

if TYPE_CHECKING:
    import aiohttp

__all__ = ["iterate", "read_event", "stream_chat"]

_LONGEST_LINE = 2**20  # bytes of one piece
T = TypeVar("T")


async def stream_chat(
    endpoint: Endpoint, request: Mapping[str, Any]
) -> AsyncGenerator[Completion, None]:
    """Pieces of an answer as they come.

    Raises
    ------
    CallError
        When the endpoint refuses, or the stream ends before the answer does.
    """
    is_finished = False
    async with _opened(endpoint, msgspec.json.encode(request)) as response:
        async for line in response.content:
            piece = read_event(line)
            if piece is None:
                continue
            if not piece:
                return
            yield piece
            choices = piece.get("choices") or [{}]
            is_finished |= choices[0].get("finish_reason") is not None
    if not is_finished:
        raise CallError(f"{endpoint.base_url}: the stream ended early", kind="broken")


def read_event(line: bytes) -> Completion | None:
    """The piece in a line of server-sent events: empty at the end, None where there is none.

    Examples
    --------
    >>> read_event(b'data: {"id": "1"}'), read_event(b"data: [DONE]"), read_event(b": ping")
    ({'id': '1'}, {}, None)
    """
    if not line.startswith(b"data:"):
        return None
    data = line.removeprefix(b"data:").strip()
    if data == b"[DONE]":
        return Completion({})
    try:
        return Completion(msgspec.json.decode(data, type=dict[str, Any]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CallError(f"a piece of the stream is no JSON: {error}", kind="malformed") from None


def iterate(pieces: AsyncGenerator[T, None]) -> Iterator[T]:
    """The same pieces for code that is not asynchronous, each awaited when it is asked for."""
    with _running() as run:

        async def following() -> T:
            return await anext(pieces)

        try:
            while True:
                try:
                    yield run(following())
                except StopAsyncIteration:
                    return
        finally:
            run(pieces.aclose())


@contextmanager
def _running() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """What runs coroutines to their end on one loop: in a thread where another loop runs here."""
    if not is_in_loop():
        with asyncio.Runner() as runner:
            yield runner.run
        return
    runner = asyncio.Runner()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield lambda work: thread.submit(runner.run, work).result()
        finally:
            thread.submit(runner.close).result()


@asynccontextmanager
async def _opened(endpoint: Endpoint, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
    try:
        import aiohttp
    except ImportError:
        raise MissingDependencyError.of("calling a model endpoint", "collect") from None
    secret = endpoint.secret_headers()
    headers = {"Content-Type": "application/json", **secret}
    timeout = aiohttp.ClientTimeout(
        sock_connect=endpoint.connect_timeout, sock_read=endpoint.timeout
    )
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, read_bufsize=_LONGEST_LINE) as session,
            session.post(
                endpoint.url("chat/completions"), data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            if not 200 <= response.status < 300:
                content = await response.read()
                raise _refused(endpoint, response.status, error_text(content, secret.values()))
            yield response
    except aiohttp.ClientError as error:
        message = f"{endpoint.base_url}: connection failed ({type(error).__name__})"
        raise CallError(message, kind="broken") from None
    except TimeoutError:
        message = f"{endpoint.base_url}: nothing came for {endpoint.timeout:g} s"
        raise CallError(message, kind="timeout") from None


def _refused(endpoint: Endpoint, status: int, text: str) -> CallError:
    message = f"{endpoint.base_url}: status {status}: {text}"
    return CallError(message, kind=kind_of_status(status), status=status)
