"""Whether settings and routers can be swapped under load without a request noticing.

    ./run python experiments/gateway_swaps.py [--seconds 60] [--pause 0.5]
        [--connections 16] [--json out.json]

The gateway runs as a process. Every `pause` seconds its settings' file and its
router are written anew, together, and it gets SIGHUP. There are two sides: the
even ones choose the model cheap, with prices of cost above 0, at one upstream; the
odd ones premium, below 0, at another. Each swap has a router with a time of
fitting and a policy version of its own. A third of the requests are streams, which
last over several swaps. After a third of the swaps the file is broken, which has
to change nothing. The first quarter of the time is calm, for comparison.

A request is *mixed* when its answer, its headers, its row and the upstream that
got it do not all belong to one swap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from gateway_load import Outcome, chat, fit_router, gateway, load
from metarouter.artifact import save_artifact
from metarouter.store.database import open_database
from metarouter.store.tables import decisions
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

MODELS = ("cheap", "premium")


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a run showed; times of answers that are no streams."""

    seconds: float
    requests: int
    swaps: int
    swaps_seen: int
    broken_files: int
    failed: int
    mixed: int
    rows: int
    calm_p50_ms: float
    calm_p99_ms: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Swap:
    """What belongs together."""

    version: str
    created: str
    model: str


def _respond(request: UpstreamRequest) -> UpstreamReply:
    reply = default_reply(request)
    return replace(reply, pause=0.2) if reply.content_type.startswith("text/event") else reply


class Swapper:
    """Writes one swap after the other."""

    def __init__(self, folder: Path, urls: tuple[str, str]) -> None:
        self.folder, self.urls = folder, urls
        self.router = fit_router()
        self.swaps: list[Swap] = []
        self.broken = 0

    @property
    def path(self) -> Path:
        """The settings' file that the process was started with."""
        return self.folder / "gateway.yaml"

    def settings(self) -> dict[str, Any]:
        """Save the next router; the settings that go with it."""
        number = len(self.swaps)
        side = number % 2
        router = self.router.with_policy(w=(1e6 + number) * (1 - 2 * side))
        created = f"swap {number}"
        # a folder of its own: file and router change in one step
        place = self.folder / f"router-{number}"
        save_artifact(replace(router.artifact, created=created), place)
        self.swaps.append(Swap(version=router.policy.version, created=created, model=MODELS[side]))
        return {
            "policies": {"default": {"router": str(place), "models": [MODELS[side]]}},
            "upstreams": {f"side-{side}": {"base_url": self.urls[side]}},
            "log_level": "error",
        }

    def write(self, content: str) -> None:
        """The settings' file anew, in one step."""
        part = self.path.with_suffix(".part")
        part.write_text(content, encoding="utf-8")
        part.replace(self.path)

    def run(self, pid_signal: Any, stop: threading.Event, calm: float, pause: float) -> None:
        """After a calm time, swap until told to stop; a broken file follows every third swap."""
        stop.wait(calm)
        while not stop.wait(pause):
            self.write(json.dumps(self.settings()))
            pid_signal(signal.SIGHUP)
            if len(self.swaps) % 3 == 0 and not stop.wait(pause):
                self.write('{"colour": 1}')
                self.broken += 1
                pid_signal(signal.SIGHUP)


def measure(seconds: float, pause: float, connections: int) -> Findings:
    """Load and swaps for some seconds, and what became of every request."""
    outcomes: list[Outcome] = []
    stop = threading.Event()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [stack.enter_context(FakeUpstream(_respond)) for _ in MODELS]
        swapper = Swapper(folder, (sides[0].url, sides[1].url))
        process, url = stack.enter_context(gateway(folder, swapper.settings()))
        thread = threading.Thread(
            target=swapper.run, args=(process.send_signal, stop, seconds / 4, pause)
        )
        thread.start()
        begun = time.monotonic() + seconds / 4
        end = begun + 3 * seconds / 4
        asyncio.run(
            load(
                url,
                chat,
                connections=connections,
                keep=outcomes.append,
                is_enough=lambda _: time.monotonic() > end,
            )
        )
        stop.set()
        thread.join()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        engine = open_database(f"sqlite:///{folder}/metarouter.db")
        with engine.connect() as connection:
            rows = {
                row.decision_id: row._asdict()
                for row in connection.execute(sa.select(decisions)).all()
            }
        engine.dispose()
        strays = sum(
            f'"{model}"'.encode() not in request.body
            for side, model in zip(sides, MODELS, strict=True)
            for request in side.requests
        )
    known = {swap.version: swap for swap in swapper.swaps}
    good = [outcome for outcome in outcomes if outcome.is_good]
    mixed = sum(not _is_one(outcome, rows, known) for outcome in good)
    short = [outcome for outcome in good if not outcome.is_stream]
    calm = np.array([1000 * (o.ended - o.sent) for o in short if o.ended < begun])
    busy = np.array([1000 * (o.ended - o.sent) for o in short if o.ended >= begun])
    return Findings(
        seconds=seconds,
        requests=len(outcomes),
        swaps=len(swapper.swaps) - 1,
        swaps_seen=len({row["policy_version"] for row in rows.values()}),
        broken_files=swapper.broken,
        failed=len(outcomes) - len(good),
        mixed=mixed + strays,
        rows=len(rows),
        calm_p50_ms=float(np.quantile(calm, 0.5)),
        calm_p99_ms=float(np.quantile(calm, 0.99)),
        p50_ms=float(np.quantile(busy, 0.5)),
        p99_ms=float(np.quantile(busy, 0.99)),
    )


def _is_one(
    outcome: Outcome, rows: Mapping[str, Mapping[str, Any]], known: Mapping[str, Swap]
) -> bool:
    """Whether answer, headers and row are of one swap."""
    row = rows.get(outcome.headers["x-metarouter-decision-id"])
    swap = known.get(outcome.headers["x-metarouter-policy"].partition("@")[2])
    if row is None or swap is None:
        return False
    return (
        row["policy_version"] == swap.version
        and row["artifact"] == swap.created
        and row["model"] == row["answered"] == swap.model
        and outcome.headers["x-metarouter-model"] == swap.model
        and f'"{swap.model}"'.encode() in outcome.body
    )


def main() -> int:
    """Print what a run showed; 1 where a request failed or was mixed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(given.seconds, given.pause, given.connections)
    for name, value in asdict(found).items():
        print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return 0 if found.failed == found.mixed == 0 and found.rows == found.requests else 1


if __name__ == "__main__":
    raise SystemExit(main())
