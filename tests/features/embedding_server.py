"""A local embedding endpoint that misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from zlib import crc32

__all__ = ["EmbeddingServer"]


class EmbeddingServer:
    """Answers ``POST /v1/embeddings`` with vectors that depend on the text alone.

    `script` holds what the next requests get instead of a good answer, one
    entry each: ``status`` (with ``headers``), ``sleep`` (seconds), ``body``
    (raw bytes), ``shuffle``, ``drop`` (one vector) or ``dim``.
    `requests` holds what came: body, headers and time of each.
    """

    def __init__(self, *, dim: int) -> None:
        self.dim = dim
        self.script: deque[dict[str, Any]] = deque()
        self.requests: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def vector(self, text: str, dim: int | None = None) -> list[float]:
        seed = text.encode("utf-8", "replace")
        return [crc32(seed, i) / 2**32 - 0.5 for i in range(dim or self.dim)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler_for(server: EmbeddingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            request = json.loads(self.rfile.read(length))
            server.requests.append(
                {
                    "path": self.path,
                    "body": request,
                    "headers": dict(self.headers),
                    "time": time.monotonic(),
                }
            )
            self.answer(request, server.script.popleft() if server.script else {})

        def answer(self, request: dict[str, Any], how: dict[str, Any]) -> None:
            time.sleep(how.get("sleep", 0))
            items = [
                {"object": "embedding", "index": i, "embedding": server.vector(t, how.get("dim"))}
                for i, t in enumerate(request["input"])
            ]
            if how.get("shuffle"):
                items.reverse()
            if how.get("drop"):
                items.pop()
            good = json.dumps({"object": "list", "data": items, "model": request["model"]})
            body = how.get("body", good.encode())
            try:
                self.send_response(how.get("status", 200))
                for key, value in how.get("headers", {}).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except BrokenPipeError:
                pass  # the client gave up waiting, as the test wants

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep the test output clean."""

    return Handler
