"""One write for the head of an answer and what follows it at once.

The server writes status and headers by themselves, and the system sends them on as
a packet of their own: one more call of the system, and a caller who wakes twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["JoiningTransport"]


class JoiningTransport:
    r"""A transport that keeps the head of an answer back until the next write, close or step.

    Nothing waits longer than the current step of the event loop, and the order
    of all bytes stays.

    Parameters
    ----------
    transport : that sends.
    loop : its event loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, content: bytes) -> None:
        """Send, with the head that waits; one that begins an answer waits itself."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + content)
        elif content.startswith(b"HTTP/1.1 ") and content.endswith(b"\r\n\r\n"):
            self._head = content
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(content)

    def close(self) -> None:
        """Send what waits, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self.is_closing():  # a connection that was lost meanwhile
                self._transport.write(head)
