"""Whether the gateway's memory stays flat under hours of mixed load.

    ./run python experiments/gateway_soak.py --minutes 60 [--rate 50] [--json out.json]

Routed requests of three protocols, plain and streamed, some with a model's name,
some that fail at the upstream, and feedback on every tenth decision, at a steady
rate. Resident memory of the gateway's process is read every five seconds. After
the first fifth, which fills what is bounded (remembered conversations, buffers,
the database's cache), the rest is cut into twelve blocks, and a line is fitted
through their means: means of blocks are nearly independent, single readings are
not. Memory is flat when the upper end of the slope's 95 % interval is below
2 MB an hour, so that a short or noisy run shows nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from scipy.stats import linregress
from scipy.stats import t as student

from gateway_load import Outcome, chat, fit_router, gateway, load, resident_mb
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

EVERY = 5.0  # seconds between two readings
WARM_UP, BLOCKS = 0.2, 12
CONNECTIONS = 16
FLAT = 2.0  # MB an hour


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a run showed; the slope is of resident memory, with its 95 % interval."""

    minutes: float
    requests: int
    by_status: dict[str, int]
    feedback: int
    first_mb: float
    after_warm_up_mb: float
    last_mb: float
    slope_mb_per_hour: float
    slope_low: float
    slope_high: float
    is_flat: bool


def make(number: int) -> tuple[str, dict[str, Any]]:
    """Requests of every kind, in turn."""
    path, body = chat(number)
    if number % 10 == 1:
        return path, body | {"model": "cheap"}
    if number % 10 == 2:
        return "messages", {**body, "max_tokens": 9}
    if number % 10 == 4:
        return "responses", {"model": "metarouter", "input": body["messages"][0]["content"]}
    if number % 10 == 5:
        return "embeddings", {"model": "embedder", "input": "birds"}
    return path, body


def reply(request: UpstreamRequest) -> UpstreamReply:
    """Of a hundred requests one is refused and one fails, however often it is tried."""
    number = int(request.header("x-number") or 0)
    if number % 100 == 50:
        return UpstreamReply(pieces=[b'{"error": {}}'], status=400)
    if number % 100 == 51:
        return UpstreamReply(pieces=[b'{"error": {}}'], status=500)
    return default_reply(request)


async def soak(
    url: str, upstream: FakeUpstream, pid: int, seconds: float, rate: float
) -> tuple[list[tuple[float, float]], Counter[str], int]:
    """Readings as (seconds, MB), answers by status, and how much feedback was taken."""
    start = time.monotonic()
    readings: list[tuple[float, float]] = []
    statuses: Counter[str] = Counter()
    decided: list[str] = []
    taken = 0

    def keep(outcome: Outcome) -> None:
        statuses[str(outcome.status)] += 1
        if outcome.number % 10 == 0 and outcome.status == 200:
            decided.append(outcome.headers["x-metarouter-decision-id"])

    async def watch() -> None:
        nonlocal taken
        while time.monotonic() - start < seconds:
            await asyncio.sleep(EVERY)
            readings.append((time.monotonic() - start, resident_mb(pid)))
            upstream.requests.clear()
            async with aiohttp.ClientSession() as session:
                while decided:
                    statement = {"type": "thumbs", "decision_id": decided.pop(), "value": "up"}
                    async with session.post(f"{url}/feedback", json=statement) as answer:
                        taken += answer.status < 300

    asking = load(
        url,
        make,
        connections=CONNECTIONS,
        keep=keep,
        is_enough=lambda number: time.monotonic() - start > seconds,
        pause=lambda: asyncio.sleep(CONNECTIONS / rate),
    )
    await asyncio.gather(asking, watch())
    return readings, statuses, taken


def slope(readings: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """MB an hour after the warm-up, and the ends of its 95 % interval."""
    kept = np.array(readings[int(WARM_UP * len(readings)) :])
    blocks = np.array([block.mean(axis=0) for block in np.array_split(kept, BLOCKS)])
    line = linregress(blocks[:, 0] / 3600, blocks[:, 1])
    margin = student.ppf(0.975, BLOCKS - 2) * line.stderr
    return float(line.slope), float(line.slope - margin), float(line.slope + margin)


def measure(minutes: float, rate: float) -> Findings:
    """Run the gateway as a process under load for a while."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fit_router().save(folder / "router")
        upstream = stack.enter_context(FakeUpstream(reply))
        settings = {
            "upstreams": {"main": {"base_url": upstream.url, "dialect": "any"}},
            "policies": {"default": {"router": "router"}},
        }
        process, url = stack.enter_context(gateway(folder, settings))
        readings, statuses, taken = asyncio.run(
            soak(url, upstream, process.pid, 60 * minutes, rate)
        )
    estimate, low, high = slope(readings)
    return Findings(
        minutes=minutes,
        requests=sum(statuses.values()),
        by_status=dict(statuses),
        feedback=taken,
        first_mb=readings[0][1],
        after_warm_up_mb=readings[int(WARM_UP * len(readings))][1],
        last_mb=readings[-1][1],
        slope_mb_per_hour=estimate,
        slope_low=low,
        slope_high=high,
        is_flat=high < FLAT,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second, about")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.minutes, arguments.rate)
    text = json.dumps(asdict(found), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
