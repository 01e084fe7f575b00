"""Upstreams that any-llm speaks to: the real library and its clients, before a real server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_makers import FAST, running

from metarouter.errors import OptionError
from metarouter.testing import FakeUpstream, UpstreamReply

pytest.importorskip("any_llm", reason="the extra providers has an environment of its own")

pytestmark = [
    pytest.mark.providers,
    pytest.mark.filterwarnings("ignore"),  # those of the providers' own libraries are not ours
]

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello you"}]}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as found:
        yield found


@pytest.fixture
def client(
    upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx2.Client]:
    """A gateway with an OpenAI and an Anthropic provider of any-llm."""
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider")
    settings = {
        "upstreams": {
            "one": {
                "provider": "openai",
                "base_url": upstream.url,
                "api_key_env": "PROVIDER_KEY",
                "models": {"m": "big"},
                **FAST,
            },
            "two": {
                "provider": "anthropic",
                "base_url": upstream.url.removesuffix("/v1"),
                "api_key_env": "PROVIDER_KEY",
                "models": {"c": "claude"},
                **FAST,
            },
        },
        "store": {"url": f"sqlite:///{tmp_path}/store.db"},
        "log_level": "warning",
    }
    with (
        running(settings) as (_, url),
        httpx2.Client(base_url=f"{url}/v1/", timeout=20.0) as client,
    ):
        yield client


def _events(content: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in content.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_chat_completion_goes_to_the_provider_and_back(
    client: httpx2.Client, upstream: FakeUpstream
) -> None:
    """Model's name there, key, message and further options; the answer in the same protocol."""
    sent = {**CHAT, "temperature": 0.5, "max_tokens": 7}
    answer = client.post("chat/completions", json=sent)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
    assert answer.headers["x-metarouter-model"] == "m"
    got = json.loads(upstream.requests[0].body)
    assert got["messages"] == CHAT["messages"]
    assert (got["model"], got["temperature"]) == ("big", 0.5)
    assert upstream.requests[0].header("authorization") == "Bearer sk-provider"


def test_a_chat_completion_streams(client: httpx2.Client) -> None:
    """Chunks as events, and the word at the end that clients wait for."""
    answer = client.post("chat/completions", json={**CHAT, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    deltas = [event["choices"][0]["delta"] for event in _events(answer.text) if event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Hello there"
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_chat_completion_reaches_a_provider_of_another_protocol(
    client: httpx2.Client, upstream: FakeUpstream
) -> None:
    """An OpenAI client talks to Anthropic: what pass-through cannot do."""
    answer = client.post("chat/completions", json={**CHAT, "model": "c", "max_tokens": 9})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert upstream.requests[0].path == "/v1/messages"


def test_messages_and_responses_and_embeddings(client: httpx2.Client) -> None:
    """The other protocols, plain and as streams."""
    message = {**CHAT, "model": "c", "max_tokens": 9}
    assert client.post("messages", json=message).json()["content"][0]["text"] == "Hello"
    streamed = client.post("messages", json={**message, "stream": True})
    assert "event: message_stop" in streamed.text
    asked = {"model": "m", "input": "Hello you"}
    assert client.post("responses", json=asked).json()["object"] == "response"
    assert client.post("embeddings", json=asked).json()["data"][0]["embedding"]


@pytest.mark.parametrize(("status", "tries"), [(429, 3), (500, 3), (401, 1), (400, 1)])
def test_what_the_provider_refuses_comes_back_with_its_status(
    client: httpx2.Client, upstream: FakeUpstream, status: int, tries: int
) -> None:
    """After tries where that may help: refused keys and mistakes are not tried again."""
    error = json.dumps({"error": {"message": "no", "type": "t"}}).encode()
    upstream.respond = lambda request: UpstreamReply(status=status, pieces=[error])
    answer = client.post("chat/completions", json=CHAT)
    assert answer.status_code == status
    assert len(upstream.requests) == tries
    assert "sk-provider" not in answer.text


def test_a_field_that_nobody_takes_is_refused_and_not_dropped(
    client: httpx2.Client, upstream: FakeUpstream
) -> None:
    """A request says what it means, or is not sent."""
    answer = client.post("chat/completions", json={**CHAT, "no_such_field": 1})
    assert answer.status_code == 400
    assert "no_such_field" in answer.text
    assert not upstream.requests


@pytest.mark.parametrize(
    "field", ["extra_body", "extra_headers", "extra_query", "timeout", "api_base", "client_args"]
)
def test_a_caller_cannot_choose_model_key_or_place_through_the_library(
    client: httpx2.Client, upstream: FakeUpstream, field: str
) -> None:
    """Arguments of the library are no fields of the protocol."""
    for path, asked in (
        ("chat/completions", CHAT),
        ("messages", {**CHAT, "model": "c", "max_tokens": 9}),
        ("responses", {"model": "m", "input": "Hello"}),
        ("embeddings", {"model": "m", "input": "Hello"}),
    ):
        answer = client.post(path, json={**asked, field: {"model": "premium"}})
        assert answer.status_code == 400
        assert field in answer.text
    assert not upstream.requests


def test_a_stream_that_breaks_ends_with_an_error(
    client: httpx2.Client, upstream: FakeUpstream
) -> None:
    """The caller notices."""
    chunk = b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", '
    chunk += b'"choices": [{"index": 0, "delta": {"content": "Hel"}}]}\n\n'
    upstream.script.append(
        UpstreamReply(pieces=[chunk] * 4, content_type="text/event-stream", is_cut=True)
    )
    answer = client.post("chat/completions", json={**CHAT, "stream": True})
    assert "Hel" in answer.text
    assert "error" in _events(answer.text)[-1]


def test_a_provider_that_does_not_answer_is_a_failure_of_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens: 502, as for any upstream."""
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider")
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    place = {
        "provider": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_key_env": "PROVIDER_KEY",
        **FAST,
    }
    settings = {
        "upstreams": {"one": place},
        "store": {"url": f"sqlite:///{tmp_path}/store.db"},
        "log_level": "error",
    }
    with running(settings) as (_, url), httpx2.Client(timeout=20.0) as client:
        answer = client.post(f"{url}/v1/chat/completions", json=CHAT)
    assert answer.status_code == 502


def test_a_provider_that_does_not_exist_is_told_at_the_start(tmp_path: Path) -> None:
    """The message names the upstream."""
    settings = {
        "upstreams": {"one": {"provider": "nobody"}},
        "store": {"url": f"sqlite:///{tmp_path}/store.db"},
    }
    with pytest.raises(OptionError, match=r"upstreams\.one.*nobody"), running(settings):
        pass
