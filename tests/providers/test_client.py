"""The client against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from metarouter.errors import MissingDependencyError, OptionError
from metarouter.providers import (
    CallError,
    ChatAnswer,
    ChatRequest,
    Endpoint,
    ProviderClient,
    Target,
)
from metarouter.providers.chat import error_text, read_answer
from metarouter.records import ModelSpec
from metarouter.routellm.streams import stream_chat
from metarouter.testing import FakeProvider, Fault, Faults

HELLO = ChatRequest(messages=({"role": "user", "content": "Hello?"},), max_tokens=20)
SECRET = "sk-canary-7f3a"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(faults=Faults(retry_after=0.25)) as server:
        yield server


def _target(url: str, **options: Any) -> Target:
    endpoint = Endpoint(name="here", base_url=url, **options)
    return Target(spec=ModelSpec(name="tiny"), endpoint=endpoint, upstream="tiny-2026")


def _ask(target: Target, request: ChatRequest = HELLO, **options: Any) -> ChatAnswer:
    async def run() -> ChatAnswer:
        async with ProviderClient() as client:
            return await client.chat(target, request, **options)

    return asyncio.run(run())


def test_a_request_arrives_as_it_was_meant(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model name at the endpoint, limits, options, key and idempotency key."""
    monkeypatch.setenv("TINY_KEY", SECRET)
    target = replace(
        _target(provider.url, api_key_env="TINY_KEY", headers={"X-Team": "labels"}),
        options={"reasoning_effort": "low"},
    )
    answer = _ask(target, replace(HELLO, temperature=0.5), idempotency_key="k1")
    assert answer.text == "tiny-2026 was asked: Hello?"
    assert (answer.prompt_tokens, answer.completion_tokens) == (6, 4)
    (request,) = provider.requests
    assert request.body == {
        "model": "tiny-2026",
        "messages": [{"role": "user", "content": "Hello?"}],
        "max_tokens": 20,
        "temperature": 0.5,
        "reasoning_effort": "low",
    }
    assert request.headers["Authorization"] == f"Bearer {SECRET}"
    assert request.headers["Idempotency-Key"] == "k1"
    assert request.headers["X-Team"] == "labels"


def test_the_limit_can_have_its_other_name(provider: FakeProvider) -> None:
    _ask(_target(provider.url, max_tokens_field="max_completion_tokens"))
    assert provider.requests[0].body["max_completion_tokens"] == 20
    assert "max_tokens" not in provider.requests[0].body


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ("rate_limit", "refused", 429),
        ("error", "broken", 500),
        ("late_error", "broken", 500),
        ("cut", "broken", None),
        ("malformed", "malformed", None),
    ],
)
def test_each_fault_has_its_kind(
    provider: FakeProvider, fault: Fault, kind: str, status: int | None
) -> None:
    """And nothing is tried again by the client itself."""
    provider.script.append(fault)
    with pytest.raises(CallError) as caught:
        _ask(_target(provider.url))
    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert caught.value.retry_after == (0.25 if fault == "rate_limit" else None)
    assert str(caught.value).startswith(f"endpoint here ({provider.url}): ")
    assert len(provider.requests) == 1


def test_a_slow_answer_is_given_up_in_time(provider: FakeProvider) -> None:
    provider.faults = Faults(slow=1.0, slow_seconds=3.0)
    start = time.monotonic()
    with pytest.raises(CallError) as caught:
        _ask(_target(provider.url, timeout=0.2))
    assert caught.value.kind == "timeout"
    assert time.monotonic() - start < 2.0


def test_a_closed_port_is_a_request_that_was_not_sent() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CallError) as caught:
        _ask(_target(f"http://127.0.0.1:{port}/v1"))
    assert caught.value.kind == "unsent"
    assert not caught.value.may_be_charged


