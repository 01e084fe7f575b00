"""A real nginx with the configuration that is shipped, in front of a gateway."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from gateway_makers import HELLO, Served
from httpx2 import Client

from metarouter.testing import FakeUpstream, UpstreamReply

CONFIG = Path(__file__).parents[2] / "deploy/nginx/metarouter.conf"
PAUSE = 0.4

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")


@pytest.fixture
def proxied(tmp_path: Path, serve: Callable[..., Served]) -> Iterator[tuple[Client, FakeUpstream]]:
    """A client of nginx, which has a gateway behind it, and the upstream behind that."""
    served, port = serve(), _free_port()
    nginx = _start(tmp_path, served.url.removeprefix("http://"), port)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as client:
            yield client, served.upstream
    finally:
        nginx.terminate()
        nginx.wait(10)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _start(folder: Path, gateway: str, port: int) -> subprocess.Popen[bytes]:
    text = CONFIG.read_text().replace("server 127.0.0.1:8080", f"server {gateway}")
    text = text.replace("listen 8081", f"listen 127.0.0.1:{port}")
    (folder / "metarouter.conf").write_text(text)
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/nginx.pid; daemon off; error_log stderr warn;\nevents {{}}\n"
        f"http {{ access_log off;\n{temporary} include {folder}/metarouter.conf; }}\n"
    )
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
    subprocess.run([*command, "-t", "-q"], check=True)
    process = subprocess.Popen(command)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    return process


def test_a_stream_comes_through_piece_by_piece(
    proxied: tuple[Client, FakeUpstream],
) -> None:
    client, upstream = proxied
    pieces = [b'data: {"choices": []}\n\n', b'data: {"choices": [1]}\n\n', b"data: [DONE]\n\n"]
    upstream.script.append(
        UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=PAUSE)
    )
    body = json.dumps(json.loads(HELLO) | {"stream": True}).encode()
    headers = {"content-type": "application/json"}
    arrived, parts = [], []
    with client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as answer:
        assert answer.headers["x-metarouter-model"]
        for part in answer.iter_raw():
            arrived.append(time.monotonic())
            parts.append(part)
    assert b"".join(parts) == b"".join(pieces)
    assert arrived[-1] - arrived[0] > PAUSE


def test_a_caller_that_leaves_cancels_the_upstream_through_nginx(
    proxied: tuple[Client, FakeUpstream],
) -> None:
    client, upstream = proxied
    pieces = [b"data: {}\n\n"] * 100
    upstream.script.append(
        UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.1)
    )
    body = json.dumps(json.loads(HELLO) | {"stream": True}).encode()
    headers = {"content-type": "application/json"}
    with client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as answer:
        next(answer.iter_raw())
    left = time.monotonic()
    while upstream.requests[0].left is None and time.monotonic() < left + 5:
        time.sleep(0.02)
    assert upstream.requests[0].left is not None
    assert upstream.requests[0].left - left < 1.0


def test_a_large_body_and_the_request_id_arrive(
    proxied: tuple[Client, FakeUpstream],
) -> None:
    client, upstream = proxied
    text = "word " * 100_000
    body = {"model": "metarouter", "messages": [{"role": "user", "content": text}]}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    (request,) = upstream.requests
    assert json.loads(request.body)["messages"] == body["messages"]
    assert len(request.header("x-request-id") or "") == 32
