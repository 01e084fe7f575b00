"""Prometheus metrics, in a registry of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from metarouter.gateway.shared_metrics import SharedMetrics
from metarouter.gateway.upstream import Attempt
from metarouter.store.writer import DecisionWriter

__all__ = ["Metrics"]

M = TypeVar("M")

_PUBLISH_SECONDS = 5.0
_AT_ONCE = 256  # of what is noted, until it is counted
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class _Children(dict[tuple[str, ...], M]):
    """A metric's children by their labels: looking one up costs a tenth of ``labels()``."""

    def __init__(self, make: Callable[..., M]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, labels: tuple[str, ...]) -> M:
        child = self[labels] = self._make(*labels)
        return child


class _Breakers(Collector):
    def __init__(self, failing: Callable[[], Mapping[str, bool]]) -> None:
        self._failing = failing

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "metarouter_upstream_failing",
            "1 while the breaker of one of its models is open, if that was asked for lately.",
            labels=("upstream",),
        )
        for name, is_failing in self._failing().items():
            family.add_metric((name,), is_failing)
        yield family


class _Before(Collector):
    """Has something done before the other metrics of a registry are read."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def collect(self) -> Iterable[Metric]:
        self._action()
        return ()


class Metrics:
    """What the gateway counts; no label holds text that a caller chose.

    What requests note is counted many at a time, and before anybody reads: the
    same work takes half the time when it is done in one go.
    """

    def __init__(self) -> None:
        self._noted: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.registry = self._counting_registry()
        self._shared: SharedMetrics | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        ProcessCollector(registry=self.registry)
        self._requests = _Children(
            Counter(
                "metarouter_requests_total",
                "Requests by endpoint, status and how they ended.",
                ("endpoint", "status", "outcome"),
                registry=self.registry,
            ).labels
        )
        self._decisions = _Children(
            Counter(
                "metarouter_decisions_total",
                "Decisions of policies by chosen model.",
                ("policy", "model", "bound"),
                registry=self.registry,
            ).labels
        )
        self._attempts = _Children(
            Counter(
                "metarouter_upstream_attempts_total",
                "Requests to upstreams by how they ended.",
                ("upstream", "outcome"),
                registry=self.registry,
            ).labels
        )
        self._reloads = Counter(
            "metarouter_reloads_total",
            "Reloads of settings and routers by how they ended.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("done", "refused"):
            self._reloads.labels(outcome)  # at 0: Prometheus sees no increase in a first value of 1
        self._unpriced = Counter(
            "metarouter_unpriced_total",
            "Answers of models without a known price, which count as nothing spent.",
            registry=self.registry,
        )
        self._generation = Gauge(
            "metarouter_generation",
            "Settings and routers in use: 1 at the start, one more after each reload.",
            registry=self.registry,
        )
        self._generation.set(1)
        self._aside = Counter(
            "metarouter_aside_total",
            "Requests that other arms or shadow policies were asked about, by how that ended.",
            ("outcome",),
            registry=self.registry,
        )
        self._seconds = self._histogram("metarouter_request_seconds", "Time of a request in all.")
        self._first_byte = self._histogram(
            "metarouter_first_byte_seconds", "Time to the first byte of an answer."
        )
        self._decision = self._histogram("metarouter_decision_seconds", "Time to know the model.")

    def _counting_registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(_Before(self._count))
        return registry

    def _histogram(self, name: str, text: str) -> _Children[Histogram]:
        histogram = Histogram(name, text, ("endpoint",), registry=self.registry, buckets=_SECONDS)
        return _Children(histogram.labels)

    def watch(self, writer: DecisionWriter) -> None:
        """Show how the writer of decisions is doing."""
        values = {
            "metarouter_store_waiting": ("Decisions that wait to be written.", "waiting"),
            "metarouter_store_written": ("Decisions written.", "written"),
            "metarouter_store_spilled": ("Decisions put aside in a file.", "spilled"),
            "metarouter_store_replayed": ("Decisions written later, from files.", "replayed"),
            "metarouter_store_dropped": ("Decisions lost: the files were full.", "dropped"),
            "metarouter_store_refused": ("Rows that the store never takes.", "refused"),
            "metarouter_store_spill_bytes": ("Bytes that wait in files.", "bytes_waiting"),
            "metarouter_store_down": ("1 while the store does not answer.", "is_down"),
            "metarouter_store_failures": ("Batches that the store refused.", "failures"),
        }
        for name, (text, attribute) in values.items():
            gauge = Gauge(name, text, registry=self.registry)
            gauge.set_function(partial(getattr, writer, attribute))

    def watch_upstreams(self, failing: Callable[[], Mapping[str, bool]]) -> None:
        """Show whose breakers are open, of the upstreams that there are just then."""
        self.registry.register(_Breakers(failing))

    def note_unpriced(self) -> None:
        """Count one answer whose model has no known price."""
        self._unpriced.inc()

    def note_attempt(self, attempt: Attempt) -> None:
        """Count one request to an upstream."""
        self._note(self._count_attempt, attempt.upstream, attempt.outcome)

    def note_decision(self, policy: str, model: str, bound: str) -> None:
        """Count one decision of a policy."""
        self._note(self._count_decision, policy, model, bound)

    def note_aside(self, outcome: str) -> None:
        """Count one request whose row needed further decisions."""
        self._aside.labels(outcome).inc()

    def note_reload(self, *, is_done: bool) -> None:
        """Count one reload; one that is not done left everything as it was."""
        self._reloads.labels("done" if is_done else "refused").inc()
        self._generation.inc(is_done)

    def note_request(
        self,
        endpoint: str,
        status: int | None,
        outcome: str,
        *,
        seconds: float,
        first_byte: float | None = None,
        decision: float | None = None,
    ) -> None:
        """Count one request and its times."""
        self._note(self._count_request, endpoint, status, outcome, seconds, first_byte, decision)

    def _note(self, count: Callable[..., None], *what: Any) -> None:
        self._noted.append((count, what))
        if len(self._noted) >= _AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Count all that was noted; several threads may."""
        with suppress(IndexError):
            while True:
                count, what = self._noted.popleft()
                count(*what)

    def _count_attempt(self, upstream: str, outcome: str) -> None:
        self._attempts[upstream, outcome].inc()

    def _count_decision(self, policy: str, model: str, bound: str) -> None:
        self._decisions[policy, model, bound].inc()

    def _count_request(
        self,
        endpoint: str,
        status: int | None,
        outcome: str,
        seconds: float,
        first_byte: float | None,
        decision: float | None,
    ) -> None:
        self._requests[endpoint, "" if status is None else str(status), outcome].inc()
        self._seconds[endpoint,].observe(seconds)
        if first_byte is not None:
            self._first_byte[endpoint,].observe(first_byte)
        if decision is not None:
            self._decision[endpoint,].observe(decision)

    def share(self, folder: Path) -> None:
        """Count as one of several workers, which meet in a folder."""
        self._shared = SharedMetrics(registry=self.registry, folder=folder)

    async def keep_shared(self) -> None:
        """Tell siblings what was counted, until cancelled; nothing where there are none."""
        while self._shared is not None:
            with suppress(OSError):  # of the folder: what is told of this worker is older then
                await self._in_thread(self._shared.publish)
            await asyncio.sleep(_PUBLISH_SECONDS)

    async def page(self) -> bytes:
        """The page that Prometheus reads, made in a thread that no slow decision holds."""
        return await self._in_thread(self.render)

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], M]) -> M:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry) if self._shared is None else self._shared.render()
