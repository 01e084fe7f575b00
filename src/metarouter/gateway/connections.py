"""HTTP/1.1 to upstreams over kept connections: bytes and headers are handed on as they are.

Written for one job, because every request pays for it: a request is one write,
an answer is parsed by httptools as it arrives, and a wait costs one timer.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote, urlsplit

import aiohappyeyeballs
import httptools

__all__ = ["Connection", "ConnectionPool", "Origin"]

_LONGEST_IDLE = 15.0  # seconds; servers close idle connections of their own accord
_NEXT_ADDRESS = 0.25  # seconds until another address of the host is tried beside the first
_MOST_WAITING = 2**18  # bytes that wait to be read before the sender is slowed down


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where connections go.

    Examples
    --------
    >>> origin, path = Origin.of("https://api.example/v1")
    >>> origin.port, path, origin.name
    (443, '/v1', 'api.example')
    """

    host: str
    port: int
    is_tls: bool

    @classmethod
    def of(cls, base_url: str) -> tuple[Origin, str]:
        """The origin of an http or https URL, and the path of the URL."""
        parts = urlsplit(base_url)
        is_tls = parts.scheme == "https"
        host = (parts.hostname or "").encode("idna").decode() if parts.hostname else ""
        origin = cls(host=host, port=parts.port or (443 if is_tls else 80), is_tls=is_tls)
        return origin, quote(parts.path, safe="/%:@!$&'()*+,;=-._~")

    @property
    def name(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


class ConnectionPool:
    """Connections by origin, the last one used first."""

    def __init__(self) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._all: set[Connection] = set()
        self._tls: ssl.SSLContext | None = None

    async def take(self, origin: Origin, seconds: float) -> Connection:
        """A connection that nobody else uses.

        Raises
        ------
        OSError
            When there is none within `seconds`, TimeoutError included.
        """
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_fresh:
                return connection
            connection.close()
        async with asyncio.timeout(seconds):
            return await self._connect(origin)

    async def _connect(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        if origin.is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        connected = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=_NEXT_ADDRESS, interleave=1
        )
        _, connection = await loop.create_connection(
            lambda: Connection(self, origin),
            sock=connected,
            ssl=self._tls if origin.is_tls else None,
            server_hostname=origin.host if origin.is_tls else None,
        )
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self._idle.setdefault(connection.origin, []).append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection is no more."""
        self._all.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)

    def close(self) -> None:
        """Close all connections, those in use too."""
        for connection in list(self._all):
            connection.close()


class Connection(asyncio.Protocol):
    """One connection, used for one request at a time.

    Attributes
    ----------
    status, headers : of the answer, once :meth:`head` returned; names as they came.
    """

    def __init__(self, pool: ConnectionPool, origin: Origin) -> None:
        self.origin = origin
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._is_busy = self._has_head = self._has_ended = self._may_stay = False
        self._is_lost = self._is_paused = False
        self._idle_since = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether a request may be sent on it, as far as one can tell from here."""
        is_young = time.monotonic() - self._idle_since < _LONGEST_IDLE
        return is_young and not self._is_lost and not self._transport.is_closing()

    def send(self, head: bytes, body: bytes) -> None:
        """Begin an exchange."""
        self._is_busy = True
        self._has_head = self._has_ended = self._may_stay = False
        self.headers = []
        self._transport.writelines((head, body))

    async def head(self, until: float) -> None:
        """Wait for status and headers, at most until a time of ``time.monotonic``.

        Raises
        ------
        ConnectionError
            When the connection ends before them.
        TimeoutError
            When they are not there in time.
        """
        while not self._has_head:
            await self._wait(until)

    async def read(self, until: float) -> bytes:
        """What came of the body since the last call, at least one byte; b"" at its end.

        Raises
        ------
        ConnectionError
            When the connection ends before the body does.
        TimeoutError
            When there is nothing in time.
        """
        while not self._pieces:
            if self._has_ended:
                return b""
            await self._wait(until)
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        if self._is_paused and not self._is_lost:
            self._is_paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """End the exchange; a connection that is not at the end of an answer is closed."""
        if not self._is_busy:
            return
        self._is_busy = False
        self._pieces = []
        is_written = not self._is_lost and self._transport.get_write_buffer_size() == 0
        if self._has_ended and self._may_stay and is_written:
            self._idle_since = time.monotonic()
            self._pool.give_back(self)
        else:
            self.close()

    def close(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    async def _wait(self, until: float) -> None:
        """For anything to happen."""
        if self._is_lost:
            raise ConnectionError("the connection ended early")
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(max(0.0, until - time.monotonic()), _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio: it is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Of asyncio: bytes came."""
        if not self._is_busy or self._has_ended:
            self._may_stay = False
            self.close()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._is_lost = True
            self.close()
        if self._waiting > _MOST_WAITING and not self._is_paused and not self._is_lost:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Of asyncio: it is closed."""
        is_end = error is None and not self._is_lost and not _has_length(self.headers)
        self._is_lost = True
        self._has_ended = self._has_ended or (self._has_head and is_end)
        self._pool.forget(self)
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools: one header, or one trailer, which is left out."""
        if not self._has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Of httptools: status and headers are there."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= 200  # others announce the answer, such as 103

    def on_body(self, part: bytes) -> None:
        """Of httptools: bytes of the body."""
        self._pieces.append(part)
        self._waiting += len(part)

    def on_message_complete(self) -> None:
        """Of httptools: the answer is whole."""
        if self._has_head:
            self._has_ended = True
            self._may_stay = self._parser.should_keep_alive()
        else:
            self.headers = []


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _has_length(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the end of a body can be told from a connection that broke."""
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers)
