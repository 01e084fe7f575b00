"""What the gateway adds to a request, beside others over the same upstream.

    ./run python benchmarks/gateway.py --router DIR [--litellm FOLDER] [--seconds 3] [--rounds 3]
        [--json out.json]

Everything runs on this machine in one go, each server one process: an upstream that answers
0.4 kB at once, a pass-through over the same server and client library, once as a bare ASGI app and
once with the classes of the framework (Starlette), the gateway with a model's name (no
decision) and with a policy, and with --litellm the LiteLLM proxy with its
lightest settings (one worker, no database, no keys, no callbacks, errors logged only), which is
installed into an environment of its own in FOLDER. Closed loop: each connection sends its next
request when the answer is there. Streams have 50 events, 5 ms apart, each in a packet of its own.

The rounds are interleaved; of each, the lowest times and the highest rate count, because other
work on the machine only ever slows things down. "Added" is over the upstream alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import numpy as np

# Of the versions that these machines can install, the newest without known malware.
LITELLM = "litellm[proxy]==1.106.2"
LITELLM_SETTINGS = {
    "model_list": [{"model_name": "m", "litellm_params": {"model": "openai/m", "api_key": "x"}}],
    "litellm_settings": {"telemetry": False, "turn_off_message_logging": True},
    "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
}
CONNECTIONS = (1, 32, 128)
STREAMS = (1, 32)
EVENTS, EVENT_SECONDS = 50, 0.005

USAGE = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x" * 150},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
).encode()
EVENT = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "x" * 4}, "finish_reason": None}],
    }
).encode()
PROMPT = "Explain how a suspension bridge carries its load, with numbers. " * 8
END = b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """Answers every request at once; reads no more of it than its length and whether it streams."""

    def __init__(self) -> None:
        self._held = b""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}"
        self._reply = head.encode() + b"\r\n\r\n" + ANSWER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            if len(self._held) < end + 4 + size:
                return
            body = self._held[end + 4 : end + 4 + size]
            self._held = self._held[end + 4 + size :]
            if b'"stream": true' in body or b'"stream":true' in body:
                self._stream(EVENTS)
            else:
                self._transport.write(self._reply)

    def _stream(self, left: int) -> None:
        """The next event, and a time for the one after it."""
        if left == EVENTS:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
        event = b"data: " + (EVENT if left else b"[DONE]") + b"\n\n"
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event) + (b"" if left else END))
        if left:
            asyncio.get_running_loop().call_later(EVENT_SECONDS, self._stream, left - 1)


async def run_upstream(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


OF_CONNECTION = {b"host", b"connection", b"content-length", b"transfer-encoding"}


def make_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


def ask(
    session: aiohttp.ClientSession, upstream: int, scope: Mapping[str, Any], body: bytes
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """The caller's request, sent on without the headers of its connection."""
    query = scope["query_string"].decode()
    url = f"http://127.0.0.1:{upstream}{scope['path']}{query and '?'}{query}"
    sent = [(n.decode(), v.decode()) for n, v in scope["headers"] if n not in OF_CONNECTION]
    return session.post(url, data=body, headers=sent, allow_redirects=False)


def returned(answer: aiohttp.ClientResponse) -> list[tuple[bytes, bytes]]:
    """Headers that go back; the length of a body that is whole among them."""
    is_whole = "Content-Length" in answer.headers
    left_out = OF_CONNECTION - {b"content-length"} if is_whole else OF_CONNECTION
    return [(n, v) for n, v in answer.raw_headers if n.lower() not in left_out]


def run_bare(port: int, upstream: int) -> None:
    """The least that a pass-through in this stack has to do.

    It sends on the caller's headers and body, and back the upstream's status and headers,
    without those of the connection; nothing is checked, counted or kept.
    """
    session: aiohttp.ClientSession | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] != "http":
            return
        session = session or make_session()
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        async with ask(session, upstream, scope, body) as answer:
            headers = returned(answer)
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            if "Content-Length" in answer.headers:
                await send({"type": "http.response.body", "body": await answer.read()})
                return
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    serve_app(app, port)


