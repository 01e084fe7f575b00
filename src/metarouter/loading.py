"""Routers from disk."""

from __future__ import annotations

from pathlib import Path

from metarouter.artifact import load_artifact
from metarouter.errors import ArtifactError
from metarouter.features.endpoint import ALLOW_VARIABLE, is_allowed
from metarouter.router import Router

__all__ = ["load"]


def load(folder: str | Path, *, allow_endpoint: bool = False) -> Router:
    """Read a router from the folder that :meth:`Router.save` wrote.

    Needs none of the training libraries.

    Parameters
    ----------
    folder : str or path
    allow_endpoint : bool, default False
        Whether the folder may name an embedding endpoint on another machine:
        routing then sends query texts, and the key in
        ``METAROUTER_EMBEDDINGS_KEY``, there. Hosts in the environment variable
        ``METAROUTER_ALLOW_ENDPOINT``, separated by commas, always may.

    Returns
    -------
    Router

    Raises
    ------
    ArtifactError
        When the folder is missing, damaged, or written by a newer metarouter,
        or names an endpoint that is not allowed.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=0)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> with TemporaryDirectory() as folder:
    ...     router.save(folder)
    ...     load(folder).route("Hi") == router.route("Hi")
    True
    """
    router = Router.from_artifact(load_artifact(folder))
    for endpoint in () if allow_endpoint else router.features.endpoints:
        if not is_allowed(endpoint.host):
            raise ArtifactError(
                f"{folder}: this router sends query texts to {endpoint.url}; where that is meant, "
                f"set {ALLOW_VARIABLE}={endpoint.host} or load with allow_endpoint=True"
            )
    return router
