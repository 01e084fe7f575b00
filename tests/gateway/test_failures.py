"""Upstreams that fail: tried again, passed over, told; never sent twice after a first byte."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from gateway_makers import FAST, HELLO, Served

import metarouter.gateway.upstream as upstreams
from metarouter.gateway.breaker import CircuitBreaker
from metarouter.gateway.settings import UpstreamSettings
from metarouter.gateway.upstream import Upstreams
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

STREAM = HELLO[:-1] + b', "stream": true}'
EVENTS = "text/event-stream"


def _error(status: int, **fields: Any) -> UpstreamReply:
    return UpstreamReply(status=status, pieces=[b'{"error": {"message": "no"}}'], **fields)


@pytest.mark.parametrize(
    "failure",
    [
        _error(500),
        _error(503),
        _error(429, headers=[("Retry-After", "0")]),
        UpstreamReply(pieces=[b'{"cut":', b" 1}"], is_cut=True),
        UpstreamReply(pieces=[b'{"half of one piece": 1}'], is_cut=True),
    ],
)
def test_a_failure_before_the_first_byte_is_tried_again(
    serve: Callable[..., Served], failure: UpstreamReply
) -> None:
    """The caller sees a good answer, and the row has both tries."""
    served = serve()
    served.upstream.script.append(failure)
    answer = served.post("/v1/chat/completions", HELLO)
    assert answer.status_code == 200
    assert answer.headers["x-metarouter-attempts"] == "2"
    assert [attempt["outcome"] for attempt in served.rows()[0]["attempts"]][-1] == "ok"


def test_what_the_upstream_refuses_comes_back_as_it_is(serve: Callable[..., Served]) -> None:
    """A caller's mistake is told by the upstream's own words, after one try."""
    served = serve()
    served.upstream.script.append(_error(422, headers=[("x-why", "because")]))
    answer = served.post("/v1/chat/completions", HELLO)
    assert (answer.status_code, answer.headers["x-why"]) == (422, "because")
    assert answer.content == b'{"error": {"message": "no"}}'
    assert len(served.upstream.requests) == 1


def test_a_last_failure_comes_back_with_its_status(serve: Callable[..., Served]) -> None:
    """After the tries that the settings allow, the caller gets what the upstream said."""
    served = serve({"attempts": 2}, respond=lambda request: _error(529))
    answer = served.post("/v1/chat/completions", HELLO)
    assert answer.status_code == 529
    assert len(served.upstream.requests) == 2
    assert served.rows()[0]["outcome"] == "refused"


def test_another_model_answers_where_the_chosen_one_cannot(serve: Callable[..., Served]) -> None:
    """The fallback is a decision with its reason, in headers and in the store."""

    def respond(request: UpstreamRequest) -> UpstreamReply:
        return _error(500) if b'"premium"' in request.body else default_reply(request)

    served = serve({"attempts": 2}, respond=respond, fallbacks={"premium": ["cheap"]})
    body = HELLO[:-1] + b', "metarouter": {"w": -1000000}}'
    answer = served.post("/v1/chat/completions", body)
    assert (answer.status_code, answer.headers["x-metarouter-model"]) == (200, "cheap")
    assert answer.headers["x-metarouter-attempts"] == "3"
    row = served.rows()[0]
    assert (row["model"], row["answered"], row["bound"]) == ("premium", "cheap", "fallback")
    assert "cheap answered for premium (main: status 500; 2 tries)" in row["reason"]


def test_a_pinned_model_has_no_stand_in(serve: Callable[..., Served]) -> None:
    served = serve({"attempts": 1}, respond=lambda _: _error(500), fallbacks={"premium": ["cheap"]})
    answer = served.post("/v1/chat/completions", HELLO, **{"x-metarouter-pin": "premium"})
    assert answer.status_code == 500
    assert len(served.upstream.requests) == 1


def test_a_second_upstream_serves_the_same_model(serve: Callable[..., Served]) -> None:
    """An upstream that nothing listens at is passed over; the model stays."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with FakeUpstream() as good:
        places = {
            name: {"base_url": url, "attempts": 1, **FAST}
            for name, url in (("down", nobody), ("good", good.url))
        }
        served = serve(upstreams=places)
        answer = served.post("/v1/chat/completions", HELLO)
        assert answer.status_code == 200
        row = served.rows()[0]
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["unsent", "ok"]
    assert row["bound"] != "fallback"


