"""A gateway with made traffic, to try the dashboard on.

    ./run python experiments/dashboard_demo.py

Fits a small router, serves it in front of an upstream that we write, which is
slow at times and fails at times, sends it requests and feedback, and spreads
their times over the last day. Then it serves until Ctrl-C. Nothing in it is real
traffic: it shows what pages look like, not what routing is worth.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import sqlalchemy as sa
import uvicorn

from metarouter.calibration import CalibrationTarget
from metarouter.fitting import FitOptions, fit_table
from metarouter.gateway.app import build_app, load_policies, make_gateway
from metarouter.gateway.settings import read_settings
from metarouter.gateway.state import Gateway
from metarouter.records import ModelSpec
from metarouter.store.tables import decisions
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, make_world
from metarouter.types import FloatArray

CHEAP, PREMIUM = "swift-8b", "atlas-400b"
PRICES = {CHEAP: {"input": 0.1, "output": 0.4}, PREMIUM: {"input": 3.0, "output": 15.0}}
# mean seconds and tokens of an answer; share of requests that fail
_SPEED = {CHEAP: 0.02, PREMIUM: 0.06}
_TOKENS = {CHEAP: 180, PREMIUM: 320}
_FAILS = {CHEAP: 0.01, PREMIUM: 0.03}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt that no router was fitted on, and how good each model's answer to it is."""

    text: str
    scores: Mapping[str, float]


