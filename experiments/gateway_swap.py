"""Settings and router of a running gateway swapped under load: nothing fails, nothing is mixed.

    ./run python experiments/gateway_swap.py [--swaps 20] [--connections 32] [--seconds 1]
        [--json out.json]

Two generations differ in everything that a request could take from either: the
router (one always says premium, the other cheap), the policy's version, the names
that the upstream knows the models by, and a header that the upstream gets. Every
`seconds`, settings file and router folder are replaced and the gateway gets a
SIGHUP. An answer is mixed unless all four of its traces are of one generation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway_load import Outcome, chat, fit_router, gateway, load
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

GENERATIONS = {"a": (-1e6, "premium"), "b": (1e6, "cheap")}
"""Price of cost of each generation, and the model that it makes the router choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a run showed."""

    requests: int
    swaps: int
    swaps_seen: int
    by_generation: dict[str, int]
    failed: int
    mixed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How much of what."""

    swaps: int = 20
    connections: int = 32
    seconds: float = 1.0


def reply(request: UpstreamRequest) -> UpstreamReply:
    """The usual answer, with the header that the request came with."""
    return replace(
        default_reply(request), headers=[("x-seen", request.header("x-generation") or "")]
    )


def settings_for(name: str, url: str) -> dict[str, Any]:
    models = {model: f"{model}-{name}" for model in ("cheap", "premium")}
    place = {"base_url": url, "models": models, "headers": {"x-generation": name}}
    return {
        "log_level": "error",
        "upstreams": {"main": place},
        "policies": {"default": {"router": "router"}},
    }


def put_in_place(folder: Path, name: str, url: str) -> None:
    """The router and the settings of a generation, each replaced in one step."""
    link = folder / "next"
    link.symlink_to(folder / name)
    link.replace(folder / "router")
    path = folder / "next.yaml"
    path.write_text(json.dumps(settings_for(name, url)), encoding="utf-8")
    path.replace(folder / "gateway.yaml")


def traces(outcome: Outcome, versions: Mapping[str, str]) -> set[str]:
    """Generations that an answer shows traces of."""
    headers = outcome.headers
    named = re.search(rb'"model": "\w+-(\w)"', outcome.body)
    version = headers.get("x-metarouter-policy", "").partition("@")[2]
    chosen = headers.get("x-metarouter-model", "")
    return {
        "none" if named is None else named[1].decode(),
        headers.get("x-seen", "none"),
        next((name for name, known in versions.items() if known == version), version),
        next((name for name, (_, model) in GENERATIONS.items() if model == chosen), chosen),
    }


async def swap_under_load(
    folder: Path, url: str, upstream: str, process: subprocess.Popen[str], options: Options
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    is_over = False

    async def swap() -> None:
        nonlocal is_over
        await asyncio.sleep(options.seconds)
        for number in range(options.swaps):
            put_in_place(folder, "ba"[number % 2], upstream)
            process.send_signal(signal.SIGHUP)
            await asyncio.sleep(options.seconds)
        is_over = True

    asking = load(
        url,
        chat,
        connections=options.connections,
        keep=outcomes.append,
        is_enough=lambda number: is_over,
    )
    await asyncio.gather(asking, swap())
    return outcomes


def measure(options: Options) -> Findings:
    """Run the gateway as a process and swap what it serves by."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        router = fit_router()
        versions = {}
        for name, (w, _) in GENERATIONS.items():
            priced = router.with_policy(w=w)
            priced.save(folder / name)
            versions[name] = priced.policy.version
        upstream = stack.enter_context(FakeUpstream(reply))
        put_in_place(folder, "a", upstream.url)
        process, url = stack.enter_context(gateway(folder, settings_for("a", upstream.url)))
        found = asyncio.run(swap_under_load(folder, url, upstream.url, process, options))
    seen = [traces(outcome, versions) for outcome in found if outcome.is_good]
    order = ["".join(sorted(each)) for each in seen]
    return Findings(
        requests=len(found),
        swaps=options.swaps,
        swaps_seen=_changes(found, versions),
        by_generation=dict(Counter(order)),
        failed=sum(not outcome.is_good for outcome in found),
        mixed=sum(len(each) > 1 for each in seen),
    )


def _changes(outcomes: list[Outcome], versions: Mapping[str, str]) -> int:
    """How often the generation changed, in the order in which requests were sent.

    Requests sent within a few milliseconds may be taken up in another order, so a
    change counts once 20 requests in a row have the other generation.
    """
    order = [min(traces(o, versions)) for o in sorted(outcomes, key=lambda o: o.sent) if o.is_good]
    current, run, changes = "a", 0, 0
    for name in order:
        run = 0 if name == current else run + 1
        if run == 20:
            current, run, changes = name, 0, changes + 1
    return changes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(
        Options(swaps=arguments.swaps, connections=arguments.connections, seconds=arguments.seconds)
    )
    text = json.dumps(asdict(found), indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
