"""A gateway on a free port of this process, in front of an upstream that we write."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from metarouter.gateway.app import build_app, make_gateway
from metarouter.gateway.deciding import load_policies
from metarouter.gateway.receiving import guarded_protocol
from metarouter.gateway.settings import SettingsSource
from metarouter.gateway.state import Gateway
from metarouter.store.tables import decisions
from metarouter.testing import FakeUpstream

HELLO = b'{"model": "metarouter", "messages": [{"role": "user", "content": "Hello you"}]}'

# Tests do not wait, and trip the breaker only where they mean to.
FAST: dict[str, Any] = {"first_pause": 0.01, "breaker_failures": 1000}


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """A running gateway, a client for it, and the upstream behind it."""

    gateway: Gateway
    client: httpx2.Client
    upstream: FakeUpstream
    url: str

    def post(self, path: str, body: bytes, **headers: str) -> httpx2.Response:
        sent = {"content-type": "application/json", **headers}
        return self.client.post(path, content=body, headers=sent)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the table of decisions, once all are written."""
        end = time.monotonic() + 10
        while self.gateway.writer.waiting and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.25)  # the batch that is being gathered
        with self.gateway.engine.connect() as connection:
            query = decisions.select().order_by(decisions.c.created)
            return [dict(row) for row in connection.execute(query).mappings()]


@contextmanager
def running(
    settings: dict[str, Any] | None = None, file: Path | None = None
) -> Iterator[tuple[Gateway, str]]:
    """A gateway in a thread, until the block ends."""
    source = SettingsSource(file=file, overrides=settings or {})
    checked = source.read()
    gateway = make_gateway(checked, load_policies(checked), source)
    config = uvicorn.Config(
        build_app(gateway),
        port=0,
        http=guarded_protocol(checked.limits.read_seconds),
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield gateway, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextmanager
def process_of(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``metarouter serve`` on a free port, and its address."""
    command = [sys.executable, "-m", "metarouter", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        # workers have a word before
        line = next((text for text in process.stderr if "serves on http" in text), "")
        assert line, "it ended"
        url = line.split()[-1].removesuffix("/v1")
        for _ in range(600):
            try:
                httpx2.get(f"{url}/health")
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.communicate()
