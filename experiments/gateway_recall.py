"""Whether conversations that change their process at every turn stay where they are.

    ./run python experiments/gateway_recall.py [--conversations 300] [--postgres]

Two gateways run as processes over one store, in front of one upstream that gives
every response an id of its own. A conversation begins at either of them, with a
price of cost that makes the router choose premium. Its next four turns go to the two
by turns, each as soon as the last was answered, with a price that makes the router
choose cheap. A turn is *kept* where premium answers it: the process that got it
knew who held the response before. Eight conversations run at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from gateway_load import fit_router, gateway
from metarouter.testing import (
    FakeUpstream,
    PostgresServer,
    UpstreamReply,
    UpstreamRequest,
    default_reply,
)

PREMIUM, CHEAP = -1e6, 1e6
TURNS, AT_ONCE = 4, 8

_NUMBERS = count()


def reply(request: UpstreamRequest) -> UpstreamReply:
    """The usual answer, with an id of its own."""
    name = f"resp_n{next(_NUMBERS)}".encode()
    return UpstreamReply(pieces=[p.replace(b"resp_1", name) for p in default_reply(request).pieces])


async def converse(client: httpx2.AsyncClient, urls: list[str], number: int) -> list[Any]:
    """One conversation: for each later turn whether it was kept, and its seconds."""
    found: list[Any] = []
    previous: str | None = None
    for turn in range(TURNS + 1):
        body = {
            "model": "metarouter",
            "input": f"Question {number}, part {turn}",
            "metarouter": {"w": CHEAP if turn else PREMIUM},
            **({"previous_response_id": previous} if previous else {}),
        }
        start = time.monotonic()
        answer = await client.post(f"{urls[(number + turn) % 2]}/responses", json=body)
        answer.raise_for_status()
        if turn:
            is_kept = answer.headers["x-metarouter-model"] == "premium"
            found.append((is_kept, time.monotonic() - start))
        previous = answer.json()["id"]
    return found


async def measure(urls: list[str], conversations: int) -> list[Any]:
    """All conversations, some at a time."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with httpx2.AsyncClient(timeout=60) as client:

        async def one(number: int) -> list[Any]:
            async with gate:
                return await converse(client, urls, number)

        found = await asyncio.gather(*map(one, range(conversations)))
    return [turn for turns in found for turn in turns]


def main() -> None:
    """Print how many turns were kept, and how long they took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--conversations", type=int, default=300)
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fit_router().save(folder / "router")
        url = f"sqlite:///{folder / 'store.db'}"
        if given.postgres:
            url = stack.enter_context(PostgresServer()).make_database()
        upstream = stack.enter_context(FakeUpstream(reply))
        settings = {
            "upstreams": {"main": {"base_url": upstream.url}},
            "policies": {"default": {"router": str(folder / "router")}},
            "store": {"url": url, "spill": str(folder / "spill")},
        }
        urls = [stack.enter_context(gateway(folder, settings))[1] for _ in range(2)]
        found = asyncio.run(measure(urls, given.conversations))
    kept = sum(is_kept for is_kept, _ in found)
    times = 1000 * np.array([seconds for _, seconds in found])
    p50, p99 = np.percentile(times, [50, 99])
    shown = {"turns": len(found), "kept": kept, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
