"""A local embedding endpoint that misbehaves on request."""

from __future__ import annotations

import json
from collections import deque
from typing import Any
from zlib import crc32

from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest

__all__ = ["EmbeddingServer"]


class EmbeddingServer(FakeUpstream):
    """Answers ``POST /v1/embeddings`` with vectors that depend on the text alone.

    `troubles` holds what the next requests get instead of a good answer, one
    entry each: ``status`` (with ``headers``), ``sleep`` (seconds), ``body``
    (raw bytes), ``shuffle``, ``drop`` (one vector) or ``dim``.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__(self._reply)
        self.dim = dim
        self.troubles: deque[dict[str, Any]] = deque()

    def vector(self, text: str, dim: int | None = None) -> list[float]:
        seed = text.encode("utf-8", "replace")
        return [crc32(seed, i) / 2**32 - 0.5 for i in range(dim or self.dim)]

    def _reply(self, request: UpstreamRequest) -> UpstreamReply:
        asked, how = json.loads(request.body), self.troubles.popleft() if self.troubles else {}
        items = [
            {"object": "embedding", "index": i, "embedding": self.vector(text, how.get("dim"))}
            for i, text in enumerate(asked["input"])
        ]
        if how.get("shuffle"):
            items.reverse()
        if how.get("drop"):
            items.pop()
        good = json.dumps({"object": "list", "data": items, "model": asked["model"]})
        return UpstreamReply(
            pieces=[how.get("body", good.encode())],
            status=how.get("status", 200),
            # The clients outlive the server: they are to keep no connection to it.
            headers=[("Connection", "close"), *how.get("headers", {}).items()],
            wait=how.get("sleep", 0.0),
        )