def run_framework(port: int, upstream: int) -> None:
    """The same pass-through as one writes it with Starlette: a route, its request and responses."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.routing import Route

    session: aiohttp.ClientSession | None = None

    async def endpoint(request: Request) -> Response:
        nonlocal session
        session = session or make_session()
        asked = ask(session, upstream, request.scope, await request.body())
        answer = await asked.__aenter__()
        response: Response
        if "Content-Length" in answer.headers:
            response = Response(await answer.read(), answer.status)
            await asked.__aexit__(None, None, None)
        else:
            response = StreamingResponse(pieces(asked, answer), answer.status)
        response.raw_headers = returned(answer)
        return response

    async def pieces(
        asked: AbstractAsyncContextManager[aiohttp.ClientResponse], answer: aiohttp.ClientResponse
    ) -> AsyncIterator[bytes]:
        try:
            async for part in answer.content.iter_any():
                yield part
        finally:
            await asked.__aexit__(None, None, None)

    route = Route("/v1/chat/completions", endpoint, methods=["POST"])
    serve_app(Starlette(routes=[route]), port)


def serve_app(app: Any, port: int) -> None:
    import uvicorn

    uvicorn.run(
        app, port=port, log_config=None, access_log=False, loop="uvloop", http="httptools",
        lifespan="off", proxy_headers=False,
    )  # fmt: skip


def request_bytes(port: int, model: str, *, is_stream: bool) -> bytes:
    asked = {"model": model, "messages": [{"role": "user", "content": PROMPT}]}
    body = json.dumps(asked | ({"stream": True} if is_stream else {})).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[float, float]:
    """Send a request, read its answer; seconds to the first byte of the body and to the last."""
    start = time.perf_counter()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert head.startswith(b"http/1.1 200"), head
    if b"chunked" not in head:
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length))
        seconds = time.perf_counter() - start
        return seconds, seconds
    await reader.readuntil(b"data: ")
    first = time.perf_counter() - start
    await reader.readuntil(END)
    return first, time.perf_counter() - start


async def measure(
    port: int, model: str, connections: int, seconds: float, *, is_stream: bool = False
) -> dict[str, float]:
    """Times of requests from `connections` connections, in milliseconds.

    Of streams `p50_ms` and `p99_ms` are to their first event.
    """
    request = request_bytes(port, model, is_stream=is_stream)
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            times.append(1000 * (await exchange(reader, writer, request))[0])
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    p50, p99 = np.quantile(times, [0.5, 0.99])
    rate = len(times) / (time.perf_counter() - start)
    return {"p50_ms": p50, "p99_ms": p99, "per_second": rate, "answers": len(times)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One process that answers at a port."""

    port: int
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A server and the model that it is asked for."""

    name: str
    server: Server
    model: str = "m"


@contextmanager
def started(port: int, command: list[str], folder: Path, **variables: str) -> Iterator[Server]:
    """A server as a process, until the block ends; what it prints goes to a file."""
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **variables}
        )
        try:
            asyncio.run(wait_for(port, process))
            yield Server(port=port, pid=process.pid)
        finally:
            process.terminate()
            process.wait()


async def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1800):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise SystemExit(f"nothing listens at {port}: {process.args!r}")


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, in user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory of a process: now, and its largest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {key: value for key, _, value in (line.partition(":") for line in lines)}
    return {
        "rss_mb": int(sizes["VmRSS"].split()[0]) / 1024,
        "peak_mb": int(sizes["VmHWM"].split()[0]) / 1024,
    }


def gateway_command(folder: Path, port: int, upstream: int, router: Path) -> list[str]:
    settings = {
        "log_level": "warning",
        "store": {"url": "sqlite:///store.db"},
        "policies": {"default": {"router": str(router.resolve())}},
        "upstreams": {"default": {"base_url": f"http://127.0.0.1:{upstream}/v1"}},
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    command = ["-m", "metarouter", "serve", "--config", str(path), "--port", str(port)]
    return [sys.executable, *command]


def litellm_command(folder: Path, port: int, upstream: int, place: Path) -> list[str]:
    """The proxy's command; installs it into an environment in `place` where it is missing."""
    program = place.resolve() / "bin" / "litellm"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", LITELLM]
        subprocess.run(pip, check=True)
    settings = json.loads(json.dumps(LITELLM_SETTINGS))
    settings["model_list"][0]["litellm_params"]["api_base"] = f"http://127.0.0.1:{upstream}/v1"
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return [str(program), "--config", str(path), "--port", str(port), "--num_workers", "1"]


