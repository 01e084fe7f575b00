"""Programs that models write: what they may do, and that only reaching the end passes."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from collection_makers import make_response

from metarouter.collection import Ledger
from metarouter.collection.answers import CodeTests, code_of
from metarouter.collection.code_tests import grade_code
from metarouter.collection.sandbox import Isolation, Limits, Outcome, find_isolation, run_program
from metarouter.errors import DataError, OptionError

HERE = find_isolation()
QUICK = Limits(seconds=1, megabytes=256)
needs_network_isolation = pytest.mark.skipif(not HERE.network, reason="no user namespaces here")
needs_file_isolation = pytest.mark.skipif(not HERE.files, reason="no Landlock here")


def _run(source: str, isolation: Isolation = HERE) -> Outcome:
    return asyncio.run(run_program(source, QUICK, isolation))


@pytest.mark.parametrize("isolation", [HERE, Isolation(network=False, files=False)])
def test_a_program_that_reaches_its_end_passes(isolation: Isolation) -> None:
    assert _run("import json, math\nassert math.sqrt(4) == 2", isolation) == Outcome(
        passed=True, detail=""
    )


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("assert 1 + 1 == 3, 'sums'", "AssertionError: sums"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "exit code 0"),
        ("import os; os._exit(0)", "exit code 0"),
        ("print('started'); import os; os._exit(0)", "exit code 0"),
        ("x = bytearray(10**9)", "MemoryError"),
        ("open('f', 'wb').write(bytes(2**25))", "File too large"),
        ("import os\nfor i in range(99): os.dup(1)", "Too many open files"),
        ("input()", "EOFError"),
    ],
)
def test_all_else_fails_with_its_reason(source: str, detail: str) -> None:
    outcome = _run(source)
    assert not outcome.passed
    assert detail in outcome.detail
    assert "\n" not in outcome.detail


def test_a_program_that_sleeps_is_ended_with_all_that_it_started() -> None:
    source = "import subprocess, time\nsubprocess.Popen(['sleep', '98.7531'])\ntime.sleep(99)"
    start = time.monotonic()
    assert _run(source).detail == "not finished after 2 s"
    assert time.monotonic() - start < 10
    end = time.monotonic() + 5  # the kernel ends a namespace's processes after its first one
    while _is_running(b"98.7531") and time.monotonic() < end:
        time.sleep(0.05)
    assert not _is_running(b"98.7531")


def _is_running(word: bytes) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if word in path.read_bytes():
                return True
    return False


@needs_network_isolation
def test_there_is_no_network(tmp_path: Path) -> None:
    """Not even this machine's own, by TCP or UDP, where somebody listens."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as listener:
            listener.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                listener.listen()
            port = listener.getsockname()[1]
            program = (
                f"import socket\ns = socket.socket(socket.AF_INET, {int(kind)})\n"
                f"s.settimeout(1)\ns.connect(('127.0.0.1', {port}))\ns.send(b'x')\ns.close()"
            )
            exec(program, {})  # noqa: S102 - out of the sandbox it gets through
            outcome = _run(program)
        assert not outcome.passed
        assert "unreachable" in outcome.detail or "denied" in outcome.detail


@needs_file_isolation
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize(
    "make", ["socket(socket.AF_UNIX, {})", "socketpair(socket.AF_UNIX, {})[0]"]
)
def test_unix_sockets_of_others_cannot_be_reached(kind: socket.SocketKind, make: str) -> None:
    """Whether they are files in another folder or names of the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        for address in (f"{folder}/socket", f"\0metarouter-{folder}"):
            with socket.socket(socket.AF_UNIX, kind) as listener:
                listener.bind(address)
                if kind == socket.SOCK_STREAM:
                    listener.listen()
                start = f"import socket\ns = socket.{make.format(int(kind))}\n"
                assert not _run(f"{start}s.connect({address!r})").passed
                listener.setblocking(False)
                with pytest.raises(BlockingIOError):
                    listener.accept() if kind == socket.SOCK_STREAM else listener.recv(1)


@needs_file_isolation
def test_sockets_between_own_processes_work() -> None:
    """Which asyncio and multiprocessing need."""
    assert _run("import asyncio\nassert asyncio.run(asyncio.sleep(0, 3)) == 3").passed
    source = "import socket\na, b = socket.socketpair()\na.send(b'x')\nassert b.recv(1) == b'x'"
    assert _run(source).passed
    assert _run("import socket\nsocket.socket(socket.AF_INET6).close()").passed


@needs_file_isolation
def test_files_of_others_cannot_be_read_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("word")
    for source in (
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.remove({str(secret)!r})",
        "import os; os.listdir('/proc')",
        f"import subprocess; subprocess.run(['cat', {str(secret)!r}], check=True)",
    ):
        assert not _run(source).passed
    assert secret.read_text() == "word"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAROUTER_CANARY", "sing")
    assert _run("import os\nassert 'METAROUTER_CANARY' not in os.environ").passed
    assert _run("import os\nassert os.environ['HOME'] == os.getcwd()").passed


def test_a_program_that_never_ends_is_ended() -> None:
    """By the limit of processor time, or on a busy machine by the clock."""
    assert not _run("while True: pass").passed


def test_a_sandbox_that_cannot_start_grades_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fault is not the program's."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DataError, match="sandbox cannot start"):
        _run("x = 1")
    with pytest.raises(OptionError, match="megabytes"):
        Limits(megabytes=1)


def test_code_is_taken_from_the_longest_block() -> None:
    text = "Use it:\n```\nf(1)\n```\nHere:\n```python\ndef f(x):\n    return x\n```\n"
    assert code_of(text) == "def f(x):\n    return x\n"
    assert code_of("x = 1") == "x = 1"


def test_what_the_clock_ended_is_graded_anew(tmp_path: Path) -> None:
    """It may pass where the machine is less busy; what failed by itself stays."""
    slow, wrong = (
        make_response("q", "a", "import time\ntime.sleep(9)"),
        make_response("q", "b", "x"),
    )
    pairs = [(response, CodeTests(setup="", tests="")) for response in (slow, wrong)]
    with Ledger(tmp_path / "l", {}) as ledger:
        grades = asyncio.run(
            grade_code(pairs, ledger=ledger, limits=QUICK, isolation=HERE, concurrency=2)
        )
        kept = ledger.grades()
    assert grades[0][1] == "not finished after 2 s"
    assert list(kept.values()) == [grades[1]]


def test_code_is_graded_once_by_its_tests(tmp_path: Path) -> None:
    """A second run takes the grades from the ledger; other limits run anew."""
    tests = CodeTests(setup="import math", tests="assert f(4) == 2")
    good = make_response("q", "a", "```python\ndef f(x):\n    return math.isqrt(x)\n```")
    bad = make_response("q", "b", "```python\ndef f(x):\n    return x\n```")
    done: list[tuple[int, int]] = []

    def grade(limits: Limits) -> list[tuple[bool, str]]:
        with Ledger(tmp_path / "l", {}) as ledger:
            return asyncio.run(
                grade_code(
                    [(good, tests), (bad, tests), (bad, tests)],
                    ledger=ledger,
                    limits=limits,
                    isolation=HERE,
                    concurrency=2,
                    on_progress=lambda n, total: done.append((n, total)),
                )
            )

    first = grade(QUICK)
    assert [passed for passed, _ in first] == [True, False, False]
    assert "AssertionError" in first[1][1]
    assert done == [(1, 2), (2, 2)]
    assert grade(QUICK) == first
    assert len(done) == 2
    assert grade(Limits(seconds=2, megabytes=256)) == first
    assert len(done) == 4
