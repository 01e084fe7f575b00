"""What strangers may do: every endpoint with every kind of key, and requests that mean harm."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from gateway_makers import HELLO, Served, process_of
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.gateway.keyring import Keyring
from metarouter.store.database import open_database
from metarouter.store.keys import create_key, revoke_key
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

Serve = Callable[..., Served]


# Who may do what. A pair of statuses: of endpoints for callers, of those for admins.
KEY_STATES = {
    "none": ({401}, {401}),
    "metrics token": ({401}, {401}),
    "unknown": ({401}, {401}),
    "digest": ({401}, {401}),
    "expired": ({401}, {401}),
    "revoked": ({401}, {401}),
    "other scope": ({200, 201, 400, 403, 404}, {403}),
    "caller": ({200, 201, 400, 404}, {403}),
    "admin": ({200, 201, 400, 404, 409, 422}, {200, 201, 400, 404, 409, 422}),
}


METRICS_TOKEN = "for-prometheus-alone"


def _keys(engine: sa.Engine) -> dict[str, str | None]:
    late, _ = create_key(engine, "late", days=1e-9)
    gone, revoked = create_key(engine, "gone")
    revoke_key(engine, revoked.key_id)
    caller, record = create_key(engine, "caller")
    return {
        "none": None,
        "metrics token": METRICS_TOKEN,
        "unknown": "mr-" + "x" * 43,
        "digest": record.digest,
        "expired": late,
        "revoked": gone,
        "other scope": create_key(engine, "narrow", models=["other"], policies=[])[0],
        "caller": caller,
        "admin": create_key(engine, "admin", is_admin=True)[0],
    }


@pytest.mark.parametrize("state", KEY_STATES)
def test_every_endpoint_with_every_kind_of_key(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """The endpoints are those of the OpenAPI document, so that none is left out."""
    monkeypatch.setenv("SCRAPE", METRICS_TOKEN)
    served = serve(auth="keys", metrics_token_env="SCRAPE")
    key = _keys(served.gateway.engine)[state]
    served.gateway.keyring.refresh()
    headers = {"content-type": "application/json"}
    headers |= {} if key is None else {"authorization": f"Bearer {key}"}
    callers, admins = KEY_STATES[state]
    for path, methods in served.client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            answer = served.client.request(
                method, path.replace("{", "").replace("}", ""), content=HELLO, headers=headers
            )
            is_for_admins = path.startswith(("/admin", "/dashboard", "/metrics"))
            allowed = admins if is_for_admins else callers
            if (path, state) == ("/metrics", "metrics token"):
                allowed = {200}
            if operation["security"] == []:
                allowed = {200}
            assert (method, path, answer.status_code in allowed) == (method, path, True), (
                answer.status_code
            )


def test_a_key_is_for_its_models_and_policies_alone(serve: Serve) -> None:
    """Whichever way a model is asked for: by name, pin, list, fallback or threshold."""
    served = serve(auth="keys", fallbacks={"cheap": ["premium"]})
    key, _ = create_key(served.gateway.engine, "narrow", models=["cheap"])
    served.gateway.keyring.refresh()
    mine = {"authorization": f"Bearer {key}"}
    served.upstream.respond = lambda request: (
        UpstreamReply(status=503, pieces=[b"{}"]) if b'"cheap"' in request.body
        else default_reply(request)
    )  # fmt: skip
    for body in (
        HELLO,
        HELLO.replace(b"metarouter", b"premium"),
        HELLO.replace(b"metarouter", b"router-default-0.0"),
        HELLO[:-1] + b', "metarouter": {"pin": "premium"}}',
        HELLO[:-1] + b', "metarouter": {"models": ["premium"]}}',
    ):
        assert served.post("/v1/chat/completions", body, **mine).status_code >= 400
    asked = {json.loads(request.body)["model"] for request in served.upstream.requests}
    assert asked == {"cheap"}


def test_looking_a_key_up_takes_as_long_for_any_key(tmp_path: Path) -> None:
    """A guess that shares all but its last character with a key is no slower to refuse."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    key, _ = create_key(engine, "alice")
    keyring = Keyring(engine)
    keyring.refresh()
    near, far = key[:-1] + ("a" if key[-1] != "a" else "b"), "x" * len(key)
    times: dict[str, list[float]] = {near: [], far: []}
    for _ in range(4000):
        for guess, seen in times.items():
            headers = {"authorization": f"Bearer {guess}"}
            start = time.perf_counter()
            with pytest.raises(Exception, match="no valid API key"):
                keyring.check(headers)
            seen.append(time.perf_counter() - start)
    ratio = statistics.median(times[near]) / statistics.median(times[far])
    assert 0.8 < ratio < 1.25
    engine.dispose()


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b'{"model": "metarouter", "messages": ' + DEEP + b"}"),
        ("/v1/messages", b'{"model": "metarouter", "metarouter": ' + DEEP + b"}"),
        ("/v1/responses", b'{"model": "metarouter", "input": ' + DEEP + b"}"),
        ("/v1/chat/completions", DEEP),
        ("/v1/route", b'{"messages": ' + DEEP + b"}"),
        ("/v1/feedback", b'{"type": "gold", "scores": ' + DEEP + b"}"),
        ("/admin/keys", b'{"name": ' + DEEP + b"}"),
        ("/v1/chat/completions", b'{"model": 1' + b"0" * 10_000 + b"}"),
        ("/v1/chat/completions", b'{"model": "metarouter", "model": "cheap"}'),
        ("/v1/chat/completions", b'{"model": "\xff"}'),
        ("/v1/chat/completions", b'{"\xff": 1, "model": "metarouter"}'),
        ("/v1/chat/completions", b'{"model": "metarouter", "messages": [{"content": "\xff"}]}'),
        ("/v1/chat/completions", b'{"model": "metarouter", "metarouter": {"pin": "\xff"}}'),
        ("/v1/route", b'{"query": "\xff"}'),
        ("/v1/feedback", b'{"type": "thumbs", "decision_id": "\xff", "value": "up"}'),
        ("/admin/keys", b'{"name": "\xff"}'),
        ("/v1/chat/completions", b'{"model": "\\ud800"}'),
        ("/v1/chat/completions", b""),
        ("/v1/chat/completions", b"null"),
    ],
)
def test_bodies_that_mean_harm_are_refused(serve: Serve, path: str, body: bytes) -> None:
    """Nested without end, numbers without end, fields twice, no UTF-8: 400, and nothing is sent."""
    served = serve()
    assert served.post(path, body).status_code == 400
    assert served.upstream.requests == []
    assert served.client.get("/health").status_code == 200


