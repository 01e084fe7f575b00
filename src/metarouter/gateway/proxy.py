"""The endpoints that pass a request on: bare ASGI, because every request goes through here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from metarouter.errors import InputError, MetarouterError
from metarouter.gateway.choosing import Choice, choose, stayed_choice
from metarouter.gateway.conversation import (
    Conversation,
    read_chat,
    read_messages,
    read_nothing,
    read_responses,
)
from metarouter.gateway.deciding import Question, ServedPolicy, fixed_decision
from metarouter.gateway.following import (
    Following,
    follow,
    read_response_id,
    response_name,
)
from metarouter.gateway.ids import make_decision_id
from metarouter.gateway.keeping import keep_row
from metarouter.gateway.keyring import read_client_key
from metarouter.gateway.limits import Ticket, estimate_prompt
from metarouter.gateway.names import Asked, read_model_name
from metarouter.gateway.options import RequestOptions, read_options
from metarouter.gateway.problems import RefusedError, error_bytes, problem_headers, problem_of
from metarouter.gateway.records import Exchange, decision_headers, routed_exchange, with_fallback
from metarouter.gateway.spending import Prices, charged_usage
from metarouter.gateway.state import Gateway, Generation, header_map
from metarouter.gateway.sticky import Kept
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

__all__ = ["PROTOCOLS", "ClientGoneError", "Protocol", "ProxyEndpoint", "read_content"]

Scope = Mapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Coroutine[Any, Any, None]]

_HEAD, _TAIL = 4096, 8192  # bytes of an answer that token counts are looked for in
_CACHE_FIELD = b'"cache_control"'  # without it, an Anthropic upstream caches nothing


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
        generation.check(asked.policy, asking.key)
        conversation = protocol.read(asking.body)
        held = self._held(asking)
        following = self._following(asking, asked.policy, conversation, held)
        decision_id = make_decision_id()
        choice = await self._choose(asking, asked, conversation.text, following, decision_id, held)
        exchange = routed_exchange(
            choice,
            endpoint=protocol.path,
            asked=name,
            key_id=asking.key_id,
            conversation=following.conversation,
            prompt=conversation.text if generation.settings.store.prompts else None,
            decision_id=decision_id,
            decision_seconds=time.perf_counter() - asking.started,
            started=asking.started,
        )
        names = () if protocol.is_free else following.names
        return self._planned(asking, exchange, conversation.text, held, names)

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
        return self._planned(asking, exchange, text, self._held(asking))

    def _planned(
        self,
        asking: _Asking,
        exchange: Exchange,
        text: str,
        held: Kept | None,
        names: tuple[str, ...] = (),
    ) -> _Plan:
        upstreams, model = asking.generation.upstreams, exchange.decision.model
        stand_ins = _stand_ins(asking, exchange)
        targets = upstreams.targets(model, self._protocol.dialect, stand_ins.__contains__)
        if held is not None:
            # what it continues is there and nowhere else
            targets = [t for t in targets if (t.upstream, t.model) == (held.upstream, model)]
        if held is not None and not targets:
            raise InputError(
                f"previous_response_id: upstream {held.upstream} holds that response, and does "
                f"not serve {model}"
            )
        return _Plan(
            upstreams=upstreams,
            exchange=exchange,
            body=asking.body,
            targets=targets,
            explain=asking.options.explain,
            names=names,
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

    def _held(self, asking: _Asking) -> Kept | None:
        """Who holds the response that the request continues, as far as it is still there."""
        if self._protocol.path != "responses":
            return None
        previous = asking.body.value("previous_response_id", str)
        if previous is None:
            return None
        kept = self._gateway.sticky.get(response_name(asking.key_id or "", previous))
        is_there = kept is not None and kept.upstream in asking.generation.settings.upstreams
        return kept if is_there else None

    def _is_there(self, generation: Generation, model: str, held: Kept | None) -> bool:
        """Whether the upstream that holds the earlier turns serves a model."""
        if held is None:
            return True
        targets = generation.upstreams.targets(model, self._protocol.dialect, lambda _: False)
        return any(target.upstream == held.upstream for target in targets)

    def _following(
        self, asking: _Asking, policy: str, conversation: Conversation, held: Kept | None
    ) -> Following:
        """What the request stays with."""
        generation, owner = asking.generation, asking.key_id or ""
        following = follow(
            self._gateway.sticky,
            generation.settings,
            generation.prices,
            owner=owner,
            policy=policy,
            conversation=conversation,
            options=asking.options,
            is_cached=self._protocol.dialect == "openai" or _CACHE_FIELD in asking.body.content,
        )
        if held is None:
            return following
        identity = held.conversation or following.conversation
        why = f"upstream {held.upstream} holds the response that it continues:"
        return replace(following, conversation=identity, kept=held, why=why, cached=None)

    async def _choose(
        self,
        asking: _Asking,
        asked: Asked,
        text: str,
        following: Following,
        decision_id: str,
        held: Kept | None,
    ) -> Choice:
        generation, kept = asking.generation, following.kept

        def allowed(policy: ServedPolicy) -> list[str]:
            models = generation.models[policy.name, self._protocol.dialect]
            return [m for m in models if asking.may(m) and self._is_there(generation, m, held)]

        question = Question(
            text=text,
            options=asking.options,
            prices=generation.prices,
            threshold=asked.threshold,
            cached=following.cached,
        )
        deciders = generation.deciders(
            asked,
            conversation=following.conversation,
            key_id=asking.key_id,
            decision_id=decision_id,
            allowed=allowed,
        )
        if kept is not None and asking.options.pin is None:
            choice = stayed_choice(deciders, question, kept.policy, kept.model, following.why)
            if choice is not None:
                return choice
        return await choose(deciders, question)

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
                kept = plan.kept(answer.target)
                for name in plan.names:
                    self._gateway.sticky.put(name, kept)
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
                exchange.usage = read_usage(tap.head, tap.tail)
                exchange.answer_bytes = tap.size
            exchange.outcome = "ok" if answer.status < 400 else "refused"
        finally:
            answer.close()

    def _note_response(self, plan: _Plan, answer: Answer, tap: _Tap) -> bool:
        """Remember who holds a response; whether there is nothing to wait for."""
        if self._protocol.path != "responses" or answer.status >= 400:
            return True
        is_stream = answer.kind == "stream"
        content = tap.head if is_stream else answer.first
        response = read_response_id(content, is_stream=is_stream)
        if response is not None:
            name = response_name(plan.exchange.key_id or "", response)
            self._gateway.sticky.put(name, plan.kept(answer.target))
        return response is not None or not is_stream or len(tap.head) >= _HEAD

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
    names: tuple[str, ...]
    is_stream: bool
    client_key: str | None
    prices: Prices
    ticket: Ticket | None

    def kept(self, target: Target) -> Kept:
        """What is remembered of who answered."""
        policy, identity = self.exchange.policy, self.exchange.conversation
        name = None if policy is None else policy.name
        return Kept(
            model=target.model, upstream=target.upstream, policy=name, conversation=identity
        )


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
    if name in generation.named:
        return Asked(model=name)
    return read_model_name(name, generation.policies, generation.splits)


def _stand_ins(asking: _Asking, exchange: Exchange) -> set[str]:
    """Models that may answer where the chosen one cannot."""
    options, choice = asking.options, exchange.choice
    models = asking.generation.settings.fallbacks.get(exchange.chosen, ())
    if options.pin is not None:
        return set()
    if options.budget is not None and choice is not None:
        models = [m for m in choice.models if m in models]
    return {m for m in models if (options.models is None or m in options.models) and asking.may(m)}
