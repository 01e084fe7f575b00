"""The real clients, against a running gateway."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from gateway_makers import Served
from pydantic import BaseModel

from metarouter.testing import UpstreamReply, UpstreamRequest, default_reply

TURNS: Any = [{"role": "user", "content": "Hello you"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


EVENTS = "text/event-stream"
CALLS: list[dict[str, Any]] = [
    {"index": i, "id": f"c{i}", "type": "function", "function": {"name": "look", "arguments": text}}
    for i, text in enumerate(('{"city": "Oslo"}', '{"city": "Rome"}'))
]


def json_reply(value: object, **more: Any) -> UpstreamReply:
    return UpstreamReply(pieces=[json.dumps(value).encode()], **more)


def event_reply(*events: object, **more: Any) -> UpstreamReply:
    """A stream of events, named as Anthropic and the responses protocol do."""
    pieces = []
    for event in events:
        kind = event.get("type") if isinstance(event, dict) else None
        head = f"event: {kind}\n" if kind else ""
        pieces.append(f"{head}data: {json.dumps(event)}\n\n".encode())
    return UpstreamReply(pieces=pieces, content_type=EVENTS, **more)


def completion(message: dict[str, Any], reason: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice]}


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


class City(BaseModel):
    """What a structured answer is read into."""

    name: str
    people: int


def test_openai_runs_parallel_tools_and_sends_their_results(served: Served) -> None:
    """Two calls at once, whole and streamed in pieces; the next turn has both results."""
    served.upstream.script.append(
        json_reply(completion({"content": None, "tool_calls": CALLS}, "tool_calls"))
    )
    pieces = [
        chunk({"role": "assistant", "tool_calls": [CALLS[0] | {"function": {"name": "look"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ' "Oslo"}'}}]}),
        chunk({"tool_calls": [CALLS[1]]}),
        chunk({}, "tool_calls"),
    ]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        asked: Any = {"model": "metarouter", "messages": TURNS, "tools": TOOLS}
        message = client.chat.completions.create(**asked).choices[0].message
        results: Any = [
            {"role": "tool", "tool_call_id": call.id, "content": "19"}
            for call in message.tool_calls or ()
        ]
        turns = [*TURNS, message.model_dump(exclude_none=True), *results]
        assert client.chat.completions.create(**asked | {"messages": turns}).choices
        served.upstream.script.append(event_reply(*pieces))
        with client.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in streamed or ()] == [
        call["function"]["arguments"] for call in CALLS
    ]
    sent = json.loads(served.upstream.requests[1].body)["messages"]
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool"]


def test_openai_reads_structured_answers(served: Served) -> None:
    """Schemas made by the client arrive, and answers are read into its classes."""
    text = '{"name": "Oslo", "people": 717710}'
    served.upstream.script.append(json_reply(completion({"content": text}, "stop")))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        answer = client.chat.completions.parse(
            model="metarouter", messages=TURNS, response_format=City
        )
    assert answer.choices[0].message.parsed == City(name="Oslo", people=717710)
    schema = json.loads(served.upstream.requests[0].body)["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("City", True)


def test_openai_streams_responses(served: Served) -> None:
    """Events of the responses protocol reach the client in order and whole."""
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        events = list(client.responses.create(model="metarouter", input="Hello", stream=True))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hello"
    assert served.rows()[0]["completion_tokens"] == 2


def test_async_clients_ask_at_once(served: Served) -> None:
    """Thirty calls of both SDKs in flight together, whole and streamed."""

    async def ask() -> list[str]:
        async with (
            openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="x") as one,
            anthropic.AsyncAnthropic(base_url=served.url, api_key="x") as other,
        ):

            async def whole() -> str:
                answer = await one.chat.completions.create(model="metarouter", messages=TURNS)
                return answer.choices[0].message.content or ""

            async def streamed() -> str:
                stream = await one.chat.completions.create(
                    model="metarouter", messages=TURNS, stream=True
                )
                return "".join(
                    [c.choices[0].delta.content or "" async for c in stream if c.choices]
                )

            async def message() -> str:
                async with other.messages.stream(
                    model="metarouter", max_tokens=9, messages=TURNS
                ) as stream:
                    return await stream.get_final_text()

            calls = [call() for _ in range(10) for call in (whole, streamed, message)]
            return await asyncio.gather(*calls)

    found = asyncio.run(ask())
    assert found == ["Hello there", "Hello there", "Hello"] * 10


def test_anthropic_uses_tools_and_thinks(served: Served) -> None:
    """Thinking with its signature and two tools at once, streamed and sent back."""
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Hm", "signature": "Eq=="},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
    ]
    start: dict[str, Any] = {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip
    events: list[object] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        empty = block | {key: "" for key in ("thinking", "signature") if key in block}
        empty |= {"input": {}} if "input" in block else {}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        deltas: list[object] = [
            {"type": "input_json_delta", "partial_json": json.dumps(block.get("input"))}
        ]
        if block["type"] == "thinking":
            deltas = [
                {"type": "thinking_delta", "thinking": "Hm"},
                {"type": "signature_delta", "signature": "Eq=="},
            ]
        events += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 4}})
    served.upstream.script.append(event_reply(*events, {"type": "message_stop"}))
    asked: Any = {"model": "metarouter", "max_tokens": 2000, "messages": TURNS}
    with anthropic.Anthropic(base_url=served.url, api_key="x") as client:
        with client.messages.stream(
            **asked, thinking={"type": "enabled", "budget_tokens": 1024}
        ) as stream:
            content = stream.get_final_message().content
        results: Any = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "19"}
            for block in content
            if block.type == "tool_use"
        ]
        turns = [
            *TURNS,
            {"role": "assistant", "content": [block.model_dump() for block in content]},
            {"role": "user", "content": results},
        ]
        client.messages.create(**asked | {"messages": turns})
    sent = json.loads(served.upstream.requests[1].body)["messages"][1]["content"]
    assert [
        {key: block[key] for key in want} for want, block in zip(blocks, sent, strict=True)
    ] == (blocks)


def test_clients_wait_for_a_slow_upstream_and_survive_limits(served: Served) -> None:
    """A slow answer and a limit of rates, whose pause is kept, end in a good answer."""
    served.upstream.script.append(json_reply({}, status=429, headers=[("Retry-After", "1")]))
    served.upstream.script.append(json_reply(completion({"content": "late"}, "stop"), wait=0.5))
    started = time.monotonic()
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.chat.completions.create(model="metarouter", messages=TURNS)
    assert answer.choices[0].message.content == "late"
    assert 1.5 <= time.monotonic() - started < 5.0
    assert len(served.upstream.requests) == 2


def test_clients_notice_a_stream_that_breaks(served: Served) -> None:
    """Both SDKs raise their own error after the pieces that came, and nothing is asked again."""
    served.upstream.script.append(
        event_reply(*[chunk({"content": str(i)}) for i in range(4)], pause=0.05, is_cut=True)
    )
    seen = []

    def follow(client: openai.OpenAI) -> None:
        for part in client.chat.completions.create(model="m", messages=TURNS, stream=True):
            seen.append(part.choices[0].delta.content)  # noqa: PERF401 - it raises

    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client,
        pytest.raises(openai.APIError, match="ended early"),
    ):
        follow(client)
    assert seen == ["0", "1"]
    whole = default_reply(UpstreamRequest(
        method="POST", path="/v1/messages", headers=[], body=b'{"model": "m", "stream": true}'
    ))  # fmt: skip
    served.upstream.script.append(
        UpstreamReply(pieces=whole.pieces, content_type=EVENTS, pause=0.05, is_cut=True)
    )
    with (
        anthropic.Anthropic(base_url=served.url, api_key="x") as other,
        pytest.raises(anthropic.APIError, match="ended early"),
        other.messages.stream(model="metarouter", max_tokens=9, messages=TURNS) as stream,
    ):
        stream.get_final_text()
    assert len(served.upstream.requests) == 2


def test_clients_read_events_that_are_cut_anywhere(served: Served) -> None:
    """A stream in pieces of three bytes, with keep-alives and characters of several bytes."""
    text = "d\u00e9j\u00e0 \U0001f642"
    lines = [
        "\ufeff: wait\r\n\r\n",
        f"data: {json.dumps(chunk({'content': text}), ensure_ascii=False)}",
    ]
    content = ("".join(lines) + "\r\n\r\n:\n\ndata: [DONE]\n\n").encode()
    pieces = [content[i : i + 3] for i in range(0, len(content), 3)]
    served.upstream.script.append(UpstreamReply(pieces=pieces, content_type=EVENTS, pause=0.001))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x") as client:
        stream = client.chat.completions.create(model="metarouter", messages=TURNS, stream=True)
        assert [part.choices[0].delta.content for part in stream] == [text]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_gives_up_cancels_the_upstream(served: Served, stream: bool) -> None:
    """Within a second, seen at the upstream: a time-out of the client, a stream it closes."""
    reply = event_reply(*[chunk({"content": "a"})] * 200, pause=0.1) if stream else None
    served.upstream.script.append(reply or json_reply({}, wait=20.0))
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0) as client:
        if stream:
            opened = client.chat.completions.create(model="m", messages=TURNS, stream=True)
            next(iter(opened))
            opened.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(model="m", messages=TURNS, timeout=0.4)
        gone = time.monotonic()
    while served.upstream.requests[0].left is None and time.monotonic() < gone + 5.0:
        time.sleep(0.01)
    left = served.upstream.requests[0].left
    assert left is not None
    assert left - gone < 1.0


def _curl(served: Served, *arguments: str) -> str:
    command = [
        "curl", "-sS", "--fail-with-body", "-H", "content-type: application/json",
        f"{served.url}/v1/chat/completions", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=20).stdout


def test_curl_asks_and_streams(served: Served) -> None:
    """Plain, with the headers of the decision, and streamed without a buffer."""
    body: dict[str, Any] = {"model": "metarouter", "messages": TURNS}
    shown = _curl(served, "-i", "-d", json.dumps(body))
    assert "x-metarouter-model:" in shown
    assert json.loads(shown.partition("\n\n")[2])["object"] == "chat.completion"
    streamed = _curl(served, "-N", "-d", json.dumps(body | {"stream": True}))
    assert streamed.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("header", ["expect: 100-continue", "transfer-encoding: chunked"])
def test_curl_sends_a_large_body(served: Served, header: str) -> None:
    """Two megabytes, for which curl waits to be told to go on, or which it sends in chunks."""
    body = {"model": "m", "messages": TURNS, "padding": "x" * 2**21}
    command = ["-d", "@-", "-H", header]
    sent = json.dumps(body)
    answer = subprocess.run(
        ["curl", "-sS", "-H", "content-type: application/json",
         f"{served.url}/v1/chat/completions", *command],
        input=sent, capture_output=True, check=True, text=True, timeout=20,
    ).stdout  # fmt: skip
    assert json.loads(answer)["choices"]
    assert served.upstream.requests[0].body == sent.encode()
    assert served.upstream.requests[0].header("content-length") == str(len(sent))


def test_a_stream_arrives_as_it_is_sent(served: Served) -> None:
    """Pieces are passed on at once: the first is there long before the last is sent."""
    served.upstream.script.append(event_reply(*[chunk({"content": "a"})] * 5, pause=0.3))
    command = [
        "curl", "-sSN", "-H", "content-type: application/json",
        f"{served.url}/v1/chat/completions", "-d", '{"model": "m", "stream": true}',
    ]  # fmt: skip
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        assert curl.stdout.readline().startswith(b"data: ")
        first = time.monotonic() - started
        curl.stdout.read()
    assert first < 0.9
    assert time.monotonic() - started > 1.2
