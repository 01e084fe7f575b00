"""The ASGI app: routes, guard and life span from one settings object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import sqlalchemy as sa
import structlog
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from metarouter.errors import OptionError
from metarouter.gateway.admin import admin_routes
from metarouter.gateway.dashboard import dashboard_routes
from metarouter.gateway.deciding import ServedPolicy, load_policies
from metarouter.gateway.keyring import Keyring
from metarouter.gateway.limits import KeyLimits
from metarouter.gateway.metrics import Metrics
from metarouter.gateway.openapi import openapi_route
from metarouter.gateway.plain import plain_routes
from metarouter.gateway.problems import Problem, error_bytes, problem_headers
from metarouter.gateway.protocols import PROTOCOLS
from metarouter.gateway.proxy import ProxyEndpoint
from metarouter.gateway.recalling import Recall
from metarouter.gateway.reloading import watch_files
from metarouter.gateway.settings import GatewaySettings, SettingsSource, is_loopback
from metarouter.gateway.state import Gateway, make_generation, make_logger
from metarouter.gateway.sticky import StickyModels
from metarouter.gateway.storing import open_store
from metarouter.gateway.tracing import open_tracing, traced
from metarouter.store.database import disposed_on_error
from metarouter.store.writer import DecisionWriter

__all__ = ["build_app", "gateway_routes", "load_policies", "make_gateway"]


_WAITING = 64  # threads; they wait more than they work


def make_gateway(
    settings: GatewaySettings,
    policies: Mapping[str, ServedPolicy],
    source: SettingsSource | None = None,
) -> Gateway:
    """Open the store and put together what the endpoints share.

    Parameters
    ----------
    settings : GatewaySettings
    policies : as :func:`load_policies` gives them.
    source : SettingsSource, optional
        Where a reload reads the settings again.

    Raises
    ------
    OptionError
        When the store cannot be opened, or when the gateway is open to others
        and no key would let anybody in.
    """
    log = make_logger(settings.log_level)
    engine, writer = open_store(settings, log.warning)
    with disposed_on_error(engine):
        return _make_gateway(settings, policies, source, log, engine, writer)


def _make_gateway(
    settings: GatewaySettings,
    policies: Mapping[str, ServedPolicy],
    source: SettingsSource | None,
    log: structlog.typing.FilteringBoundLogger,
    engine: sa.Engine,
    writer: DecisionWriter,
) -> Gateway:
    keyring = Keyring(engine, log.warning)
    if not writer.is_down:
        keyring.refresh()
    if not is_loopback(settings.host) and not keyring.has_valid_key:
        raise OptionError(
            f"host = {settings.host!r} is open to others and there is no valid key; make one: "
            f"metarouter keys create NAME"
        )
    limits = KeyLimits(engine, keyring.known, turn=writer.turn, report=log.warning)
    if not writer.is_down:
        limits.exchange()
    metrics = Metrics()
    metrics.watch(writer)
    sticky = StickyModels(settings.sticky_seconds)
    tracing = open_tracing(settings.tracing, settings.upstreams)
    gateway = Gateway(
        current=make_generation(settings, policies, metrics),
        source=source or SettingsSource(),
        engine=engine,
        writer=writer,
        keyring=keyring,
        limits=limits,
        metrics=metrics,
        tracing=tracing,
        sticky=sticky,
        recall=Recall(sticky, engine, writer, report=log.warning),
        log=log,
    )
    metrics.watch_upstreams(lambda: gateway.current.upstreams.failing)
    return gateway


def build_app(gateway: Gateway) -> ASGIApp:
    """The app of a gateway; the life span starts and flushes what it owns."""
    routes = gateway_routes(gateway)
    passed_on = {f"/v1/{protocol.path}" for protocol in PROTOCOLS}
    proxies = {
        route.path: route.app
        for route in routes
        if isinstance(route, Route) and route.path in passed_on
    }
    return FrontDoor(Starlette(routes=routes, lifespan=_lifespan(gateway)), proxies, gateway)


def gateway_routes(gateway: Gateway) -> list[BaseRoute]:
    """All that the app of a gateway answers."""
    proxies = [
        Route(
            f"/v1/{protocol.path}",
            traced(ProxyEndpoint(gateway, protocol), gateway.tracing),
            methods=["POST"],
        )
        for protocol in PROTOCOLS
    ]
    plain = plain_routes(gateway, gateway.tracing)
    routes = [*proxies, *plain, *admin_routes(gateway), *dashboard_routes(gateway)]
    return [*routes, openapi_route(routes)]


def _lifespan(gateway: Gateway) -> Callable[[Starlette], Any]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        # decisions that wait for another machine, and whatever else may take long
        loop.set_default_executor(ThreadPoolExecutor(_WAITING, thread_name_prefix="waiting"))
        await asyncio.to_thread(gateway.writer.start)
        tasks = [
            asyncio.create_task(gateway.keyring.keep_fresh()),
            asyncio.create_task(gateway.limits.keep_shared()),
            asyncio.create_task(watch_files(gateway)),
            asyncio.create_task(gateway.metrics.keep_shared()),
            asyncio.create_task(asyncio.to_thread(gateway.current.prices.warm)),
        ]
        try:
            async with gateway.upstreams:
                gateway.log.info("started", policies=list(gateway.policies))
                yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            if not await asyncio.to_thread(gateway.limits.exchange):
                gateway.log.warning("the store was not told what keys used last")
            await asyncio.to_thread(gateway.aside.close)
            await asyncio.to_thread(gateway.recall.close)
            await asyncio.to_thread(gateway.writer.close)
            gateway.metrics.close()
            gateway.engine.dispose()
            if gateway.tracing is not None:
                await asyncio.to_thread(gateway.tracing.close)
            gateway.log.info("stopped", written=gateway.writer.written)

    return lifespan


class FrontDoor:
    """Leads requests that are passed on past the router, whose layers take a tenth of the time.

    A gateway without keys trusts this machine. A page in a browser on it could
    reach the gateway under a name that its owner points here; such a request
    names that host. So only requests that call this host by a name of its own
    are taken then.
    """

    def __init__(self, app: ASGIApp, proxies: Mapping[str, ASGIApp], gateway: Gateway) -> None:
        self._app = app
        self._proxies = proxies
        self._gateway = gateway
        self._is_guarded = gateway.settings.auth != "keys"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer 421."""
        app = self._app
        if scope["type"] == "http":
            if self._is_guarded and not self._is_known(_host(scope)):
                app = _misdirected
            elif scope["method"] == "POST":
                app = self._proxies.get(scope["path"], app)
        await app(scope, receive, send)

    def _is_known(self, host: str) -> bool:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name in ("127.0.0.1", "localhost"):
            return True
        settings = self._gateway.settings
        known = (settings.host, *settings.hosts)
        return name in known or name.strip("[]") in known or is_loopback(name)


async def _misdirected(_: Scope, __: Receive, send: Send) -> None:
    message = "this host is not known by that name; the setting hosts allows more"
    problem = Problem(status=421, kind="invalid_request_error", message=message)
    content = error_bytes(problem, "openai")
    headers = problem_headers(problem, content)
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _host(scope: Scope) -> str:
    return next((str(value, "latin-1") for name, value in scope["headers"] if name == b"host"), "")
