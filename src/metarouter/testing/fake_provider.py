"""A model endpoint on this machine that misbehaves as told and counts what it would charge."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

__all__ = ["FakeProvider", "FakeRequest", "Fault", "Faults"]

Fault = Literal["", "slow", "rate_limit", "error", "late_error", "cut", "malformed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """How often each fault happens, as shares of all requests; the rest is answered well.

    Parameters
    ----------
    slow : answered after `slow_seconds`.
    rate_limit : status 429 with ``Retry-After: retry_after``; not charged.
    error : status 500 before any work; not charged.
    late_error : status 500 after the work; charged.
    cut : the connection ends in the middle of the answer; charged.
    malformed : status 200 with a body that is no completion; charged.
    """

    slow: float = 0.0
    rate_limit: float = 0.0
    error: float = 0.0
    late_error: float = 0.0
    cut: float = 0.0
    malformed: float = 0.0
    slow_seconds: float = 0.2
    retry_after: float = 0.02

    def draw(self, rng: random.Random) -> Fault:
        """One fault, or "" for a good answer."""
        point = rng.random()
        kinds: tuple[Fault, ...] = (
            "slow", "rate_limit", "error", "late_error", "cut", "malformed",
        )  # fmt: skip
        for kind in kinds:
            point -= getattr(self, kind)
            if point < 0:
                return kind
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FakeRequest:
    """One request as it came in, and what was done with it."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    fault: Fault
    arrived: float = field(default_factory=time.monotonic)

    @property
    def work(self) -> str:
        """What was asked of whom, as one digest: equal for equal work."""
        asked = json.dumps([self.body.get("model"), self.body.get("messages")], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


class FakeProvider:
    """``POST /v1/chat/completions`` on a free port of 127.0.0.1; use as a context manager.

    Parameters
    ----------
    reply : function from the request body to the answer's text, optional
        A sentence that repeats the question, by default.
    faults : Faults, drawn at random for each request.
    prices : mapping of model to (input, output) USD per million tokens, default none
        What `charged_usd` counts with.
    seed : seed of the faults.

    Attributes
    ----------
    requests : every request that came, in order.
    script : faults that the next requests get, before any drawn one.
    delivered : how often each piece of work got a complete good answer.
    charged_usd : what a real provider would have billed: work that was done,
        delivered or not.

    Examples
    --------
    >>> with FakeProvider() as provider:
    ...     provider.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        *,
        reply: Callable[[dict[str, Any]], str] | None = None,
        faults: Faults | None = None,
        prices: Mapping[str, tuple[float, float]] | None = None,
        seed: int = 0,
    ) -> None:
        self.reply = reply or _repeat
        self.faults = faults or Faults()
        self.prices = dict(prices or {})
        self.requests: list[FakeRequest] = []
        self.script: deque[Fault] = deque()
        self.delivered: Counter[str] = Counter()
        self.charges: list[float] = []
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """Base URL, as an OpenAI client takes it."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def charged_usd(self) -> float:
        """What was billed so far, in USD."""
        return math.fsum(self.charges)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def admit(self, path: str, headers: Mapping[str, str], body: dict[str, Any]) -> FakeRequest:
        """Note a request and draw its fault."""
        with self._lock:
            fault = self.script.popleft() if self.script else self.faults.draw(self._rng)
            request = FakeRequest(path=path, headers=headers, body=body, fault=fault)
            self.requests.append(request)
        return request

    def work_on(self, request: FakeRequest) -> dict[str, Any]:
        """The completion, which is charged whether it arrives or not."""
        completion = _completion(request.body, self.reply(request.body))
        usage, prices = completion["usage"], self.prices.get(str(request.body["model"]), (0.0, 0.0))
        with self._lock:
            tokens = (usage["prompt_tokens"], usage["completion_tokens"])
            self.charges.append(sum(n * p / 1e6 for n, p in zip(tokens, prices, strict=True)))
        return completion

    def note_delivery(self, request: FakeRequest) -> None:
        """Count a complete good answer."""
        with self._lock:
            self.delivered[request.work] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that was killed must not keep the server
    request_queue_size = 128

    def __init__(self, provider: FakeProvider) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.provider = provider

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = self.server.provider.admit(self.path, dict(self.headers), body)
        if self.path != "/v1/chat/completions":
            self.send_json(404, _error("no such path"))
        else:
            self.answer(request)

    def answer(self, request: FakeRequest) -> None:
        fault, provider = request.fault, self.server.provider
        if fault == "rate_limit":
            pause = {"Retry-After": f"{provider.faults.retry_after}"}
            self.send_json(429, _error("slow down"), pause)
            return
        if fault == "error":
            self.send_json(500, _error("internal error"))
            return
        if fault == "slow":
            time.sleep(provider.faults.slow_seconds)
        completion = provider.work_on(request)
        if fault == "late_error":
            self.send_json(500, _error("lost the answer"))
        elif fault == "cut":
            self.send_half(json.dumps(completion).encode())
        elif fault == "malformed":
            self.send_json(200, '{"choices": [{"message"')
        else:
            self.send_json(200, json.dumps(completion))
            provider.note_delivery(request)

    def send_json(self, status: int, text: str, headers: Mapping[str, str] = {}) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_half(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Keep the output clean."""


def _completion(body: Mapping[str, Any], text: str) -> dict[str, Any]:
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or 2**31
    words = text.split(" ")
    is_cut = len(words) > limit
    prompt = sum(len(str(turn.get("content"))) // 3 + 4 for turn in body["messages"])
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": " ".join(words[:limit])},
                "finish_reason": "length" if is_cut else "stop",
            }
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": min(len(words), limit)},
    }


def _repeat(body: Mapping[str, Any]) -> str:
    return f"{body['model']} was asked: {body['messages'][-1]['content']}"


def _error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "fake"}})
