"""Rules for the whole suite."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from metarouter.errors import MissingDependencyError

if TYPE_CHECKING:
    from metarouter.testing import PostgresServer

# the time that an example takes says how busy the machine is
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL: one for each process of the tests, gone at its end."""
    from metarouter.testing import PostgresServer

    try:
        with PostgresServer() as server:
            yield server
    except MissingDependencyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a real browser; a build server that lacks one has to say so, or the test fails."""
    found = shutil.which("chromium")
    if found is not None:
        return found
    is_wanted = os.environ.get("CI") == "true" and os.environ.get("METAROUTER_NO_BROWSER") != "1"
    if is_wanted:
        pytest.fail("chromium is not installed, and CI=true; METAROUTER_NO_BROWSER=1 skips this")
    pytest.skip("chromium is not installed")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of an empty database, by turns of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.make_database()
    yield url
    server.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Address of a database with tables and no rows, by turns of either kind."""
    template: str = request.getfixturevalue(f"{request.param}_template")
    if request.param == "sqlite":
        shutil.copy(template.removeprefix("sqlite:///"), tmp_path / "store.db")
        yield f"sqlite:///{tmp_path / 'store.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.make_database(template)
    yield url
    server.drop_database(url)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file to copy: the migrations take longer than most tests."""
    return _migrated(f"sqlite:///{tmp_path_factory.mktemp('template') / 'store.db'}")


@pytest.fixture(scope="session")
def postgresql_template(postgres: PostgresServer) -> str:
    """A database to copy."""
    return _migrated(postgres.make_database())


def _migrated(url: str) -> str:
    from metarouter.store.database import open_database

    open_database(url).dispose()
    return url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests of speed while tools/coverage.sh measures coverage."""
    if "COVERAGE_PROCESS_START" not in os.environ:
        return
    for item in items:
        if item.get_closest_marker("speed"):
            item.add_marker(pytest.mark.skip(reason="tracing slows what is timed"))
