"""Training libraries that are imported only where a gain model needs them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

from metarouter.errors import MissingDependencyError

__all__ = ["import_train", "one_thread"]


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


def one_thread() -> AbstractContextManager[Any]:
    """Keep the fits inside from starting threads.

    Import the training library first: only threads of loaded libraries are
    limited. Many small fits gain nothing from threads, and where other work runs they
    wait for one another at every step (measured: boosting 103 s instead of 3).
    """
    limits: AbstractContextManager[Any] = import_train(
        "threadpoolctl", "fitting a gain model"
    ).threadpool_limits(1)
    return limits
