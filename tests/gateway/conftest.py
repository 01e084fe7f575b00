"""Fixtures of gateways; what they are made of is in gateway_makers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_makers import FAST, Served, running

from metarouter.fitting import FitOptions, fit_table
from metarouter.testing import FakeUpstream, make_world


@pytest.fixture(scope="session")
def router_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small router over cheap and premium."""
    return _fitted(tmp_path_factory.mktemp("router"), "gold_only", "ridge")


@pytest.fixture(scope="session")
def default_router_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the default corrector and gain model."""
    return _fitted(tmp_path_factory.mktemp("default"), "auto", "auto")


def _fitted(folder: Path, corrector: str, gain_model: str) -> Path:
    world = make_world("random_gold", n_queries=80, n_gold=60, n_test=2)
    options = FitOptions(corrector=corrector, gain_model=gain_model, embedder="hashed", folds=0)
    fit_table(world.table, options).save(folder / "router")
    return folder / "router"


@pytest.fixture
def serve(tmp_path: Path, router_folder: Path) -> Iterator[Callable[..., Served]]:
    """Start gateways: ``serve()``, or with settings that replace the usual ones."""
    with ExitStack() as stack:

        def start(
            upstream_settings: dict[str, Any] | None = None,
            respond: Any = None,
            **settings: Any,
        ) -> Served:
            upstream = stack.enter_context(FakeUpstream(respond))
            place = {"base_url": upstream.url, "dialect": "any", **FAST}
            given = {
                "upstreams": {"main": {**place, **(upstream_settings or {})}},
                "policies": {"default": {"router": router_folder}},
                "log_level": "warning",
                **settings,
            }
            # a database elsewhere has its spilled rows here
            own = f"sqlite:///{tmp_path}/{len(list(tmp_path.iterdir()))}.db"
            given["store"] = {"url": own, "spill": tmp_path / "spill", **given.get("store", {})}
            gateway, url = stack.enter_context(running(given))
            client = stack.enter_context(httpx2.Client(base_url=url, timeout=20.0))
            return Served(gateway=gateway, client=client, upstream=upstream, url=url)

        yield start
