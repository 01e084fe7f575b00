"""The endpoints that answer by themselves: decisions, feedback, models, health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hmac import compare_digest
from typing import Any

import msgspec
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from metarouter.errors import InputError, MetarouterError, shorten
from metarouter.gateway.admin import require_admin
from metarouter.gateway.choosing import Choice, ask_others, choose
from metarouter.gateway.conversation import Conversation, read_chat
from metarouter.gateway.deciding import Question, ServedPolicy
from metarouter.gateway.following import conversation_identity
from metarouter.gateway.ids import make_decision_id
from metarouter.gateway.keeping import keep_row
from metarouter.gateway.keyring import read_client_key
from metarouter.gateway.names import Asked, read_model_name
from metarouter.gateway.options import RequestOptions, read_options
from metarouter.gateway.problems import RefusedError, error_bytes, problem_headers, problem_of
from metarouter.gateway.proxy import ClientGoneError, read_content
from metarouter.gateway.records import Exchange, routed_exchange
from metarouter.gateway.state import Gateway, Generation, header_map
from metarouter.gateway.storing import ForeignDecisionError, keep_feedback
from metarouter.gateway.tracing import Tracing, traced
from metarouter.gateway.wire import Body, read_body
from metarouter.records import json_value
from metarouter.store.analytics import fetch_decision
from metarouter.store.database import StoreDownError
from metarouter.store.feedback import read_feedback
from metarouter.store.keys import ApiKey

__all__ = ["plain_routes"]

_LONG_BATCH = 50_000  # characters that are decided on before others get a turn

Handler = Callable[[Gateway, Request, ApiKey | None], Awaitable[Response]]
Guard = Callable[[Gateway, Mapping[str, str]], ApiKey | None]


def plain_routes(gateway: Gateway, tracing: Tracing | None = None) -> list[Route]:
    """Routes of the endpoints that answer by themselves; what they are sent makes spans."""

    def bound(
        path: str, handler: Handler, method: str = "GET", guard: Guard | None = Gateway.authorise
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            return await _answer(gateway, path, handler, request, guard)

        async def spanned(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        if tracing is None or method == "GET":
            return Route(path, endpoint, methods=[method])
        return Route(path, traced(spanned, tracing), methods=[method])

    return [
        bound("/v1/route", route, "POST"),
        bound("/v1/feedback", feedback, "POST"),
        bound("/v1/models", models),
        bound("/v1/decisions/{decision_id}", decision),
        bound("/metrics", metrics, guard=_authorise_reader),
        bound("/health", health, guard=None),
        bound("/ready", ready, guard=None),
    ]


async def _answer(
    gateway: Gateway, path: str, handler: Handler, request: Request, guard: Guard | None
) -> Response:
    start = time.perf_counter()
    try:
        key = None if guard is None else guard(gateway, header_map(request.scope))
        response = await handler(gateway, request, key)
    except ClientGoneError:
        return Response(status_code=400)  # nobody reads it
    except MetarouterError as error:
        problem = problem_of(error)
        response = Response(error_bytes(problem, "openai"), problem.status)
        response.raw_headers = problem_headers(problem, bytes(response.body))
    if guard is not None:
        gateway.metrics.note_request(
            path.removeprefix("/v1/"),
            response.status_code,
            "ok" if response.status_code < 400 else "rejected",
            seconds=time.perf_counter() - start,
        )
    return response


async def route(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """Decide, and call nobody: ``{"query": …}``, ``{"queries": […]}`` or ``{"messages": […]}``."""
    generation = gateway.current
    content, headers = await _content(gateway, request), header_map(request.scope)
    body = read_body(content)
    options = read_options(body, headers)
    name = body.value("model", str) or "metarouter"
    asked = read_model_name(name, generation.policies, generation.splits)
    if asked.policy is None:
        raise InputError(f"model = {name!r}; allowed: metarouter or metarouter:POLICY")
    generation.check(asked.policy, key)
    decided: list[dict[str, Any]] = []
    characters = 0
    for conversation in _queries(body, generation.settings.limits.batch):
        if key is not None:
            gateway.limits.close(gateway.limits.admit(key))  # each a request, which spends nothing
        exchange, choice = await _decided(generation, asked, conversation, options, key, name)
        if key is not None:
            gateway.owners.note(exchange.decision_id, key.key_id)
        keep_row(gateway, exchange)
        decision = exchange.decision
        gateway.metrics.note_decision(choice.policy.name, decision.model, decision.bound)
        decided.append(_shown(exchange, choice))
        characters += len(conversation.text)
        if len(decided) % 20 == 0 or characters > _LONG_BATCH:
            characters = 0
            await asyncio.sleep(0)  # a long batch lets other requests through
    return _json({"decisions": decided})


async def _decided(
    generation: Generation,
    asked: Asked,
    conversation: Conversation,
    options: RequestOptions,
    key: ApiKey | None,
    name: str,
) -> tuple[Exchange, Choice]:
    """One decision with all its propensities, which is all that the caller waits for."""
    start, decision_id = time.perf_counter(), make_decision_id()
    key_id = None if key is None else key.key_id

    def allowed(policy: ServedPolicy) -> list[str]:
        return [m for m in policy.models if key is None or key.models is None or m in key.models]

    identity = conversation_identity(key_id or "", conversation, options)
    deciders = generation.deciders(
        asked, conversation=identity, key_id=key_id, decision_id=decision_id, allowed=allowed
    )
    question = Question(
        text=conversation.text,
        options=options,
        prices=generation.prices,
        threshold=asked.threshold,
    )
    choice = await choose(deciders, question)
    if choice.others:
        choice = msgspec.structs.replace(
            choice, within=await asyncio.to_thread(ask_others, choice), others=(), share=1.0
        )
    exchange = routed_exchange(
        choice,
        endpoint="route",
        asked=name,
        key_id=key_id,
        conversation=identity,
        prompt=conversation.text if generation.settings.store.prompts else None,
        decision_id=decision_id,
        decision_seconds=time.perf_counter() - start,
        started=start,
        outcome="decided",
    )
    return exchange, choice


def _queries(body: Body, limit: int) -> list[Conversation]:
    given = [name for name in ("query", "queries", "messages") if name in body.spans]
    if len(given) != 1:
        raise InputError(f"{given or 'no query'}; allowed: one of query, queries, messages")
    if given == ["messages"]:
        return [read_chat(body)]
    if given == ["query"]:
        return [Conversation(text=body.value("query", str) or "")]
    queries: list[str] = body.value("queries", list[str]) or []
    if len(queries) > limit:
        raise InputError(f"{len(queries)} queries; allowed: at most {limit} (limits.batch)")
    return [Conversation(text=query) for query in queries]


def _shown(exchange: Exchange, choice: Choice) -> dict[str, Any]:
    policy = choice.policy
    shown: dict[str, Any] = json_value(asdict(exchange.decision))
    head = {"decision_id": exchange.decision_id, "policy": policy.name}
    chance = {"experiment": choice.experiment, "propensities": choice.propensities}
    return head | shown | chance | {"cost_unit": policy.router.policy.cost_unit}


async def decision(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """A decision of the caller's own as it is kept, a moment after its request ended."""
    name = request.path_params["decision_id"]
    if not _is_id(name):
        raise _unknown_decision(name)
    owner = None if key is None or key.is_admin else key.key_id
    fetch = partial(fetch_decision, gateway.engine, name, owner=owner)
    try:
        row = await asyncio.get_running_loop().run_in_executor(gateway.writer.threads, fetch)
    except sa.exc.SQLAlchemyError as error:
        gateway.log.error("store", error=type(error).__name__)
        message = "the store does not answer: ask again later"
        raise RefusedError(503, "store_unavailable", message) from error
    if row is None:
        raise _unknown_decision(name)
    return _json(row if owner is None else _of_the_caller(row))


