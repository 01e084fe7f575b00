"""The server process around the app."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from metarouter.gateway.app import build_app
from metarouter.gateway.receiving import guarded_protocol
from metarouter.gateway.reloading import reload_when_told
from metarouter.gateway.settings import GatewaySettings
from metarouter.gateway.state import Gateway

__all__ = ["bound", "hurry", "reload_on_hangup", "serve", "server_config"]

_BACKLOG = 2048
_IDLE_SECONDS = 75  # longer than clients keep idle connections, so that they are who closes them
_YOUNG = 10_000  # objects until the interpreter looks for cycles; of 700, requests would wait
_SWITCH_SECONDS = 0.0005  # until a thread that writes lets requests go on; else 5 ms


def serve(gateway: Gateway, on_bound: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT, then let requests end and write what waits.

    SIGHUP reads settings and routers again; see :mod:`metarouter.gateway.reloading`.

    Parameters
    ----------
    gateway : Gateway
    on_bound : called with the address once the port is taken.

    Raises
    ------
    OSError
        When the port cannot be taken.
    """
    with bound(gateway.settings) as (listener, url):
        on_bound(url)
        reload_on_hangup(gateway)
        hurry()
        config = server_config(build_app(gateway), gateway.settings)
        uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def bound(settings: GatewaySettings) -> Iterator[tuple[socket.socket, str]]:
    """The listener of the settings' host and port, and its address, until the block ends."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    address = (settings.host.strip("[]"), settings.port)
    with socket.create_server(address, family=family, backlog=_BACKLOG) as listener:
        host = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
        yield listener, f"http://{host}:{listener.getsockname()[1]}"


def hurry() -> None:
    """Make the interpreter stop requests more rarely: their p99 under load is a third."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # settings and routers stay, so nobody need look through them again
    gc.set_threshold(_YOUNG, 10, 10)


def reload_on_hangup(gateway: Gateway) -> None:
    """Reload in a thread on SIGHUP, where the system has it: requests go on meanwhile."""

    def react(*_: object) -> None:
        threading.Thread(target=reload_when_told, args=(gateway,), daemon=True).start()

    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, react)


def server_config(
    app: ASGIApp | Callable[[], ASGIApp], settings: GatewaySettings
) -> uvicorn.Config:
    """How an app, or what makes one in a worker, is served."""
    return uvicorn.Config(
        app,
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        http=guarded_protocol(settings.limits.read_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=int(settings.limits.drain_seconds),
    )