@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_that_is_too_large_is_refused_before_its_end(serve: Serve, is_chunked: bool) -> None:
    served = serve(limits={"body_bytes": 10_000})

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    headers = {"content-type": "application/json"}
    for path in ("/v1/chat/completions", "/v1/feedback", "/admin/keys"):
        content = pieces() if is_chunked else b" " * 100_000
        try:
            answer = served.client.post(path, content=content, headers=headers)
        except httpx2.WriteError:
            continue  # closed while it was still sending
        assert answer.status_code == 413


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip", "x-bomb"])
def test_a_body_that_would_grow_is_refused(serve: Serve, coding: str) -> None:
    """Nothing is unpacked, so nothing can be a bomb."""
    served = serve()
    for path in ("/v1/chat/completions", "/v1/route", "/v1/feedback", "/admin/keys"):
        answer = served.post(path, HELLO, **{"content-encoding": coding})
        assert (path, answer.status_code) == (path, 415)


NOISE = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda method, path, name, value: (
            b"%b /%b HTTP/1.1\r\n%b: %b\r\n\r\n" % (method, path, name, value)
        ),
        st.sampled_from([b"GET", b"POST", b"OPTIONS", b"PRI", b"CONNECT", b"M-SEARCH"]),
        st.binary(max_size=40),
        st.sampled_from([b"host", b"content-length", b"transfer-encoding", b"upgrade", b"expect"]),
        st.binary(max_size=40),
    ),
)