def _is_id(name: str) -> bool:
    return len(name) <= 36 and name.isascii() and name.replace("-", "").isalnum()


def _unknown_decision(name: str) -> RefusedError:
    message = f"decision {shorten(name)} is none of yours, or is not written yet"
    return RefusedError(404, "not_found_error", message)


def _of_the_caller(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is the operator's business: which process, and whose keys said what."""
    said = [{**one, "key_id": None} for one in row["feedback"]]
    return {**row, "instance": None, "feedback": said}


async def feedback(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """Keep a statement about an answer; it is on the disk when this answers."""
    given = read_feedback(await _content(gateway, request))
    key_id = None if key is None else key.key_id
    is_free = key is None or key.is_admin or gateway.owners.is_of(given.decision_id, key.key_id)
    try:
        name, is_new = await keep_feedback(
            gateway.engine,
            gateway.writer,
            given,
            key_id,
            must_own=not is_free,
            served=_served(gateway.current, key),
        )
    except ForeignDecisionError as error:
        raise _unknown_decision(given.decision_id) from error
    except StoreDownError as error:
        raise RefusedError(503, "store_unavailable", str(error)) from error
    status = 202 if is_new is None else 201 if is_new else 200
    return _json({"feedback_id": name, "is_new": is_new}, status)


def _served(generation: Generation, key: ApiKey | None) -> set[str] | None:
    """Models of upstreams and of policies that are the key's to know; None for any name."""
    if not all(upstream.models for upstream in generation.settings.upstreams.values()):
        return None
    routers = (policy.router for policy in generation.policies.values())
    found = {*generation.named, *(model for router in routers for model in router.models)}
    if key is None or key.is_admin or key.models is None:
        return found
    return found & set(key.models)


async def models(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """Policies and models that the caller may name."""
    generation = gateway.current
    allowed = [
        name
        for name in generation.names
        if key is None or key.policies is None or name in key.policies
    ]
    names = ["metarouter"] if allowed and generation.names[0] in allowed else []
    names += [f"metarouter:{name}" for name in allowed]
    known = [*generation.upstreams.models, *_wildcard_models(generation, allowed)]
    known = [
        m for m in dict.fromkeys(known) if key is None or key.models is None or m in key.models
    ]
    data = [_model(name, "metarouter") for name in names]
    data += [_model(name, "upstream") for name in known]
    return _json({"object": "list", "data": data})


def _wildcard_models(generation: Generation, policies: Sequence[str]) -> list[str]:
    """Models of policies, which an upstream that serves every name serves too."""
    return [
        model
        for name in policies
        if name in generation.policies
        for model in generation.policies[name].models
        if generation.settings.serves(model)
    ]


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _authorise_reader(gateway: Gateway, headers: Mapping[str, str]) -> ApiKey | None:
    """Let in who may read the metrics: an admin's key, or the token that the settings name."""
    token = gateway.settings.metrics_token()
    given = read_client_key(headers)
    if token and given and compare_digest(token.encode(), given.encode("latin-1")):
        return None
    return require_admin(gateway, headers)


async def metrics(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """What Prometheus reads."""
    return Response(await gateway.metrics.page(), media_type="text/plain; version=0.0.4")


async def health(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """That the process answers."""
    return _json({"status": "ok"})


async def ready(gateway: Gateway, request: Request, key: ApiKey | None) -> Response:
    """Whether requests would be served: an upstream may be asked.

    A store that is down is told and no reason to stop: all gateways share it,
    and they serve without it.
    """
    generation = gateway.current
    down = generation.upstreams.open_breakers
    is_ready = len(down) < len(generation.settings.upstreams)
    state = {
        "status": "ok" if is_ready else "not ready",
        "store": gateway.writer.state,
        "left_alone": down,
    }
    return _json(state, 200 if is_ready else 503)


async def _content(gateway: Gateway, request: Request) -> bytes:
    headers = header_map(request.scope)
    limit = gateway.settings.limits.body_bytes
    return await read_content(headers, request.receive, limit)  # type: ignore[arg-type]


def _json(value: object, status: int = 200) -> Response:
    return _json_bytes(msgspec.json.encode(value), status)


def _json_bytes(content: bytes, status: int) -> Response:
    return Response(content, status, media_type="application/json")
