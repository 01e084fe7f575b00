"""Decisions without a call, feedback, keys, models, health, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from gateway_makers import HELLO, Served

from metarouter.errors import OptionError
from metarouter.store.keys import create_key, revoke_key


def test_route_decides_and_calls_nobody(serve: Callable[..., Served]) -> None:
    """One query, a batch and a chat; each decision has its reasons and is kept."""
    served = serve()
    one = served.post("/v1/route", b'{"query": "Hello you"}').json()["decisions"][0]
    batch = served.post("/v1/route", b'{"queries": ["Hello you", "b"]}').json()["decisions"]
    chat = served.post("/v1/route", HELLO).json()["decisions"][0]
    asked = served.post("/v1/chat/completions", HELLO)
    assert one["model"] == batch[0]["model"] == chat["model"] == asked.headers["x-metarouter-model"]
    assert one["predicted_gain"] == batch[0]["predicted_gain"] == chat["predicted_gain"]
    options = {option["model"]: option for option in one["options"]}
    assert options["premium"]["gain_low"] < options["premium"]["gain"]
    assert len(served.upstream.requests) == 1
    kept = [row["decision_id"] for row in served.rows()]
    assert kept[0] == one["decision_id"]
    assert len(kept) == 5


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{}", "one of query"),
        (b'{"query": "a", "queries": []}', "one of query"),
        (b'{"queries": ["a", "b", "c"]}', "at most 2"),
        (b'{"query": "a", "model": "gpt-4o"}', "metarouter:POLICY"),
        (b'{"queries": "a"}', "queries"),
    ],
)
def test_route_says_what_it_cannot_read(
    serve: Callable[..., Served], body: bytes, message: str
) -> None:
    served = serve(limits={"batch": 2})
    answer = served.post("/v1/route", body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_feedback_is_kept_once(serve: Callable[..., Served]) -> None:
    """The same statement again is no new one; the same id for another statement is refused."""
    served = serve()
    said = {"type": "thumbs", "decision_id": "d1", "value": "up"}
    first, again = (served.post("/v1/feedback", json.dumps(said).encode()) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["feedback_id"] == again.json()["feedback_id"]
    named = said | {"feedback_id": "mine"}
    assert served.post("/v1/feedback", json.dumps(named).encode()).status_code == 201
    other = named | {"value": "down"}
    assert served.post("/v1/feedback", json.dumps(other).encode()).status_code == 409


@pytest.mark.parametrize(
    "said",
    [
        {"type": "thumbs", "decision_id": "d", "value": "sideways"},
        {"type": "score", "decision_id": "d", "value": 2},
        {"type": "preference", "decision_id": "d", "model_a": "m", "model_b": "m", "winner": "tie"},
        {"type": "gold", "decision_id": "d", "scores": {}},
        {"type": "gold", "decision_id": "d", "scores": {"m": 1}, "more": 1},
        {"type": "other"},
    ],
)
def test_feedback_that_says_nothing_usable_is_refused(
    serve: Callable[..., Served], said: dict[str, Any]
) -> None:
    served = serve()
    assert served.post("/v1/feedback", json.dumps(said).encode()).status_code == 400


PROTECTED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/route"),
    ("POST", "/v1/feedback"),
    ("GET", "/v1/models"),
    ("GET", "/v1/decisions/some-id"),
    ("GET", "/metrics"),
]


def test_no_endpoint_but_health_opens_without_a_valid_key(serve: Callable[..., Served]) -> None:
    """Missing, unknown, expired and revoked keys get the same 401 everywhere."""
    served = serve(auth="keys")
    engine = served.gateway.engine
    good, record = create_key(engine, "good")
    late, _ = create_key(engine, "late", days=1e-9)
    gone, revoked = create_key(engine, "gone")
    revoke_key(engine, revoked.key_id)
    served.gateway.keyring.refresh()
    texts = set()
    for method, path in PROTECTED:
        for key in (None, "mr-wrong", late, gone, record.digest):
            headers = {"content-type": "application/json"}
            headers |= {} if key is None else {"authorization": f"Bearer {key}"}
            answer = served.client.request(method, path, content=HELLO, headers=headers)
            assert (path, key, answer.status_code) == (path, key, 401)
            texts.add(answer.text)
    assert len(texts) == 2  # one form a protocol
    for path in ("/health", "/ready"):
        assert served.client.get(path).status_code == 200
    for headers in ({"authorization": f"Bearer {good}"}, {"x-api-key": good}):
        assert served.post("/v1/chat/completions", HELLO, **headers).status_code == 200
    assert not any(good in str(request.headers) for request in served.upstream.requests)


def test_a_key_opens_only_what_it_is_for(serve: Callable[..., Served]) -> None:
    """Policies and models outside its scope are refused; a policy chooses inside it."""
    served = serve(auth="keys", fallbacks={"cheap": ["premium"]})
    engine = served.gateway.engine
    key, _ = create_key(engine, "narrow", models=["cheap"])
    other, _ = create_key(engine, "no policy", policies=[])
    served.gateway.keyring.refresh()
    mine, theirs = ({"authorization": f"Bearer {k}"} for k in (key, other))
    body = HELLO[:-1] + b', "metarouter": {"w": -1000000}}'
    answer = served.post("/v1/chat/completions", body, **mine)
    assert answer.headers["x-metarouter-model"] == "cheap"
    named = HELLO.replace(b"metarouter", b"premium")
    assert served.post("/v1/chat/completions", named, **mine).status_code == 403
    assert served.post("/v1/chat/completions", HELLO, **theirs).status_code == 403
    assert served.post("/v1/route", b'{"query": "x"}', **theirs).status_code == 403
    names = [m["id"] for m in served.client.get("/v1/models", headers=mine).json()["data"]]
    assert names == ["metarouter", "metarouter:default", "cheap"]


def test_a_decision_is_shown_to_whom_it_belongs(serve: Callable[..., Served]) -> None:
    """With what was said of it; to others it does not exist."""
    served = serve(auth="keys")
    engine = served.gateway.engine
    keys = [create_key(engine, name, is_admin=name == "boss")[0] for name in ("me", "you", "boss")]
    served.gateway.keyring.refresh()
    mine, yours, admin = ({"authorization": f"Bearer {key}"} for key in keys)
    asked = served.post("/v1/chat/completions", HELLO, **mine)
    name = asked.headers["x-metarouter-decision-id"]
    said = {"type": "thumbs", "decision_id": name, "value": "up"}
    served.post("/v1/feedback", json.dumps(said).encode(), **mine)
    [row] = served.rows()
    shown = served.client.get(f"/v1/decisions/{name}", headers=mine).json()
    assert {n: value for n, value in shown.items() if n != "feedback"} == {**row, "instance": None}
    assert [(one["content"]["value"], one["key_id"]) for one in shown["feedback"]] == [("up", None)]
    whole = served.client.get(f"/v1/decisions/{name}", headers=admin).json()
    assert {n: value for n, value in whole.items() if n != "feedback"} == row
    assert whole["feedback"][0]["key_id"] == row["key_id"]
    for path, headers in ((name, yours), ("nothing", mine), ("no%00thing", mine)):
        answer = served.client.get(f"/v1/decisions/{path}", headers=headers)
        assert answer.status_code == 404
        assert answer.json()["error"]["message"].endswith("none of yours, or is not written yet")
    labels = 'endpoint="decisions/{decision_id}"'
    assert labels in served.client.get("/metrics", headers=admin).text


def test_many_queries_are_many_requests(serve: Callable[..., Served]) -> None:
    """A batch does not pass a limit of requests a minute."""
    served = serve(auth="keys")
    key, _ = create_key(served.gateway.engine, "me", requests_per_minute=3)
    served.gateway.keyring.refresh()
    body = json.dumps({"queries": ["Hello"] * 5}).encode()
    answer = served.post("/v1/route", body, authorization=f"Bearer {key}")
    assert answer.status_code == 429


def test_prompts_and_keys_are_nowhere_by_default(
    serve: Callable[..., Served], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary in the prompt and the upstream's key reach neither the log nor the store."""
    monkeypatch.setenv("UP_KEY", "sk-canary-key")
    served = serve({"api_key_env": "UP_KEY"}, log_level="debug")
    served.post("/v1/chat/completions", HELLO.replace(b"you", b"canary-prompt"))
    assert served.upstream.requests[0].header("authorization") == "Bearer sk-canary-key"
    rows = str(served.rows())
    logged = capfd.readouterr()
    for canary in ("canary-prompt", "sk-canary-key"):
        assert canary not in rows + logged.out + logged.err
    assert served.rows()[0]["prompt"] is None


