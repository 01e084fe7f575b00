"""Callers of a gateway that keep what they were told: what the studies of its store share."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from gateway_load import fit_router
from metarouter.store.tables import decisions, feedback

HEADERS = {"content-type": "application/json"}
BODY = b'{"model": "metarouter", "messages": [{"role": "user", "content": "Hello you"}]}'


@dataclass(kw_only=True, slots=True)
class Told:
    """What callers were told by the gateway.

    Attributes
    ----------
    answers : time and seconds of each answer that was good.
    failures : what became of the other requests.
    decided, said : ids of decisions and of acknowledged feedback.
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    decided: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def add(self, other: Told) -> None:
        """Take over what another caller was told."""
        self.answers += other.answers
        self.failures += other.failures
        self.decided += other.decided
        self.said += other.said


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """How many of the rows that should be in the store are not, and how many are twice."""

    decisions_lost: int
    feedback_lost: int
    decisions: int
    feedback: int


def make_settings(folder: Path, upstream: str, store: str) -> dict[str, Any]:
    """Settings of a gateway whose router is fitted into the folder."""
    fit_router().save(folder / "router")
    return {
        "upstreams": {"main": {"base_url": upstream, "dialect": "any"}},
        "policies": {"default": {"router": str(folder / "router")}},
        "store": {"url": store},
    }


def wait_for_store(url: str, states: Sequence[str], seconds: float = 120.0) -> float:
    """Wait until ``/ready`` tells one of these states of the store; how long that took."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        try:
            if httpx2.get(url.removesuffix("/v1") + "/ready", timeout=5).json()["store"] in states:
                return time.monotonic() - start
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"the store is not {' or '.join(states)} after {seconds:.0f} s")


class Load:
    """Callers in threads: each asks, says what it thinks of the answer, and pauses.

    Parameters
    ----------
    url : of the gateway, with /v1.
    callers : int
    pause : seconds between two requests of a caller.
    """

    def __init__(self, url: str, *, callers: int = 4, pause: float = 0.02) -> None:
        self.told = Told()
        self._url = url
        self._pause = pause
        self._stop = threading.Event()
        self._heard = threading.Event()
        self._mutex = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_feedback(self, seconds: float = 120.0) -> None:
        """Wait until some is acknowledged: a busy machine may take seconds for the first."""
        if not self._heard.wait(seconds):
            raise SystemExit(f"no feedback is acknowledged after {seconds:.0f} s")

    def _run(self) -> None:
        told = Told()
        with httpx2.Client(base_url=self._url, headers=HEADERS, timeout=60) as client:
            while not self._stop.wait(self._pause):
                try:
                    _ask(client, told)
                except (httpx2.TransportError, OSError) as error:
                    told.failures.append(type(error).__name__)
                if told.said:
                    self._heard.set()
        with self._mutex:
            self.told.add(told)


def _ask(client: httpx2.Client, told: Told) -> None:
    start = time.monotonic()
    answer = client.post("chat/completions", content=BODY)
    if answer.status_code != 200:
        told.failures.append(f"chat {answer.status_code}")
        return
    told.answers.append((start, time.monotonic() - start))
    told.decided.append(answer.headers["x-metarouter-decision-id"])
    said = {"type": "thumbs", "decision_id": told.decided[-1], "value": "up"}
    answer = client.post("feedback", json=said)
    if answer.status_code in (200, 201, 202):
        told.said.append(answer.json()["feedback_id"])
    else:
        told.failures.append(f"feedback {answer.status_code}")


def compare(engine: sa.Engine, told: Told) -> Kept:
    """What callers were told against what the store has; ids are its keys, so no row is twice."""
    with engine.connect() as connection:
        made = set(connection.execute(sa.select(decisions.c.decision_id)).scalars())
        said = set(connection.execute(sa.select(feedback.c.feedback_id)).scalars())
    return Kept(
        decisions_lost=len(set(told.decided) - made),
        feedback_lost=len(set(told.said) - said),
        decisions=len(made),
        feedback=len(said),
    )
