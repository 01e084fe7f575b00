"""A small router on disk, and an endpoint that notes what it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metarouter.fitting import FitOptions, fit_table
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


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running