def test_a_tool_loop_stays_with_its_model(serve: Callable[..., Served]) -> None:
    """The steps go to the model that began, even after a fallback, in both protocols."""
    served = serve(fallbacks={"premium": ["cheap"]})
    turns: list[Any] = [{"role": "user", "content": "Look this up"}]
    body = {"model": "metarouter", "messages": turns, "metarouter": {"w": -1e6}}
    first = served.post("/v1/chat/completions", json.dumps(body).encode())
    assert first.headers["x-metarouter-model"] == "premium"
    turns += [
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "1", "content": "found"},
    ]
    step = served.post(
        "/v1/chat/completions", json.dumps(body | {"metarouter": {"w": 1e6}}).encode()
    )
    assert step.headers["x-metarouter-model"] == "premium"
    turns.append({"role": "user", "content": "Another question"})
    new = served.post(
        "/v1/chat/completions", json.dumps(body | {"metarouter": {"w": 1e6}}).encode()
    )
    assert new.headers["x-metarouter-model"] == "cheap"


def test_a_conversation_stays_with_its_model(serve: Callable[..., Served]) -> None:
    """Requests with one conversation id go to one model; a pin goes before it."""
    served = serve()
    talk = {"x-metarouter-conversation": "c1"}
    first = served.post("/v1/chat/completions", HELLO, **talk, **{"x-metarouter-w": "-1000000"})
    later = served.post("/v1/chat/completions", HELLO, **talk, **{"x-metarouter-w": "1000000"})
    pinned = served.post("/v1/chat/completions", HELLO, **talk, **{"x-metarouter-pin": "cheap"})
    models = [answer.headers["x-metarouter-model"] for answer in (first, later, pinned)]
    assert models == ["premium", "premium", "cheap"]


