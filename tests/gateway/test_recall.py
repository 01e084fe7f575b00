"""Conversations that go on at another process, and loops that share their words."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from gateway_makers import HELLO, Served
from test_multiturn import CHAT, CHEAP, PREMIUM, RESPONSES, _numbered, _respond

from metarouter.gateway.conversation import (
    digest_text,
    read_chat,
    read_messages,
    read_responses,
)
from metarouter.gateway.following import read_call_ids, read_response_id
from metarouter.gateway.recalling import Recall
from metarouter.gateway.sticky import Kept, StickyModels
from metarouter.gateway.wire import read_body
from metarouter.store.keys import create_key
from metarouter.store.remembered import save_remembered
from metarouter.store.tables import remembered
from metarouter.testing import PostgresServer, UpstreamReply, UpstreamRequest

Serve = Callable[..., Served]
Turns = list[dict[str, Any]]

TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]


def _patient(served: Served) -> Served:
    """A gateway that waits for a store on a busy machine."""
    gateway = served.gateway
    gateway.recall = Recall(gateway.sticky, gateway.engine, gateway.writer, seconds=10.0)
    return served


def _written(served: Served, least: int = 1) -> None:
    """Wait until the store has what others are to know."""
    names = sa.select(sa.func.count()).select_from(remembered)

    def count() -> int:
        with served.gateway.engine.connect() as connection:
            return connection.execute(names).scalar_one()

    _wait(lambda: count() >= least)


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_continued_at_another_process(
    serve: Serve, store_url: str, stream: bool
) -> None:
    """At once, though the first process has not written yet who holds it."""
    late = {"url": store_url, "flush_seconds": 0.25}  # as long as it may be, on a busy machine
    one = serve(respond=_numbered(), store={"url": store_url, "flush_seconds": 0.01})
    two = _patient(serve(respond=_numbered(), store=late))
    first = _respond(one, "Hello", stream=stream, metarouter={"w": PREMIUM})
    name = read_response_id(first.content, is_stream=stream)
    again = _respond(two, "More", previous_response_id=name, metarouter={"w": CHEAP})
    assert again.headers["x-metarouter-model"] == "premium"
    _wait(lambda: len(two.rows()) == 2)
    first_row, row = two.rows()
    assert "upstream main holds the response" in row["reason"]
    assert row["conversation"] == first_row["conversation"]


def test_a_response_is_continued_after_a_restart_and_forgotten_in_time(
    serve: Serve, store_url: str
) -> None:
    """A process knows what an earlier one wrote, until it is older than the settings say."""
    one = serve(respond=_numbered(), store={"url": store_url})
    name = _respond(one, "Hello", metarouter={"w": PREMIUM}).json()["id"]
    _written(one)
    time.sleep(0.5)
    models = []
    for seconds in (3600.0, 0.5):
        served = _patient(serve(store={"url": store_url}, sticky_seconds=seconds))
        answer = _respond(served, "More", previous_response_id=name, metarouter={"w": CHEAP})
        models.append(answer.headers["x-metarouter-model"])
    assert models == ["premium", "cheap"]


def test_a_conversation_with_an_id_goes_on_at_another_process(serve: Serve, store_url: str) -> None:
    one, two = (_patient(serve(store={"url": store_url})) for _ in range(2))
    talk = {"x-metarouter-conversation": "c1"}
    one.post(CHAT, HELLO, **talk, **{"x-metarouter-w": str(PREMIUM)})
    _written(one)
    later = two.post(CHAT, HELLO, **talk, **{"x-metarouter-w": str(CHEAP)})
    other = two.post(CHAT, HELLO, **{**talk, "x-metarouter-conversation": "c2"})
    assert later.headers["x-metarouter-model"] == "premium"
    assert other.status_code == 200
    _wait(lambda: len(two.rows()) == 3)
    assert ["stays with" in row["reason"] for row in two.rows()] == [False, True, False]


def test_what_one_key_was_answered_is_unknown_to_another(serve: Serve, store_url: str) -> None:
    """Neither the id of a response nor that of a conversation leads anywhere."""
    one = serve(respond=_numbered(), store={"url": store_url}, auth="keys")
    alice, bob = (create_key(one.gateway.engine, name)[0] for name in ("alice", "bob"))
    one.gateway.keyring.refresh()
    two = _patient(serve(store={"url": store_url}, auth="keys"))

    def ask(served: Served, key: str, w: float, **more: Any) -> Any:
        body = {"model": "metarouter", "input": "Hi", "metarouter": {"w": w, **more.pop("o", {})}}
        sent = json.dumps(body | more).encode()
        return served.post(RESPONSES, sent, authorization=f"Bearer {key}")

    name = ask(one, alice, PREMIUM, o={"conversation": "c1"}).json()["id"]
    _written(one, 2)
    for more in ({"previous_response_id": name}, {"o": {"conversation": "c1"}}):
        models = [
            ask(two, key, CHEAP, **more).headers["x-metarouter-model"] for key in (bob, alice)
        ]
        assert models == ["cheap", "premium"]


def test_names_are_kept_as_hashes(serve: Serve, store_url: str) -> None:
    """What callers call their conversations is not in the table."""
    served = serve(store={"url": store_url})
    served.post(CHAT, HELLO, **{"x-metarouter-conversation": "private-name"})
    _written(served)
    with served.gateway.engine.connect() as connection:
        (row,) = connection.execute(sa.text("SELECT * FROM remembered")).mappings()
    assert len(row["name"]) == 32
    assert "private-name" not in str(dict(row))


@contextmanager
def _selects() -> Iterator[list[str]]:
    """What is read of the table while the block runs."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and "remembered" in statement:
            seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_who_continues_nothing_asks_the_store_nothing(serve: Serve) -> None:
    """Nor does who continues what this process knows."""
    served = _patient(serve(respond=_calling()))
    with _selects() as seen:
        for path in (CHAT, "/v1/messages"):
            served.post(path, HELLO)
        _respond(served, "Hello")
        _respond(served, "Hello", stream=True)
        turns = _ask(served, CHAT, [{"role": "user", "content": "Hi"}], PREMIUM)[1]
        _ask(served, CHAT, turns, PREMIUM)
        assert seen == []
        _respond(served, "More", previous_response_id="resp_unknown")
        assert len(seen) == 4  # it may not be written yet