def test_noise_is_answered_or_closed_and_others_are_served(serve: Serve) -> None:
    """Bytes at random, and nearly requests: no status of 500 and above, and no end of service."""
    served = serve(auth="keys")

    @settings(max_examples=60, derandomize=True)
    @given(noise=NOISE)
    def attempt(noise: bytes) -> None:
        with _connect(served.url) as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            assert not connection.recv(4096).startswith(b"HTTP/1.1 5")

    attempt()
    assert served.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin/keys",
        "//admin/keys",
        "/admin//keys",
        "/admin/keys/",
        "/ADMIN/keys",
        "/admin%2fkeys",
        "/v1/chat/completions/../../../admin/keys",
        "/dashboard/static/../../../../etc/passwd",
        "/dashboard/static/%2e%2e/%2e%2e/page.py",
        "/dashboard/static/..%2f..%2fpage.py",
        "/v1/models%00",
        "/v1/models;/admin/keys",
    ],
)
def test_no_spelling_of_a_path_leads_around_the_guard(serve: Serve, path: str) -> None:
    """Sent as it stands, without a client that tidies it up: never a 200 without a key."""
    served = serve(auth="keys")
    answer = _raw(served.url, f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 401", b"HTTP/1.1 307", b"HTTP/1.1 405"))
    assert b"root:" not in answer


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"content-length: -1\r\n\r\n",
        b"x-one: a\rx-two: b\r\n\r\n",
        b"bad header: a\r\n\r\n",
        b"x-nul: a\x00b\r\n\r\n",
    ],
)
def test_requests_with_two_meanings_are_refused(serve: Serve, head: bytes) -> None:
    """Nothing that another server on the way might read differently reaches an upstream."""
    served = serve()
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    start += b"content-type: application/json\r\n"
    answer = _raw(served.url, start + head)
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"]
    assert served.upstream.requests == []


def test_what_callers_write_starts_no_header_and_no_event(serve: Serve) -> None:
    """Line ends in names of models, in reasons and in errors of streams stay inside."""
    nasty = "m\r\nx-evil: 1\r\n\r\ndata: evil\n\nevent: evil"
    served = serve()
    body = json.dumps({"model": nasty, "messages": [], "stream": True}).encode()
    served.upstream.script.append(
        UpstreamReply(pieces=[b"data: 1\n\n"] * 4, content_type="text/event-stream", is_cut=True)
    )
    answer = served.post("/v1/chat/completions", body)
    assert "x-evil" not in answer.headers
    assert "\ndata: evil" not in answer.text
    assert "\nevent: evil" not in answer.text
    assert [line for line in answer.text.splitlines() if line.startswith("data: {")] != []
    for name in ("conversation", "pin", "models"):
        options = {"model": "metarouter", "messages": [], "metarouter": {name: nasty, "explain": 1}}
        answer = served.post("/v1/chat/completions", json.dumps(options).encode())
        assert "x-evil" not in answer.headers
    sent = [name for request in served.upstream.requests for name, _ in request.headers]
    assert "x-evil" not in sent


def test_headers_of_an_upstream_cannot_speak_for_the_gateway(serve: Serve) -> None:
    """Cookies, connection headers and our own names do not come through."""
    served = serve()
    headers = [
        ("set-cookie", "a=1"),
        ("x-metarouter-decision-id", "forged"),
        ("x-metarouter-model", "forged"),
        ("connection", "close"),
    ]
    served.upstream.script.append(UpstreamReply(pieces=[b"{}"], headers=headers))
    answer = served.post("/v1/chat/completions", HELLO)
    assert "forged" not in str(answer.headers)
    assert "set-cookie" not in answer.headers


HOSTS = ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "", "[::2]"]


@pytest.mark.parametrize("host", HOSTS)
def test_without_keys_only_names_of_this_machine_are_answered(serve: Serve, host: str) -> None:
    """A page that points its own name here reaches no endpoint, whichever it asks for."""
    served = serve()
    for path, methods in served.client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            headers = {"host": host, "content-type": "application/json"}
            answer = served.client.request(method, path, content=b"{}", headers=headers)
            assert (path, answer.status_code) == (path, 421)
    assert served.client.get("/health", headers={"host": "localhost:1"}).status_code == 200