def test_after_a_wish_to_wait_no_request_starts_before_its_time(provider: FakeProvider) -> None:
    """The pause holds for every caller of that endpoint."""
    provider.script.append("rate_limit")
    target = _target(provider.url)

    async def run() -> None:
        async with ProviderClient() as client:
            with pytest.raises(CallError):
                await client.chat(target, HELLO)
            await asyncio.gather(*(client.chat(target, HELLO) for _ in range(3)))

    asyncio.run(run())
    first, *others = [request.arrived for request in provider.requests]
    assert len(others) == 3
    assert min(others) - first >= 0.24


def test_no_more_requests_are_in_flight_than_allowed(provider: FakeProvider) -> None:
    """Twelve callers and three places: never more than three at work, and not fewer."""
    lock, now, peak = threading.Lock(), 0, 0

    def answer(body: dict[str, Any]) -> str:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        time.sleep(0.03)
        with lock:
            now -= 1
        return "done"

    provider.reply = answer
    target = _target(provider.url, concurrency=3)

    async def run() -> None:
        async with ProviderClient() as client:
            await asyncio.gather(*(client.chat(target, HELLO) for _ in range(12)))

    asyncio.run(run())
    assert peak == 3


class Echo(BaseHTTPRequestHandler):
    """Refuses, and quotes the headers where the message is about to be cut."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        quoted = [self.headers.get(name, "") for name in ("Authorization", "X-Api-Key")]
        body = json.dumps(
            {"error": {"message": " ".join(["bad key", *quoted, "." * 140, *quoted])}}
        )
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def echo() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("is_streamed", [False, True])
def test_keys_that_an_error_quotes_are_masked(
    echo: str, is_streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment's and those in headers; nor does any other text hold them."""
    monkeypatch.setenv("TINY_KEY", SECRET)
    target = _target(echo, api_key_env="TINY_KEY", headers={"X-Api-Key": "team-canary-55"})

    async def stream() -> None:
        async for _ in stream_chat(target.endpoint, {"model": "tiny"}):
            pass

    with pytest.raises(CallError, match=r"status 401.*bad key \*\*\* \*\*\*") as caught:
        asyncio.run(stream()) if is_streamed else _ask(target)
    assert caught.value.is_fatal
    assert "canary" not in f"{caught.value!r} {caught.value} {target!r}"


@pytest.mark.parametrize("before", range(150, 210))
@pytest.mark.parametrize("form", ['{{"error": "{}"}}', '{{"detail": "{}"}}', "{}"])
def test_no_part_of_a_key_outlives_the_cut(form: str, before: int) -> None:
    """Wherever in the message it stands, and also where slashes are escaped."""
    key = "sk/" + "KEY" * 20
    for quoted in (key, key.replace("/", r"\/")):
        body = form.format("." * before + quoted).encode()
        assert "KEY" not in error_text(body, [f"Bearer {key}"])
    spaced = form.format("." + " " * 390 + key).encode()
    assert "KEY" not in error_text(spaced, [f"Bearer {key}"])


def test_a_key_that_is_not_set_names_its_variable(
    provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(OptionError, match="TINY_KEY"):
        _ask(_target(provider.url, api_key_env="TINY_KEY"))
    assert provider.requests == []


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{}]}', b'{"error": "x"}', b"\xff\xfe",
     b'{"choices": [{"message": {"content": 3}}]}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_completion_is_malformed(body: bytes) -> None:
    with pytest.raises(CallError) as caught:
        read_answer(body, 0.0)
    assert caught.value.kind == "malformed"


def test_odd_but_valid_answers_are_read() -> None:
    """No content, content in parts, unknown fields, negative counts."""
    parts = b'{"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"x": 1}]}}]}'
    assert read_answer(parts, 0.0).text == "a"
    empty = b'{"choices": [{"message": {"content": null, "tool_calls": []}, "index": 0}], "x": {}}'
    assert read_answer(empty, 0.0).text == ""
    counts = b'{"choices": [{"message": {"content": ""}}], "usage": {"prompt_tokens": -1}}'
    assert read_answer(counts, 0.0).prompt_tokens is None


def test_without_aiohttp_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingDependencyError, match=r"metarouter\[collect\]"):
        _ask(_target("http://127.0.0.1:9/v1"))