def test_what_was_answered_while_the_store_was_asked_is_newer(serve: Serve) -> None:
    """A row that comes late takes the place of nothing."""
    gateway = _patient(serve()).gateway
    row = {"name": digest_text("c1"), "used": time.time(), "model": "cheap", "upstream": "main"}
    with gateway.engine.begin() as connection:
        save_remembered(connection, [{**row, "policy": None, "conversation": None}])
    memory, answered = StickyModels(60.0), Kept(model="premium", upstream="main")
    recall = Recall(memory, gateway.engine, gateway.writer, seconds=10.0)

    async def ask(during: Kept | None) -> str:
        asking = asyncio.create_task(recall.fetch(["c1"]))
        await asyncio.sleep(0)  # it has begun
        if during is not None:
            memory.put("c1", during)
        await asking
        found = memory.get("c1")
        return "" if found is None else found.model

    assert asyncio.run(ask(answered)) == "premium"
    memory.put("c1", answered, age=61.0)
    assert asyncio.run(ask(None)) == "cheap"
    recall.close()


def _recall(served: Served, seconds: float, report: Callable[..., object]) -> Recall:
    """A memory of its own beside the gateway's, over a store that knows c1."""
    gateway = served.gateway
    row = {"name": digest_text("c1"), "used": time.time(), "model": "premium", "upstream": "main"}
    with gateway.engine.begin() as connection:
        save_remembered(connection, [{**row, "policy": None, "conversation": None}])
    memory = StickyModels(3600.0)
    return Recall(memory, gateway.engine, gateway.writer, seconds=seconds, report=report)


