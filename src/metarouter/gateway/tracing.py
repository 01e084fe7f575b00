"""Traces of requests to an OpenTelemetry collector: off unless an endpoint is set.

A request is a span of the kind *server*, each try at an upstream a span of the
kind *client* below it. The caller's W3C ``traceparent`` is continued, and each
try sends its own on. No span holds text of a prompt or an answer.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from metarouter.errors import MissingDependencyError
from metarouter.gateway import span_names as names
from metarouter.gateway.settings import TracingSettings, UpstreamSettings
from metarouter.gateway.upstream import Attempt, Target, UpstreamCall

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from metarouter.gateway.records import Exchange

__all__ = ["RequestTrace", "Tracing", "current_trace", "log_ids", "open_tracing", "traced"]

Headers = Iterable[tuple[bytes, bytes]]
Endpoint = Callable[..., Awaitable[None]]
Tries = Callable[[Target, UpstreamCall], UpstreamCall]

_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CONTEXT_HEADERS = frozenset({b"traceparent", b"tracestate"})
_FLUSH_SECONDS = 5.0
# as long as a UUID with a prefix, and nothing that could start another field of a log
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_CURRENT: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)


def open_tracing(
    settings: TracingSettings, upstreams: Mapping[str, UpstreamSettings]
) -> Tracing | None:
    """What makes spans, or None where no endpoint is set.

    Parameters
    ----------
    settings : TracingSettings
        Its endpoint goes before the environment's ``OTEL_EXPORTER_OTLP_ENDPOINT``;
        all other variables of OpenTelemetry hold as they do anywhere.
    upstreams : UpstreamSettings by name, for the addresses on spans; those of the start.

    Raises
    ------
    MissingDependencyError
        When an endpoint is set and the extra ``otel`` is not installed.
    """
    if settings.endpoint is None and not any(map(os.environ.get, _ENDPOINT_VARIABLES)):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingDependencyError.of("tracing", "otel") from error
    from importlib.metadata import version

    own = {"service.name": "metarouter", "service.version": version("metarouter")}
    if os.environ.get("OTEL_SERVICE_NAME"):
        del own["service.name"]
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    where = None if settings.endpoint is None else f"{settings.endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=where)))
    return Tracing(provider, upstreams)


class Tracing:
    """Makes the spans of requests.

    Parameters
    ----------
    provider : of OpenTelemetry.
    upstreams : UpstreamSettings by name.
    """

    def __init__(self, provider: TracerProvider, upstreams: Mapping[str, UpstreamSettings]) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("metarouter")
        self._upstreams = upstreams
        self._propagator = TraceContextTextMapPropagator()

    def start(self, scope: Mapping[str, Any]) -> RequestTrace:
        """The span of a request, below the caller's if it sent one."""
        from opentelemetry.trace import SpanKind

        carrier = {
            str(name, "latin-1"): str(value, "latin-1")
            for name, value in scope["headers"]
            if name in _CONTEXT_HEADERS
        }
        method, path = scope["method"], scope["path"]
        span = self._tracer.start_span(
            f"{method} {path}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={names.HTTP_METHOD: method, names.HTTP_ROUTE: path},
        )
        return RequestTrace(self, span, path.removeprefix("/v1/"))

    def start_try(self, parent: Span, operation: str, target: Target, dialect: str) -> Span:
        """The span of one try at an upstream."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        place = self._upstreams.get(target.upstream)
        parts = urlsplit("" if place is None else place.base_url)
        port = parts.port or (80 if parts.scheme == "http" else 443)
        return self._tracer.start_span(
            f"{operation} {target.name}",
            context=set_span_in_context(parent),
            kind=SpanKind.CLIENT,
            attributes={
                names.OPERATION: operation,
                names.PROVIDER: dialect,
                names.REQUEST_MODEL: target.name,
                names.SERVER_ADDRESS: parts.hostname or "",
                names.SERVER_PORT: port,
                f"{names.ROUTE}upstream": target.upstream,
            },
        )

    def context_headers(self, span: Span) -> list[tuple[bytes, bytes]]:
        """What tells the next hop of a span."""
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context=set_span_in_context(span))
        return [(name.encode(), value.encode()) for name, value in carrier.items()]

    def flush(self) -> None:
        """Send what waits, for at most a few seconds."""
        self._provider.force_flush(int(1000 * _FLUSH_SECONDS))

    def close(self) -> None:
        """Send what waits, and no more."""
        self.flush()
        self._provider.shutdown()


class RequestTrace:
    """The spans of one request: its own, and one for each try.

    Parameters
    ----------
    tracing : Tracing
    span : of the request.
    path : of the endpoint, below ``/v1/``.
    """

    def __init__(self, tracing: Tracing, span: Span, path: str) -> None:
        self._tracing = tracing
        self._span = span
        self._operation = names.operation_of(path)
        self._open: tuple[Span, int] | None = None

    @property
    def trace_id(self) -> str:
        """Of the whole trace, 32 hexadecimal digits."""
        return format(self._span.get_span_context().trace_id, "032x")

    def tries(self, exchange: Exchange) -> Tries:
        """What begins each try of a request: it gives the call that tells its span."""

        def begin(target: Target, call: UpstreamCall) -> UpstreamCall:
            self._end_try(exchange.attempts)
            span = self._tracing.start_try(self._span, self._operation, target, call.dialect)
            self._open = span, time.time_ns()
            own = [pair for pair in call.headers if pair[0] not in _CONTEXT_HEADERS]
            return msgspec.structs.replace(
                call, headers=[*own, *self._tracing.context_headers(span)]
            )

        return begin

    def finish(self, exchange: Exchange) -> None:
        """End the last try, and note the decision on the request's span."""
        if exchange.attempts and exchange.attempts[-1].outcome == "ok":
            self._end_answered(exchange)
        else:
            self._end_try(exchange.attempts)
        for name, value in _decision_attributes(exchange).items():
            if value is not None and value == value:  # NaN: nothing was predicted
                self._span.set_attribute(f"{names.ROUTE}{name}", value)

    def end(self, status: int | None) -> None:
        """End the request's span; without a status it had no answer."""
        if status is not None:
            self._span.set_attribute(names.HTTP_STATUS, status)
        if status is None or status >= 500:
            _mark_failed(self._span, "no_answer" if status is None else str(status))
        self._span.end()

    def _end_try(self, attempts: list[Attempt]) -> None:
        """End the open try as it went; the pause after it is not part of it."""
        if self._open is None:
            return
        span, start = self._open
        self._open = None
        if attempts and attempts[-1].outcome != "ok":
            _mark_failed(span, attempts[-1].outcome)
            span.end(end_time=start + int(1e9 * attempts[-1].seconds))
        else:
            _mark_failed(span, "cancelled")
            span.end()

    def _end_answered(self, exchange: Exchange) -> None:
        """End the try whose answer the caller got, with what it used."""
        if self._open is None:
            return
        span, self._open = self._open[0], None
        usage = exchange.usage
        for name, count in (
            (names.INPUT_TOKENS, usage.prompt_tokens),
            (names.OUTPUT_TOKENS, usage.completion_tokens),
        ):
            if count is not None:
                span.set_attribute(name, count)
        if exchange.status is not None:
            span.set_attribute(names.HTTP_STATUS, exchange.status)
        if exchange.outcome != "ok":
            _mark_failed(span, exchange.outcome)
        span.end()


