"""Whether settings and routers can be swapped under load without a request noticing.

    ./run python experiments/gateway_swaps.py [--swaps 85] [--pause 0.5] [--calm 10]
        [--connections 16] [--json out.json]

The gateway runs as a process. Every `pause` seconds its settings' file and its
router are written anew, together, and it gets SIGHUP. There are two sides: the
even ones choose the model cheap, with prices of cost above 0, at one upstream; the
odd ones premium, below 0, at another. Each swap has a router with a time of
fitting and a policy version, names that the upstream knows its models by, and a
header for the upstream, all of its own. A third of the requests are streams, which
last over several swaps. After a third of the swaps the file is broken, which has
to change nothing. The first seconds are calm, for comparison.

A request is *mixed* when its answer, its headers, its row, the upstream that got
it and what that got do not all belong to one swap.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
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

    @property
    def sent(self) -> str:
        """What the upstream calls the model."""
        return f"{self.model}-{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How much of what; times in seconds."""

    swaps: int = 85
    pause: float = 0.5
    calm: float = 10.0
    connections: int = 16


def _respond(request: UpstreamRequest) -> UpstreamReply:
    """The usual answer, slow where it is a stream, with the header that the request came with."""
    seen = [("x-seen", request.header("x-swap") or "")]
    reply = replace(default_reply(request), headers=seen)
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
        swap = Swap(version=router.policy.version, created=created, model=MODELS[side])
        self.swaps.append(swap)
        upstream = {
            "base_url": self.urls[side],
            "models": {swap.model: swap.sent},
            "headers": {"x-swap": created},
        }
        return {
            "policies": {"default": {"router": str(place), "models": [swap.model]}},
            "upstreams": {f"side-{side}": upstream},
            "log_level": "error",
        }

    def write(self, content: str) -> None:
        """The settings' file anew, in one step."""
        part = self.path.with_suffix(".part")
        part.write_text(content, encoding="utf-8")
        part.replace(self.path)

    def run(self, process: subprocess.Popen[str], options: Options) -> None:
        """After a calm time, all swaps; a broken file follows every third."""
        time.sleep(options.calm)
        for number in range(options.swaps):
            self.write(json.dumps(self.settings()))
            process.send_signal(signal.SIGHUP)
            time.sleep(options.pause)
            if number % 3 == 2:
                self.write('{"colour": 1}')
                self.broken += 1
                process.send_signal(signal.SIGHUP)
                time.sleep(options.pause)


def measure(options: Options) -> Findings:
    """Load while all is swapped, and what became of every request."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [stack.enter_context(FakeUpstream(_respond)) for _ in MODELS]
        swapper = Swapper(folder, (sides[0].url, sides[1].url))
        process, url = stack.enter_context(gateway(folder, swapper.settings()))
        begun = time.monotonic()
        outcomes = asyncio.run(_swap_under_load(url, process, swapper, options))
        seconds = time.monotonic() - begun
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        rows = _rows(f"sqlite:///{folder}/metarouter.db")
        strays = sum(
            f'"{model}-'.encode() not in request.body
            for side, model in zip(sides, MODELS, strict=True)
            for request in side.requests
        )
    known = {swap.version: swap for swap in swapper.swaps}
    good = [outcome for outcome in outcomes if outcome.is_good]
    return Findings(
        seconds=seconds,
        requests=len(outcomes),
        swaps=len(swapper.swaps) - 1,
        swaps_seen=len({row["policy_version"] for row in rows.values()}) - 1,
        broken_files=swapper.broken,
        failed=len(outcomes) - len(good),
        mixed=strays + sum(not is_of_one_swap(outcome, rows, known) for outcome in good),
        rows=len(rows),
        **_times([outcome for outcome in good if not outcome.is_stream], begun + options.calm),
    )


async def _swap_under_load(
    url: str, process: subprocess.Popen[str], swapper: Swapper, options: Options
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    swapping = asyncio.ensure_future(asyncio.to_thread(swapper.run, process, options))
    await load(
        url,
        chat,
        connections=options.connections,
        keep=outcomes.append,
        is_enough=lambda _: swapping.done(),
    )
    await swapping
    return outcomes


def _rows(url: str) -> dict[str, dict[str, Any]]:
    engine = open_database(url)
    with engine.connect() as connection:
        found = connection.execute(sa.select(decisions)).all()
    engine.dispose()
    return {row.decision_id: row._asdict() for row in found}


def _times(outcomes: Sequence[Outcome], begun: float) -> dict[str, float]:
    """Quantiles of the times of answers before and after swaps began."""
    calm = [1000 * (one.ended - one.sent) for one in outcomes if one.ended < begun]
    busy = [1000 * (one.ended - one.sent) for one in outcomes if one.ended >= begun]
    return {
        f"{prefix}p{percent}_ms": float(np.percentile(times, percent)) if times else math.nan
        for prefix, times in (("calm_", calm), ("", busy))
        for percent in (50, 99)
    }


def is_of_one_swap(
    outcome: Outcome, rows: Mapping[str, Mapping[str, Any]], known: Mapping[str, Swap]
) -> bool:
    """Whether answer, headers, row, and what the upstream got are of one swap."""
    row = rows.get(outcome.headers["x-metarouter-decision-id"])
    swap = known.get(outcome.headers["x-metarouter-policy"].partition("@")[2])
    if row is None or swap is None:
        return False
    return (
        row["policy_version"] == swap.version
        and row["artifact"] == swap.created
        and row["model"] == row["answered"] == swap.model
        and outcome.headers["x-metarouter-model"] == swap.model
        and outcome.headers["x-seen"] == swap.created
        and f'"{swap.sent}"'.encode() in outcome.body
    )


def main() -> int:
    """Print what a run showed; 1 where a request failed or was mixed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in asdict(Options()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = measure(Options(**{name: getattr(given, name) for name in asdict(Options())}))
    for name, value in asdict(found).items():
        print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return 0 if found.failed == found.mixed == 0 and found.rows == found.requests else 1


if __name__ == "__main__":
    raise SystemExit(main())
