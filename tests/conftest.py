"""Rules for the whole suite."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests of speed while tools/coverage.sh measures coverage."""
    if "COVERAGE_PROCESS_START" not in os.environ:
        return
    for item in items:
        if item.get_closest_marker("speed"):
            item.add_marker(pytest.mark.skip(reason="tracing slows what is timed"))
