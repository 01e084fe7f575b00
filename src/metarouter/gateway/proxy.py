"""The endpoints that pass a request on: bare ASGI, because every request goes through here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from metarouter.errors import MetarouterError
from metarouter.gateway.coarse_timer import CoarseTimer
from metarouter.gateway.following import call_name, read_call_ids, read_response_id, response_name
from metarouter.gateway.keeping import keep_row
from metarouter.gateway.options import read_options
from metarouter.gateway.planning import Asking, Plan, Planner
from metarouter.gateway.problems import RefusedError, error_bytes, problem_headers, problem_of
from metarouter.gateway.protocols import Protocol
from metarouter.gateway.records import Exchange, decision_headers, with_fallback
from metarouter.gateway.spending import charged_usage
from metarouter.gateway.state import Gateway, header_map
from metarouter.gateway.tracing import current_trace, log_ids
from metarouter.gateway.upstream import Answer, Dialect, StreamBrokenError, UpstreamCall
from metarouter.gateway.wire import read_body, read_usage

__all__ = ["ClientGoneError", "ProxyEndpoint", "read_content"]

Scope = Mapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]]

_UNWATCHED = 0.05  # seconds before anybody looks whether the caller is still there
_HEAD, _TAIL = 4096, 8192  # bytes of an answer that token counts are looked for in


class ClientGoneError(MetarouterError):
    """The caller left before the answer was complete."""


class ProxyEndpoint:
    """Decides, passes on, relays, keeps a row.

    Parameters
    ----------
    gateway : Gateway
    protocol : Protocol
    """

    def __init__(self, gateway: Gateway, protocol: Protocol) -> None:
        self._gateway = gateway
        self._protocol = protocol
        self._planner = Planner(gateway, protocol)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        headers = header_map(scope)
        reply = _Reply(send)
        generation = self._gateway.current
        try:
            key = self._gateway.authorise(headers)
            if key is not None:
                self._gateway.limits.check(key)
            content = await read_content(headers, receive, generation.settings.limits.body_bytes)
            body = read_body(content)
            asking = Asking(
                generation=generation,
                body=body,
                headers=headers,
                options=read_options(body, headers),
                key=key,
                started=started,
            )
            plan = await self._planner.plan(asking)
        except ClientGoneError:
            return
        except MetarouterError as error:
            await self._fail(error, reply, started)
            return
        await self._pass_on(plan, scope, receive, reply)

    async def _pass_on(self, plan: Plan, scope: Scope, receive: Receive, reply: _Reply) -> None:
        exchange, trace = plan.exchange, current_trace()
        call = UpstreamCall(
            path=self._protocol.path,
            dialect=self._protocol.dialect,
            body=plan.body.with_model,
            headers=scope["headers"],
            is_stream=plan.is_stream,
            client_key=plan.client_key,
            query=_query(scope),
            deadline=time.monotonic() + self._gateway.settings.limits.request_seconds,
            before_try=None if trace is None else trace.tries(exchange),
        )
        try:
            await _unless_gone(receive, self._relay(plan, call, reply), plan.upstreams.timer)
        except ClientGoneError:
            exchange.outcome = "client_left"
        except StreamBrokenError as error:
            exchange.outcome = "broken"
            self._gateway.log.warning("broken", id=exchange.decision_id, error=str(error))
            await reply.break_off(error, self._protocol.dialect)
        except MetarouterError as error:
            headers = decision_headers(exchange, explain=plan.explain)
            exchange.status = await reply.fail(error, self._protocol.dialect, headers)
        except asyncio.CancelledError:
            exchange.outcome = "stopped"
            raise
        finally:
            self._charge(plan)
            self._keep(exchange, scope["headers"])
            if trace is not None:
                trace.finish(exchange)

    async def _relay(self, plan: Plan, call: UpstreamCall, reply: _Reply) -> None:
        """Open the upstream and pass its bytes on."""
        exchange = plan.exchange
        if exchange.rest is not None:
            # after the client's own task, which the next round of the loop has write the request
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, exchange.finish)
        try:
            answer = await plan.upstreams.open(plan.targets, call, exchange.attempts)
        except BaseException:
            exchange.finish()
            raise
        try:
            exchange.finish()
            if answer.status < 400:
                exchange.decision = with_fallback(exchange.decision, answer, exchange.attempts)
                exchange.answered = answer.target.model
                self._remember(plan, answer)
            exchange.status = answer.status
            exchange.first_byte_seconds = exchange.seconds
            headers = decision_headers(exchange, explain=plan.explain)
            if plan.ticket is not None:
                headers += self._gateway.limits.headers(plan.ticket.key)
            tap = _Tap(answer.first)
            is_noted = partial(self._note_response, plan, answer, tap)
            try:
                await reply.start(answer, headers)
                await _pieces(answer, reply, tap, None if is_noted() else is_noted)
            finally:
                exchange.usage = read_usage(tap.head, tap.tail if tap.size > _HEAD else b"")
                exchange.answer_bytes = tap.size
                self._note_calls(plan, answer, tap)
            exchange.outcome = "ok" if answer.status < 400 else "refused"
        finally:
            answer.close()

    def _remember(self, plan: Plan, answer: Answer) -> None:
        """Who answers, for requests that follow."""
        if not (plan.text_name or plan.shared):
            return
        kept = plan.kept(answer.target)
        if plan.text_name:
            self._gateway.sticky.put(plan.text_name, kept)
        for name in plan.shared:
            self._gateway.recall.put(name, kept)

    def _note_calls(self, plan: Plan, answer: Answer, tap: _Tap) -> None:
        """Remember who called tools, as far as the ids of the calls were seen."""
        if not plan.text_name or "tools" not in plan.body.spans or answer.status >= 400:
            return
        content = answer.first if answer.rest is None else tap.head + tap.tail
        kept = plan.kept(answer.target)
        for call in read_call_ids(content):
            self._gateway.recall.put(call_name(plan.text_name, call), kept)

    def _note_response(self, plan: Plan, answer: Answer, tap: _Tap) -> bool:
        """Remember who holds a response; whether there is nothing to wait for."""
        if self._protocol.path != "responses" or answer.status >= 400:
            return True
        is_stream = answer.kind == "stream"
        content = tap.head if is_stream else answer.first
        response = read_response_id(content, is_stream=is_stream)
        if response is not None:
            name = response_name(plan.exchange.key_id or "", response)
            self._gateway.recall.put(name, plan.kept(answer.target))
        return response is not None or not is_stream or len(tap.head) >= _HEAD

    async def _fail(self, error: MetarouterError, reply: _Reply, started: float) -> None:
        """Answer a request that got no decision; there is nothing to keep but a count."""
        status = await reply.fail(error, self._protocol.dialect)
        self._gateway.metrics.note_request(
            self._protocol.path, status, "rejected", seconds=time.perf_counter() - started
        )

    def _charge(self, plan: Plan) -> None:
        """What the answer cost, and its tokens to the key's limits."""
        exchange, ticket = plan.exchange, plan.ticket
        if exchange.answered is not None:
            exchange.spent = plan.prices.dollars(exchange.answered, exchange.usage)
        if ticket is None:
            return
        if exchange.answered is None or self._protocol.is_free:
            self._gateway.limits.close(ticket)
            return
        used = charged_usage(
            exchange.usage,
            prompt_tokens=ticket.prompt_tokens,
            answer_bytes=exchange.answer_bytes if self._protocol.is_routed else 0,
            is_stream=plan.is_stream,
            is_whole=exchange.outcome == "ok",
        )
        tokens = (used.prompt_tokens or 0) + (used.completion_tokens or 0)
        is_counted = used == exchange.usage
        spent = exchange.spent if is_counted else plan.prices.dollars(exchange.answered, used)
        self._gateway.limits.close(ticket, tokens=tokens, dollars=spent or 0.0)

    def _keep(self, exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
        gateway, decision = self._gateway, exchange.decision
        keep_row(gateway, exchange)
        if exchange.policy is not None:
            gateway.metrics.note_decision(exchange.policy.name, decision.model, decision.bound)
        gateway.metrics.note_request(
            exchange.endpoint,
            exchange.status,
            exchange.outcome,
            seconds=exchange.seconds,
            first_byte=exchange.first_byte_seconds,
            decision=exchange.decision_seconds,
        )
        if not gateway.log.is_enabled_for(logging.INFO):
            return
        gateway.log.info(
            "request",
            **log_ids(headers, exchange.decision_id),
            id=exchange.decision_id,
            endpoint=exchange.endpoint,
            key=exchange.key_id,
            model=decision.model,
            bound=decision.bound,
            status=exchange.status,
            outcome=exchange.outcome,
            seconds=round(exchange.seconds, 4),
        )


def _query(scope: Scope) -> str:
    """The query of the caller's address, as it was sent."""
    given: bytes = scope["query_string"]
    return f"?{given.decode('latin-1')}" if given else ""


class _Tap:
    """The first and the last bytes of an answer, which overlap where it is short."""

    def __init__(self, first: bytes) -> None:
        self.head = first[:_HEAD]
        self.tail = first[-_TAIL:]
        self.size = len(first)

    def see(self, part: bytes) -> None:
        self.size += len(part)
        if len(self.head) < _HEAD:
            self.head += part[: _HEAD - len(self.head)]
        self.tail = (self.tail + part)[-_TAIL:]


class _Reply:
    """What goes back to the caller."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_stream = False

    async def start(self, answer: Answer, headers: list[tuple[bytes, bytes]]) -> None:
        """Status, headers and first bytes of an answer."""
        self._is_stream = answer.kind == "stream"
        ours = {name for name, _ in headers}
        sent = [*(header for header in answer.headers if header[0] not in ours), *headers]
        if answer.rest is None:
            sent.append((b"content-length", str(len(answer.first)).encode()))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await self.send(answer.first, more=answer.rest is not None)

    async def send(self, content: bytes, *, more: bool) -> None:
        """Bytes of the body."""
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def fail(
        self, error: MetarouterError, dialect: Dialect, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> int:
        """An error answer; its status."""
        problem = problem_of(error)
        content = error_bytes(problem, dialect)
        sent = [*problem_headers(problem, content), *headers]
        await self._send({"type": "http.response.start", "status": problem.status, "headers": sent})
        await self.send(content, more=False)
        return problem.status

    async def break_off(self, error: MetarouterError, dialect: Dialect) -> None:
        """End an answer that cannot be completed so that the caller notices.

        A stream gets an event that says what happened, as the protocols have
        it. Any other body stays short of its end, and the server closes the
        connection.
        """
        if not self._is_stream:
            return
        content = error_bytes(problem_of(error), dialect)
        event = b"event: error\n" if dialect == "anthropic" else b""
        await self.send(b"\n\n" + event + b"data: " + content + b"\n\n", more=False)


async def _pieces(
    answer: Answer, reply: _Reply, tap: _Tap, is_noted: Callable[[], bool] | None
) -> None:
    """Send the pieces that follow the first; `is_noted` is asked before each until it is true."""
    if answer.rest is None:
        return
    async with aclosing(answer.rest) as pieces:  # type: ignore[type-var]
        async for part in pieces:
            tap.see(part)
            if is_noted is not None and is_noted():
                is_noted = None
            await reply.send(part, more=True)
    await reply.send(b"", more=False)


async def read_content(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """The body of a request of type JSON.

    Raises
    ------
    RefusedError
        With status 415 for another type, which a page of another site could
        send from a browser, or 413 for a body above `limit` bytes.
    ClientGoneError
        When the caller leaves before its end.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"content-type {kind[:60]!r}; allowed: application/json"
        raise RefusedError(415, "invalid_request_error", message)
    if headers.get("content-encoding", "identity").lower() != "identity":
        message = "a compressed body; allowed: content-encoding identity"
        raise RefusedError(415, "invalid_request_error", message)
    parts, size = [], 0
    while True:
        message_ = await receive()
        if message_["type"] == "http.disconnect":
            raise ClientGoneError("the caller left")
        part = message_.get("body", b"")
        size += len(part)
        if size > limit:
            text = f"body above {limit} bytes; the setting limits.body_bytes allows more"
            closing = [(b"connection", b"close")]  # what still comes is not read
            raise RefusedError(413, "request_too_large", text, headers=closing)
        parts.append(part)
        if not message_.get("more_body", False):
            return b"".join(parts)


async def _unless_gone(
    receive: Receive, work: Coroutine[Any, Any, None], timer: CoarseTimer
) -> None:
    """Do the work until it is done or the caller leaves, which cancels it."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    gone = False
    watcher: asyncio.Task[None] | None = None

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        if task is not None:
            task.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    # most answers are there sooner
    handle = timer.call_later(_UNWATCHED, begin)
    try:
        await work
    except asyncio.CancelledError:
        if not gone or task is None:
            raise
        task.uncancel()
        raise ClientGoneError("the caller left") from None
    finally:
        handle.cancel()
        if watcher is not None:
            watcher.cancel()
