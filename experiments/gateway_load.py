"""What the studies of the gateway share: its process, a router for it, and load."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from metarouter.fitting import FitOptions, fit_table
from metarouter.router import Router
from metarouter.testing import make_world

Make = Callable[[int], tuple[str, dict[str, Any]]]
"""From the number of a request to its path below /v1 and its body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one request ended for its caller.

    Attributes
    ----------
    sent, first, ended : ``time.monotonic``; `first` when the first bytes of the body came.
    is_whole : whether the body came to the end that its protocol has.
    """

    number: int
    is_stream: bool
    sent: float
    first: float | None
    ended: float
    status: int | None
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool

    @property
    def is_good(self) -> bool:
        """Answered in full."""
        return self.status == 200 and self.is_whole


def fit_router() -> Router:
    """A router over the models cheap and premium."""
    world = make_world("random_gold", n_queries=200, n_gold=100, n_test=2)
    options = FitOptions(corrector="gold_only", gain_model="ridge", embedder="hashed", folds=0)
    return fit_table(world.table, options)


@contextmanager
def gateway(
    folder: Path, settings: Mapping[str, Any]
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``metarouter serve`` as a process on a free port, and its address."""
    path = folder / "gateway.yaml"
    path.write_text(json.dumps({"log_level": "error", **settings}, default=str), encoding="utf-8")
    command = [sys.executable, "-m", "metarouter", "serve", "--config", str(path), "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        if "serves on" not in line:
            raise SystemExit(f"the gateway did not start: {line}{process.stderr.read()}")
        try:
            yield process, line.split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


async def ask(
    session: aiohttp.ClientSession, url: str, number: int, path: str, body: Mapping[str, Any]
) -> Outcome:
    """Send one request, which carries its number in the header ``x-number``."""
    is_stream = body.get("stream") is True
    sent, first, status, parts = time.monotonic(), None, None, []
    headers: Mapping[str, str] = {}
    is_closed_well = False
    try:
        async with session.post(
            f"{url}/{path}", json=body, headers={"x-number": str(number)}
        ) as answer:
            status, headers = answer.status, answer.headers
            async for part in answer.content.iter_any():
                first = first or time.monotonic()
                parts.append(part)
        is_closed_well = True
    except aiohttp.ClientError:
        pass  # the outcome says so
    content = b"".join(parts)
    return Outcome(
        number=number,
        is_stream=is_stream,
        sent=sent,
        first=first,
        ended=time.monotonic(),
        status=status,
        headers=headers,
        body=content,
        is_whole=is_closed_well and (not is_stream or content.endswith(b"data: [DONE]\n\n")),
    )


async def load(
    url: str,
    make: Make,
    *,
    connections: int,
    keep: Callable[[Outcome], object],
    is_enough: Callable[[int], bool],
    pause: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Requests 0, 1, 2, …, `connections` at a time, until ``is_enough(number)``.

    Parameters
    ----------
    make : path and body of a request.
    keep : called with each outcome.
    pause : awaited after each request of a connection, optional.
    """
    numbers = iter(range(10**9))
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one() -> None:
            while not is_enough(number := next(numbers)):
                keep(await ask(session, url, number, *make(number)))
                if pause is not None:
                    await pause()

        await asyncio.gather(*(one() for _ in range(connections)))


def chat(number: int, **fields: Any) -> tuple[str, dict[str, Any]]:
    """A chat completion whose every third is a stream, about one of a thousand things."""
    question = f"What do {number % 1000} birds do in spring, and why?"
    turns = [{"role": "user", "content": question}]
    stream = {"stream": True} if number % 3 == 0 else {}
    return "chat/completions", {"model": "metarouter", "messages": turns, **stream, **fields}


def resident_mb(pid: int) -> float:
    """Memory that a process holds, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no memory")
