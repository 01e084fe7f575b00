"""The image that METAROUTER_IMAGE names, run as the files for Compose and Kubernetes run it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from gateway_makers import HELLO

from metarouter.testing import FakeUpstream, UpstreamReply

IMAGE = os.environ.get("METAROUTER_IMAGE", "")
ENGINE = (
    os.environ.get("METAROUTER_ENGINE") or shutil.which("podman") or shutil.which("docker") or ""
)
SETTINGS = Path(__file__).parents[2] / "deploy/gateway.yaml"
HARDENED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp"]

pytestmark = pytest.mark.skipif(not (IMAGE and ENGINE), reason="METAROUTER_IMAGE names no image")


def _engine(*arguments: str) -> str:
    done = subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
def container(upstream: FakeUpstream, router_folder: Path) -> Iterator[tuple[str, httpx2.Client]]:
    """Its name, and a client of the gateway in it, which writes to volumes alone."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = {
        "METAROUTER_AUTH": "none",
        "METAROUTER_HOST": "127.0.0.1",
        "METAROUTER_PORT": str(port),
        "METAROUTER_STORE__URL": "sqlite:////var/lib/metarouter/spill/decisions.db",
        "METAROUTER_UPSTREAMS__OPENAI__BASE_URL": upstream.url,
        "OPENAI_API_KEY": "none",
    }
    name = f"metarouter-test-{port}"
    given = [f"--env={name}={value}" for name, value in variables.items()]
    volumes = [
        f"--volume={SETTINGS}:/etc/metarouter/gateway.yaml:ro",
        f"--volume={router_folder}:/var/lib/metarouter/router:ro",
        f"--volume={name}:/var/lib/metarouter/spill",
    ]
    run = ["run", "--detach", "--network=host", f"--name={name}", *HARDENED, *given, *volumes]
    _engine(*run, IMAGE)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20.0) as client:
            _wait_until_ready(client)
            yield name, client
    finally:
        _engine("rm", "--force", name)
        _engine("volume", "rm", name)


def _wait_until_ready(client: httpx2.Client) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    pytest.fail("the container is not ready within a minute")


def test_the_image_answers_as_nobody_in_particular(
    container: tuple[str, httpx2.Client], upstream: FakeUpstream
) -> None:
    name, client = container
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/chat/completions", content=HELLO, headers=headers)
    assert answer.status_code == 200
    assert len(upstream.requests) == 1
    told = json.loads(_engine("inspect", name))[0]["Config"]
    assert told["User"] == "10001:10001"
    status = _engine("exec", name, "cat", "/proc/1/status")
    assert "Uid:\t10001\t10001" in status
    assert "CapBnd:\t0000000000000000" in status
    inside = _engine("exec", name, "ls", "/var/lib/metarouter/spill")
    assert "decisions.db" in inside.split()


def test_a_stream_in_flight_ends_before_the_container_does(
    container: tuple[str, httpx2.Client], upstream: FakeUpstream
) -> None:
    name, client = container
    pieces = [b"data: {}\n\n"] * 20
    upstream.script.append(
        UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.2)
    )
    body = json.dumps(json.loads(HELLO) | {"stream": True}).encode()
    headers = {"content-type": "application/json"}
    stop = threading.Thread(target=_engine, args=("stop", "-t80", name))
    with client.stream("POST", "/v1/chat/completions", content=body, headers=headers) as answer:
        parts = answer.iter_raw()
        whole = [next(parts)]
        stop.start()
        whole += parts
    assert b"".join(whole) == b"".join(pieces)
    stop.join(60)
    assert json.loads(_engine("inspect", name))[0]["State"]["ExitCode"] == 0
