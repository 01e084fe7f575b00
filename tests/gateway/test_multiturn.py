"""Requests that follow others: responses, conversations, and what a change of model costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import openai
import pytest
from gateway_makers import FAST, Served
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.fitting import FitOptions, fit_table
from metarouter.gateway.conversation import Conversation, read_chat, read_messages, read_responses
from metarouter.gateway.following import read_response_id
from metarouter.gateway.sticky import Kept, StickyModels
from metarouter.gateway.wire import read_body
from metarouter.policy.costs import estimate_tokens
from metarouter.records import ModelSpec
from metarouter.testing import (
    FakeUpstream,
    UpstreamReply,
    UpstreamRequest,
    default_reply,
    make_world,
)

CHEAP, PREMIUM = 1e6, -1e6  # prices of cost that leave one model only
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def _numbered() -> Callable[[UpstreamRequest], UpstreamReply]:
    """Answers whose responses have ids of their own."""
    numbers = count(1)

    def respond(request: UpstreamRequest) -> UpstreamReply:
        reply, name = default_reply(request), f"resp_n{next(numbers)}".encode()
        pieces = [piece.replace(b"resp_1", name) for piece in reply.pieces]
        return UpstreamReply(pieces=pieces, content_type=reply.content_type)

    return respond


def _respond(served: Served, text: str, **more: Any) -> Any:
    body = {"model": "metarouter", "input": text, **more}
    return served.post(RESPONSES, json.dumps(body).encode())


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_continued_by_the_model_that_holds_it(
    serve: Callable[..., Served], stream: bool
) -> None:
    """The follow-up names the id alone; it goes to that model though the policy would not."""
    served = serve(respond=_numbered())
    first = _respond(served, "Hello", stream=stream, metarouter={"w": PREMIUM})
    name = read_response_id(first.content, is_stream=stream)
    assert name == "resp_n1"
    more = {"previous_response_id": name, "metarouter": {"w": CHEAP}}
    assert _respond(served, "And then?", **more).headers["x-metarouter-model"] == "premium"
    assert (
        _respond(served, "And then?", metarouter={"w": CHEAP}).headers["x-metarouter-model"]
        == "cheap"
    )
    row = served.rows()[1]
    assert (row["bound"], row["logging_propensity"]) == ("fixed", 1.0)
    assert "upstream main holds the response" in row["reason"]
    assert row["conversation"] == served.rows()[0]["conversation"]


def test_a_response_is_continued_at_the_upstream_that_holds_it(
    serve: Callable[..., Served],
) -> None:
    """Even where another upstream has the same model and comes first by then."""
    with FakeUpstream(_numbered()) as one, FakeUpstream(_numbered()) as two:
        places = {
            name: {"base_url": up.url, "attempts": 1, "breaker_failures": 1, "breaker_seconds": 0.1}
            for name, up in (("one", one), ("two", two))
        }
        served = serve(upstreams=places)
        one.script.append(UpstreamReply(status=500, pieces=[b"{}"]))
        first = _respond(served, "Hello", metarouter={"pin": "cheap"})
        assert (len(one.requests), len(two.requests)) == (1, 1)
        name = first.json()["id"]
        time.sleep(0.15)  # the breaker lets requests through again
        for model in ("metarouter", "cheap"):
            _respond(served, "More", model=model, previous_response_id=name)
        assert (len(one.requests), len(two.requests)) == (1, 3)
        two.script.append(UpstreamReply(status=500, pieces=[b"{}"]))
        failed = _respond(served, "More", previous_response_id=name)
        assert failed.status_code == 500
        assert len(one.requests) == 1
        _respond(served, "Something else", metarouter={"pin": "cheap"})
        assert len(one.requests) == 2


def test_a_response_that_nobody_here_knows_is_routed(serve: Callable[..., Served]) -> None:
    """Such as one of another process; the upstream may know it."""
    served = serve()
    answer = _respond(served, "More", previous_response_id="resp_x", metarouter={"w": PREMIUM})
    assert answer.headers["x-metarouter-model"] == "premium"


def test_a_model_that_is_not_where_the_response_is_cannot_be_pinned(
    serve: Callable[..., Served],
) -> None:
    """The error says where the response is, and what is missing there."""
    with FakeUpstream() as one, FakeUpstream() as two:
        places = {
            "one": {"base_url": one.url, "models": {"cheap": "cheap"}, **FAST},
            "two": {"base_url": two.url, "models": {"premium": "premium"}, **FAST},
        }
        served = serve(upstreams=places)
        _respond(served, "Hello", metarouter={"pin": "cheap"})
        options = {"previous_response_id": "resp_1", "metarouter": {"w": PREMIUM}}
        kept = _respond(served, "More", **options)
        assert kept.headers["x-metarouter-model"] == "cheap"
        refused = _respond(served, "More", model="premium", previous_response_id="resp_1")
        assert refused.status_code == 400
        message = refused.json()["error"]["message"]
        assert "upstream one holds that response, and does not serve premium" in message


@pytest.mark.parametrize(
    ("content", "is_stream", "expected"),
    [
        (b'{"output": [{"id": "m1"}], "id": "r9"}', False, "r9"),
        (b'{"object": "error"}', False, None),
        (b"not json", False, None),
        (b'data: {"response": {"object": "response", "id": "r9", "x": {', True, "r9"),
        (b'data: {"response": {"output": [{"id": "m1"}]', True, None),
        (b'data: {"id": "r9"}', True, None),
    ],
)
def test_ids_of_responses_are_read_where_they_are(
    content: bytes, is_stream: bool, expected: str | None
) -> None:
    """Of the response itself, and not of what is in it."""
    assert read_response_id(content, is_stream=is_stream) == expected


LONG = "Read this: " + "some words of a long document " * 400  # about 2,000 tokens


def _talk(served: Served, *texts: str, **options: Any) -> list[str]:
    """A conversation turn by turn; the models that answered."""
    turns: list[dict[str, str]] = []
    models = []
    for number, text in enumerate(texts):
        turns.append({"role": "user", "content": text})
        body = {"model": "metarouter", "messages": turns, "metarouter": options.get(f"t{number}")}
        answer = served.post(CHAT, json.dumps(body).encode())
        assert answer.status_code == 200
        models.append(answer.headers["x-metarouter-model"])
        turns.append({"role": "assistant", "content": "Well."})
    return models


def _gain_and_cost(served: Served, turns: list[dict[str, str]]) -> tuple[float, float]:
    """What premium gains over cheap for a conversation, and what it costs more."""
    body = json.dumps({"messages": turns}).encode()
    decision = served.post("/v1/route", body).json()["decisions"][0]
    options = {option["model"]: option for option in decision["options"]}
    extra = options["premium"]["cost"] - options["cheap"]["cost"]
    return options["premium"]["gain"], extra


def _turns(*texts: str) -> list[dict[str, str]]:
    turns = []
    for text in texts:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "Well."}]
    return turns[:-1]


@pytest.mark.parametrize("stays", [True, False])
def test_a_conversation_changes_its_model_where_that_gains_more_than_it_costs(
    serve: Callable[..., Served], router_folder: Path, stays: bool
) -> None:
    """With a switch cost of s calls, cheap stays while w·(1 + s) is above the gain of premium."""
    policy = {"router": router_folder, "switch_cost": 0.5}
    served = serve(policies={"default": policy})
    gain, extra = _gain_and_cost(served, _turns("Hello you", "And now?"))
    assert gain > 0, "this test needs a second turn that premium answers better"
    assert extra == 1.0
    w = gain / 1.5 * (1.01 if stays else 0.99)
    models = _talk(served, "Hello you", "And now?", t0={"pin": "cheap"}, t1={"w": w})
    assert models == ["cheap", "cheap" if stays else "premium"]
    row = served.rows()[-1]
    if stays:
        assert "stays with cheap: changing the model would cost" in row["reason"]
        assert row["bound"] == "cost"
    assert row["propensities"] == {models[1]: 1.0}


@pytest.fixture(scope="session")
def priced_router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router whose costs are dollars."""
    folder = tmp_path_factory.mktemp("priced") / "router"
    world = make_world("random_gold", n_queries=80, n_gold=60, n_test=2)
    prices = {
        "cheap": ModelSpec(name="cheap", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0),
        "premium": ModelSpec(name="premium", input_usd_per_mtok=10.0, output_usd_per_mtok=40.0),
    }
    options = FitOptions(
        corrector="gold_only", gain_model="ridge", embedder="hashed", folds=0,
        cost="token", prices=prices,
    )  # fmt: skip
    fit_table(world.table, options).save(folder)
    return folder


