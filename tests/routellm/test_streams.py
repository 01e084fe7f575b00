"""Answers that come piece by piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from metarouter.providers import CallError
from metarouter.routellm import Controller
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest

WORDS = ["Blue", " light", " scatters."]
ASK: dict[str, Any] = {"model": "router-random-0.0", "messages": "Why?", "stream": True}


def answer(request: UpstreamRequest) -> UpstreamReply:
    """Streams the words; a path with `cut` in it ends after the first, `busy` refuses."""
    if "busy" in request.path:
        return UpstreamReply(pieces=[b""], status=503)
    model, is_cut = json.loads(request.body)["model"], "cut" in request.path
    pieces = []
    for i, word in enumerate(WORDS[:1] if is_cut else WORDS):
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        piece = {"id": str(i), "model": model, "choices": [choice]}
        pieces.append(f": ping\n\ndata: {json.dumps(piece)}\n\n".encode())
    if not is_cut:
        pieces.append(b"data: [DONE]\n\n")
    return UpstreamReply(pieces=pieces, content_type="text/event-stream")


@pytest.fixture
def url() -> Iterator[str]:
    with FakeUpstream(answer) as upstream:
        yield upstream.url


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
