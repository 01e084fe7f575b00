"""Work that no answer waits for, and the rows that wait for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway_makers import HELLO, Served

from metarouter.gateway.aside import Aside
from metarouter.gateway.deciding import Decided, ServedPolicy


def test_what_waits_is_bounded_and_done_before_closing() -> None:
    """Past the limit nothing is taken; what was taken is done when `close` returns."""
    aside, gate, done = Aside(limit=3, threads=1), threading.Event(), []

    def work() -> None:
        gate.wait(5)
        done.append(1)

    assert [aside.submit(work) for _ in range(5)] == [True] * 3 + [False] * 2
    gate.set()
    aside.close()
    assert len(done) == 3
    assert not aside.submit(work)


def test_work_that_fails_gives_its_place_back() -> None:
    def fail() -> None:
        raise ValueError("no")

    aside = Aside(limit=1, threads=1)
    for _ in range(3):
        end = time.monotonic() + 5
        while not aside.submit(fail) and time.monotonic() < end:
            time.sleep(0.01)
        assert time.monotonic() < end
    aside.close()


class _SlowFeatures:
    """Features that another machine would make: late, or not at all."""

    endpoints = ()

    def __init__(self, features: Any, gate: threading.Event) -> None:
        self._features, self._gate = features, gate

    def transform(self, texts: list[str]) -> Any:
        if not self._gate.wait(10):
            raise TimeoutError("the features never came")
        return self._features.transform(texts)


def _slow(policy: ServedPolicy, gate: threading.Event) -> ServedPolicy:
    features: Any = _SlowFeatures(policy.router.features, gate)
    return replace(policy, router=replace(policy.router, features=features))


def _with_shadow(serve: Callable[..., Served], router: Path, gate: threading.Event) -> Served:
    policies = {
        "current": {"router": str(router), "shadow": ["candidate"]},
        "candidate": {"router": str(router), "w": -1e6},
    }
    served = serve(policies=policies)
    current = served.gateway.current
    slow = {**current.policies, "candidate": _slow(current.policies["candidate"], gate)}
    served.gateway.current = replace(current, policies=slow)
    return served


def test_a_slow_shadow_delays_its_row_and_no_answer(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Answers come while shadows hang; rows follow when they have decided."""
    gate = threading.Event()
    served = _with_shadow(serve, router_folder, gate)
    for _ in range(5):
        assert served.post("/v1/chat/completions", HELLO).status_code == 200
    assert served.rows() == []
    gate.set()
    end = time.monotonic() + 10
    while len(rows := served.rows()) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    assert [row["shadow"][0]["model"] for row in rows] == ["premium"] * 5


def test_no_row_is_lost_where_shadows_are_late_at_the_end(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """When the gateway stops, what no shadow has seen yet is kept without."""
    gate = threading.Event()
    served = _with_shadow(serve, router_folder, gate)
    for _ in range(6):
        served.post("/v1/chat/completions", HELLO)
    closing = threading.Thread(target=served.gateway.aside.close)
    closing.start()
    time.sleep(0.1)
    gate.set()
    closing.join(10)
    shadows = [row["shadow"] for row in served.rows()]
    assert len(shadows) == 6
    assert shadows.count(None) == 4  # two were being decided
    assert served.post("/v1/chat/completions", HELLO).status_code == 200
    assert len(served.rows()) == 7


def test_propensities_that_an_arm_cannot_give_are_unknown(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """The row says so with null, and has the probability of its own arm and model."""
    policies = {
        name: {"router": str(router_folder), "w": w}
        for name, w in (("current", 1e6), ("candidate", -1e6))
    }
    arms = {"current": 0.999999, "candidate": 0.000001}
    splits = {"ab": {"arms": arms, "by": "request"}}
    served = serve(policies=policies, splits=splits, log_level="error")
    current = served.gateway.current
    broken: Any = _BrokenPolicy(current.policies["candidate"])
    served.gateway.current = replace(current, policies={**current.policies, "candidate": broken})
    body = HELLO.replace(b"metarouter", b"metarouter:ab")
    assert served.post("/v1/chat/completions", body).status_code == 200
    [row] = served.rows()
    assert row["propensities"] is None
    assert row["logging_propensity"] == 0.999999
    assert 'metarouter_aside_total{outcome="failed"} 1.0' in served.client.get("/metrics").text


def test_metrics_and_pages_are_told_while_slow_decisions_hold_every_thread(
    serve: Callable[..., Served],
) -> None:
    """Whoever watches sees that they wait."""
    gate = threading.Event()
    served = serve()
    current = served.gateway.current
    slow = replace(_slow(current.policies["default"], gate), seconds=1.0)
    served.gateway.current = replace(current, policies={"default": slow})
    with ThreadPoolExecutor(70) as callers:
        body = b'{"query": "How tall is the tower?"}'
        asked = [callers.submit(served.post, "/v1/route", body) for _ in range(70)]
        try:
            _until(lambda: _deciding() >= 64)
            page = served.client.get("/metrics", timeout=5)
            listed = served.client.get("/dashboard/api/decisions", timeout=5)
        finally:
            gate.set()
    assert "metarouter_generation 1.0" in page.text
    assert listed.json() == {"decisions": [], "next": None}
    assert {answer.result().status_code for answer in asked} == {200}


def _deciding() -> int:
    """Threads of the gateway that wait."""
    return sum(thread.name.startswith("waiting") for thread in threading.enumerate())


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end, "it did not come to be so"
        time.sleep(0.01)


class _BrokenPolicy:
    """A policy whose decisions fail in a way that nobody foresaw."""

    def __init__(self, policy: ServedPolicy) -> None:
        self.name, self.settings, self.models = policy.name, policy.settings, policy.models
        self.allowed = policy.allowed

    def decide(self, *_: Any) -> Decided:
        raise ValueError("a fault")


def test_a_split_decides_aside_for_the_other_arms(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """The answer waits for its own arm alone."""
    gate = threading.Event()
    policies = {
        name: {"router": str(router_folder), "w": w}
        for name, w in (("current", 1e6), ("candidate", -1e6))
    }
    splits = {"ab": {"arms": {"current": 0.999999, "candidate": 0.000001}, "by": "request"}}
    served = serve(policies=policies, splits=splits)
    current = served.gateway.current
    slow = {**current.policies, "candidate": _slow(current.policies["candidate"], gate)}
    served.gateway.current = replace(current, policies=slow)
    body = json.dumps({**json.loads(HELLO), "model": "metarouter:ab"}).encode()
    assert served.post("/v1/chat/completions", body).status_code == 200
    assert served.rows() == []
    gate.set()
    assert served.rows()[0]["propensities"] == {"cheap": 0.999999, "premium": 0.000001}
