"""The head of an answer leaves with what follows it, and nothing else changes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.gateway.joining import JoiningTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Recorder:
    """A transport that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def write(self, content: bytes) -> None:
        self.told.append(content)

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told

    def get_extra_info(self, name: str) -> str:
        return f"info of {name}"


def told(*steps: object) -> list[object]:
    """What reaches the transport; "step" lets the loop go round, "close" closes."""

    async def main() -> list[object]:
        recorder = Recorder()
        loop = asyncio.get_running_loop()
        transport: Any = JoiningTransport(cast("asyncio.Transport", recorder), loop)
        for step in steps:
            if step == "step":
                await asyncio.sleep(0)
            elif step == "close":
                transport.close()
            else:
                transport.write(step)
        await asyncio.sleep(0)
        return recorder.told

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((HEAD, b"{}"), [HEAD + b"{}"]),
        ((HEAD, b"{}", b"more"), [HEAD + b"{}", b"more"]),
        ((HEAD, b"", b"later"), [HEAD, b"later"]),
        ((HEAD,), [HEAD]),  # to HEAD there is no body
        ((HEAD, "step", b"{}"), [HEAD, b"{}"]),
        ((HEAD, "close"), [HEAD, "close"]),  # an app that failed after the head
        ((HEAD, HEAD, b"{}"), [HEAD + HEAD, b"{}"]),  # HEAD, then GET, in one packet
        ((b"{}", HEAD, b"{}"), [b"{}", HEAD + b"{}"]),
        ((b"data: HTTP/1.1 \r\n\r\n",), [b"data: HTTP/1.1 \r\n\r\n"]),
    ],
)
def test_a_head_waits_for_the_next_write_close_or_step(
    steps: tuple[object, ...], expected: list[object]
) -> None:
    assert told(*steps) == expected


@given(st.lists(st.sampled_from([HEAD, b"{}", b"\r\n\r\n", b"HTTP/1.1 ", "step"]), max_size=12))
def test_all_bytes_arrive_once_in_their_order(steps: list[object]) -> None:
    written = b"".join(step for step in steps if isinstance(step, bytes))
    assert b"".join(cast("list[bytes]", told(*steps))) == written


def test_all_else_is_the_transports_own() -> None:
    async def main() -> None:
        recorder = Recorder()
        transport: Any = JoiningTransport(
            cast("asyncio.Transport", recorder), asyncio.get_running_loop()
        )
        assert transport.get_extra_info("peername") == "info of peername"
        assert not transport.is_closing()
        transport.close()
        assert transport.is_closing()

    asyncio.run(main())


def test_a_head_for_a_connection_that_is_lost_is_dropped() -> None:
    """A transport that is closed may raise, where nobody would catch it."""

    async def main() -> list[object]:
        recorder = Recorder()
        loop = asyncio.get_running_loop()
        transport: Any = JoiningTransport(cast("asyncio.Transport", recorder), loop)
        transport.write(HEAD)
        recorder.close()
        await asyncio.sleep(0)
        return recorder.told

    assert asyncio.run(main()) == ["close"]
