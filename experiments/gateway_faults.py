"""How many requests succeed while one try in ten fails at the upstreams.

    ./run python experiments/gateway_faults.py [--requests 20000] [--connections 32]
        [--share 0.1] [--json out.json]

Two upstreams serve the same models. Each try draws, independently, a fault with
the given share, in equal parts: a time-out (no answer until the gateway gives
up), a reset connection, status 429, status 500, a broken answer. A broken answer
is cut in its body; of streams, every second one before its first event and every
second one after it. A third of the requests are streams.

A request *can succeed* unless the fault came after its first byte was delivered:
only streams that broke after an event cannot, because nothing may be sent twice
then. Every other one counts, also where all tries that the settings allow drew a
fault. Nothing is sent twice: no upstream gets a request after the caller has
bytes of its answer, seen by the request's number and one clock.
The interval is Clopper and Pearson's, 95 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from gateway_load import Outcome, chat, fit_router, gateway, load
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

KINDS = ("timeout", "reset", "rate_limit", "error", "broken")
HANGS = 60.0  # seconds, longer than the gateway waits


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a run showed; shares with their 95 % intervals."""

    requests: int
    tries: int
    faults: dict[str, int]
    broken_after_first_byte: int
    can_succeed: int
    succeeded: int
    share: float
    share_low: float
    share_high: float
    sent_twice: int
    wrong_bytes: int
    failures: dict[str, int]
    p50_ms: float
    p99_ms: float


class Faulty:
    """Replies of upstreams that fail as drawn."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._rng = random.Random(seed)  # noqa: S311 - faults, not secrets
        self._lock = threading.Lock()
        self.drawn: Counter[str] = Counter()
        self.broken_late: set[int] = set()

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        good = default_reply(request)
        with self._lock:
            if self._rng.random() >= self._share:
                return good
            kind = self._rng.choice(KINDS)
            is_late = self._rng.random() < 0.5
            self.drawn[kind] += 1
            if kind == "broken" and is_late and len(good.pieces) > 1:
                self.broken_late.add(int(request.header("x-number") or -1))
        return _failed(kind, good, is_late=is_late)


def _failed(kind: str, good: UpstreamReply, *, is_late: bool) -> UpstreamReply:
    body = [b'{"error": {"message": "fault"}}']
    if kind == "timeout":
        return UpstreamReply(pieces=good.pieces, content_type=good.content_type, wait=HANGS)
    if kind == "reset":
        return UpstreamReply(pieces=[], is_reset=True)
    if kind == "rate_limit":
        return UpstreamReply(pieces=body, status=429, headers=[("Retry-After", "0")])
    if kind == "error":
        return UpstreamReply(pieces=body, status=500)
    pieces = good.pieces if is_late or len(good.pieces) == 1 else []
    return UpstreamReply(pieces=pieces, content_type=good.content_type, is_cut=True)


def settings_for(urls: Sequence[str], router: Path, patience: float) -> dict[str, Any]:
    """A gateway over all upstreams that gives a try up after `patience` seconds."""
    place = {"total_timeout": patience, "first_pause": 0.02, "attempts": 3}
    return {
        "upstreams": {f"u{i}": {"base_url": url, **place} for i, url in enumerate(urls)},
        "policies": {"default": {"router": str(router)}},
    }


def findings(
    outcomes: Sequence[Outcome], upstreams: Sequence[FakeUpstream], faulty: Faulty
) -> Findings:
    """Count what came of every request."""
    arrivals: dict[int, list[float]] = defaultdict(list)
    for upstream in upstreams:
        for request in upstream.requests:
            arrivals[int(request.header("x-number") or -1)].append(request.arrived)
    late = {o.number for o in outcomes if o.number in faulty.broken_late and not o.is_good}
    able = [o for o in outcomes if o.number not in late]
    good = [o for o in able if o.is_good]
    twice = [o for o in outcomes if o.first and max(arrivals[o.number], default=0.0) > o.first]
    test = binomtest(len(good), len(able)).proportion_ci(method="exact")
    times = 1000 * np.array([o.ended - o.sent for o in good])
    return Findings(
        requests=len(outcomes),
        tries=sum(map(len, arrivals.values())),
        faults=dict(faulty.drawn),
        broken_after_first_byte=len(late),
        can_succeed=len(able),
        succeeded=len(good),
        share=len(good) / len(able),
        share_low=float(test.low),
        share_high=float(test.high),
        sent_twice=len(twice),
        wrong_bytes=sum(not _is_as_sent(o) for o in good),
        failures=dict(Counter(str(o.status) for o in able if not o.is_good)),
        p50_ms=float(np.quantile(times, 0.5)),
        p99_ms=float(np.quantile(times, 0.99)),
    )


def _is_as_sent(outcome: Outcome) -> bool:
    """Whether a good answer is the upstream's own, byte for byte."""
    model = outcome.headers["x-metarouter-model"]
    body = json.dumps({"model": model, "stream": outcome.is_stream}).encode()
    path = "/v1/chat/completions"
    asked = UpstreamRequest(method="POST", path=path, headers=[], body=body)
    return outcome.body == b"".join(default_reply(asked).pieces)


def measure(
    requests: int, connections: int, share: float, *, patience: float = 3.0, seed: int = 0
) -> Findings:
    """Run the gateway as a process between load and two upstreams that fail."""
    faulty = Faulty(share, seed)
    outcomes: list[Outcome] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fit_router().save(folder / "router")
        upstreams = [stack.enter_context(FakeUpstream(faulty)) for _ in range(2)]
        settings = settings_for(
            [upstream.url for upstream in upstreams], folder / "router", patience
        )
        _, url = stack.enter_context(gateway(folder, settings))
        asyncio.run(
            load(
                url,
                chat,
                connections=connections,
                keep=outcomes.append,
                is_enough=lambda number: number >= requests,
            )
        )
        return findings(outcomes, upstreams, faulty)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.requests, arguments.connections, arguments.share, seed=arguments.seed)
    text = json.dumps(asdict(found), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
