"""What the gateway adds to a request, beside its upstream alone and a bare pass-through.

    ./run python benchmarks/gateway.py --router DIR [--seconds 3] [--rounds 3] [--json out.json]

Everything runs on this machine in one go: an upstream that answers 0.4 kB at once, a bare ASGI
pass-through over the same server and client library, the gateway with a model's name (no
decision) and with a policy. Closed loop: each connection sends its next request when the answer
is there. The rounds are interleaved; of each, the lowest p50 and the highest rate count, because
other work on the machine only ever slows things down.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x" * 150},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140},
    }
).encode()
PROMPT = "Explain how a suspension bridge carries its load, with numbers. " * 8


class Upstream(asyncio.Protocol):
    """Answers every request at once; reads no more of it than its length."""

    def __init__(self) -> None:
        self._held = b""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}"
        self._reply = head.encode() + b"\r\n\r\n" + ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._held) < end + 4 + size:
                return
            self._held = self._held[end + 4 + size :]
            cast("asyncio.Transport", self._transport).write(self._reply)


async def run_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


def run_bare(port: int, upstream: int) -> None:
    """The least that a pass-through in this stack can do."""
    import aiohttp
    import uvicorn

    session: aiohttp.ClientSession | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] != "http":
            return
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        url = f"http://127.0.0.1:{upstream}{scope['path']}"
        async with session.post(url, data=body) as answer:
            content = await answer.read()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    uvicorn.run(
        app, port=port, log_config=None, access_log=False, loop="uvloop", http="httptools",
        lifespan="off",
    )  # fmt: skip


async def measure(port: int, model: str, connections: int, seconds: float) -> dict[str, float]:
    """Latencies of requests from `connections` connections, in milliseconds."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            start = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            times.append(1000 * (time.perf_counter() - start))
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    cuts = statistics.quantiles(times, n=100)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "per_second": len(times) / seconds}


@contextmanager
def child(*arguments: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, in user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise SystemExit(f"nothing listens at {port}")


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    first = arguments.port
    upstream, bare, gateway = first, first + 1, first + 2
    cases = {
        "upstream alone": (upstream, "m"),
        "bare pass-through": (bare, "m"),
        "gateway, no decision": (gateway, "m"),
        "gateway, routed": (gateway, "metarouter"),
    }
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = f"http://127.0.0.1:{upstream}/v1"
        pids = {}
        for role, port in (("upstream", upstream), ("bare", bare)):
            command = (__file__, "--role", role, "--port", str(port))
            pids[port] = stack.enter_context(child(*command))
        pids[gateway] = stack.enter_context(
            child(
                "-m", "metarouter", "serve", "--router", str(arguments.router), "--upstream", url,
                "--port", str(gateway), "--config", str(quiet(Path(folder))),
            )
        )  # fmt: skip
        for port in (upstream, bare, gateway):
            asyncio.run(wait_for(port))
        for port, model in cases.values():
            asyncio.run(measure(port, model, 1, 1.0))  # warm
        for _ in range(arguments.rounds):
            for name, (port, model) in cases.items():
                for connections in (1, 32, 128):
                    before = processor_seconds(pids[port])
                    row = asyncio.run(measure(port, model, connections, arguments.seconds))
                    used = processor_seconds(pids[port]) - before
                    row["cpu_us"] = 1e6 * used / (row["per_second"] * arguments.seconds)
                    found.setdefault((name, connections), []).append(row)
    return [{"case": name, "connections": n, **best(rows)} for (name, n), rows in found.items()]


def quiet(folder: Path) -> Path:
    """Settings that keep the store in a folder and log warnings only."""
    path = folder / "gateway.yaml"
    path.write_text('log_level: warning\nstore: {url: "sqlite:///store.db"}\n', encoding="utf-8")
    return path


def best(rows: list[dict[str, float]]) -> Mapping[str, float]:
    return {
        "p50_ms": min(row["p50_ms"] for row in rows),
        "p99_ms": min(row["p99_ms"] for row in rows),
        "cpu_us": min(row["cpu_us"] for row in rows),
        "per_second": max(row["per_second"] for row in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=["upstream", "bare"])
    parser.add_argument("--port", type=int, default=18800)
    parser.add_argument("--router", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.role == "upstream":
        import uvloop

        uvloop.run(run_upstream(arguments.port))
        return
    if arguments.role == "bare":
        run_bare(arguments.port, arguments.port - 1)
        return
    rows = compare(arguments)
    alone = {row["connections"]: row["p50_ms"] for row in rows if row["case"] == "upstream alone"}
    for row in rows:
        row["added_p50_ms"] = row["p50_ms"] - alone[row["connections"]]
        print(
            f"{row['case']:22} c={row['connections']:<4} p50 {row['p50_ms']:8.2f} ms "
            f"(+{row['added_p50_ms']:.2f})  p99 {row['p99_ms']:8.2f} ms  "
            f"{row['per_second']:7.0f}/s  {row['cpu_us']:6.0f} us of processor"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"largest resident set of a child: {peak:.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows, "peak_rss_mb": peak}, indent=2))


if __name__ == "__main__":
    main()
