"""The endpoints that pass a request on: bare ASGI, because every request goes through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from metarouter.errors import InputError, MetarouterError
from metarouter.gateway.conversation import (
    Conversation,
    read_chat,
    read_messages,
    read_nothing,
    read_responses,
)
from metarouter.gateway.deciding import Decided, ServedPolicy, fixed_decision
from metarouter.gateway.keyring import read_client_key
from metarouter.gateway.limits import Ticket, estimate_prompt
from metarouter.gateway.names import Asked, read_model_name
from metarouter.gateway.options import RequestOptions, read_options
from metarouter.gateway.problems import RefusedError, error_bytes, problem_headers, problem_of
from metarouter.gateway.records import Exchange, decision_headers, decision_row, with_fallback
from metarouter.gateway.spending import Prices, charged_usage
from metarouter.gateway.state import Gateway, Generation, header_map
from metarouter.gateway.tracing import current_trace, log_ids
from metarouter.gateway.upstream import (
    Answer,
    Dialect,
    StreamBrokenError,
    Target,
    UpstreamCall,
    Upstreams,
)
from metarouter.gateway.wire import Body, Usage, read_body, read_usage
from metarouter.store.keys import ApiKey

__all__ = ["PROTOCOLS", "ClientGoneError", "Protocol", "ProxyEndpoint", "choose", "read_content"]

Scope = Mapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]]

_HEAD, _TAIL = 4096, 8192  # bytes of an answer that token counts are looked for in
_LONG_TEXT = 50_000  # characters; a decision on more would hold up other requests


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One endpoint: where it goes, who speaks it, what in it is routed on."""

    path: str
    dialect: Dialect
    read: Callable[[Body], Conversation]
    is_routed: bool = True
    is_free: bool = False


