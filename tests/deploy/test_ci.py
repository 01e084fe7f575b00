"""What a machine without Chromium does with the browser tests: never nothing in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

_FAKES = {
    "apt-get": 'echo "$@" >>"$LOG"; [ -z "$IS_OFFLINE" ] || exit 100; '
    'case "$*" in *install*) echo "exit 0" >"$BIN/chromium"; chmod +x "$BIN/chromium";; esac',
    "id": "echo $WHO",
    "timeout": 'shift; exec "$@"',
}


def _browser_script(folder: Path, **environ: str) -> tuple[str, str]:
    """What ``.ci/browser`` prints, and what it asked apt for, on a machine of fake commands."""
    for name, text in _FAKES.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    for name in ("chmod", "sh"):
        (folder / name).symlink_to(shutil.which(name) or "")
    log = folder / "log"
    given = {"PATH": str(folder), "BIN": str(folder), "LOG": str(log), "WHO": "0", **environ}
    given.setdefault("IS_OFFLINE", "")
    script = str(_ROOT / ".ci" / "browser")
    done = subprocess.run([script], env=given, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout, log.read_text() if log.exists() else ""


@pytest.mark.parametrize(
    ("environ", "said", "asked"),
    [
        ({}, "run in ", "install -y --no-install-recommends chromium"),
        ({"WHO": "1000"}, "skipped, there is no chromium and none could be installed", ""),
        ({"IS_OFFLINE": "1"}, "skipped, there is no chromium and none could be", "update"),
        ({"IS_OFFLINE": "1", "CI": "true"}, "will fail, there is no chromium", "update"),
        ({"METAROUTER_NO_BROWSER": "1", "CI": "true"}, "skipped", ""),
    ],
)
def test_chromium_is_installed_where_it_may_be_and_one_line_says_what_comes(
    tmp_path: Path, environ: dict[str, str], said: str, asked: str
) -> None:
    """As root and with a network; without either nothing fails here, and nobody else is asked."""
    out, log = _browser_script(tmp_path, **environ)
    assert out.count("\n") == 1
    assert out.startswith(f"browser tests: {said}")
    assert asked in log
    assert bool(log) == bool(asked)


@pytest.mark.parametrize(
    ("environ", "code", "said"),
    [
        ({}, 0, " skipped, "),
        ({"CI": "true"}, 1, "chromium is not installed, and CI=true"),
        ({"CI": "true", "METAROUTER_NO_BROWSER": "1"}, 0, " skipped, "),
    ],
)
def test_without_a_browser_its_tests_are_skipped_and_fail_on_a_build_server(
    environ: dict[str, str], code: int, said: str
) -> None:
    """Unless the build server says that it has none."""
    kept = {name: value for name, value in os.environ.items() if "BROWSER" not in name}
    given = {**kept, "CI": "false", "PATH": str(Path(sys.executable).parent), **environ}
    command = [
        *(sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"),
        *("tests/evaluation/test_report.py", "-k", "browser_draws"),
    ]
    done = subprocess.run(
        command, cwd=_ROOT, env=given, capture_output=True, text=True, check=False
    )
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout[-2000:]
