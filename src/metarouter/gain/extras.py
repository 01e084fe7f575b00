"""Training libraries that are imported only where a gain model needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from metarouter.errors import MissingDependencyError

__all__ = ["import_train"]


def import_train(module: str, feature: str) -> Any:
    """Import a module of the ``train`` extra for `feature`.

    Raises
    ------
    MissingDependencyError
        When the library is not installed, with the install line.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of(feature, "train") from error