def make_router(folder: Path, *, share: float = 0.4, n: int = 600, seed: int = 3) -> list[Prompt]:
    """Fit a router into `folder`; prompts that it was not fitted on."""
    world = make_world("topic_bias", n_queries=n, n_gold=n // 2, n_test=300, seed=seed)
    table = replace(world.table, models=(CHEAP, PREMIUM))
    prices = {
        name: ModelSpec(
            name=name, input_usd_per_mtok=price["input"], output_usd_per_mtok=price["output"]
        )
        for name, price in PRICES.items()
    }
    options = FitOptions(
        corrector="mean_shift",
        gain_model="ridge",
        embedder="hashed",
        folds=0,
        cost="token",
        prices=prices,
        target=CalibrationTarget(premium_share=share),
    )
    fit_table(table, options).save(folder)
    test = world.test
    scores = zip(test.baseline_score.tolist(), test.candidate_score.tolist(), strict=True)
    return [
        Prompt(text=test.queries[query], scores={CHEAP: cheap, PREMIUM: premium})
        for query, (cheap, premium) in zip(test.query.tolist(), scores, strict=True)
    ]


class Answers:
    """Replies of the upstream: length, delay and faults by model, from one seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - made traffic

    def __call__(self, request: UpstreamRequest) -> UpstreamReply:
        body = json.loads(request.body)
        model, rng = body["model"], self._rng
        wait = _SPEED.get(model, 0.02) * rng.lognormvariate(0.0, 0.5)
        if rng.random() < _FAILS.get(model, 0.0):
            error = {"error": {"message": "overloaded", "type": "server_error"}}
            return UpstreamReply(status=503, pieces=[json.dumps(error).encode()], wait=wait)
        prompt = str(body["messages"][-1]["content"])
        tokens = int(_TOKENS.get(model, 100) * rng.lognormvariate(0.0, 0.6))
        text = f"{model} says: {_SENTENCES[len(prompt) % len(_SENTENCES)]}"
        return _reply(body, model, text, len(prompt) // 4, tokens, wait)


_SENTENCES = (
    "It depends on what has to be kept fixed; here is the shortest way that works in every case.",
    "Begin with the simplest example, check it by hand, and only then write the general form.",
    "There are two common reasons. The first is easy to test, so test it before anything else.",
)


def _reply(
    body: dict[str, Any], model: str, text: str, prompt: int, tokens: int, wait: float
) -> UpstreamReply:
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
    head = {"id": "chatcmpl-made", "created": 1, "model": model}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
        return UpstreamReply(pieces=[json.dumps(answer).encode()], wait=wait)
    chunk = {**head, "object": "chat.completion.chunk"}
    deltas = [{"content": word + " "} for word in text.split()]
    events = [
        {**chunk, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas
    ]
    events.append({**chunk, "choices": [], "usage": usage})
    pieces = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    pieces.append(b"data: [DONE]\n\n")
    return UpstreamReply(
        pieces=pieces, content_type="text/event-stream; charset=utf-8", wait=wait, pause=0.03
    )


@contextmanager
def served(settings: dict[str, Any]) -> Iterator[tuple[Gateway, str]]:
    """A gateway in a thread of this process, and its address."""
    checked = read_settings(None, settings)
    gateway = make_gateway(checked, load_policies(checked))
    config = uvicorn.Config(
        build_app(gateway),
        port=checked.port,
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield gateway, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A request that got an answer."""

    decision_id: str
    model: str
    prompt: Prompt


def send_traffic(
    url: str, prompts: Sequence[Prompt], n: int, *, seed: int = 0, model: str = "metarouter"
) -> list[Sent]:
    """Send `n` requests, sixteen at a time."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(prompts), size=n)
    streamed = rng.random(n) < 0.3

    with httpx2.Client(base_url=url, timeout=30.0) as client:

        def send(number: int) -> Sent:
            prompt = prompts[chosen[number]]
            message = {"role": "user", "content": prompt.text}
            body = {"model": model, "messages": [message], "stream": bool(streamed[number])}
            headers = client.post("/v1/chat/completions", json=body).headers
            return Sent(
                decision_id=headers.get("x-metarouter-decision-id", ""),
                model=headers.get("x-metarouter-model", ""),
                prompt=prompt,
            )

        with ThreadPoolExecutor(16) as pool:
            return [sent for sent in pool.map(send, range(n)) if sent.decision_id]


def send_feedback(url: str, sent: Sequence[Sent], *, seed: int = 0) -> None:
    """Thumbs, scores and preferences of users who like the premium model too well; audits."""
    rng = np.random.default_rng(seed)
    with httpx2.Client(base_url=url, timeout=30.0) as client:
        for one in sent:
            for content in _said(one, rng):
                client.post("/v1/feedback", json={"decision_id": one.decision_id, **content})


def _said(sent: Sent, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    scores = sent.prompt.scores
    quality = scores.get(sent.model, 0.5)
    if rng.random() < (0.3 if sent.model == PREMIUM else 0.18):
        yield {"type": "thumbs", "value": "up" if rng.random() < quality else "down"}
    if rng.random() < 0.1:
        score = float(np.clip(quality + 0.08 + rng.normal(0, 0.15), 0, 1))
        yield {"type": "score", "value": round(score, 2)}
    if rng.random() < 0.12:
        felt = scores[PREMIUM] - scores[CHEAP] + 0.15 + rng.normal(0, 0.3)
        winner = "tie" if abs(felt) < 0.1 else "model_a" if felt > 0 else "model_b"
        yield {"type": "preference", "model_a": PREMIUM, "model_b": CHEAP, "winner": winner}
    if rng.random() < 0.25:
        yield {"type": "gold", "scores": {name: round(s, 3) for name, s in scores.items()}}


def flush(gateway: Gateway, n: int) -> None:
    """Wait until `n` decisions are in the store."""
    end = time.monotonic() + 60
    while gateway.writer.written < n and time.monotonic() < end:
        time.sleep(0.05)


def spread(gateway: Gateway, seconds: float, *, seed: int = 0) -> None:
    """Move the decisions to times of the last `seconds`, more of them lately and by day."""
    rng = np.random.default_rng(seed)
    with gateway.engine.begin() as connection:
        names = [row[0] for row in connection.execute(sa.select(decisions.c.decision_id))]
        ages = _ages(rng, len(names), seconds)
        update = sa.update(decisions).where(decisions.c.decision_id == sa.bindparam("name"))
        rows = [
            {"name": name, "moment": time.time() - age}
            for name, age in zip(names, ages.tolist(), strict=True)
        ]
        connection.execute(update.values(created=sa.bindparam("moment")), rows)


def _ages(rng: np.random.Generator, n: int, seconds: float) -> FloatArray:
    drawn = rng.uniform(0, seconds, size=20 * n)
    busy = 0.55 + 0.45 * np.cos(2 * np.pi * drawn / 86_400)
    return np.asarray(drawn[rng.random(len(drawn)) < busy][:n])


def fill(
    gateway: Gateway, url: str, prompts: Sequence[Prompt], n: int, *, seconds: float = 86_400
) -> list[Sent]:
    """Requests of the last `seconds`, and feedback on them."""
    sent = send_traffic(url, prompts, n - n // 3)
    sent += send_traffic(url, prompts, n // 3, seed=1, model="metarouter:trial")
    send_feedback(url, sent)
    flush(gateway, len(sent))
    spread(gateway, seconds)
    return sent


@contextmanager
def demo(folder: Path, **settings: Any) -> Iterator[tuple[Gateway, str, list[Prompt]]]:
    """The gateway of the demonstration, its address and the prompts for it."""
    prompts = make_router(folder / "router")
    make_router(folder / "bolder", share=0.6)
    names = {CHEAP: CHEAP, PREMIUM: PREMIUM}
    with FakeUpstream(Answers()) as upstream:
        place = {"base_url": upstream.url, "models": names, "first_pause": 0.01}
        given = {
            "upstreams": {"main": place, "spare": {**place, "attempts": 1}},
            "policies": {
                "default": {
                    "router": folder / "router",
                    "shadow": ["bolder"],
                    "exploration": 0.1,
                },
                "bolder": {"router": folder / "bolder"},
            },
            "splits": {"trial": {"arms": {"default": 0.5, "bolder": 0.5}, "by": "request"}},
            "fallbacks": {PREMIUM: [CHEAP]},
            "prices": PRICES,
            "log_level": "error",
            **settings,
        }
        own = {"url": f"sqlite:///{folder}/demo.db", "spill": folder / "spill", "prompts": True}
        given["store"] = own | settings.get("store", {})
        with served(given) as (gateway, url):
            yield gateway, url, prompts


def main() -> None:
    """Serve the demonstration until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        demo(Path(folder), port=given.port) as (gateway, url, prompts),
    ):
        fill(gateway, url, prompts, given.requests)
        print(f"{url}/dashboard")
        with suppress(KeyboardInterrupt):
            while True:
                send_traffic(url, prompts, 8)
                time.sleep(2)


if __name__ == "__main__":
    main()
