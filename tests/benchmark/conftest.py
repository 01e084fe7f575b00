"""One small folder of benchmark data for the whole area."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_folder import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("benchmarks"))