@contextmanager
def _slow(seconds: float) -> Iterator[None]:
    """Each statement on the table takes so long."""

    def wait(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and "remembered" in statement:
            time.sleep(seconds)

    sa.event.listen(sa.Engine, "before_cursor_execute", wait)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", wait)


def test_a_caller_who_invents_a_thousand_ids_keeps_nobody_from_what_is_known(serve: Serve) -> None:
    """One statement asks for all that wait; one each would take 20 s a look."""
    told: list[str] = []
    recall = _recall(serve(), 5.0, lambda event, **details: told.append(event))

    async def ask() -> float:
        invented = [recall.fetch([f"invented {n}"], is_certain=True) for n in range(1000)]
        others = [asyncio.create_task(one) for one in invented]
        await asyncio.sleep(0.01)  # the first of them is being asked for
        start = time.monotonic()
        await recall.fetch(["c1"])
        waited = time.monotonic() - start
        await asyncio.gather(*others)
        return waited

    with _slow(0.02), _selects() as seen:
        waited = asyncio.run(ask())
    assert recall.memory.get("c1") == Kept(model="premium", upstream="main")
    assert waited < 2
    assert len(seen) < 50
    assert told == []
    recall.close()


def test_a_caller_who_leaves_takes_nobody_elses_answer_with_him(serve: Serve) -> None:
    recall = _recall(serve(), 5.0, lambda event, **details: None)

    async def ask() -> None:
        leaving, staying = (asyncio.create_task(recall.fetch([n])) for n in ("other", "c1"))
        await asyncio.sleep(0.02)  # both wait for one statement
        leaving.cancel()
        await staying

    with _slow(0.1):
        asyncio.run(ask())
    assert recall.memory.get("c1") is not None
    recall.close()


def test_a_store_that_is_slow_itself_is_left_alone_for_a_while(serve: Serve) -> None:
    """After three statements that took too long; until then each is waited for so long."""
    told: list[tuple[str, str]] = []
    recall = _recall(serve(), 0.05, lambda event, **of: told.append((event, of["error"])))

    async def ask() -> None:
        while not told:
            await recall.fetch(["other"])
        with _selects() as seen:
            await recall.fetch(["c1"])
        assert seen == []

    with _slow(0.2):
        asyncio.run(ask())
    assert told == [("memory", "TimeoutError")]
    assert recall.memory.get("c1") is None
    recall.close()


def test_nobody_waits_for_a_store_that_is_down(serve: Serve, postgres: PostgresServer) -> None:
    """Requests that continue something unknown are served, and not one after another late."""
    served = serve(store={"url": postgres.make_database()})
    postgres.stop()
    try:
        start = time.monotonic()
        for number in range(20):
            answer = _respond(served, "More", previous_response_id=f"resp_{number}x")
            assert answer.status_code == 200
        assert time.monotonic() - start < 5
    finally:
        postgres.start()


def test_what_was_remembered_while_the_store_was_down_is_written(
    serve: Serve, postgres: PostgresServer
) -> None:
    """It waits on the disk, as decisions do."""
    url = postgres.make_database()
    one = serve(respond=_numbered(), store={"url": url})
    postgres.stop()
    try:
        _wait(lambda: one.gateway.writer.is_down)
        name = _respond(one, "Hello", metarouter={"w": PREMIUM}).json()["id"]
    finally:
        postgres.start()
    _wait(lambda: one.gateway.writer.state == "ok")
    two = _patient(serve(store={"url": url}))
    again = _respond(two, "More", previous_response_id=name, metarouter={"w": CHEAP})
    assert again.headers["x-metarouter-model"] == "premium"


def _wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _calling(first: str = "a") -> Callable[[UpstreamRequest], UpstreamReply]:
    """Answers that call a tool twice, with ids of their own, in each of the protocols."""
    numbers = iter(range(1000))

    def respond(request: UpstreamRequest) -> UpstreamReply:
        number = next(numbers)
        ids = [f"call_{first}{number}", f"call_{first}{number}b"]
        kind, body = request.path.removeprefix("/v1/"), json.loads(request.body)
        answer, events = _CALLS[kind](ids)
        if body.get("stream"):
            pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
            return UpstreamReply(pieces=pieces, content_type="text/event-stream")
        return UpstreamReply(pieces=[json.dumps(answer).encode()])

    return respond


def _chat_calls(ids: list[str]) -> tuple[Any, list[Any]]:
    calls = [{"function": {"name": "find", "arguments": "{}"}, "id": one} for one in ids]
    deltas = [{"index": n, **call} for n, call in enumerate(calls)]
    chunks = [{"id": "c", "choices": [{"delta": {"tool_calls": [delta]}}]} for delta in deltas]
    return {"id": "c", "choices": [{"message": {"tool_calls": calls}}]}, chunks


def _message_calls(ids: list[str]) -> tuple[Any, list[Any]]:
    blocks = [{"type": "tool_use", "id": one, "name": "find", "input": {}} for one in ids]
    events = [{"type": "content_block_start", "content_block": block} for block in blocks]
    return {"id": "msg_1", "content": blocks}, events


def _response_calls(ids: list[str]) -> tuple[Any, list[Any]]:
    items = [{"type": "function_call", "id": f"fc_{one}", "call_id": one} for one in ids]
    answer = {"id": "resp_1", "object": "response", "output": items}
    return answer, [{"type": "response.completed", "response": answer}]


_CALLS: dict[str, Callable[[list[str]], tuple[Any, list[Any]]]] = {
    "chat/completions": _chat_calls,
    "messages": _message_calls,
    "responses": _response_calls,
}


def _results(path: str, ids: list[str]) -> Turns:
    """The turns that bring what two calls found."""
    if path == CHAT:
        calls = [{"id": one, "type": "function"} for one in ids]
        found = [{"role": "tool", "tool_call_id": one, "content": "found"} for one in ids]
        return [{"role": "assistant", "tool_calls": calls}, *found]
    if path == RESPONSES:
        calls = [{"type": "function_call", "call_id": one, "name": "find"} for one in ids]
        kind = "function_call_output"
        return [*calls, *({"type": kind, "call_id": one, "output": "found"} for one in ids)]
    used = [{"type": "tool_use", "id": one, "name": "find", "input": {}} for one in ids]
    parts = [{"type": "tool_result", "tool_use_id": one, "content": "found"} for one in ids]
    return [{"role": "assistant", "content": used}, {"role": "user", "content": parts}]


def _ask(
    served: Served, path: str, turns: Turns, w: float, *, stream: bool = False
) -> tuple[str, Turns]:
    """One step of a conversation: the model that answered, and the turns of the next step."""
    field = "input" if path == RESPONSES else "messages"
    body = {"model": "metarouter", field: turns, "tools": TOOLS, "stream": stream}
    answer = served.post(path, json.dumps(body | {"metarouter": {"w": w}}).encode())
    ids = [one for one in read_call_ids(answer.content) if one.startswith("call_")]
    assert len(ids) == 2
    return answer.headers["x-metarouter-model"], [*turns, *_results(path, ids)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, "/v1/messages"])