PROTOCOLS = (
    Protocol(path="chat/completions", dialect="openai", read=read_chat),
    Protocol(path="responses", dialect="openai", read=read_responses),
    Protocol(path="messages", dialect="anthropic", read=read_messages),
    Protocol(path="messages/count_tokens", dialect="anthropic", read=read_messages, is_free=True),
    Protocol(path="embeddings", dialect="openai", read=read_nothing, is_routed=False),
)


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
            asking = _Asking(
                generation=generation,
                body=body,
                headers=headers,
                options=read_options(body, headers),
                key=key,
                started=started,
            )
            plan = await self._plan(asking)
        except ClientGoneError:
            return
        except MetarouterError as error:
            await self._fail(error, reply, started)
            return
        await self._pass_on(plan, scope, receive, reply)

    async def _plan(self, asking: _Asking) -> _Plan:
        """What will be done, before anything is sent anywhere."""
        protocol, generation = self._protocol, asking.generation
        name = asking.body.value("model", str)
        if name is None:
            raise InputError("field model is missing; allowed: metarouter, or a model's name")
        asked = _asked(name, generation)
        if asked.policy is None:
            return self._direct(asking, name)
        if not protocol.is_routed:
            raise InputError(f"model = {name!r}: /v1/{protocol.path} takes a model's name only")
        conversation = protocol.read(asking.body)
        policy = generation.policy(asked.policy, asking.key)
        sticky = _sticky_key(policy, asking.options, conversation, asking.key)
        decided = await self._decide(asking, policy, conversation, asked.threshold, sticky)
        exchange = Exchange(
            endpoint=protocol.path,
            decision=decided.decision,
            asked=name,
            chosen=decided.decision.model,
            policy=policy,
            key_id=asking.key_id,
            features_hash=decided.features_hash,
            prompt=conversation.text if generation.settings.store.prompts else None,
            decision_seconds=time.perf_counter() - asking.started,
            started=asking.started,
        )
        return self._planned(asking, exchange, conversation.text, sticky)

    def _direct(self, asking: _Asking, name: str) -> _Plan:
        """A request that names its model."""
        options = asking.options
        if options != RequestOptions(explain=options.explain):
            raise InputError(f"model = {name!r} is no policy: options of decisions do not apply")
        if not asking.may(name):
            raise RefusedError(403, "permission_error", asking.why_not(name))
        if not asking.generation.upstreams.serves(name, self._protocol.dialect):
            raise RefusedError(
                404,
                "not_found_error",
                f"model = {name!r}: no upstream serves it at /v1/{self._protocol.path}; "
                "see GET /v1/models",
            )
        exchange = Exchange(
            endpoint=self._protocol.path,
            decision=fixed_decision(name, "named by the caller", ""),
            asked=name,
            chosen=name,
            key_id=asking.key_id,
            started=asking.started,
        )
        text = self._protocol.read(asking.body).text if asking.is_metered else ""
        return self._planned(asking, exchange, text)

    def _planned(
        self, asking: _Asking, exchange: Exchange, text: str, sticky: tuple[str, ...] = ()
    ) -> _Plan:
        wanted, pin = asking.options.models, asking.options.pin

        def may_stand_in(model: str) -> bool:
            return pin is None and (wanted is None or model in wanted) and asking.may(model)

        upstreams = asking.generation.upstreams
        targets = upstreams.targets(exchange.decision.model, self._protocol.dialect, may_stand_in)
        return _Plan(
            upstreams=upstreams,
            exchange=exchange,
            body=asking.body,
            targets=targets,
            explain=asking.options.explain,
            sticky=sticky,
            is_stream=asking.body.value("stream", object) is True,
            client_key=read_client_key(asking.headers),
            prices=asking.generation.prices,
            ticket=None if asking.key is None else self._admit(asking, asking.key, exchange, text),
        )

    def _admit(self, asking: _Asking, key: ApiKey, exchange: Exchange, text: str) -> Ticket:
        """Let the request in, if the key's limits do, with an estimate of its prompt."""
        tokens = estimate_prompt(text, asking.body.content)
        price = asking.generation.prices.dollars(exchange.chosen, Usage(prompt_tokens=tokens))
        return self._gateway.limits.admit(key, tokens=tokens, dollars=price or 0.0)

    async def _decide(
        self,
        asking: _Asking,
        policy: ServedPolicy,
        conversation: Conversation,
        threshold: float | None,
        sticky: tuple[str, ...],
    ) -> Decided:
        generation, options = asking.generation, asking.options
        allowed = [
            model
            for model in policy.models
            if generation.upstreams.serves(model, self._protocol.dialect) and asking.may(model)
        ]
        is_step = conversation.is_tool_step and generation.settings.sticky == "tool_loop"
        if options.pin is None and (options.conversation or is_step):
            kept = next(filter(None, map(self._gateway.sticky.get, sticky)), None)
            if kept in allowed and (options.models is None or kept in options.models):
                why = "the conversation" if options.conversation else "the tool loop"
                return Decided(decision=policy.fixed(kept, f"{why} stays with {kept}"))
        return await choose(
            policy, conversation.text, options, threshold=threshold, allowed=allowed
        )

    async def _pass_on(self, plan: _Plan, scope: Scope, receive: Receive, reply: _Reply) -> None:
        exchange, trace = plan.exchange, current_trace()
        call = UpstreamCall(
            path=self._protocol.path,
            dialect=self._protocol.dialect,
            body=plan.body.with_model,
            headers=scope["headers"],
            is_stream=plan.is_stream,
            client_key=plan.client_key,
            before_try=None if trace is None else trace.tries(exchange),
        )
        try:
            await _unless_gone(receive, self._relay(plan, call, reply))
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

    async def _relay(self, plan: _Plan, call: UpstreamCall, reply: _Reply) -> None:
        """Open the upstream and pass its bytes on."""
        exchange = plan.exchange
        answer = await plan.upstreams.open(plan.targets, call, exchange.attempts)
        try:
            if answer.status < 400:
                exchange.decision = with_fallback(exchange.decision, answer, exchange.attempts)
                exchange.answered = answer.target.model
                for name in plan.sticky:
                    self._gateway.sticky.put(name, answer.target.model)
            exchange.status = answer.status
            exchange.first_byte_seconds = exchange.seconds
            headers = decision_headers(exchange, explain=plan.explain)
            if plan.ticket is not None:
                headers += self._gateway.limits.headers(plan.ticket.key)
            tap = _Tap(answer.first)
            try:
                await reply.start(answer, headers)
                await _pieces(answer, reply, tap)
            finally:
                exchange.usage = read_usage(tap.head, tap.tail)
                exchange.answer_bytes = tap.size
            exchange.outcome = "ok" if answer.status < 400 else "refused"
        finally:
            answer.close()

    async def _fail(self, error: MetarouterError, reply: _Reply, started: float) -> None:
        """Answer a request that got no decision; there is nothing to keep but a count."""
        status = await reply.fail(error, self._protocol.dialect)
        self._gateway.metrics.note_request(
            self._protocol.path, status, "rejected", seconds=time.perf_counter() - started
        )

    def _charge(self, plan: _Plan) -> None:
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
            prompt_tokens=ticket.held.tokens,
            answer_bytes=exchange.answer_bytes if self._protocol.is_routed else 0,
            is_stream=plan.is_stream,
            is_whole=exchange.outcome == "ok",
        )
        tokens = (used.prompt_tokens or 0) + (used.completion_tokens or 0)
        spent = plan.prices.dollars(exchange.answered, used) or 0.0
        self._gateway.limits.close(ticket, tokens=tokens, dollars=spent)

    def _keep(self, exchange: Exchange, headers: Iterable[tuple[bytes, bytes]]) -> None:
        gateway, decision = self._gateway, exchange.decision
        gateway.writer.put(decision_row(exchange))
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asking:
    """One request as it came in, and the generation that serves it."""

    generation: Generation
    body: Body
    headers: Mapping[str, str]
    options: RequestOptions
    key: ApiKey | None
    started: float

    @property
    def key_id(self) -> str | None:
        return None if self.key is None else self.key.key_id

    @property
    def is_metered(self) -> bool:
        """Whether the size of the prompt matters to the key's limits."""
        key = self.key
        return key is not None and (key.tokens_per_minute, key.budget) != (None, None)

    def may(self, model: str) -> bool:
        """Whether the caller's key is for the model; a budget is for models of known price."""
        if self.key is None:
            return True
        is_priced = self.key.budget is None or self.generation.prices.knows(model)
        return is_priced and (self.key.models is None or model in self.key.models)

    def why_not(self, model: str) -> str:
        """What :meth:`may` said no for."""
        if self.key is None or self.key.models is None or model in self.key.models:
            return f"model {model} has no known price, and this key has a budget; set prices"
        return f"this key may not use model {model}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What will be done for a request."""

    upstreams: Upstreams
    exchange: Exchange
    body: Body
    targets: list[Target]
    explain: bool
    sticky: tuple[str, ...]
    is_stream: bool
    client_key: str | None
    prices: Prices
    ticket: Ticket | None