@pytest.mark.parametrize("stays", [True, False])
def test_the_prompt_cache_is_worth_its_discount(
    serve: Callable[..., Served], priced_router: Path, stays: bool
) -> None:
    """Premium stays while w times its extra cost, less the discount, is below its gain."""
    served = serve(
        policies={"default": {"router": priced_router}},
        prices={"premium": {"input": 10.0, "output": 40.0, "cached_input": 1.0}},
    )
    gain, extra = _gain_and_cost(served, _turns(LONG, "Go on."))
    discount = estimate_tokens(LONG) * (10.0 - 1.0) / 1e6
    assert gain > 0, "this test needs a second turn that premium answers better"
    assert 0 < discount < extra
    w = gain / (extra - discount) * (0.99 if stays else 1.01)
    assert w > gain / extra, "without the cache, premium would not be worth it"
    options = {"t0": {"pin": "premium"}, "t1": {"w": w}}
    models = _talk(served, LONG, "Go on.", **options)
    assert models == ["premium", "premium" if stays else "cheap"]


@pytest.mark.parametrize("asks", [True, False])
def test_anthropic_upstreams_cache_what_they_are_asked_to(
    serve: Callable[..., Served], priced_router: Path, asks: bool
) -> None:
    """Without ``cache_control`` nothing is lost by another model."""
    served = serve(
        policies={"default": {"router": priced_router}},
        prices={"premium": {"input": 10.0, "output": 40.0, "cached_input": 1.0}},
    )
    gain, extra = _gain_and_cost(served, _turns(LONG, "Go on."))
    w = gain / extra * 1.01  # premium is worth it with the cache alone
    models = []
    for turns, options in ((_turns(LONG), {"pin": "premium"}), (_turns(LONG, "Go on."), {"w": w})):
        body: dict[str, Any] = {"model": "metarouter", "max_tokens": 9, "messages": turns}
        body |= {
            "metarouter": options,
            **({"cache_control": {"type": "ephemeral"}} if asks else {}),
        }
        answer = served.post("/v1/messages", json.dumps(body).encode())
        models.append(answer.headers["x-metarouter-model"])
    assert models == ["premium", "premium" if asks else "cheap"]


