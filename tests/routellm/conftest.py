"""A small router on disk, and an endpoint that notes what it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarouter.fitting import FitOptions, fit_table
from metarouter.labels.battles import read_battles
from metarouter.labels.table import GainTable
from metarouter.testing import FakeProvider, make_world


@pytest.fixture(scope="session")
def table() -> GainTable:
    return make_world(n_queries=240, n_gold=240, n_test=0, seed=3).table


@pytest.fixture(scope="session")
def checkpoint(table: GainTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("routellm") / "knn"
    fit_table(table, FitOptions(embedder="surface", gain_model="knn", folds=0)).save(folder)
    return folder


@pytest.fixture(scope="session")
def battles() -> list[dict[str, Any]]:
    """Three models, of which `mixtral` loses; long prompts are what it loses most."""
    return [
        {"prompt": f"Prompt number {i} {'is long ' * (i % 5)}", "model_a": a, "model_b": b,
         "winner": "model_a" if i % 5 or i % 2 else "tie"}
        for i in range(60)
        for a, b in (("gpt-4", "llama"), ("llama", "mixtral"), ("gpt-4", "mixtral"))
    ]  # fmt: skip


@pytest.fixture(scope="session")
def pool(battles: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router of all three, `mixtral` its reference."""
    folder = tmp_path_factory.mktemp("routellm") / "pool"
    options = FitOptions(embedder="surface", corrector="none", gain_model="knn", folds=0)
    fit_table(read_battles(battles, cheap="mixtral"), options).save(folder)
    return folder


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running
