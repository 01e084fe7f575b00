"""Run a program that a model wrote, with as few rights as this machine can enforce.

A program gets an empty folder, a clean environment, limits on processor time,
memory, file size and open files, and a deadline after which it is killed with
all that it started. Where the kernel lets an ordinary user do it (Linux with
user namespaces, Landlock and seccomp), it has no network, sees no other process,
writes nowhere but in its folder, reads only that, Python and the system's libraries,
and connects to no UNIX socket.
:func:`find_isolation` says what holds here. It is a guard against careless code,
not against code that attacks the kernel: for that, run in a virtual machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from metarouter.errors import DataError, OptionError

__all__ = ["Isolation", "Limits", "Outcome", "find_isolation", "run_program"]

_CHILD = Path(__file__).with_name("sandbox_child.py")
_NAMESPACES = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")
# Libraries and what they need, nothing that tells of the machine or its users.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom")
_SHOWN = 300  # characters of a failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a program may use.

    Parameters
    ----------
    seconds : int, at least 1, processor time; twice as long may pass on the clock.
    megabytes : int, at least 64, address space of each process.
    processes : int, at least 1, where they can be counted apart from the user's own.
    """

    seconds: int = 10
    megabytes: int = 1024
    processes: int = 64

    def __post_init__(self) -> None:
        """Refuse limits below which Python does not start."""
        for name, least in (("seconds", 1), ("megabytes", 64), ("processes", 1)):
            if getattr(self, name) < least:
                raise OptionError.of(name, getattr(self, name), f"an integer from {least}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Isolation:
    """What this machine can enforce: a network of its own; closed files and UNIX sockets."""

    network: bool
    files: bool

    @property
    def is_complete(self) -> bool:
        """Whether code of a model can be run without danger to what is here."""
        return self.network and self.files

    def to_text(self) -> str:
        """One sentence for summaries."""
        parts = [
            f"network {'blocked' if self.network else 'OPEN'}",
            f"files {'closed' if self.files else 'OPEN'}",
        ]
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Whether a program came to its end, and if not why not, in one line.

    `is_final` is False where a busy machine may be the reason.
    """

    passed: bool
    detail: str
    is_final: bool = True


def find_isolation() -> Isolation:
    """Find out what can be enforced here, by trying it in a process that ends at once."""
    import subprocess

    network = False
    if shutil.which("unshare"):
        done = subprocess.run(["unshare", *_NAMESPACES, "true"], capture_output=True, check=False)
        network = done.returncode == 0
    child = (
        "import sys, tempfile; from metarouter.collection import sandbox_child as child; "
        "closed = child.restrict_sockets(); "
        "sys.exit(not (child.restrict_files(tempfile.gettempdir(), []) and closed))"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, check=False)
    return Isolation(network=network, files=done.returncode == 0)


async def run_program(source: str, limits: Limits, isolation: Isolation) -> Outcome:
    """Run a Python program to its end in a sandbox.

    Parameters
    ----------
    source : text of the program.
    limits : what it may use.
    isolation : what :func:`find_isolation` found.

    Returns
    -------
    Outcome
        Passed only when the last statement was reached: a program that exits
        earlier, with whatever code, has not passed.

    Raises
    ------
    DataError
        When the sandbox itself cannot start, so that nothing is known of the
        program.
    """
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="metarouter-") as name:
        folder = Path(name).resolve()
        program, output = folder / "program.py", folder / "output"
        program.write_text(source, encoding="utf-8", errors="replace")
        with output.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                *_command(program, limits, isolation),
                stdin=asyncio.subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
            in_time = await _finished(process, word, 2.0 * limits.seconds)
        text = output.read_bytes()[-65536:].decode("utf-8", "replace")
    if not in_time:
        detail = f"not finished after {2 * limits.seconds} s"
        return Outcome(passed=False, detail=detail, is_final=False)
    return _judged(text, word, process.returncode or 0)


def _command(program: Path, limits: Limits, isolation: Isolation) -> list[str]:
    readable = {*_SYSTEM, sys.prefix, sys.base_prefix}
    readable |= {path for path in sys.path if path.endswith("-packages")}
    front = ["unshare", *_NAMESPACES] if isolation.network else []
    numbers = (
        limits.seconds,
        limits.megabytes * 2**20,
        # elsewhere the limit would count all processes of the user
        limits.processes if isolation.network else 0,
    )
    return [
        *front,
        sys.executable,
        "-I",
        str(_CHILD),
        str(program),
        *map(str, numbers),
        *sorted(readable),
    ]


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",  # each thread would take address space
    }


async def _finished(process: asyncio.subprocess.Process, word: str, seconds: float) -> bool:
    """Wait for the end, and kill the program and its children when it does not come."""
    try:
        await asyncio.wait_for(process.communicate(f"{word}\n".encode()), seconds)
    except TimeoutError:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return True


def _judged(output: str, word: str, code: int) -> Outcome:
    lines = [x for x in output.splitlines() if x.strip() and not x.startswith("unshare: ")]
    if "started" not in lines:
        raise DataError(
            f"the sandbox cannot start: {' '.join(lines[-3:])[:_SHOWN] or f'exit code {code}'}; "
            "more memory may help"
        )
    if code == 0 and lines[-1] == word:
        return Outcome(passed=True, detail="")
    said = [line for line in lines if line not in ("started", word)]
    last = said[-1][:_SHOWN] if said else "ended early or killed at a limit"
    return Outcome(passed=False, detail=f"exit code {code}: {last}")
