"""Spans as a real OTLP receiver gets them; ids in the log; nothing where tracing is off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from gateway_makers import HELLO, Served
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from metarouter.gateway.settings import TracingSettings
from metarouter.gateway.tracing import current_trace, log_ids, open_tracing, traced
from metarouter.testing import UpstreamReply

SERVER, CLIENT = Span.SpanKind.SPAN_KIND_SERVER, Span.SpanKind.SPAN_KIND_CLIENT
ERROR = 2  # Status.STATUS_CODE_ERROR
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """An OTLP/HTTP receiver on a free port."""

    def __init__(self) -> None:
        spans: list[Span] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                found = ExportTraceServiceRequest.FromString(content)
                for resource in found.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.spans = spans
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def of(self, served: Served) -> dict[int, list[Span]]:
        """Spans by kind, once the gateway has sent them."""
        assert served.gateway.tracing is not None
        end = time.monotonic() + 5
        while not any(span.kind == SERVER for span in self.spans) and time.monotonic() < end:
            time.sleep(0.02)  # the request's span ends after its last byte
            served.gateway.tracing.flush()
        return {
            kind: [span for span in self.spans if span.kind == kind] for kind in (SERVER, CLIENT)
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    found.thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


def attributes(span: Span) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in span.attributes
    }


def test_a_request_is_a_server_span_with_a_client_span_below_it(
    serve: Callable[..., Served], collector: Collector
) -> None:
    served = serve(tracing={"endpoint": collector.url})
    answer = served.post("/v1/chat/completions", HELLO)
    spans = collector.of(served)
    (server,), (client,) = spans[SERVER], spans[CLIENT]
    assert server.name == "POST /v1/chat/completions"
    assert client.parent_span_id == server.span_id
    assert client.trace_id == server.trace_id
    own, tried = attributes(server), attributes(client)
    assert own["http.response.status_code"] == 200
    assert own["app.route.decision_id"] == answer.headers["x-metarouter-decision-id"]
    assert own["app.route.model"] == answer.headers["x-metarouter-model"]
    assert own["app.route.policy"] == "default"
    assert tried["gen_ai.operation.name"] == "chat"
    assert tried["gen_ai.request.model"] == own["app.route.model"]
    assert tried["gen_ai.usage.output_tokens"] > 0
    assert tried["server.address"] == "127.0.0.1"


def test_the_trace_of_the_caller_goes_on_to_the_upstream(
    serve: Callable[..., Served], collector: Collector
) -> None:
    served = serve(tracing={"endpoint": collector.url})
    served.post("/v1/chat/completions", HELLO, traceparent=PARENT, tracestate="vendor=1")
    spans = collector.of(served)
    (server,), (client,) = spans[SERVER], spans[CLIENT]
    assert server.trace_id.hex() == PARENT.split("-")[1]
    assert server.parent_span_id.hex() == PARENT.split("-")[2]
    (request,) = served.upstream.requests
    sent = [value for name, value in request.headers if name == "traceparent"]
    assert sent == [f"00-{client.trace_id.hex()}-{client.span_id.hex()}-01"]
    assert request.header("tracestate") == "vendor=1"


def test_each_try_is_a_span_and_a_failed_one_says_how(
    serve: Callable[..., Served], collector: Collector
) -> None:
    served = serve(tracing={"endpoint": collector.url})
    served.upstream.script.append(UpstreamReply(pieces=[b"{}"], status=503))
    assert served.post("/v1/chat/completions", HELLO).status_code == 200
    first, second = sorted(collector.of(served)[CLIENT], key=lambda span: span.start_time_unix_nano)
    assert attributes(first)["error.type"] == "status 503"
    assert first.status.code == ERROR
    assert second.status.code != ERROR
    assert first.end_time_unix_nano <= second.start_time_unix_nano
    told = [request.header("traceparent") for request in served.upstream.requests]
    assert [str(one).split("-")[2] for one in told] == [first.span_id.hex(), second.span_id.hex()]


def test_a_stream_ends_its_span_with_its_last_byte(
    serve: Callable[..., Served], collector: Collector
) -> None:
    served = serve(tracing={"endpoint": collector.url})
    pieces = [b'data: {"choices": []}\n\n', b"data: [DONE]\n\n"]
    served.upstream.script.append(
        UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.3)
    )
    body = json.loads(HELLO) | {"stream": True}
    served.post("/v1/chat/completions", json.dumps(body).encode())
    (client,) = collector.of(served)[CLIENT]
    assert client.end_time_unix_nano - client.start_time_unix_nano > 0.3e9


def test_a_request_that_is_refused_is_a_span_without_a_client(
    serve: Callable[..., Served], collector: Collector
) -> None:
    served = serve(tracing={"endpoint": collector.url})
    assert served.post("/v1/chat/completions", b"{}").status_code == 400
    spans = collector.of(served)
    assert attributes(spans[SERVER][0])["http.response.status_code"] == 400
    assert spans[CLIENT] == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/route", b'{"query": "Hello"}', 200),
        ("/v1/route", b"{}", 400),
        ("/v1/feedback", b'{"type": "thumbs", "decision_id": "d", "value": "up"}', 201),
    ],
)
def test_decisions_and_feedback_are_spans_too(
    serve: Callable[..., Served], collector: Collector, path: str, body: bytes, status: int
) -> None:
    """On the caller's trace, and with nothing below them."""
    served = serve(tracing={"endpoint": collector.url})
    assert served.post(path, body, traceparent=PARENT).status_code == status
    spans = collector.of(served)
    (server,), tried = spans[SERVER], spans[CLIENT]
    assert (server.name, tried) == (f"POST {path}", [])
    assert server.trace_id.hex() == PARENT.split("-")[1]
    assert attributes(server)["http.response.status_code"] == status
    assert served.client.get("/health").status_code == 200
    assert len(collector.of(served)[SERVER]) == 1


