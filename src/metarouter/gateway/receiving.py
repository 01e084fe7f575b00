"""How long and how large a request may be before it is one.

The server itself waits for ever for the end of a request, and keeps headers of
any size. Here a connection that does not send a whole request in time is closed,
and so is one that does not take its answer. A request that arrives in one piece,
as nearly all do, costs no timer. What is no HTTP is told in the form of other errors.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from metarouter.gateway.joining import JoiningTransport
from metarouter.gateway.problems import Problem, error_bytes, problem_headers

__all__ = ["guarded_protocol"]

_LARGEST_HEAD = 64 * 1024  # bytes of the request line and the headers


def guarded_protocol(seconds: float) -> type[HttpToolsProtocol]:
    """The protocol of a server whose callers have `seconds` to send, and to take what is sent."""
    # no class of its own: workers get it by name
    return cast("type[HttpToolsProtocol]", partial(_GuardedProtocol, patience=seconds))


class _GuardedProtocol(HttpToolsProtocol):
    def __init__(self, *args: Any, patience: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self.patience = patience
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._is_in_message = self._is_in_head = False
        self._head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast("asyncio.Transport", JoiningTransport(transport, self.loop)))
        self._watch_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_reading()
        self._unwatch_writing()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._is_in_message = self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head, self._head_size = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_message = False
        self._unwatch_reading()
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_message:
            self._watch_reading()
        if self._is_in_head:
            self._head_size += len(data)
            if self._head_size > _LARGEST_HEAD:
                self._turn_away(431, f"headers above {_LARGEST_HEAD} bytes")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        self._unwatch_writing()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._turn_away(400, msg)

    def _watch_reading(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self.patience, self._give_up)

    def _unwatch_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _unwatch_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _give_up(self) -> None:
        self._turn_away(408, f"no whole request within {self.patience:g} s")

    def _turn_away(self, status: int, message: str) -> None:
        """Answer, where no answer has begun, and close."""
        has_begun = self.cycle is not None and self.cycle.response_started
        if not has_begun or self.cycle.response_complete:
            problem = Problem(status=status, kind="invalid_request_error", message=message)
            content = error_bytes(problem, "openai")
            headers = [*problem_headers(problem, content), (b"connection", b"close")]
            lines = [b"HTTP/1.1 %d X" % status, *(b": ".join(header) for header in headers)]
            self.transport.write(b"\r\n".join([*lines, b"", content]))
        self.transport.close()
