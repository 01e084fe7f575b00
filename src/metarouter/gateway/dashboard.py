"""The dashboard's pages and their data: ``/dashboard`` and ``/dashboard/api``.

The page itself is open and holds nothing. Its data needs a key of an admin;
where the gateway asks for no keys, whoever is on this machine. Answers are made
in a thread, one at a time, so that a page that is left open costs requests little.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

import metarouter
from metarouter.dashboard.comparison import comparison_view
from metarouter.dashboard.opinions import JUDGED, last_words, named_models, opinions_view
from metarouter.dashboard.page import SECURITY_HEADERS, shell, static_app
from metarouter.dashboard.saving import SAVING_COLUMNS, saving_view
from metarouter.dashboard.service import SERVICE_COLUMNS, attempts_view, times_view
from metarouter.dashboard.traffic import time_grid, traffic_view
from metarouter.dashboard.whatif import read_options, what_if_view
from metarouter.errors import InputError, MetarouterError
from metarouter.gateway.admin import require_admin
from metarouter.gateway.deciding import ServedPolicy
from metarouter.gateway.problems import RefusedError, error_bytes, problem_of
from metarouter.gateway.state import Gateway, header_map
from metarouter.policy.baselines import premium_index
from metarouter.store.analytics import (
    DecisionFilter,
    Window,
    count_answers,
    count_opinions,
    count_shares,
    count_traffic,
    fetch_decision,
    fetch_decisions,
    newest_decisions,
    start_of_newest,
)
from metarouter.store.experiments import read_log
from metarouter.store.exporting import list_claims, read_offered, read_statements
from metarouter.store.tables import decisions, feedback

__all__ = ["dashboard_routes"]

Query = Mapping[str, str]
View = Callable[[Gateway, Query], Mapping[str, Any]]

_ORDINARY = "A query of ordinary length, to tell which model is dearer."

# Rows that one answer is made of, at most: those with JSON take ten times as long to read.
_MOST_ROWS = 20_000
_MOST_WEIGHED = 5_000


def dashboard_routes(gateway: Gateway) -> list[BaseRoute]:
    """Routes of the page, its files and its data."""
    desk = _Desk(gateway)
    views: dict[str, View] = {
        "about": _about,
        "traffic": _traffic,
        "saving": _saving,
        "decisions": _decisions,
        "service": _service,
        "what-if": _what_if,
        "feedback": _feedback,
        "experiments": _experiments,
    }
    return [
        Route("/dashboard", shell, methods=["GET"]),
        Mount("/dashboard/static", static_app()),
        *(
            Route(f"/dashboard/api/{name}", desk.endpoint(view), methods=["GET"])
            for name, view in views.items()
        ),
        Route("/dashboard/api/decisions/{decision_id}", desk.endpoint(_decision), methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class _Desk:
    """Answers questions of the pages, one at a time, in a thread that no slow decision holds."""

    gateway: Gateway
    thread: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, thread_name_prefix="dashboard")
    )

    def endpoint(self, view: View) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                require_admin(self.gateway, header_map(request.scope))
                given = _without_nul({**request.query_params, **request.path_params})
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self.thread, view, self.gateway, given)
            except sa.exc.SQLAlchemyError as error:
                self.gateway.log.error("store", error=type(error).__name__)
                down = RefusedError(503, "store_unavailable", "the store does not answer")
                return _problem(down)
            except MetarouterError as error:
                return _problem(error)
            return _json(msgspec.json.encode(found, enc_hook=_plain), 200)

        return answer


def _without_nul(query: dict[str, str]) -> dict[str, str]:
    """The query; PostgreSQL takes no text with that character, not even to look for it."""
    for name, value in query.items():
        if "\x00" in value:
            raise InputError(f"{name} = {value[:40]!r}; allowed: text without NUL")
    return query


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; NaN becomes null by itself."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a page was given {type(value).__name__}")


def _problem(error: MetarouterError) -> Response:
    problem = problem_of(error)
    return _json(error_bytes(problem, "openai"), problem.status)


def _json(content: bytes, status: int) -> Response:
    headers = {**SECURITY_HEADERS, "cache-control": "no-store"}
    return Response(content, status, media_type="application/json", headers=headers)


def _about(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """What is served: policies, models, how to call them."""
    return {
        "version": metarouter.__version__,
        "auth": gateway.settings.auth,
        "keeps_prompts": gateway.settings.store.prompts,
        "policies": [_policy(policy) for policy in gateway.policies.values()],
        "models": [
            {"model": name, "dialects": _dialects(gateway, name)}
            for name in dict.fromkeys(_served(gateway))
        ],
        "upstreams": list(gateway.settings.upstreams),
    }


def _policy(policy: ServedPolicy) -> dict[str, Any]:
    rule = policy.router.policy
    return {
        "policy": policy.name,
        "version": rule.version,
        "fitted": policy.router.artifact.created,
        "models": policy.models,
        "reference": rule.models[0],
        "premium": _premium(policy),
        "w": rule.w,
        "cost_unit": rule.cost_unit,
    }


def _premium(policy: ServedPolicy) -> str:
    if policy.settings.default_model is None:
        return policy.default_model
    costs = policy.router.expected_costs([_ORDINARY])
    return policy.router.models[premium_index(costs[0])]


def _dialects(gateway: Gateway, model: str) -> list[str]:
    return [d for d in ("openai", "anthropic") if gateway.upstreams.serves(model, d)]


def _traffic(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    grid = time_grid(_whole(query, "seconds", 3600), time.time())
    premium = _premium_models(gateway)
    cells = count_traffic(gateway.engine, grid.window, grid.width)
    sums = count_shares(gateway.engine, grid.window, grid.coarser().width, premium)
    return traffic_view(cells, sums, grid, premium)


def _premium_models(gateway: Gateway) -> dict[str, str]:
    return {name: _premium(policy) for name, policy in gateway.policies.items()}


def _saving(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """The newest answers of policies, and what they saved."""
    answered = (decisions.c.policy.is_not(None), decisions.c.outcome == "ok")
    rows = newest_decisions(
        gateway.engine, _window(query), SAVING_COLUMNS, _MOST_WEIGHED, *answered
    )
    return saving_view(rows, _premium_models(gateway))


def _service(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """Times and failures by model and upstream, and what waits in this process."""
    grid = time_grid(_whole(query, "seconds", 3600), time.time())
    rows = newest_decisions(gateway.engine, grid.window, SERVICE_COLUMNS, _MOST_ROWS)
    tried = newest_decisions(gateway.engine, grid.window, ("created", "attempts"), _MOST_WEIGHED)
    writer = gateway.writer
    return times_view(rows, grid) | {
        "upstreams": attempts_view(
            tried, gateway.upstreams.open_breakers, list(gateway.settings.upstreams)
        ),
        "store": {
            "waiting": writer.waiting,
            "written": writer.written,
            "spilled": writer.spilled,
            "failures": writer.failures,
        },
    }


def _what_if(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """The policy on its newest decisions, at other prices of cost."""
    name = query.get("policy") or next(iter(gateway.policies), "")
    policy = gateway.policies.get(name)
    if policy is None:
        raise InputError(
            f"policy = {name[:40]!r}; allowed: {', '.join(gateway.policies) or 'none'}"
        )
    own = (
        decisions.c.policy == name,
        decisions.c.artifact == policy.router.artifact.created,
        decisions.c.bound != "fixed",
    )
    columns = ("options", "conversation")
    rows = newest_decisions(gateway.engine, _window(query), columns, _MOST_WEIGHED, *own)
    gains, costs, units = read_options(rows, policy.models)
    return {
        "policy": name,
        "models": policy.models,
        "premium": _premium(policy),
        "cost_unit": policy.router.policy.cost_unit,
        **what_if_view(gains, costs, units, w=policy.router.policy.w),
    }


def _feedback(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """What users and audits said of the decisions of a window."""
    window = _window(query)
    start = start_of_newest(gateway.engine, feedback.c.created, window, _MOST_ROWS)
    window = Window(start=start, end=window.end)
    opinions = count_opinions(gateway.engine, start)
    read = partial(read_statements, gateway.engine, since=start, decided_since=start, is_brief=True)
    said = chain(read(kinds=JUDGED), read(kinds=("score",), audited_since=start))
    answers = count_answers(gateway.engine, window)
    premium = list(_premium_models(gateway).values())
    claims = last_words(list_claims(said))
    offered = {*answers, *_served(gateway)}
    if not named_models(claims) <= offered:  # models that were served once, or misspelt ones
        offered |= read_offered(gateway.engine)
    return opinions_view(claims, opinions, answers, premium, offered) | {"since": start}


def _served(gateway: Gateway) -> list[str]:
    """Models that callers may ask for, and those of policies."""
    models = [m for policy in gateway.policies.values() for m in policy.models]
    return [*gateway.upstreams.models, *models]


def _experiments(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """Splits and shadows, on the newest decisions."""
    start = start_of_newest(gateway.engine, decisions.c.created, _window(query), _MOST_WEIGHED)
    return comparison_view(read_log(gateway.engine, since=start)) | {"since": start}


def _decisions(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    """A page of the explorer, and the place where the next one begins."""
    limit = _whole(query, "limit", 50)
    names = {name: query[name] for name in DecisionFilter.__slots__ if query.get(name)}
    after = (_number(query, "after"), query.get("after_id", "")) if "after" in query else None
    window = _window(query)
    rows = fetch_decisions(gateway.engine, window, DecisionFilter(**names), limit, after)
    last = rows[-1] if len(rows) == limit else None
    following = None if last is None else [last["created"], last["decision_id"]]
    return {"decisions": rows, "next": following}


def _decision(gateway: Gateway, query: Query) -> Mapping[str, Any]:
    found = fetch_decision(gateway.engine, query["decision_id"])
    if found is None:
        raise RefusedError(404, "not_found_error", "there is no such decision in the store")
    return found


def _window(query: Query) -> Window:
    return time_grid(_whole(query, "seconds", 3600), time.time()).window


def _whole(query: Query, name: str, default: int) -> int:
    given = query.get(name, str(default))
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InputError(f"{name} = {given[:40]!r}; allowed: a whole number")
    return int(given)


def _number(query: Query, name: str) -> float:
    try:
        return float(query[name])
    except ValueError:
        raise InputError(f"{name} = {query[name][:40]!r}; allowed: a number") from None
