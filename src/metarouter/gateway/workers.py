"""Several processes behind one port: a process decides and serves on one core.

The supervisor, uvicorn's own, holds the port, hands it to the workers, and puts another in the
place of one that dies. Each worker is a whole gateway. What gateways of one store share, keys,
limits, conversations and decisions, workers share; breakers, places at upstreams and the
generation of the settings are each worker's own.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
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
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds until one that did not come to serve is replaced


def serve_workers(source: SettingsSource, on_serving: Callable[[str], None]) -> None:
    """Serve with as many processes as the settings say, until SIGTERM or SIGINT.

    One worker starts before the others: it migrates the store, and what is wrong is told once.
    SIGHUP makes every worker read settings and routers again.

    Parameters
    ----------
    source : SettingsSource
    on_serving : called with the address once the first worker serves.

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
        fixed = fixed_settings(settings)
        app = WorkerApp(source=source, fixed=fixed, metrics=Path(folder))
        config = server_config(app, settings)
        config.factory, config.workers = True, settings.workers
        supervisor = _Supervisor(config, [listener], partial(on_serving, url))
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
    """

    source: SettingsSource
    fixed: Mapping[str, Any]
    metrics: Path

    def __call__(self) -> ASGIApp:
        """The app; a worker that cannot have one says why and ends."""
        _end_with_parent()
        try:
            settings = with_fixed(self.source.read(), self.fixed)
            settings.check_variables()
            gateway = make_gateway(settings, load_policies(settings), self.source)
        except MetarouterError as error:
            self._tell(str(error))
            sys.exit(STARTUP_FAILURE)
        self._told.unlink(missing_ok=True)
        gateway.metrics.share(self.metrics)
        gateway.tell_siblings = _ask_for_reload
        reload_on_hangup(gateway)
        _take_hangup()
        hurry()
        return build_app(gateway)

    @property
    def _told(self) -> Path:
        """What kept the last worker from starting; no worker's metrics, by its name."""
        return self.metrics / ".told"

    def _tell(self, message: str) -> None:
        """Say what is wrong, unless the worker before said the same."""
        with suppress(OSError):
            if self._told.read_text(encoding="utf-8") == message:
                return
        make_logger("error").error("worker cannot start", error=message)
        with suppress(OSError):  # of a full disk: it is said again then
            self._told.write_text(message, encoding="utf-8")


class _Worker(Process):
    """Is asked for a sign of life without waiting: it may have died, and signals would wait too.

    Attributes
    ----------
    has_served : whether it came to serve.
    pause : seconds until another takes its place, if it dies before it serves.
    next_start : when another takes its place, by ``time.monotonic``; None while it runs.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], pause: float = _FIRST_PAUSE
    ) -> None:
        super().__init__(config, sockets)
        self.has_served = False
        self.pause = pause
        self.next_start: float | None = None
        self._heard = time.monotonic()

    def is_alive(self, timeout: float = _HUNG_SECONDS) -> bool:
        """Whether it runs, and answered within the time."""
        with suppress(OSError, EOFError, pickle.UnpicklingError):  # of one that died
            self.parent_conn.send(b"ping")
            while self.parent_conn.poll():  # answers to earlier ones
                self.has_served |= self.parent_conn.recv()
                self._heard = time.monotonic()
        return self.process.is_alive() and time.monotonic() - self._heard < timeout

    def end(self) -> None:
        """See that it is gone, and when another may start: at once after one that served."""
        self.kill()
        self.join()
        self.next_start = time.monotonic() + (0.0 if self.has_served else self.pause)


class _Supervisor(Multiprocess):
    """Reloads on SIGHUP, where uvicorn's own puts new workers in the place of all."""

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        on_serving: Callable[[], None],
    ) -> None:
        super().__init__(config, sockets)
        self._on_serving = on_serving
        self.processes: list[_Worker] = []  # type: ignore[assignment]
        self.is_asked_to_end = False
        self._log = make_logger("info")

    def init_processes(self) -> None:
        """One worker; the others once it serves."""
        self.processes.append(self._started())
        if not self._serves(self.processes[0]):
            self.handle_signals()  # a terminal's SIGINT ends the worker too
            self.should_exit.set()
            return
        self._on_serving()
        for _ in range(len(self.processes), self.processes_num):  # SIGTTIN may have added some
            self.processes.append(self._started())

    def keep_subprocess_alive(self) -> None:
        """Replace those that died or hang; one that cannot start takes no other with it."""
        if self.should_exit.is_set():  # a terminal's SIGINT ends workers too: they did not die
            return
        for place, old in enumerate(self.processes):
            if old.next_start is None and not old.is_alive():
                old.end()
                self._say_ended(old)
            if old.next_start is not None and time.monotonic() >= old.next_start:
                self.processes[place] = self._started(_pause_after(old))

    def _say_ended(self, worker: _Worker) -> None:
        """Say that a worker is gone; of those that fail to start one after another, the first."""
        if worker.has_served:
            self._log.warning("worker died", pid=worker.pid, status=worker.exitcode)
        elif worker.pause == _FIRST_PAUSE:
            self._log.warning(
                "worker did not come to serve; others are tried, with longer and longer pauses",
                pid=worker.pid,
                status=worker.exitcode,
                longest_pause=_LONGEST_PAUSE,
            )

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
        """Pass on to every worker; one that waits to be replaced waits no longer."""
        for process in self.processes:
            if process.next_start is not None:
                process.next_start = 0.0
            elif process.pid is not None and process.process.is_alive():
                os.kill(process.pid, signal.SIGHUP)

    def handle_ttin(self) -> None:
        """One worker more."""
        self.processes_num += 1
        self.processes.append(self._started())

    def _end(self) -> None:
        self.is_asked_to_end = True
        self.should_exit.set()

    def _started(self, pause: float = _FIRST_PAUSE) -> _Worker:
        process = _Worker(self.config, self.sockets, pause)
        with _later_hangup():
            process.start()
        return process

    def _serves(self, process: _Worker) -> bool:
        """Whether a worker comes to serve before it ends, or a signal ends all."""
        while process.process.is_alive() and not self.should_exit.is_set():
            self.handle_signals()
            if process.is_ready(timeout=_LOOK_SECONDS):
                process.has_served = True
                return True
        return False


def _pause_after(worker: _Worker) -> float:
    return _FIRST_PAUSE if worker.has_served else min(2 * worker.pause, _LONGEST_PAUSE)


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


def _ask_for_reload() -> bool:
    """Have the supervisor pass a hang-up on to all workers; False where it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or not parent.is_alive():
        return False
    os.kill(parent.pid, signal.SIGHUP)
    return True


def _end_with_parent() -> None:
    """End when the supervisor does, however it does: the port is nobody else's then."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