class _Tap:
    """The first and the last bytes of an answer."""

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
    """What goes back to the caller, and how far it got."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._is_stream = False

    async def start(self, answer: Answer, headers: list[tuple[bytes, bytes]]) -> None:
        """Status, headers and first bytes of an answer."""
        self._started, self._is_stream = True, answer.kind == "stream"
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


async def _pieces(answer: Answer, reply: _Reply, tap: _Tap) -> None:
    if answer.rest is None:
        return
    async with aclosing(answer.rest) as pieces:  # type: ignore[type-var]
        async for part in pieces:
            tap.see(part)
            await reply.send(part, more=True)
    await reply.send(b"", more=False)


async def choose(
    policy: ServedPolicy,
    text: str,
    options: RequestOptions,
    *,
    threshold: float | None,
    allowed: list[str],
) -> Decided:
    """The decision, in a thread where it would hold up other requests."""
    if policy.is_slow or len(text) > _LONG_TEXT:
        return await asyncio.to_thread(
            policy.decide, text, options, threshold=threshold, allowed=allowed
        )
    return policy.decide(text, options, threshold=threshold, allowed=allowed)


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
            raise RefusedError(413, "request_too_large", text)
        parts.append(part)
        if not message_.get("more_body", False):
            return b"".join(parts)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until it is done or the caller leaves, which cancels it."""
    task = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        if task is not None:
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        await work
    except asyncio.CancelledError:
        if not gone or task is None:
            raise
        task.uncancel()
        raise ClientGoneError("the caller left") from None
    finally:
        watcher.cancel()


def _asked(name: str, generation: Generation) -> Asked:
    # a real model goes first, should it be called like a policy
    if name in generation.upstreams.models:
        return Asked(model=name)
    return read_model_name(name, generation.policies.keys())


def _sticky_key(
    policy: ServedPolicy, options: RequestOptions, conversation: Conversation, key: ApiKey | None
) -> tuple[str, ...]:
    """Names under which the model of this request is remembered."""
    owner = f"{'' if key is None else key.key_id}|{policy.name}"
    loop = f"{owner}|loop|{conversation.digest}"
    if options.conversation is None:
        return (loop,)
    return (f"{owner}|conversation|{options.conversation}", loop)