def start_all(stack: ExitStack, arguments: argparse.Namespace) -> list[Case]:
    """Every server, each on a port of its own."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    port = arguments.port
    own = [sys.executable, str(Path(__file__).resolve()), "--upstream", str(port)]

    def start(place: int, command: list[str], **variables: str) -> Server:
        return stack.enter_context(started(place, command, folder, **variables))

    upstream = start(port, [*own, "--role", "upstream", "--port", str(port)])
    bare = start(port + 1, [*own, "--role", "bare", "--port", str(port + 1)])
    framework = start(port + 4, [*own, "--role", "framework", "--port", str(port + 4)])
    gateway = start(port + 2, gateway_command(folder, port + 2, port, arguments.router))
    cases = [
        Case(name="upstream alone", server=upstream),
        Case(name="bare pass-through", server=bare),
        Case(name="pass-through, Starlette", server=framework),
        Case(name="gateway, no decision", server=gateway),
        Case(name="gateway, routed", server=gateway, model="metarouter"),
    ]
    if arguments.litellm is not None:
        command = litellm_command(folder, port + 3, port, arguments.litellm)
        # without these it asks the network for prices, and logs every request
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        litellm = start(port + 3, command, LITELLM_MODE="PRODUCTION", **quiet)
        cases.append(Case(name="LiteLLM proxy", server=litellm))
    return cases


Run = Callable[[], Coroutine[Any, Any, dict[str, float]]]


def with_processor(pid: int, run: Run) -> dict[str, float]:
    """A measurement, and the processor time that one answer took the server."""
    before = processor_seconds(pid)
    row = asyncio.run(run())
    return row | {"cpu_us": 1e6 * (processor_seconds(pid) - before) / row["answers"]}


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All cases, plain and streamed, in interleaved rounds."""
    plan = [(False, n) for n in CONNECTIONS] + [(True, n) for n in STREAMS]
    found: dict[tuple[str, bool, int], list[dict[str, float]]] = {}
    with ExitStack() as stack:
        cases = start_all(stack, arguments)
        for case in cases:
            asyncio.run(measure(case.server.port, case.model, 4, 1.0))  # warm
        for _ in range(arguments.rounds):
            for case in cases:
                for is_stream, connections in plan:

                    async def run(
                        case: Case = case, n: int = connections, is_stream: bool = is_stream
                    ) -> dict[str, float]:
                        return await measure(
                            case.server.port, case.model, n, arguments.seconds, is_stream=is_stream
                        )

                    row = with_processor(case.server.pid, run)
                    found.setdefault((case.name, is_stream, connections), []).append(row)
        memory = {case.name: memory_mb(case.server.pid) for case in cases}
    rows = [
        {"case": name, "is_stream": is_stream, "connections": n, **best(rows)}
        for (name, is_stream, n), rows in found.items()
    ]
    return {"rows": with_added(rows), "memory": memory, "machine": machine()}


def best(rows: list[dict[str, float]]) -> dict[str, float]:
    lowest = {key: min(row[key] for row in rows) for key in ("p50_ms", "p99_ms", "cpu_us")}
    return {**lowest, "per_second": max(row["per_second"] for row in rows)}


def with_added(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what they have above the upstream alone."""
    alone = {
        (row["is_stream"], row["connections"]): row
        for row in rows
        if row["case"] == "upstream alone"
    }
    return [
        row
        | {
            f"added_{key}": row[key] - alone[row["is_stream"], row["connections"]][key]
            for key in ("p50_ms", "p99_ms")
        }
        for row in rows
    ]


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def show(found: Mapping[str, Any]) -> None:
    for row in sorted(found["rows"], key=lambda row: (row["is_stream"], row["connections"])):
        kind = "stream" if row["is_stream"] else "plain"
        print(
            f"{kind:6} c={row['connections']:<4}{row['case']:24}"
            f"p50 {row['p50_ms']:8.2f} (+{row['added_p50_ms']:.2f}) ms  "
            f"p99 {row['p99_ms']:8.2f} (+{row['added_p99_ms']:.2f}) ms  "
            f"{row['per_second']:7.0f}/s  {row['cpu_us']:6.0f} us of processor"
        )
    for name, sizes in found["memory"].items():
        print(f"{name:24} {sizes['rss_mb']:.0f} MB, at most {sizes['peak_mb']:.0f} MB")
    print(f"machine: {found['machine']}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--role", choices=["upstream", "bare", "framework"], help=argparse.SUPPRESS)
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=18800)
    parser.add_argument("--router", type=Path)
    parser.add_argument("--litellm", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.role == "upstream":
        import uvloop

        uvloop.run(run_upstream(arguments.port))
    elif arguments.role == "bare":
        run_bare(arguments.port, arguments.upstream)
    elif arguments.role == "framework":
        run_framework(arguments.port, arguments.upstream)
    elif arguments.router is None:
        parser.error("--router is needed: a folder that `metarouter fit` wrote")
    else:
        found = compare(arguments)
        show(found)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
