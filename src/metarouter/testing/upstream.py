"""An upstream that keeps every byte it gets, and sends bytes when and how it is told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

__all__ = ["FakeUpstream", "UpstreamReply", "UpstreamRequest", "default_reply"]

_POLL = 0.01  # seconds between two looks whether the caller is still there


@dataclass(frozen=True, kw_only=True, slots=True)
class UpstreamReply:
    """What is sent, and when.

    Parameters
    ----------
    pieces : bytes of the body, each written on its own.
    status : int, default 200
    content_type : str, default JSON
    headers : further headers.
    wait : seconds before the status line.
    pause : seconds before each piece after the first.
    is_cut : the connection ends before the body does.
    is_reset : the connection is reset in place of a status line.
    is_chunked : the body goes in chunks without a length, as streams always do.
    """

    pieces: Sequence[bytes]
    status: int = 200
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()
    wait: float = 0.0
    pause: float = 0.0
    is_cut: bool = False
    is_reset: bool = False
    is_chunked: bool = False


@dataclass(kw_only=True, slots=True)
class UpstreamRequest:
    """One request as it came in.

    Attributes
    ----------
    left : when its sender went away before the end of the reply
        (``time.monotonic``), or None.
    begun : when the first bytes of the reply's body were sent, or None.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    left: float | None = None
    begun: float | None = None
    arrived: float = field(default_factory=time.monotonic)

    def header(self, name: str) -> str | None:
        """The value of a header, by its name in lower case."""
        return dict(self.headers).get(name)


class FakeUpstream:
    """An HTTP/1.1 server on a free port of 127.0.0.1; use as a context manager.

    Parameters
    ----------
    respond : function from a request to a reply, default :func:`default_reply`.

    Attributes
    ----------
    requests : every request, in order of arrival.
    script : replies that the next requests get, before `respond` is asked.

    Examples
    --------
    >>> with FakeUpstream() as upstream:
    ...     upstream.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(self, respond: Callable[[UpstreamRequest], UpstreamReply] | None = None) -> None:
        self.respond = respond or default_reply
        self.requests: list[UpstreamRequest] = []
        self.script: deque[UpstreamReply] = deque()
        self._ready = threading.Event()
        self._stop: Callable[[], object] = lambda: None
        self._port = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    @property
    def url(self) -> str:
        """Base URL, as an OpenAI client takes it."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(10.0)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        self._thread.join(10.0)

    async def _main(self) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = loop.create_task(self._converse(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await stopped.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                self.requests.append(request)
                reply = self.script.popleft() if self.script else self.respond(request)
                if not await _send_reply(request, reply, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # a caller that goes away is what some tests are about
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader) -> UpstreamRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    length = int(dict(headers).get("content-length", "0"))
    body = await reader.readexactly(length)
    return UpstreamRequest(method=method, path=path, headers=headers, body=body)


async def _send_reply(
    request: UpstreamRequest,
    reply: UpstreamReply,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> bool:
    """Whether the connection may be used again."""
    if not await _stays(request, reply.wait, reader):
        return False
    if reply.is_reset:
        _reset(writer)
        return False
    is_chunked = reply.is_chunked or reply.content_type.startswith("text/event-stream")
    writer.write(_head(reply, is_chunked=is_chunked))
    for number, piece in enumerate(_sent_pieces(reply)):
        if number and not await _stays(request, reply.pause, reader):
            return False
        request.begun = request.begun or time.monotonic()
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked and piece else piece)
        await writer.drain()
    if reply.is_cut:
        return False
    writer.write(b"0\r\n\r\n" if is_chunked else b"")
    await writer.drain()
    return True


def _head(reply: UpstreamReply, *, is_chunked: bool) -> bytes:
    headers = [("Content-Type", reply.content_type), *reply.headers]
    size = sum(map(len, reply.pieces))
    headers.append(
        ("Transfer-Encoding", "chunked") if is_chunked else ("Content-Length", f"{size}")
    )
    lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _sent_pieces(reply: UpstreamReply) -> Sequence[bytes]:
    """All pieces, or the first half where the reply is cut."""
    if not reply.is_cut:
        return reply.pieces
    if len(reply.pieces) == 1:
        return [reply.pieces[0][: len(reply.pieces[0]) // 2]]
    return reply.pieces[: (len(reply.pieces) + 1) // 2]


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close so that the other side sees a reset, not an end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _stays(request: UpstreamRequest, seconds: float, reader: asyncio.StreamReader) -> bool:
    """Wait, as long as the caller does."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:
        await asyncio.sleep(min(rest, _POLL))
        if reader.at_eof():
            request.left = time.monotonic()
            return False
    return True


def default_reply(request: UpstreamRequest) -> UpstreamReply:
    """A short, well-formed answer in the protocol of the request's path."""
    body = json.loads(request.body)
    kind = request.path.removeprefix("/v1/")
    if kind not in _ANSWERS:
        error = {"error": {"message": "no such path", "type": "fake"}}
        return UpstreamReply(status=404, pieces=[json.dumps(error).encode()])
    answer, events = _ANSWERS[kind](str(body.get("model")))
    if body.get("stream") is True and events:
        return UpstreamReply(pieces=events, content_type="text/event-stream; charset=utf-8")
    return UpstreamReply(pieces=[json.dumps(answer).encode()])


def _event(value: object, name: str | None = None) -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def _chat(model: str) -> tuple[object, list[bytes]]:
    head = {"id": "chatcmpl-1", "created": 1, "model": model}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    message = {"role": "assistant", "content": "Hello there"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    deltas = [{"role": "assistant", "content": "Hello"}, {"content": " there"}]
    chunk = {**head, "object": "chat.completion.chunk"}
    events = [
        _event({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        for delta in deltas
    ]
    end = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    events += [_event({**chunk, "choices": end}), _event({**chunk, "choices": [], "usage": usage})]
    return answer, [*events, b"data: [DONE]\n\n"]


def _messages(model: str) -> tuple[object, list[bytes]]:
    usage = {"input_tokens": 3, "output_tokens": 2}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": model}
    ends = {"stop_reason": "end_turn", "stop_sequence": None}
    answer = {**head, "content": [{"type": "text", "text": "Hello"}], **ends, "usage": usage}
    begun: dict[str, object] = {
        **head,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    kinds: list[dict[str, object]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hello"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ends, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    return answer, [_event(kind, str(kind["type"])) for kind in kinds]


def _responses(model: str) -> tuple[object, list[bytes]]:
    text = {"type": "output_text", "text": "Hello", "annotations": []}
    message = {
        "id": "m1", "type": "message", "role": "assistant", "status": "completed",
        "content": [text],
    }  # fmt: skip
    usage = {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }
    answer = {
        "id": "resp_1", "object": "response", "created_at": 1, "model": model,
        "status": "completed", "output": [message], "usage": usage, "tools": [],
        "tool_choice": "auto", "parallel_tool_calls": True,
    }  # fmt: skip
    done = {"type": "response.completed", "sequence_number": 0, "response": answer}
    return answer, [_event(done, "response.completed")]


def _embeddings(model: str) -> tuple[object, list[bytes]]:
    row = {"object": "embedding", "index": 0, "embedding": [0.5, -0.5]}
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "data": [row], "model": model, "usage": usage}, []


def _tokens(model: str) -> tuple[object, list[bytes]]:
    return {"input_tokens": 3}, []


_ANSWERS: dict[str, Callable[[str], tuple[object, list[bytes]]]] = {
    "chat/completions": _chat,
    "messages": _messages,
    "messages/count_tokens": _tokens,
    "responses": _responses,
    "embeddings": _embeddings,
}
