"""A real nginx and a real Envoy with the configurations that are shipped, in front of a gateway."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_makers import HELLO, Served
from httpx2 import Client

from metarouter.testing import FakeUpstream, UpstreamReply

DEPLOY = Path(__file__).parents[2] / "deploy"
PAUSE = 0.4
STREAM = json.dumps(json.loads(HELLO) | {"stream": True}).encode()
JSON = {"content-type": "application/json"}

Proxied = tuple[Client, FakeUpstream]


@pytest.fixture(params=["nginx", "envoy"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, serve: Callable[..., Served]
) -> Iterator[Callable[..., Proxied]]:
    """Put a proxy before a gateway: a client of the proxy, and the upstream behind both."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    command = {"nginx": _nginx, "envoy": _envoy}[request.param]
    started: list[Any] = []

    def start(**settings: Any) -> Proxied:
        served, port = serve(**settings), _free_port()
        gateway = int(served.url.rpartition(":")[2])
        started.append(subprocess.Popen([program, *command(tmp_path, gateway, port)]))
        client = Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0)
        started.append(client)
        _wait_until_it_answers(client)
        return client, served.upstream

    yield start
    for one in reversed(started):
        if isinstance(one, Client):
            one.close()
        else:
            one.terminate()
            one.wait(10)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_it_answers(client: Client) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail("the proxy does not reach the gateway")


def _nginx(folder: Path, gateway: int, port: int) -> list[str]:
    text = (DEPLOY / "nginx/metarouter.conf").read_text()
    text = text.replace("server 127.0.0.1:8080", f"server 127.0.0.1:{gateway}")
    (folder / "metarouter.conf").write_text(text.replace("listen 8081", f"listen 127.0.0.1:{port}"))
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/nginx.pid; daemon off; error_log stderr warn;\nevents {{}}\n"
        f"http {{ access_log off;\n{temporary} include {folder}/metarouter.conf; }}\n"
    )
    return ["-p", str(folder), "-c", str(folder / "nginx.conf")]


def _envoy(folder: Path, gateway: int, port: int) -> list[str]:
    text = (DEPLOY / "envoy/envoy.yaml").read_text()
    text = text.replace("port_value: 8080", f"port_value: {gateway}")
    text = text.replace("0.0.0.0, port_value: 8081", f"127.0.0.1, port_value: {port}")
    (folder / "envoy.yaml").write_text(text)
    quiet = ["--log-level", "error", "--concurrency", "1", "--use-dynamic-base-id"]
    return ["-c", str(folder / "envoy.yaml"), *quiet, "--drain-time-s", "0"]


def test_a_stream_comes_through_piece_by_piece(proxied: Callable[..., Proxied]) -> None:
    client, upstream = proxied()
    pieces = [b'data: {"choices": []}\n\n', b'data: {"choices": [1]}\n\n', b"data: [DONE]\n\n"]
    upstream.script.append(
        UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=PAUSE)
    )
    arrived, parts = [], []
    with client.stream("POST", "/v1/chat/completions", content=STREAM, headers=JSON) as answer:
        assert answer.headers["x-metarouter-model"]
        for part in answer.iter_raw():
            arrived.append(time.monotonic())
            parts.append(part)
    assert b"".join(parts) == b"".join(pieces)
    assert arrived[-1] - arrived[0] > PAUSE


def test_a_caller_that_leaves_cancels_the_upstream(proxied: Callable[..., Proxied]) -> None:
    client, upstream = proxied()
    pieces = [b"data: {}\n\n"] * 100
    upstream.script.append(
        UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.1)
    )
    with client.stream("POST", "/v1/chat/completions", content=STREAM, headers=JSON) as answer:
        next(answer.iter_raw())
    left = time.monotonic()
    while upstream.requests[0].left is None and time.monotonic() < left + 5:
        time.sleep(0.02)
    assert upstream.requests[0].left is not None
    assert upstream.requests[0].left - left < 1.0


def test_a_large_body_and_the_request_id_arrive(proxied: Callable[..., Proxied]) -> None:
    client, upstream = proxied()
    text = "word " * 100_000
    body = {"model": "metarouter", "messages": [{"role": "user", "content": text}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    named = {"x-request-id": "of-the-caller"}
    assert client.post("/v1/chat/completions", json=body, headers=named).status_code == 200
    made, kept = upstream.requests
    assert json.loads(made.body)["messages"] == body["messages"]
    assert len(made.header("x-request-id") or "") >= 32
    assert kept.header("x-request-id") == "of-the-caller"


def test_a_proxy_sends_nothing_twice(proxied: Callable[..., Proxied]) -> None:
    """Nor for a caller who knows Envoy's headers and asks for it."""
    client, upstream = proxied(
        upstream_settings={"attempts": 1},
        respond=lambda request: UpstreamReply(pieces=[b"{}"], status=503),
    )
    asked = {"x-envoy-retry-on": "5xx,retriable-4xx", "x-envoy-max-retries": "3"}
    answer = client.post("/v1/chat/completions", content=HELLO, headers=JSON | asked)
    assert answer.status_code >= 500
    assert len(upstream.requests) == 1
