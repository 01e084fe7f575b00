"""Rules for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metarouter.errors import MissingDependencyError

if TYPE_CHECKING:
    from metarouter.testing import PostgresServer


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL: one for each process of the tests, gone at its end."""
    from metarouter.testing import PostgresServer

    try:
        with PostgresServer() as server:
            yield server
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database, by turns of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.make_database()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests of speed while tools/coverage.sh measures coverage."""
    if "COVERAGE_PROCESS_START" not in os.environ:
        return
    for item in items:
        if item.get_closest_marker("speed"):
            item.add_marker(pytest.mark.skip(reason="tracing slows what is timed"))