def test_loops_that_begin_with_the_same_words_do_not_mix(
    serve: Serve, path: str, stream: bool
) -> None:
    """Each step stays with the model whose calls it answers, whichever began last."""
    served = serve(respond=_calling())
    first: Turns = [{"role": "user", "content": "Look this up"}]
    begun = [_ask(served, path, first, w, stream=stream) for w in (PREMIUM, CHEAP)]
    assert [model for model, _ in begun] == ["premium", "cheap"]
    for _ in range(2):
        begun = [
            _ask(served, path, turns, w, stream=stream)
            for (_, turns), w in zip(begun, (CHEAP, PREMIUM), strict=True)
        ]
        assert [model for model, _ in begun] == ["premium", "cheap"]


def test_a_tool_loop_goes_on_at_another_process(serve: Serve, store_url: str) -> None:
    one, two = (
        _patient(serve(respond=_calling(first), store={"url": store_url})) for first in "ab"
    )
    _, turns = _ask(one, CHAT, [{"role": "user", "content": "Look this up"}], PREMIUM)
    _written(one, 3)  # two calls, and the id of the answer
    model, turns = _ask(two, CHAT, turns, CHEAP)
    assert model == "premium"
    _written(two, 5)
    assert _ask(one, CHAT, turns, CHEAP)[0] == "premium"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"id": "c", "m": {"tool_calls": [], "function_call": None}}, []),
        ({"id": "c", "m": {"tool_calls": None, "content": "tool_use"}}, []),
        ({"id": "c", "m": {"tool_calls": [{"id": "call_1"}]}}, ["c", "call_1"]),
        ({"content": [{"type": "tool_use", "id": "toolu_1"}]}, ["toolu_1"]),
        ({"output": [{"type": "custom_tool_call", "call_id": "call_1"}]}, ["call_1"]),
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_an_answer_without_calls_has_no_ids_of_calls(
    said: dict[str, Any], expected: list[str], indent: int | None
) -> None:
    """Though fields for calls are there, as in answers of vLLM: nothing need be remembered."""
    assert read_call_ids(json.dumps(said, indent=indent).encode()) == expected


@pytest.mark.parametrize(
    ("read", "body", "expected"),
    [
        (read_chat, {"messages": _results(CHAT, ["a", "b"])}, ("b", "a")),
        (read_messages, {"messages": _results("/v1/messages", ["a", "b"])}, ("b", "a")),
        (read_responses, {"input": _results(RESPONSES, ["a", "b"])}, ("b", "a")),
        (read_chat, {"messages": [*_results(CHAT, ["a"]), *_results(CHAT, ["b"])]}, ("b",)),
        (read_chat, {"messages": [{"role": "tool", "tool_call_id": 7}]}, ()),
        (read_chat, {"messages": [{"role": "tool", "tool_call_id": "x" * 201}]}, ()),
        (read_chat, {"messages": [{"role": "user", "tool_call_id": "a"}]}, ()),
    ],
)
def test_the_calls_of_a_step_are_those_whose_results_come_last(
    read: Any, body: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """In all three protocols; what is no id is left out."""
    assert read(read_body(json.dumps(body).encode())).calls == expected


def test_upstreams_that_count_their_calls_from_zero_do_not_mix_conversations(
    serve: Serve,
) -> None:
    """The same id under other words is another call."""
    one = UpstreamReply(pieces=[json.dumps(_chat_calls(["call_0", "call_1"])[0]).encode()])
    served = serve(respond=lambda request: one)
    texts = ("Look this up", "And that")
    begun = [
        _ask(served, CHAT, [{"role": "user", "content": text}], w)[1]
        for text, w in zip(texts, (PREMIUM, CHEAP), strict=True)
    ]
    models = [
        _ask(served, CHAT, turns, w)[0] for turns, w in zip(begun, (CHEAP, PREMIUM), strict=True)
    ]
    assert models == ["premium", "cheap"]