def test_a_short_prompt_is_not_cached(serve: Callable[..., Served], priced_router: Path) -> None:
    """Providers cache none below 1,024 tokens, so nothing is lost."""
    served = serve(
        policies={"default": {"router": priced_router}},
        prices={"premium": {"input": 1e5, "output": 40.0, "cached_input": 0.0}},
    )
    gain, extra = _gain_and_cost(served, _turns("Hello you", "Go on."))
    w = abs(gain) / extra * 1.01
    models = _talk(served, "Hello you", "Go on.", t0={"pin": "premium"}, t1={"w": w})
    assert models == ["premium", "cheap"]


def test_without_a_price_or_a_switch_cost_every_turn_is_decided_anew(
    serve: Callable[..., Served],
) -> None:
    """The policy counts calls: what a prompt cache is worth in dollars does not enter."""
    served = serve(prices={"premium": {"input": 10.0, "cached_input": 1.0, "output": 0.0}})
    models = _talk(served, LONG, "Go on.", t0={"pin": "premium"}, t1={"w": CHEAP})
    assert models == ["premium", "cheap"]


def test_another_conversation_pays_no_switch_cost(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Only the earlier turns of the conversation itself count, and only for a while."""
    policy = {"router": router_folder, "switch_cost": 1e9}
    served = serve(policies={"default": policy}, cache_seconds=0.3)
    assert _talk(served, "Hello you", "And now?", t0={"pin": "premium"}, t1={"w": 1.0}) == [
        "premium",
        "premium",
    ]
    body = {"messages": _turns("Hello me", "And now?"), "metarouter": {"w": 1.0}}
    answer = served.post(CHAT, json.dumps({"model": "metarouter", **body}).encode())
    assert answer.headers["x-metarouter-model"] == "cheap"


def test_memory_forgets_by_age_of_last_use() -> None:
    """What was not used for longer than asked for is not found; a use makes it young again."""
    now = [0.0]
    memory = StickyModels(10.0, clock=lambda: now[0])
    kept = Kept(model="m", upstream="u")
    memory.put("a", kept)
    now[0] = 9.0
    assert memory.get("a") is kept
    assert memory.get("a", 5.0) is None
    memory.put("a", kept)
    now[0] = 18.0
    assert memory.get("a") is kept
    now[0] = 20.0
    assert memory.get("a") is None


def _chat(*turns: dict[str, Any]) -> Conversation:
    return read_chat(read_body(json.dumps({"messages": turns}).encode()))


def test_a_conversation_knows_its_beginning_and_the_request_before() -> None:
    """In all three protocols, over tool loops and with a system prompt."""
    user: list[dict[str, Any]] = [
        {"role": "user", "content": text} for text in ("one", "two", "three")
    ]
    said = {"role": "assistant", "content": "well"}
    step: list[dict[str, Any]] = [
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": "found"},
    ]
    system = {"role": "system", "content": "Be brief."}
    first = _chat(system, user[0])
    second = _chat(system, user[0], said, user[1])
    third = _chat(system, user[0], said, user[1], *step, said, user[2])
    assert first.earlier is None
    assert second.earlier == first.text == second.first == third.first
    assert third.earlier == second.text
    assert _chat(system, user[0], said, user[1], *step).text == second.text

    result = {"role": "user", "content": [{"type": "tool_result", "content": "found"}]}
    body: dict[str, Any] = {
        "system": "Be brief.",
        "messages": [user[0], said, result, said, user[1]],
    }
    messages = read_messages(read_body(json.dumps(body).encode()))
    assert messages.first == messages.earlier == first.text

    body = {"instructions": "Be brief.", "input": [user[0], said, user[1]]}
    assert read_responses(read_body(json.dumps(body).encode())).earlier == first.text


@given(
    st.lists(st.tuples(st.text(max_size=20), st.integers(0, 3)), min_size=1, max_size=5),
    st.booleans(),
)
@settings(max_examples=60)
def test_each_turn_knows_the_one_before(talk: list[tuple[str, int]], has_system: bool) -> None:
    """However long, with tool loops anywhere: steps are read as their question is."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}] * has_system
    asked: list[Conversation] = []
    for text, steps in talk:
        turns.append({"role": "user", "content": text})
        asked.append(_chat(*turns))
        for step in range(steps):
            turns.append({"role": "assistant", "tool_calls": [{"id": f"{step}"}]})
            turns.append({"role": "tool", "tool_call_id": f"{step}", "content": f"found {step}"})
            read = _chat(*turns)
            assert (read.text, read.is_tool_step) == (asked[-1].text, True)
            assert (read.first, read.earlier) == (asked[-1].first, asked[-1].earlier)
        turns.append({"role": "assistant", "content": "well"})
    assert asked[0].earlier is None
    assert [one.earlier for one in asked[1:]] == [one.text for one in asked[:-1]]
    assert {one.first for one in asked} == {asked[0].text}


def test_the_openai_client_continues_responses(serve: Callable[..., Served]) -> None:
    """By the id it was given, with options in ``extra_body``."""
    served = serve(respond=_numbered())
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0)
    first = client.responses.create(
        model="metarouter", input="Hello", extra_body={"metarouter": {"w": PREMIUM}}
    )
    again = client.responses.create(
        model="metarouter",
        input="And then?",
        previous_response_id=first.id,
        extra_body={"metarouter": {"w": CHEAP}},
    )
    assert (first.model, again.model) == ("premium", "premium")


def test_a_previous_id_that_is_no_text_is_left_to_the_upstream(
    serve: Callable[..., Served],
) -> None:
    served = serve()
    assert _respond(served, "Hello", previous_response_id=7).status_code == 200
    assert json.loads(served.upstream.requests[0].body)["previous_response_id"] == 7
