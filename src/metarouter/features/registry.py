"""Embedders by name: the built-in ones and those of installed plugins.

A *spec* names an embedder and, after a colon, what it is to be made with:
``static``, ``endpoint:https://host/v1#model``. A factory takes the part after
the colon ("" when there is none) and returns an :class:`~metarouter.types.Embedder`.

Third parties declare a factory in the entry-point group ``metarouter.embedders``::

    [project.entry-points."metarouter.embedders"]
    mine = "my_package:make_embedder"

An embedder may also have ``mixed_units`` (True: its columns have units of their
own and are standardised before the principal components), ``verify()`` (called
before a fit: raises when its files are not what they should be) and
``embed_one(text)`` (sparse vectors, see :class:`~metarouter.features.HashedNgrams`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from metarouter.errors import OptionError
from metarouter.features.decoder_states import DecoderStates
from metarouter.features.endpoint import EndpointEmbedder
from metarouter.features.hashed import HashedNgrams
from metarouter.features.onnx import OnnxSentenceEncoder
from metarouter.features.static import StaticEmbedding
from metarouter.features.surface import SurfaceFeatures
from metarouter.features.universal import UniversalSentenceEncoder
from metarouter.types import Embedder

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["embedder_names", "make_embedder"]

_GROUP = "metarouter.embedders"


def embedder_names() -> tuple[str, ...]:
    """Names that :func:`make_embedder` knows, built-in and installed, sorted.

    Examples
    --------
    >>> "static" in embedder_names()
    True
    """
    return tuple(sorted({*_BUILT_IN, *_plugins().names}))


def make_embedder(spec: str) -> Embedder:
    """The embedder that a spec names.

    Parameters
    ----------
    spec : str, ``name`` or ``name:argument``. A built-in name wins over a
        plugin of the same name.

    Raises
    ------
    OptionError
        When no embedder has that name, or its argument is not usable.

    Examples
    --------
    >>> make_embedder("hashed:1024").dim
    1024
    """
    name, _, argument = spec.partition(":")
    factory = _BUILT_IN.get(name) or _from_plugin(name)
    return factory(argument)


def _plugins() -> EntryPoints:
    # Reading the metadata of every installed package takes a while: only when asked.
    from importlib.metadata import entry_points

    return entry_points(group=_GROUP)


def _from_plugin(name: str) -> Callable[[str], Embedder]:
    for point in _plugins().select(name=name):
        factory: Callable[[str], Embedder] = point.load()
        return factory
    allowed = f"default, or one or more of {', '.join(embedder_names())}, joined by +"
    raise OptionError.of("embedder", name, allowed)


def _hashed(argument: str) -> Embedder:
    if not argument:
        return HashedNgrams()
    if not argument.isdecimal():
        raise OptionError.of("embedder hashed", argument, "a number of buckets, e.g. hashed:16384")
    return HashedNgrams(int(argument))


def _plain(make: Callable[[], Embedder]) -> Callable[[str], Embedder]:
    """A factory for an embedder that has nothing to choose."""

    def factory(argument: str) -> Embedder:
        embedder = make()
        if argument:
            raise OptionError.of(f"argument of {embedder.name}", argument, "none")
        return embedder

    return factory


_BUILT_IN: dict[str, Callable[[str], Embedder]] = {
    "endpoint": EndpointEmbedder.from_spec,
    "hashed": _hashed,
    "minilm": _plain(OnnxSentenceEncoder),
    "smollm": _plain(DecoderStates),
    "static": _plain(StaticEmbedding),
    "surface": _plain(SurfaceFeatures),
    "use": _plain(UniversalSentenceEncoder),
}