def test_no_text_of_prompt_or_answer_is_on_a_span(
    serve: Callable[..., Served], collector: Collector, tmp_path: Path
) -> None:
    store = {"url": f"sqlite:///{tmp_path}/own.db", "prompts": True}
    served = serve(tracing={"endpoint": collector.url}, store=store)
    body = HELLO.replace(b"Hello you", b"canary-in-the-prompt")
    answer = served.post("/v1/chat/completions", body, authorization="Bearer canary-key")
    collector.of(served)
    sent = b"".join(span.SerializeToString() for span in collector.spans)
    said = answer.json()["choices"][0]["message"]["content"].encode()
    assert b"canary" not in sent
    assert said not in sent


def test_without_an_endpoint_nothing_is_made_and_headers_pass(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    served = serve()
    served.post("/v1/chat/completions", HELLO, traceparent=PARENT)
    assert served.gateway.tracing is None
    assert served.upstream.requests[0].header("traceparent") == PARENT

    async def endpoint(*_: object) -> None:
        """Nothing."""

    assert traced(endpoint, None) is endpoint
    assert current_trace() is None


def test_the_environment_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing = open_tracing(TracingSettings(), {})
    assert tracing is not None
    tracing.close()


def test_a_missing_extra_is_told_with_its_install_line() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from metarouter.errors import MissingDependencyError\n"
        "from metarouter.gateway.settings import TracingSettings\n"
        "from metarouter.gateway.tracing import open_tracing\n"
        "try: open_tracing(TracingSettings(endpoint='http://127.0.0.1:9'), {})\n"
        "except MissingDependencyError as error: print(error)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'metarouter[otel]'" in done.stdout


def test_lines_of_the_log_carry_request_and_trace(
    serve: Callable[..., Served], capsys: pytest.CaptureFixture[str]
) -> None:
    served = serve(log_level="info")
    sent = {"x-request-id": "job-17:3", "traceparent": PARENT}
    answer = served.post("/v1/chat/completions", HELLO, **sent)
    served.rows()
    lines = capsys.readouterr().err.splitlines()
    (line,) = [found for found in map(json.loads, lines) if found["event"] == "request"]
    assert (line["request"], line["trace"]) == ("job-17:3", PARENT.split("-")[1])
    assert line["id"] == answer.headers["x-metarouter-decision-id"]


@pytest.mark.parametrize("wrong", [b"", b"a b", b"x" * 129, b'"}', b"\xff", b"a\nb"])
def test_an_id_that_is_not_sane_gives_way_to_the_decisions_own(wrong: bytes) -> None:
    assert log_ids([(b"x-request-id", wrong)], "d1") == {"request": "d1"}


@pytest.mark.parametrize("wrong", [b"", b"00-zz", re.sub(b"0", b"G", PARENT.encode())])
def test_a_traceparent_that_is_none_is_no_trace_of_the_log(wrong: bytes) -> None:
    assert "trace" not in log_ids([(b"traceparent", wrong)], "d1")
