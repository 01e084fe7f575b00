"""Answers that come piece by piece."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from metarouter.providers import CallError
from metarouter.routellm import Controller

WORDS = ["Blue", " light", " scatters."]
ASK: dict[str, Any] = {"model": "router-random-0.0", "messages": "Why?", "stream": True}


class Handler(BaseHTTPRequestHandler):
    """Streams the words; a path with `cut` in it ends after the first, `busy` refuses."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "busy" in self.path:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for i, word in enumerate(WORDS[:1] if "cut" in self.path else WORDS):
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            piece = {"id": str(i), "model": body["model"], "choices": [choice]}
            self.wfile.write(f": ping\n\ndata: {json.dumps(piece)}\n\n".encode())
        if "cut" not in self.path:
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: Any) -> None:
        """Keep the output clean."""


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def controller(base: str) -> Controller:
    return Controller(["random"], strong_model="large", weak_model="small", api_base=base)


def test_pieces_come_one_by_one(url: str) -> None:
    """The pieces are those of the endpoint, with its model, up to [DONE]."""
    pieces = list(controller(url).completion(**ASK))
    assert [piece.choices[0].delta.content for piece in pieces] == WORDS
    assert {piece.model for piece in pieces} == {"large"}


def test_an_abandoned_stream_is_closed(url: str) -> None:
    """Without a warning of a session or generator left open: warnings are errors here."""
    pieces = iter(controller(url).completion(**ASK))
    assert next(pieces).id == "0"
    pieces.close()


def test_they_come_in_a_running_loop_too(url: str) -> None:
    """The asynchronous door gives an asynchronous iterator."""

    async def read() -> list[str]:
        stream = await controller(url).acompletion(**ASK)
        return [piece.choices[0].delta.content async for piece in stream]

    assert asyncio.run(read()) == WORDS


def test_the_plain_door_works_in_a_running_loop_too(url: str) -> None:
    """As in a notebook, read to the end or abandoned; the loop there stays as it was."""

    async def notebook() -> list[str]:
        pieces = iter(controller(url).completion(**ASK))
        abandoned = controller(url).completion(**ASK)
        assert next(abandoned).id == "0"
        abandoned.close()
        words = [piece.choices[0].delta.content for piece in pieces]
        assert asyncio.get_event_loop() is asyncio.get_running_loop()
        return words

    assert asyncio.run(notebook()) == WORDS


def test_a_stream_that_ends_early_is_told(url: str) -> None:
    """The pieces that came are given before the error."""
    pieces = controller(f"{url}/cut").completion(**ASK)
    assert next(pieces).choices[0].delta.content == WORDS[0]
    with pytest.raises(CallError, match="the stream ended early"):
        next(pieces)


def test_a_refused_stream_is_an_error_with_its_status(url: str) -> None:
    """Nothing is tried again."""
    with pytest.raises(CallError, match="status 503"):
        list(controller(f"{url}/busy").completion(**ASK))
