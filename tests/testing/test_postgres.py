"""The server for tests: it is there, and gone with whoever started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from metarouter.testing import PostgresServer

_PROGRAM = """
import time
from metarouter.testing import PostgresServer
with PostgresServer() as server:
    print(server.run("SHOW data_directory")[0][0], flush=True)
    time.sleep(60)
"""


def test_a_database_is_a_copy_and_can_be_removed(postgres: PostgresServer) -> None:
    first = postgres.make_database()
    second = postgres.make_database(first)
    assert first != second
    names = {row[0] for row in postgres.run("SELECT datname FROM pg_database")}
    assert {first.rpartition("/")[2], second.rpartition("/")[2]} <= names
    for url in (first, second):
        postgres.drop_database(url)
    assert not {row[0] for row in postgres.run("SELECT datname FROM pg_database")} & {
        first.rpartition("/")[2]
    }


def test_it_ends_when_the_process_that_started_it_is_killed(postgres: PostgresServer) -> None:
    """Nothing runs on, and its folder is removed."""
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        data = Path(process.stdout.readline().strip())
        assert (data / "postmaster.pid").exists()
        process.kill()
    end = time.monotonic() + 30
    while data.parent.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
