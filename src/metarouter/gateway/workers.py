"""Several processes behind one port: a process decides and serves on one core.

The supervisor, uvicorn's own, holds the port, hands it to the workers, and puts another in the
place of one that dies. Each worker is a whole gateway. What gateways of one store share, keys,
limits, conversations and decisions, workers share; breakers, places at upstreams and the
generation of the settings are each worker's own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from metarouter.errors import MetarouterError, OptionError
from metarouter.gateway.app import build_app, load_policies, make_gateway
from metarouter.gateway.reloading import fixed_settings, with_fixed
from metarouter.gateway.serving import bound, hurry, reload_on_hangup, server_config
from metarouter.gateway.settings import SettingsSource
from metarouter.gateway.state import make_logger

__all__ = ["WorkerApp", "serve_workers"]

_HUNG_SECONDS = 60  # without a sign of life until a worker is killed; starting takes some
_LOOK_SECONDS = 0.2  # between two looks whether the first worker serves


def serve_workers(source: SettingsSource, on_bound: Callable[[str], None]) -> None:
    """Serve with as many processes as the settings say, until SIGTERM or SIGINT.

    One worker starts before the others: it migrates the store, and what is wrong is told once.
    SIGHUP makes every worker read settings and routers again.

    Parameters
    ----------
    source : SettingsSource
    on_bound : called with the address once the port is taken.

    Raises
    ------
    OptionError
        When a worker cannot start, and nobody asked for the end; it has told why.
    OSError
        When the port cannot be taken.
    """
    settings = source.read()
    with (
        bound(settings) as (listener, url),
        tempfile.TemporaryDirectory(prefix="metarouter-") as folder,
    ):
        on_bound(url)
        fixed = fixed_settings(settings)
        app = WorkerApp(source=source, fixed=fixed, metrics=Path(folder), is_first=True)
        config = server_config(app, settings)
        config.factory, config.workers = True, settings.workers
        supervisor = _Supervisor(config, [listener])
        supervisor.run()
    if not supervisor.is_asked_to_end:
        raise OptionError("not all workers could start; what is wrong is told above")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerApp:
    """Makes the app of a worker, in the worker; it can be pickled.

    Attributes
    ----------
    source : where the worker reads its settings.
    fixed : settings that only a restart of all changes, as they were at the start.
    metrics : folder through which the workers share their metrics.
    is_first : whether no worker has served yet: one that cannot start then stops all.
    """

    source: SettingsSource
    fixed: Mapping[str, Any]
    metrics: Path
    is_first: bool

    def __call__(self) -> ASGIApp:
        """The app; a worker that cannot have one says why and ends."""
        _end_with_parent()
        try:
            settings = with_fixed(self.source.read(), self.fixed)
            settings.check_variables()
            gateway = make_gateway(settings, load_policies(settings), self.source)
        except MetarouterError as error:
            make_logger("error").error("worker cannot start", error=str(error))
            sys.exit(STARTUP_FAILURE if self.is_first else 1)
        gateway.metrics.share(self.metrics)
        gateway.tell_siblings = _ask_for_reload
        reload_on_hangup(gateway)
        _take_hangup()
        hurry()
        return build_app(gateway)


class _Worker(Process):
    """Is asked for a sign of life without waiting: it may have died, and signals would wait too."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._heard = time.monotonic()

    def is_alive(self, timeout: float = _HUNG_SECONDS) -> bool:
        """Whether it runs, and answered within the time."""
        if self.ping(0):  # the answer to an earlier one
            self._heard = time.monotonic()
        return self.process.is_alive() and time.monotonic() - self._heard < timeout


class _Supervisor(Multiprocess):
    """Reloads on SIGHUP, where uvicorn's own puts new workers in the place of all."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.is_asked_to_end = False
        self._log = make_logger("info")

    def init_processes(self) -> None:
        """One worker; the others once it serves."""
        self.processes.append(self._started())
        if not self._serves(self.processes[0]):
            self.handle_signals()  # a terminal's SIGINT ends the worker too
            self.should_exit.set()
            return
        # from here on, one that fails to start is tried again, and takes no other with it
        self.config.app = replace(self.config.app, is_first=False)  # type: ignore[type-var]
        for _ in range(1, self.processes_num):
            self.processes.append(self._started())

    def keep_subprocess_alive(self) -> None:
        """Replace those that died or hang, and say so."""
        for place, old in enumerate(self.processes):
            if old.is_alive(timeout=_HUNG_SECONDS):
                continue
            old.kill()
            old.join()
            if old.exitcode == STARTUP_FAILURE:  # so would the next one
                self.should_exit.set()
                return
            new = self.processes[place] = self._started()
            self._log.warning("worker died", pid=old.pid, status=old.exitcode, next=new.pid)

    def handle_int(self) -> None:
        """End."""
        self._end()

    def handle_term(self) -> None:
        """End."""
        self._end()

    def handle_break(self) -> None:
        """End."""
        self._end()

    def handle_hup(self) -> None:
        """Pass on to every worker."""
        for process in self.processes:
            if process.pid is not None and process.process.is_alive():
                os.kill(process.pid, signal.SIGHUP)

    def _end(self) -> None:
        self.is_asked_to_end = True
        self.should_exit.set()

    def _started(self) -> Process:
        process = _Worker(self.config, self.sockets)
        with _later_hangup():
            process.start()
        return process

    def _serves(self, process: Process) -> bool:
        """Whether a worker comes to serve before it ends, or a signal ends all."""
        while process.process.is_alive() and not self.should_exit.is_set():
            self.handle_signals()
            if process.is_ready(timeout=_LOOK_SECONDS):
                return True
        return False


@contextmanager
def _later_hangup() -> Iterator[None]:
    """Processes that are started meanwhile get SIGHUP when they take it, and do not die of it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _take_hangup() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _ask_for_reload() -> None:
    """Have the supervisor pass a hang-up on to all workers."""
    os.kill(os.getppid(), signal.SIGHUP)


def _end_with_parent() -> None:
    """End when the supervisor does, however it does: the port is nobody else's then."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
