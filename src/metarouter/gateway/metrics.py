"""Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from metarouter.gateway.upstream import Attempt
from metarouter.store.writer import DecisionWriter

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """What the gateway counts; no label holds text that a caller chose."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "metarouter_requests_total",
            "Requests by endpoint, status and how they ended.",
            ("endpoint", "status", "outcome"),
            registry=self.registry,
        )
        self._decisions = Counter(
            "metarouter_decisions_total",
            "Decisions of policies by chosen model.",
            ("policy", "model", "bound"),
            registry=self.registry,
        )
        self._attempts = Counter(
            "metarouter_upstream_attempts_total",
            "Requests to upstreams by how they ended.",
            ("upstream", "outcome"),
            registry=self.registry,
        )
        self._reloads = Counter(
            "metarouter_reloads_total",
            "Reloads of settings and routers by how they ended.",
            ("outcome",),
            registry=self.registry,
        )
        self._unpriced = Counter(
            "metarouter_unpriced_total",
            "Answers of models without a known price, which count as nothing spent.",
            registry=self.registry,
        )
        self._seconds = self._histogram("metarouter_request_seconds", "Time of a request in all.")
        self._first_byte = self._histogram(
            "metarouter_first_byte_seconds", "Time to the first byte of an answer."
        )
        self._decision = self._histogram("metarouter_decision_seconds", "Time of a decision.")

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("endpoint",), registry=self.registry, buckets=_SECONDS)

    def watch(self, writer: DecisionWriter) -> None:
        """Show how the writer of decisions is doing."""
        values = {
            "metarouter_store_waiting": ("Decisions that wait to be written.", "waiting"),
            "metarouter_store_written": ("Decisions written.", "written"),
            "metarouter_store_spilled": ("Decisions put aside in a file.", "spilled"),
            "metarouter_store_failures": ("Batches that the store refused.", "failures"),
        }
        for name, (text, attribute) in values.items():
            gauge = Gauge(name, text, registry=self.registry)
            gauge.set_function(partial(getattr, writer, attribute))

    def note_unpriced(self) -> None:
        """Count one answer whose model has no known price."""
        self._unpriced.inc()

    def note_attempt(self, attempt: Attempt) -> None:
        """Count one request to an upstream."""
        self._attempts.labels(attempt.upstream, attempt.outcome).inc()

    def note_decision(self, policy: str, model: str, bound: str) -> None:
        """Count one decision of a policy."""
        self._decisions.labels(policy, model, bound).inc()

    def note_reload(self, *, is_done: bool) -> None:
        """Count one reload; one that is not done left everything as it was."""
        self._reloads.labels("done" if is_done else "refused").inc()

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
        self._requests.labels(endpoint, "" if status is None else str(status), outcome).inc()
        self._seconds.labels(endpoint).observe(seconds)
        if first_byte is not None:
            self._first_byte.labels(endpoint).observe(first_byte)
        if decision is not None:
            self._decision.labels(endpoint).observe(decision)

    def render(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
