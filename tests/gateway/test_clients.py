"""The real clients, against a running gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from gateway_makers import Served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

TURNS: Any = [{"role": "user", "content": "Hello you"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


def test_openai_completes_streams_and_keeps_its_fields(served: Served) -> None:
    """Answers, streams with usage, tools, and fields that only the caller knows."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        raw = client.chat.completions.with_raw_response.create(
            model="metarouter",
            messages=TURNS,
            tools=TOOLS,
            parallel_tool_calls=True,
            extra_body={"metarouter": {"w": 1e6}, "brand_new": [1, {"a": None}]},
        )
        assert raw.headers["x-metarouter-model"] == "cheap"
        assert raw.parse().choices[0].message.content == "Hello there"
        stream = client.chat.completions.create(
            model="metarouter", messages=TURNS, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello there"
    assert chunks[-1].usage is not None
    sent = json.loads(served.upstream.requests[0].body)
    assert sent["brand_new"] == [1, {"a": None}]
    assert (sent["tools"], "metarouter" in sent) == (TOOLS, False)
    assert [row["prompt_tokens"] for row in served.rows()] == [3, 3]


def test_openai_asks_for_responses_embeddings_and_models(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        assert client.responses.create(model="metarouter", input="Hello").output_text == "Hello"
        vectors = client.embeddings.create(model="e", input="x", encoding_format="float")
        assert vectors.data[0].embedding == [0.5, -0.5]
        names = [model.id for model in client.models.list()]
    assert names == ["metarouter", "metarouter:default", "cheap", "premium"]


def test_openai_reads_our_errors(served: Served) -> None:
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="policies: default"),
    ):
        client.chat.completions.create(model="metarouter:none", messages=TURNS)


def test_anthropic_completes_streams_and_counts(served: Served) -> None:
    """Messages with a system prompt, a stream, and the count of tokens."""
    with anthropic.Anthropic(base_url=served.url, api_key="x") as client:
        message = client.messages.create(
            model="metarouter", max_tokens=9, system="Be brief.", messages=TURNS
        )
        assert message.content[0].type == "text"
        with client.messages.stream(model="metarouter", max_tokens=9, messages=TURNS) as stream:
            assert stream.get_final_text() == "Hello"
        assert client.messages.count_tokens(model="metarouter", messages=TURNS).input_tokens == 3
    assert served.upstream.requests[0].header("anthropic-version") is not None
    assert [row["prompt_tokens"] for row in served.rows()][:2] == [3, 3]


def test_anthropic_reads_our_errors(served: Served) -> None:
    with (
        anthropic.Anthropic(base_url=served.url, api_key="x", max_retries=0) as client,
        pytest.raises(anthropic.BadRequestError, match="policies: default"),
    ):
        client.messages.create(model="metarouter:none", max_tokens=9, messages=TURNS)


def test_two_hundred_requests_with_unknown_fields_arrive_field_for_field(served: Served) -> None:
    """Over a real connection, what the upstream gets is what was sent, but for the model."""
    names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    leaves = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"))
    values = st.recursive(leaves, lambda v: st.lists(v) | st.dictionaries(names, v), max_leaves=6)

    @settings(
        max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(fields=st.dictionaries(names, values, max_size=5))
    def check(fields: dict[str, Any]) -> None:
        body = {**fields, "model": "metarouter", "messages": TURNS}
        body.pop("metarouter", None)
        body.pop("stream", None)
        sent = json.dumps(body, ensure_ascii=False).encode()
        answer = served.post("/v1/chat/completions", sent)
        chosen = answer.headers["x-metarouter-model"].encode()
        spelled = b'"model": "metarouter", "messages"'
        expected = sent.replace(spelled, b'"model": "' + chosen + b'", "messages"')
        assert served.upstream.requests[-1].body == expected

    check()
    assert len(served.upstream.requests) >= 200