def test_metrics_count_requests_decisions_and_attempts(serve: Callable[..., Served]) -> None:
    served = serve()
    served.post("/v1/chat/completions", HELLO)
    text = served.client.get("/metrics").text
    line = 'metarouter_requests_total{endpoint="chat/completions",outcome="ok",status="200"} 1.0'
    assert line in text
    assert 'metarouter_upstream_attempts_total{outcome="ok",upstream="main"} 1.0' in text


def test_metrics_are_for_admins_and_for_the_token_that_is_named(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token reads nothing else; where none is set, nothing is one."""
    monkeypatch.setenv("SCRAPE", "a-token-é")
    served = serve(auth="keys", metrics_token_env="SCRAPE")
    plain = serve(auth="keys")
    caller, boss = (
        create_key(served.gateway.engine, name, is_admin=name == "boss")[0]
        for name in ("caller", "boss")
    )
    served.gateway.keyring.refresh()

    def status(place: Served, token: str, path: str = "/metrics") -> int:
        headers = {b"authorization": f"Bearer {token}".encode()}
        return place.client.get(path, headers=headers).status_code

    tokens = ("a-token-é", boss, caller, "a-token-", "None")
    assert [status(served, token) for token in tokens] == [200, 200, 403, 401, 401]
    assert status(served, "a-token-é", "/v1/models") == 401
    assert [status(plain, token) for token in ("a-token-é", "None")] == [401] * 2
    with pytest.raises(OptionError, match=r"metrics_token_env.*name of an environment variable"):
        serve(metrics_token_env="a token")
    monkeypatch.delenv("SCRAPE")
    with pytest.raises(OptionError, match=r"variable SCRAPE is not set.*metrics_token_env"):
        served.gateway.settings.check_variables()
    assert status(served, "None") == 401