def test_no_upstream_at_all_is_a_503(serve: Callable[..., Served]) -> None:
    """The message names the upstream, and not its address."""
    served = serve({"base_url": "http://127.0.0.1:9/v1", "attempts": 1})
    answer = served.post("/v1/chat/completions", HELLO)
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    assert "upstream main" in message
    assert "127.0.0.1" not in message


def test_a_stream_that_breaks_is_told_and_not_sent_twice(serve: Callable[..., Served]) -> None:
    """What came stays, an event says what happened, and the upstream is asked once."""
    served = serve()
    pieces = [b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n", b"data: 4\n\n"]
    served.upstream.script.append(
        UpstreamReply(pieces=pieces, content_type=EVENTS, pause=0.05, is_cut=True)
    )
    answer = served.post("/v1/chat/completions", STREAM)
    assert answer.content.startswith(b"data: 1\n\ndata: 2\n\n")
    assert b'data: {"error":' in answer.content
    assert b"[DONE]" not in answer.content
    assert len(served.upstream.requests) == 1
    assert served.rows()[0]["outcome"] == "broken"


def test_a_stream_that_does_not_begin_is_tried_again(serve: Callable[..., Served]) -> None:
    """No first byte in time is a failure like any other."""
    served = serve({"first_token_timeout": 0.3})
    slow = UpstreamReply(pieces=[b"data: 1\n\n"], content_type=EVENTS, wait=5.0)
    served.upstream.script.append(slow)
    answer = served.post("/v1/chat/completions", STREAM)
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert [attempt["outcome"] for attempt in served.rows()[0]["attempts"]] == ["timeout", "ok"]


def test_a_stream_that_stands_still_ends(serve: Callable[..., Served]) -> None:
    served = serve({"idle_timeout": 0.2})
    pieces = [b"data: 1\n\n", b"data: 2\n\n"]
    served.upstream.script.append(UpstreamReply(pieces=pieces, content_type=EVENTS, pause=5.0))
    answer = served.post("/v1/chat/completions", STREAM)
    assert b"stood still" in answer.content


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_that_leaves_cancels_the_upstream(
    serve: Callable[..., Served], stream: bool
) -> None:
    """Within a second, whether the answer has begun or not."""
    served = serve()
    reply = (
        UpstreamReply(pieces=[b"data: 1\n\n"] * 100, content_type=EVENTS, pause=0.2)
        if stream
        else UpstreamReply(pieces=[b"{}"], wait=20.0)
    )
    served.upstream.script.append(reply)
    host, port = served.url.removeprefix("http://").split(":")
    body = STREAM if stream else HELLO
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        if stream:
            assert connection.recv(100)
        else:
            _wait_for(lambda: bool(served.upstream.requests))
    left = time.monotonic()
    _wait_for(lambda: served.upstream.requests[0].left is not None)
    seen = served.upstream.requests[0].left
    assert seen is not None
    assert seen - left < 1.0
    assert served.rows()[0]["outcome"] == "client_left"


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_a_failing_upstream_is_left_alone_and_tried_again(serve: Callable[..., Served]) -> None:
    """After failures in a row nothing is sent until the time is over; one success closes it."""
    served = serve({"attempts": 1, "breaker_failures": 2, "breaker_seconds": 1.0})
    served.upstream.script.extend([_error(500)] * 2)
    statuses = [served.post("/v1/chat/completions", HELLO).status_code for _ in range(3)]
    assert statuses == [500, 500, 503]
    assert served.client.get("/ready").json()["left_alone"] == ["main"]
    time.sleep(1.1)
    assert served.post("/v1/chat/completions", HELLO).status_code == 200
    assert served.client.get("/ready").status_code == 200
    assert len(served.upstream.requests) == 3


def test_a_model_that_fails_takes_no_other_of_its_upstream_with_it(
    serve: Callable[..., Served],
) -> None:
    """The others are asked, the upstream is ready, and the model's own trial comes in time."""
    served = serve({"attempts": 1, "breaker_failures": 2, "breaker_seconds": 30.0})
    served.upstream.script.extend([_error(500)] * 2)

    def ask(model: str) -> int:
        asked = HELLO.replace(b'"metarouter"', f'"{model}"'.encode())
        return served.post("/v1/chat/completions", asked).status_code

    assert [ask("dear") for _ in range(3)] == [500, 500, 503]
    assert ask("small") == 200
    assert ask("dear") == 503
    assert served.client.get("/ready").json()["left_alone"] == []
    assert 'failing{upstream="main"} 1.0' in served.client.get("/metrics").text
    assert len(served.upstream.requests) == 3


def test_an_upstream_whose_named_models_all_fail_is_left_alone(
    serve: Callable[..., Served],
) -> None:
    limits = {"attempts": 1, "breaker_failures": 1, "breaker_seconds": 30.0}
    served = serve(limits | {"models": {"cheap": "a", "premium": "b"}})
    served.upstream.script.extend([_error(500)] * 2)
    for name, left_alone in ((b'"cheap"', []), (b'"premium"', ["main"])):
        served.post("/v1/chat/completions", HELLO.replace(b'"metarouter"', name))
        assert served.client.get("/ready").json()["left_alone"] == left_alone


def test_an_upstream_where_nothing_answers_is_left_alone_whichever_models_were_asked(
    serve: Callable[..., Served],
) -> None:
    """One of three models was never asked; the others found no connection, and nobody is there."""
    limits = {"attempts": 1, "breaker_failures": 2, "breaker_seconds": 30.0}
    models = {"cheap": "a", "premium": "b", "old": "c"}
    served = serve(limits | {"models": models, "base_url": "http://127.0.0.1:9/v1"})
    for name in (b'"cheap"', b'"premium"'):
        served.post("/v1/chat/completions", HELLO.replace(b'"metarouter"', name))
    ready = served.client.get("/ready")
    assert (ready.status_code, ready.json()["left_alone"]) == (503, ["main"])


def test_metrics_tell_an_open_breaker_until_the_upstream_answers(
    serve: Callable[..., Served],
) -> None:
    served = serve({"attempts": 1, "breaker_failures": 1, "breaker_seconds": 0.1})
    name = 'metarouter_upstream_failing{upstream="main"}'
    served.upstream.script.append(UpstreamReply(pieces=[b"{}"], status=500))
    for sign in ("1.0", "0.0"):
        served.post("/v1/chat/completions", HELLO)
        assert f"{name} {sign}" in served.client.get("/metrics").text
        time.sleep(0.15)


def test_a_breaker_lets_one_trial_through_a_period() -> None:
    """A trial that fails, or that nobody reports on, opens the next period only."""
    now = [0.0]
    breaker = CircuitBreaker(failures=1, seconds=10.0, clock=lambda: now[0])
    breaker.note(False)
    assert (breaker.admits(), breaker.rest) == (False, 10.0)
    now[0] = 10.0
    assert [breaker.admits(), breaker.admits()] == [True, False]
    now[0] = 20.0
    assert breaker.admits()
    breaker.note(True)
    assert [breaker.admits(), breaker.admits()] == [True, True]


def test_a_model_that_nobody_asks_for_any_more_fails_nobody() -> None:
    """Only a success closes a breaker, and of a model that went out of use none comes."""
    now = [0.0]
    breaker = CircuitBreaker(failures=1, seconds=10.0, clock=lambda: now[0])
    assert not breaker.is_failing
    breaker.note(False)
    assert breaker.is_failing
    now[0] = 600.0
    assert breaker.is_failing
    assert breaker.admits()
    now[0] = 1200.0
    assert breaker.is_failing
    now[0] = 1300.0
    assert (breaker.is_failing, breaker.is_open) == (False, True)


def test_breakers_are_told_while_requests_make_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads metrics does so in a thread of its own."""
    settings = {"main": UpstreamSettings(base_url="http://127.0.0.1:9/v1")}
    told = Upstreams(settings, {})
    place = told._upstreams["main"]

    class Meanwhile(CircuitBreaker):
        @property
        def is_open(self) -> bool:
            place.breaker(f"asked for {len(place._breakers)} later")
            return False

    monkeypatch.setattr(upstreams, "CircuitBreaker", Meanwhile)
    for name in ("a", "b"):
        place.breaker(name)
    assert told.failing == {"main": False}
    assert told.rests == {"main": 0.0}


def test_names_that_callers_make_up_do_not_close_an_open_breaker() -> None:
    """Of very many names, those that hold nothing back are forgotten first."""
    settings = {"main": UpstreamSettings(base_url="http://127.0.0.1:9/v1", breaker_failures=1)}
    place = Upstreams(settings, {})._upstreams["main"]
    place.breaker("fails").note(False)
    for number in range(3000):
        place.breaker(f"made up {number}").note(True)
    assert place.breaker("fails").is_open
    for number in range(3000):
        place.breaker(f"made up and failing {number}").note(False)
    assert not place.breaker("fails").is_open
