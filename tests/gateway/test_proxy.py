"""Requests through a running gateway: what reaches the upstream, what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_makers import HELLO, Served

from metarouter.testing import UpstreamReply


def test_a_routed_request_changes_nothing_but_the_model(serve: Callable[..., Served]) -> None:
    """The body arrives byte for byte, with the chosen model in place of the policy's name."""
    served = serve()
    answer = served.post("/v1/chat/completions", HELLO)
    assert answer.status_code == 200
    chosen = answer.headers["x-metarouter-model"]
    assert chosen in ("cheap", "premium")
    assert served.upstream.requests[0].body == HELLO.replace(b"metarouter", chosen.encode())
    assert answer.json()["model"] == chosen


@pytest.mark.parametrize("status", [200, 500])
def test_what_was_left_for_later_is_in_headers_and_row(
    serve: Callable[..., Served], default_router_folder: Path, status: int
) -> None:
    """A decision whose numbers are made while the upstream answers is that of /v1/route."""
    served = serve(
        {"attempts": 1},
        respond=lambda _: UpstreamReply(status=status, pieces=[b"{}"]),
        policies={"default": {"router": default_router_folder}},
    )
    assert hasattr(served.gateway.policies["default"].router.scorer, "predict_mean")
    (told,) = served.post("/v1/route", HELLO).json()["decisions"]
    answer = served.post("/v1/chat/completions", HELLO)
    assert answer.status_code == status
    assert answer.headers["x-metarouter-gain"] == f"{told['predicted_gain']:.4f}"
    (row,) = [row for row in served.rows() if row["endpoint"] == "chat/completions"]
    names = "model", "predicted_gain", "predicted_gain_std", "threshold", "cost", "bound", "reason"
    assert {name: row[name] for name in names} == {name: told[name] for name in names}
    assert row["options"] == told["options"] != []