def test_a_page_of_a_browser_can_send_nothing_that_changes_anything(serve: Serve) -> None:
    """What a page may send unasked is refused everywhere; a preflight gets no leave."""
    served = serve()
    for path, methods in served.client.get("/openapi.json").json()["paths"].items():
        for method in {"post", "patch"} & methods.keys():
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                headers = {"content-type": kind, "origin": "https://evil.example"}
                answer = served.client.request(method, path, content=HELLO, headers=headers)
                assert (path, answer.status_code) == (path, 415)
        asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
        answer = served.client.options(path, headers=asked)
        assert answer.status_code >= 400
        assert not any(name.startswith("access-control") for name in answer.headers)


@contextmanager
def _impatient(folder: Path, upstream: FakeUpstream, **more: Any) -> Iterator[str]:
    """A process whose callers get one second."""
    settings = {
        "upstreams": {"main": {"base_url": upstream.url, "dialect": "any"}},
        "limits": {"read_seconds": 1.0},
        "log_level": "error",
        **more,
    }
    (folder / "gateway.yaml").write_text(json.dumps(settings))
    with process_of(folder, "--config", "gateway.yaml") as (_, url):
        yield url


def test_slow_callers_are_closed_and_others_served(tmp_path: Path) -> None:
    """Slow headers, a slow body, no request at all, endless headers, an answer nobody takes."""
    large = [b"data: " + b"x" * 60_000 + b"\n\n"] * 400

    def respond(request: UpstreamRequest) -> UpstreamReply:
        return UpstreamReply(pieces=large, content_type="text/event-stream")

    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    json_head = head + b"content-type: application/json\r\n"
    body = b'{"model": "m", "messages": [], "stream": true}'
    whole = json_head + b"content-length: %d\r\n\r\n" % len(body) + body
    with FakeUpstream(respond) as upstream, _impatient(tmp_path, upstream) as url:
        cases = {
            "nothing": (b"", b""),
            "headers": (head, b"x-a: b\r\n"),
            "body": (json_head + b"content-length: 1000\r\n\r\n{", b" "),
            "second": (b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nGET /hea", b"l"),
        }
        answers: dict[str, bytes] = {}
        threads = [
            threading.Thread(target=lambda n=n, c=c: answers.update({n: _drip(url, *c)}))
            for n, c in cases.items()
        ]
        for thread in threads:
            thread.start()
        stuck = _connect(url)
        stuck.sendall(whole)
        assert httpx2.get(f"{url}/health").status_code == 200
        for thread in threads:
            thread.join(20)
        assert {name: answer[:12] for name, answer in answers.items() if name != "second"} == {
            "nothing": b"HTTP/1.1 408", "headers": b"HTTP/1.1 408", "body": b"HTTP/1.1 408",
        }  # fmt: skip
        assert answers["second"].count(b"HTTP/1.1 200") == 1
        assert b"HTTP/1.1 408" in answers["second"]
        endless = _raw(url, head + b"x-long: " + b"a" * 300_000 + b"\r\n")
        assert endless.startswith(b"HTTP/1.1 431")
        with stuck:  # it is open still, but nobody waits for it
            assert _outcomes(tmp_path / "metarouter.db") == ["client_left"]


def _drip(url: str, first: bytes, piece: bytes) -> bytes:
    """Send a piece every 0.2 s until the other side closes; what it said."""
    with _connect(url) as connection:
        connection.sendall(first)
        said, end = b"", time.monotonic() + 10
        connection.settimeout(0.2)
        while time.monotonic() < end:
            try:
                part = connection.recv(65_536)
                if not part:
                    return said
                said += part
            except TimeoutError:
                connection.sendall(piece)
            except ConnectionError:
                return said
    return b"never closed"


def _raw(url: str, content: bytes) -> bytes:
    with _connect(url) as connection:
        connection.settimeout(5)
        try:
            connection.sendall(content)
            return connection.recv(65_536)
        except ConnectionError:
            return b""


def _outcomes(database: Path) -> list[str]:
    """How requests ended, once a row is there."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            found = connection.execute("SELECT outcome FROM decisions").fetchall()
        if found:
            return [outcome for (outcome,) in found]
        time.sleep(0.1)
    return []


def _connect(url: str) -> socket.socket:
    port = int(url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


CANARIES = ("canary-prompt", "canary-answer", "sk-canary-upstream", "mr-canary-guess")


def test_no_prompt_answer_or_key_is_anywhere_at_log_level_debug(
    router_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good, failing, broken and refused requests, then every file, the log and the metrics."""
    monkeypatch.setenv("UP_KEY", "sk-canary-upstream")
    echo = {"error": {"message": "canary-answer echoes canary-prompt"}}
    replies = [
        UpstreamReply(pieces=[b'{"choices": "canary-answer"}']),
        UpstreamReply(status=400, pieces=[json.dumps(echo).encode()]),
        *[UpstreamReply(status=500, pieces=[json.dumps(echo).encode()])] * 3,
        UpstreamReply(
            pieces=[b"data: canary-answer\n\n"] * 4,
            content_type="text/event-stream",
            is_cut=True,
        ),
    ]
    with FakeUpstream() as upstream:
        settings = {
            "auth": "keys",
            "upstreams": {
                "main": {
                    "base_url": upstream.url, "dialect": "any", "api_key_env": "UP_KEY",
                    "first_pause": 0.0, "models": {"cheap": "cheap", "premium": "premium"},
                }
            },
            "policies": {"default": {"router": str(router_folder)}},
            "store": {"queue": 1, "flush_seconds": 0.5},
            "log_level": "debug",
        }  # fmt: skip
        (tmp_path / "gateway.yaml").write_text(json.dumps(settings))
        engine = open_database(f"sqlite:///{tmp_path / 'metarouter.db'}")
        admin, _ = create_key(engine, "admin", is_admin=True)
        engine.dispose()
        with process_of(tmp_path, "--config", "gateway.yaml") as (process, url):
            upstream.script.extend(replies)
            client = httpx2.Client(base_url=url, headers={"content-type": "application/json"})
            with client:
                mine = {"authorization": f"Bearer {admin}"}
                made = client.post("/admin/keys", content=b'{"name": "a"}', headers=mine)
                key = made.json()["key"]
                headers = {"authorization": f"Bearer {key}", "x-metarouter-explain": "true"}
                seen = _ask_all(client, headers)
                seen += client.get("/metrics", headers=mine).text
                seen += client.get("/admin/keys", headers=mine).text
                seen += client.get("/admin/audit", headers=mine).text
            process.terminate()
            _, log = process.communicate(timeout=30)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"chat/completions" in kept
    assert "chat/completions" in log
    for canary in (*CANARIES, key, admin):
        assert (canary, canary in log) == (canary, False)
        assert (canary, canary.encode() in kept) == (canary, False)
        assert (canary, canary in seen) == (canary, False)
    sent = [request.header("authorization") for request in upstream.requests]
    assert set(sent) == {"Bearer sk-canary-upstream"}


def _ask_all(client: httpx2.Client, headers: dict[str, str]) -> str:
    """Requests of each kind; what the gateway itself said in headers and errors."""
    body = HELLO.replace(b"you", b"canary-prompt")
    paths = ["/v1/chat/completions"] * 3
    answers = [client.post(path, content=body, headers=headers) for path in paths]
    stream = body[:-1] + b', "stream": true}'
    answers.append(client.post("/v1/chat/completions", content=stream, headers=headers))
    answers.append(client.post("/v1/route", content=b'{"query": "canary-prompt"}', headers=headers))
    said = "".join(str(answer.headers) for answer in answers) + answers[-1].text
    bad = [b'{"model": "metarouter", "messages": "canary-prompt"', b'{"canary-prompt": 1}']
    for content in bad:
        said += client.post("/v1/messages", content=content, headers=headers).text
    guess = {"authorization": "Bearer mr-canary-guess"}
    said += client.post("/v1/chat/completions", content=body, headers=guess).text
    return said
