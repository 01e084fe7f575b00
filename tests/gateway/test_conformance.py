"""Three protocols and embeddings: what goes in comes out, byte for byte and field for field."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import pytest
from conformance_cases import REQUESTS, STREAMS, cut, fields, values
from gateway_makers import Served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarouter.testing import UpstreamReply

EVENTS = "text/event-stream"
ROUTED = ("chat/completions", "responses", "messages", "messages/count_tokens")
CASES = [(path, number) for path, cases in REQUESTS.items() for number in range(len(cases))]

SENT_HEADERS = [
    ("Content-Type", "application/json; charset=utf-8"),
    ("User-Agent", "OpenAI/Python 9.9"),
    ("Accept", "text/event-stream, application/json"),
    ("anthropic-version", "2023-06-01"),
    ("Anthropic-Beta", "a-2030-01-01,b-2030-01-01"),
    ("OpenAI-Organization", "org-1"),
    ("X-Stainless-Retry-Count", "0"),
    ("Idempotency-Key", "0 0"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-many", "one"),
    ("x-many", "two"),
    ("x-empty", ""),
    ("x-utf-8", "caf\xe9".encode().decode("latin-1")),
]
RETURNED = [
    ("x-request-id", "req_1"),
    ("openai-processing-ms", "12"),
    ("X-RateLimit-Remaining-Tokens", "99"),
    ("anthropic-ratelimit-tokens-reset", "2030-01-01T00:00:00Z"),
    ("x-many", "one"),
    ("x-many", "two"),
    ("Retry-After", "0"),
    ("x-latin", "caf\xe9"),
    ("x-empty", ""),
    ("cache-control", "no-store"),
]
PRIVATE = [
    ("Set-Cookie", "a=b"),
    ("Server", "nginx"),
    ("Keep-Alive", "timeout=5"),
    ("x-metarouter-decision-id", "another gateway's"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Got:
    """An answer as it came over the wire."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


def post(
    served: Served, path: str, body: bytes, headers: Sequence[tuple[str, str]] = SENT_HEADERS[:1]
) -> Got:
    """One request by a client that changes nothing."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", f"/v1/{path}", skip_accept_encoding=True)
    for name, value in (*headers, ("Content-Length", str(len(body)))):
        connection.putheader(name, value.encode("latin-1"))
    connection.endheaders(body)
    answer = connection.getresponse()
    got = Got(
        status=answer.status,
        headers=[(name.lower(), value) for name, value in answer.getheaders()],
        body=answer.read(),
    )
    connection.close()
    return got


def with_model(body: bytes, got: Got) -> bytes:
    """What the upstream has to get: the policy's name replaced by the model that was chosen."""
    model = got.header("x-metarouter-model")
    assert model in ("cheap", "premium")
    assert body.count(b'"metarouter"') == 1
    return body.replace(b'"metarouter"', b'"' + model.encode() + b'"')


def assert_headers(got: Got, kind: str, *ours: str) -> None:
    """All that the upstream sent are there, and no more but our connection's and decision's."""
    left_out = ("date", "content-length", "server", *ours)
    found = [
        (name, value)
        for name, value in got.headers
        if name not in left_out and not name.startswith("x-metarouter-")
    ]
    expected = [("content-type", kind), *((name.lower(), value) for name, value in RETURNED)]
    assert sorted(found) == sorted(expected)
    assert "another gateway's" not in dict(got.headers).values()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


def test_requests_arrive_byte_for_byte(served: Served) -> None:
    """Every fixture in every protocol; routed, the chosen model stands for the policy's name."""
    for path, number in CASES:
        rest = REQUESTS[path][number]
        for body in (
            b'{"model": "metarouter", ' + rest + b"}",
            b"\r\n{" + rest + b' ,\t"model"  :\n"metarouter" } ',
            b'{"model": "metarouter", "stream": false, ' + rest + b"}",
        ):
            named = body.replace(b'"metarouter"', b'"gpt-\\u0034o/x"')
            assert post(served, path, named).status == 200
            assert served.upstream.requests[-1].body == named
            if path in ROUTED:
                got = post(served, path, body)
                assert got.status == 200, got
                assert served.upstream.requests[-1].body == with_model(body, got)