def test_the_upstream_is_asked_before_the_deviations_are_worked_out(
    serve: Callable[..., Served], default_router_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no choice depends on is made once, and only when the request is on its way."""
    served = serve(policies={"default": {"router": default_router_folder}})
    assert served.post("/v1/chat/completions", HELLO).status_code == 200  # it connects
    scorer = served.gateway.policies["default"].router.scorer
    predict, asked = scorer.predict, []

    def noted(features: Any) -> Any:
        time.sleep(0.2)
        asked.append(len(served.upstream.requests))
        return predict(features)

    monkeypatch.setattr(scorer, "predict", noted)
    assert served.post("/v1/chat/completions", HELLO).status_code == 200
    assert asked == [2]


class _WithoutDeviations:
    """A scorer that fails where its deviations are asked for."""

    def __init__(self, scorer: Any) -> None:
        self.predict_mean = scorer.predict_mean

    def predict(self, features: object) -> None:
        raise MemoryError


def test_a_decision_that_cannot_be_made_whole_holds_no_place(
    serve: Callable[..., Served], default_router_folder: Path
) -> None:
    """The upstream has answered by then: its connection is given back."""
    policies = {"default": {"router": str(default_router_folder)}}
    pieces = [b"data: 1\n\n", b"data: [DONE]\n\n"]
    stream = UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.02)
    place = {"concurrency": 1, "connect_timeout": 0.2}
    served = serve(place, respond=lambda _: stream, policies=policies)
    whole = served.gateway.current
    policy = whole.policies["default"]
    scorer: Any = _WithoutDeviations(policy.router.scorer)
    broken = replace(policy, router=replace(policy.router, scorer=scorer))
    served.gateway.current = replace(whole, policies={"default": broken})
    assert served.post("/v1/chat/completions", HELLO).status_code == 500
    served.gateway.current = whole
    assert served.post("/v1/chat/completions", HELLO).status_code == 200


def test_odd_bytes_and_unknown_fields_arrive_as_sent(serve: Callable[..., Served]) -> None:
    """White space, escapes, number spellings and unknown fields are kept."""
    served = serve()
    body = (
        b'\n{ "x_new" : {"deep":[1.50,1e400,-0.0,{"\\u0041":null}]} ,\t"model":"metarouter" ,'
        b'"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}},'
        b'{"type":"text","text":"na\\u00efve \xe2\x9c\x93"}],"cache_control":{"type":"x"}}],'
        b'"tools":[ ],"big":123456789012345678901234567890}\n'
    )
    answer = served.post("/v1/chat/completions", body)
    chosen = answer.headers["x-metarouter-model"].encode()
    assert served.upstream.requests[0].body == body.replace(b'"metarouter"', b'"' + chosen + b'"')


def test_a_stream_comes_back_byte_for_byte(serve: Callable[..., Served]) -> None:
    """Events split at any byte, comments and odd line ends are passed on as they are."""
    served = serve()
    pieces = [
        b": hello\n\nda",
        b'ta: {"x"',
        b": 1}\r\n\r\n",
        b"data: \xf0\x9f",
        b"\x98\x80\n\ndata: [DONE]",
    ]
    reply = UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.02)
    served.upstream.script.append(reply)
    body = HELLO[:-1] + b', "stream": true}'
    answer = served.post("/v1/chat/completions", body)
    assert answer.content == b"".join(pieces)
    assert answer.headers["content-type"] == "text/event-stream"


def test_headers_pass_but_not_those_of_the_connection_or_the_gateway(
    serve: Callable[..., Served],
) -> None:
    """Unknown headers go up and come down; keys, cookies and our own options do not."""
    served = serve()
    sent = {
        "anthropic-beta": "new-thing",
        "openai-organization": "org",
        "authorization": "Bearer secret",
        "cookie": "a=b",
        "x-forwarded-for": "1.2.3.4",
        "x-metarouter-explain": "true",
    }
    served.upstream.script.append(
        UpstreamReply(pieces=[b"{}"], headers=[("x-request-id", "r1"), ("Set-Cookie", "a=b")])
    )
    answer = served.post("/v1/chat/completions", HELLO, **sent)
    got = dict(served.upstream.requests[0].headers)
    assert (got["anthropic-beta"], got["openai-organization"]) == ("new-thing", "org")
    assert not got.keys() & {"authorization", "cookie", "x-forwarded-for", "x-metarouter-explain"}
    assert answer.headers["x-request-id"] == "r1"
    assert "set-cookie" not in answer.headers
    assert "reason" in json.loads(answer.headers["x-metarouter-explanation"])


@pytest.mark.parametrize("path", ["chat/completions", "responses", "messages", "embeddings"])
def test_a_real_model_passes_through(serve: Callable[..., Served], path: str) -> None:
    """The body of a request that names its model is not changed at all."""
    served = serve()
    body = b'{"input" : "x", "model" : "gpt-\\u0034o", "messages": []}'
    answer = served.post(f"/v1/{path}", body)
    assert answer.status_code == 200
    assert answer.headers["x-metarouter-model"] == "gpt-4o"
    assert json.loads(served.upstream.requests[0].body) == json.loads(body)


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("metarouter", {"w": 1e6}, "cheap"),
        ("metarouter:default", {"w": -1e6}, "premium"),
        ("router-default-1.0", {}, "cheap"),
        ("router-default-0", {}, "premium"),
        ("metarouter", {"pin": "premium"}, "premium"),
        ("metarouter", {"models": ["cheap"], "w": -1e6}, "cheap"),
    ],
)
def test_names_and_options_bend_the_decision(
    serve: Callable[..., Served], model: str, options: dict[str, object], expected: str
) -> None:
    """A price of cost, a threshold, a pin or a list of models decide; options stay here."""
    served = serve()
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    sent = json.dumps(body | ({"metarouter": options} if options else {})).encode()
    answer = served.post("/v1/chat/completions", sent)
    assert answer.headers["x-metarouter-model"] == expected
    assert json.loads(served.upstream.requests[0].body) == body | {"model": expected}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("w", "1000000", "cheap"),
        ("premium-share", "1", "premium"),
        ("premium-share", "0", "cheap"),
        ("budget", "0.001", "cheap"),
        ("models", "premium", "premium"),
        ("pin", "premium", "premium"),
    ],
)
def test_each_option_goes_by_header_as_it_does_in_the_body(
    serve: Callable[..., Served],
    router_folder: Path,
    tmp_path: Path,
    option: str,
    value: str,
    expected: str,
) -> None:
    """The same word in both places decides the same; with `explain` the reasons come along."""
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"question number {i}" for i in range(50)))
    served = serve(
        policies={"default": {"router": router_folder, "queries": queries}},
        prices={"cheap": {"input": 1.0, "output": 1.0}, "premium": {"input": 9.0, "output": 9.0}},
    )
    sent = {f"x-metarouter-{option}": value, "x-metarouter-explain": "true"}
    by_header = served.post("/v1/chat/completions", HELLO, **sent)
    kinds: dict[str, Callable[[str], object]] = {"models": lambda name: [name], "pin": str}
    fields = {option.replace("-", "_"): kinds.get(option, float)(value), "explain": True}
    in_body = HELLO[:-1] + b', "metarouter": ' + json.dumps(fields).encode() + b"}"
    by_field = served.post("/v1/chat/completions", in_body)
    for answer in (by_header, by_field):
        assert answer.headers["x-metarouter-model"] == expected
        assert json.loads(answer.headers["x-metarouter-explanation"])["model"] == expected


def test_a_budget_needs_prices_and_a_model_within_it(serve: Callable[..., Served]) -> None:
    """Models of unknown price are out; where none is left, the message says what would do."""
    served = serve(prices={"premium": {"input": 9.0, "output": 9.0}})
    head = {"x-metarouter-budget": "0.01"}
    answer = served.post("/v1/chat/completions", HELLO, **head)
    assert answer.headers["x-metarouter-model"] == "premium"
    poor = served.post("/v1/chat/completions", HELLO, **{"x-metarouter-budget": "0.00001"})
    assert poor.status_code == 400
    assert "premium, is expected to cost 0.002" in poor.json()["error"]["message"]
    unknown = serve().post("/v1/chat/completions", HELLO, **head)
    assert unknown.status_code == 400
    assert "no price of cheap, premium is known" in unknown.json()["error"]["message"]


def test_no_stand_in_is_above_the_budget(serve: Callable[..., Served]) -> None:
    """A fallback that the request could not afford does not answer for the chosen model."""
    served = serve(
        {"attempts": 1},
        respond=lambda _: UpstreamReply(status=500, pieces=[b"{}"]),
        prices={"cheap": {"input": 1.0, "output": 1.0}, "premium": {"input": 9.0, "output": 9.0}},
        fallbacks={"cheap": ["premium"]},
    )
    served.post("/v1/chat/completions", HELLO, **{"x-metarouter-budget": "0.001"})
    assert len(served.upstream.requests) == 1
    served.post("/v1/chat/completions", HELLO, **{"x-metarouter-w": "1000000"})
    assert len(served.upstream.requests) == 3


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"[]", 400, "JSON object"),
        (b'{"model": "metarouter"', 400, "body"),
        (b'{"model": "metarouter", "model": "gpt-4o"}', 400, "twice"),
        (b'{"messages": []}', 400, "field model is missing"),
        (b'{"model": 3}', 400, "field model"),
        (b'{"model": "metarouter:other", "messages": []}', 400, "policies: default"),
        (b'{"model": "router-default-1.5", "messages": []}', 400, "0 to 1"),
        (b'{"model": "router-mf-0.11593", "messages": []}', 400, "allowed: router-default-0.11593"),
        (b'{"model": "metarouter", "metarouter": {"colour": 1}}', 400, "colour"),
        (b'{"model": "metarouter", "metarouter": {"w": 1, "pin": "cheap"}}', 400, "one of them"),
        (b'{"model": "metarouter", "metarouter": {"pin": "gpt-4o"}}', 400, "none of policy"),
        (HELLO[:-1] + b', "metarouter": {"premium_share": 0.5}}', 400, "queries"),
        (HELLO[:-1] + b', "metarouter": {"budget": 0}}', 400, "dollars above 0"),
        (b'{"model": "gpt-4o", "metarouter": {"w": 1}}', 400, "no policy"),
        (b'{"model": "metarouter", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "deep"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_served_says_why(
    serve: Callable[..., Served], body: bytes, status: int, message: str
) -> None:
    """The error has OpenAI's form, and nothing is sent to an upstream."""
    served = serve()
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert not served.upstream.requests


def test_other_types_and_large_bodies_are_refused(serve: Callable[..., Served]) -> None:
    """Only JSON of limited size is read; a page in a browser cannot send that unasked."""
    served = serve(limits={"body_bytes": 1000})
    plain = served.client.post(
        "/v1/chat/completions", content=HELLO, headers={"content-type": "text/plain"}
    )
    large = served.post("/v1/chat/completions", HELLO + b" " * 1000)
    assert (plain.status_code, large.status_code) == (415, 413)
    assert not served.upstream.requests


def test_another_host_name_is_refused_without_keys(serve: Callable[..., Served]) -> None:
    """A name that somebody else points at this machine is not served."""
    served = serve()
    answer = served.post("/v1/chat/completions", HELLO, host="evil.example:80")
    assert answer.status_code == 421


def test_a_request_without_text_goes_to_the_premium_model(serve: Callable[..., Served]) -> None:
    """An image alone cannot be routed on: the better model answers, and says why."""
    served = serve()
    body = (
        b'{"model": "metarouter", "messages": [{"role": "user", "content": [{"type": "image"}]}]}'
    )
    answer = served.post("/v1/chat/completions", body)
    assert answer.headers["x-metarouter-model"] == "premium"
    assert "no text" in served.rows()[0]["reason"]
