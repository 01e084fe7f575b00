"""A gateway with made traffic, and a browser to look at it with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dashboard_makers import Shown

from metarouter.store.keys import create_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from metarouter.gateway.state import Gateway

_EXPERIMENTS = str(Path(__file__).parents[2] / "experiments")


def _fill(gateway: Gateway, url: str, prompts: Any) -> list[Any]:
    from dashboard_demo import fill

    return list(fill(gateway, url, prompts, 160, seconds=80_000))


@pytest.fixture(scope="session")
def _importable() -> Iterator[None]:
    """The demonstration is a script in its own folder."""
    sys.path.insert(0, _EXPERIMENTS)
    yield
    sys.path.remove(_EXPERIMENTS)


@pytest.fixture(scope="session")
def shown(_importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Open to this machine, with a hundred and sixty requests of the last day."""
    from dashboard_demo import demo

    with demo(tmp_path_factory.mktemp("demo"), port=0) as (gateway, url, prompts):
        yield Shown(gateway=gateway, url=url, sent=_fill(gateway, url, prompts))


@pytest.fixture(scope="session")
def locked(_importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Asks for keys; no traffic."""
    from dashboard_demo import demo

    folder = tmp_path_factory.mktemp("locked")
    with demo(folder, port=0, auth="keys") as (gateway, url, _):
        admin, _record = create_key(gateway.engine, "boss", is_admin=True)
        other, _record = create_key(gateway.engine, "alice")
        gateway.keyring.refresh()
        yield Shown(gateway=gateway, url=url, sent=[], admin=admin, other=other)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """A real Chromium, for one module: while it runs no other test can have an event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