def test_paths_and_headers_arrive_field_for_field(served: Served) -> None:
    """All of them in their order, but for what belongs to a connection or a person."""
    private = [("Authorization", "Bearer k"), ("x-api-key", "k"), ("Cookie", "a=b"), ("TE", "gzip")]
    for path in REQUESTS:
        body = b'{"model": "m", ' + REQUESTS[path][0] + b"}"
        post(served, path, body, [*SENT_HEADERS, *private])
        request = served.upstream.requests[-1]
        assert (request.method, request.path) == ("POST", f"/v1/{path}")
        own = ("host", "content-length", "accept-encoding")
        found = [(name, value) for name, value in request.headers if name not in own]
        assert sorted(found) == sorted((name.lower(), value) for name, value in SENT_HEADERS)
        assert request.header("accept-encoding") == "identity"
        assert request.header("content-length") == str(len(body))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body: the fields of a fixture, the model, unknown fields, odd white space."""
    path = draw(st.sampled_from(sorted(REQUESTS)))
    fixture = draw(st.sampled_from(REQUESTS[path])).decode()
    known = {*json.loads("{" + fixture + "}"), "model", "metarouter", "stream"}
    model = '"metarouter"' if path in ROUTED else '"m-1"'
    parts = [draw(fields(model, name='"model"')), fixture]
    names = set()
    for value in draw(st.lists(values(), max_size=5)):
        field = draw(fields(value))
        name = next(iter(json.loads("{" + field + "}")))
        if name not in known and name not in names:
            names.add(name)
            parts.append(field)
    text = "{" + ",".join(draw(st.permutations(parts))) + "}"
    return path, text.encode()


def test_three_hundred_generated_requests_arrive_byte_for_byte(served: Served) -> None:
    """Unknown fields, odd white space, escapes, big and odd numbers, nested extras."""

    @settings(
        max_examples=300,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(made=bodies())
    def check(made: tuple[str, bytes]) -> None:
        path, body = made
        got = post(served, path, body)
        assert got.status == 200, got
        expected = with_model(body, got) if path in ROUTED else body
        assert served.upstream.requests[-1].body == expected

    check()
    assert len(served.upstream.requests) >= 300


@pytest.mark.parametrize("pause", [0.0, 0.002])
def test_streams_come_back_byte_for_byte(served: Served, pause: float) -> None:
    """Whatever events look like and wherever they are cut, in the middle of a character too."""

    @settings(
        max_examples=60,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        path=st.sampled_from(["chat/completions", "responses", "messages"]),
        name=st.sampled_from(sorted(STREAMS)),
        places=st.lists(st.integers(1, 300_000), max_size=8),
    )
    def check(path: str, name: str, places: list[int]) -> None:
        content = STREAMS[name]
        reply = UpstreamReply(
            pieces=cut(content, places),
            content_type=EVENTS,
            pause=pause,
            headers=[*RETURNED, *PRIVATE],
        )
        served.upstream.script.append(reply)
        body = b'{"model": "m", "stream": true, ' + REQUESTS[path][0] + b"}"
        got = post(served, path, body)
        assert (got.status, got.body) == (200, content)
        assert_headers(got, EVENTS, "transfer-encoding")

    check()


def test_a_stream_of_single_bytes_comes_back(served: Served) -> None:
    """Each byte in a chunk of its own."""
    content = STREAMS["characters of several bytes"]
    pieces = [bytes([byte]) for byte in content]
    served.upstream.script.append(UpstreamReply(pieces=pieces, content_type=EVENTS))
    body = b'{"model": "metarouter", "stream": true, "messages": []}'
    assert post(served, "chat/completions", body).body == content


ANSWERS = [
    (200, b'{ "id": "x",  "usage": null, "n": 1.0e-0, "t": "\\u00e9" }\n', "application/json"),
    (200, b"", "application/json"),
    (200, b"\x00\xff" * 70_000, "application/octet-stream"),
    (201, b"{}", "application/json; charset=utf-8"),
    (400, b'{"error": {"message": "no", "param": "x", "code": null}}', "application/json"),
    (401, b'{"error": {"message": "wrong key"}}', "application/json"),
    (403, b"<html>no</html>", "text/html"),
    (404, b'{"type": "error", "error": {"type": "not_found_error"}}', "application/json"),
    (413, b"", "text/plain"),
    (422, b'{"detail": [{"loc": ["body"]}]}', "application/json"),
    (429, b'{"error": {"code": "rate_limit_exceeded"}}', "application/json"),
    (500, b'{"error": {"message": "oops"}}', "application/json"),
    (529, b'{"type": "error", "error": {"type": "overloaded_error"}}', "application/json"),
]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_answers_come_back_unchanged(serve: Callable[..., Served], is_chunked: bool) -> None:
    """Status, headers and body, of answers and of errors, with a length or in chunks."""
    served = serve({"attempts": 1})
    for path, (status, body, kind) in product(REQUESTS, ANSWERS):
        reply = UpstreamReply(
            pieces=[body[:100], body[100:]] if is_chunked else [body],
            status=status,
            content_type=kind,
            headers=[*RETURNED, *PRIVATE],
            is_chunked=is_chunked,
        )
        served.upstream.script.append(reply)
        got = post(served, path, b'{"model": "m", ' + REQUESTS[path][0] + b"}")
        assert (got.status, got.body) == (status, body)
        assert_headers(got, kind)


def test_an_answer_that_is_compressed_unasked_comes_back_as_it_is(served: Served) -> None:
    """The header says what the bytes are, and both pass."""
    body = gzip.compress(b'{"id": 1}')
    reply = UpstreamReply(pieces=[body], headers=[("Content-Encoding", "gzip")])
    served.upstream.script.append(reply)
    got = post(served, "chat/completions", b'{"model": "m", "messages": []}')
    assert (got.header("content-encoding"), got.body) == ("gzip", body)
