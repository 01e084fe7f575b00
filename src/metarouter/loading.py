"""Routers from disk."""

from __future__ import annotations

from pathlib import Path

from metarouter.artifact import load_artifact
from metarouter.router import Router

__all__ = ["load"]


def load(folder: str | Path) -> Router:
    """Read a router from the folder that :meth:`Router.save` wrote.

    Needs none of the training libraries.

    Parameters
    ----------
    folder : str or path

    Returns
    -------
    Router

    Raises
    ------
    ArtifactError
        When the folder is missing, damaged, or written by a newer metarouter.
    """
    return Router.from_artifact(load_artifact(folder))