def traced(endpoint: Endpoint, tracing: Tracing | None) -> Endpoint:
    """An ASGI endpoint whose requests are spans; the endpoint itself where tracing is off."""
    if tracing is None:
        return endpoint
    return _TracedEndpoint(endpoint, tracing)


class _TracedEndpoint:
    # a class, as Starlette takes plain functions for handlers of its own requests

    def __init__(self, endpoint: Endpoint, tracing: Tracing) -> None:
        self._endpoint = endpoint
        self._tracing = tracing

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        trace, status = self._tracing.start(scope), None
        token = _CURRENT.set(trace)

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._endpoint(scope, receive, noting)
        finally:
            _CURRENT.reset(token)
            trace.end(status)


def current_trace() -> RequestTrace | None:
    """The trace of the request that is being served; None where tracing is off."""
    return _CURRENT.get()


def log_ids(headers: Headers, decision_id: str) -> dict[str, str]:
    r"""What a line of the log is found by.

    Returns
    -------
    dict
        ``request``: the caller's ``x-request-id`` where it is short and plain, else
        the decision's own; ``trace`` where the caller sent a ``traceparent``.

    Examples
    --------
    >>> log_ids([(b"x-request-id", b"abc-1")], "d1")
    {'request': 'abc-1'}
    >>> log_ids([(b"x-request-id", b"two\nlines")], "d1")
    {'request': 'd1'}
    """
    found = {"request": decision_id}
    for name, value in headers:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            found["request"] = value.decode("ascii")
        elif name == b"traceparent" and (match := _TRACEPARENT.fullmatch(value)):
            found["trace"] = match[1].decode("ascii")
    trace = current_trace()
    return found if trace is None else found | {"trace": trace.trace_id}


def _mark_failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(StatusCode.ERROR)


def _decision_attributes(exchange: Exchange) -> dict[str, Any]:
    decision, policy = exchange.decision, exchange.policy
    return {
        "decision_id": exchange.decision_id,
        "policy": None if policy is None else policy.name,
        "policy_version": decision.policy_version or None,
        "model": decision.model,
        "bound": decision.bound,
        "predicted_gain": decision.predicted_gain,
        "threshold": decision.threshold,
        "cost": decision.cost,
        "propensity": decision.logging_propensity,
        "attempts": len(exchange.attempts),
        "outcome": exchange.outcome,
        "decision_seconds": exchange.decision_seconds,
        "first_byte_seconds": exchange.first_byte_seconds,
        "key": exchange.key_id,
    }
