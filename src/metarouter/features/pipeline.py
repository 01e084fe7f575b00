"""From texts to the feature matrix X that correctors and gain models work on.

Every embedder gives a *block* of columns. Blocks differ in size and scale by
orders of magnitude, so each is reduced to its own leading principal components
and scaled to the same total variance; the components of the blocks together
are then rotated to their joint principal components. Both steps are linear, so
serving needs one matrix a block: x = Σ_b z_b P_b + offset. Curved features of the
leading components follow, small enough to be used only where labels ask for them.

Nothing here looks at a label, so all training prompts can be used, gold,
preference or unlabelled. In an evaluation the pipeline is fitted on the
training prompts of the fold like everything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import ArtifactError, DataError, NotFittedError, OptionError
from metarouter.features.bases import CURVES, QueryMap, learn_query_map
from metarouter.features.cache import CachedEmbedder
from metarouter.features.components import (
    Centred,
    CentredDense,
    CentredSparse,
    fit_components,
)
from metarouter.features.endpoint import EndpointEmbedder
from metarouter.features.hashed import SparseRows
from metarouter.features.registry import make_embedder
from metarouter.types import Embedder, ModelState

__all__ = ["FeaturePipeline", "load_pipeline", "make_pipeline"]

_KIND = "feature_pipeline"
_VERSION = 2
_NAMES = {"default": "hashed+static+surface"}
# Reading these is cheaper than a look-up on disk.
_NEVER_CACHED = frozenset({"hashed", "static", "surface"})
_BLOCK_COMPONENTS = 128
_CHUNK = 2_048
_CURVE_COMPONENTS = 64  # of each curved block
# A standardised column further out than this says "unlike the training data", not how far.
_LIMIT = 5.0


@runtime_checkable
class SparseEmbedder(Protocol):
    """An embedder whose vectors are mostly zeros; its columns are weighted by rarity."""

    def embed_one(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Columns and values of one text."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """An embedder and what was learned about its columns.

    `arrays` holds ``idf`` (sparse), ``mean`` and ``scale`` (mixed units) or
    nothing, and ``projection``, shape (embedder.dim, pipeline.dim).
    """

    spec: str
    embedder: Embedder
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What a loaded block must agree with."""
        dim = len(self.arrays["projection"])
        return {"spec": self.spec, "embedder": self.embedder.name, "dim": dim}

    def read(self, texts: Sequence[str]) -> SparseRows | NDArray[np.float32]:
        """Prepared vectors of the texts."""
        if "idf" in self.arrays:
            return SparseRows.of([self._read_sparse(text) for text in texts], self.embedder.dim)
        vectors = self.embedder.embed(texts)
        if "scale" in self.arrays:
            vectors = (vectors - self.arrays["mean"]) / self.arrays["scale"]
            np.maximum(vectors, -_LIMIT, out=vectors)
            np.minimum(vectors, _LIMIT, out=vectors)
        return vectors

    def project(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The block's part of X, shape (n_texts, pipeline.dim)."""
        projection = self.arrays["projection"]
        if "idf" not in self.arrays:
            vectors = cast("NDArray[np.float32]", self.read(texts))
            if vectors.shape[1] != len(projection):
                raise DataError(
                    f"{self.embedder.name} gave {vectors.shape[1]} numbers a text, "
                    f"{len(projection)} when the router was fitted: fit the router again"
                )
            return vectors @ projection
        out = np.empty((len(texts), projection.shape[1]), dtype=np.float32)
        for i, text in enumerate(texts):
            columns, values = self._read_sparse(text)
            np.matmul(values, projection.take(columns, axis=0), out=out[i])
        return out

    def _read_sparse(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Columns and weighted values, rescaled to unit length."""
        columns, values = cast("SparseEmbedder", self.embedder).embed_one(text)
        values = values * self.arrays["idf"].take(columns)
        return columns, values / np.float32(max(math.sqrt(values @ values), 1e-12))


@dataclass(kw_only=True)
class FeaturePipeline:
    """Embeds texts and compresses the vectors to their principal components.

    Parameters
    ----------
    embedders : mapping of spec (see :mod:`metarouter.features.registry`) to
        embedder; one block each.
    name : str, what the pipeline is called.
    n_components : int, at least 1, default 64.
        Number of linear features; fewer when the training texts have a lower
        rank.
    curvature : float, at least 0, default 0.03
        Variance of each block of curved features over that of the linear ones;
        0 leaves them out.
    max_fit_texts : int, default 10,000
        More training texts than this are sampled for the principal components.
    seed : int, of that sample and of the randomised decomposition.

    Attributes
    ----------
    explained_variance_ : float32 array, shape (dim,)
        Variance of each linear feature over the training texts, largest
        first. It averages 1.

    Notes
    -----
    Hashed counts are weighted by inverse document frequency,
    1 + ln((1 + n)/(1 + n_g)), and rescaled to unit length; columns of mixed
    units are standardised and clipped at 5 standard deviations; other vectors
    are taken as they are. With z_b the prepared block, V_b its leading
    principal directions and v_b the variance they keep, the features are the
    principal components of the joined blocks (z_b − z̄_b) V_b / v_b^½, times one
    constant that makes the mean variance 1. They keep their natural relative
    scale: the variance of a feature is its eigenvalue, not 1. A penalty that is
    the same for all coefficients, as in ridge regression, hence shrinks the
    minor directions most.

    Curved features follow: Nyström features of Gaussian kernels on the leading
    5 and 12 components, also learned on all training texts
    (:mod:`metarouter.features.bases`). Their small variance makes departures
    from linearity a priori small: a hundred noisy labels leave them nearly
    unused, thousands or precise ones bring them out.

    Examples
    --------
    >>> texts = ["Add 2 and 3.", "Who wrote Hamlet?", "Sort a list in Python.", "Prove it."]
    >>> pipeline = make_pipeline("surface").fit(texts)
    >>> X = pipeline.transform(texts)
    >>> linear = len(pipeline.explained_variance_)
    >>> linear, X.dtype == np.float32, bool(abs(X[:, :linear].var(axis=0).mean() - 1) < 1e-4)
    (3, True, True)
    """

    embedders: Mapping[str, Embedder]
    name: str
    n_components: int = 64
    curvature: float = 0.03
    max_fit_texts: int = 10_000
    seed: int = 0

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn weights, scales and principal components from training texts.

        Raises
        ------
        DataError
            When all texts look the same to the embedders.
        OptionError
            When `n_components` is not positive.
        """
        if self.n_components < 1:
            raise OptionError.of("n_components", self.n_components, "an integer from 1")
        if self.curvature < 0:
            raise OptionError.of("curvature", self.curvature, "a number from 0")
        if len(set(texts)) < 2:
            raise _all_alike(len(texts))
        for embedder in self.embedders.values():
            getattr(embedder, "verify", _nothing)()
        rng = np.random.default_rng(self.seed)
        sample = _sample(texts, self.max_fit_texts, rng)
        blocks = [_prepared(spec, embedder, sample) for spec, embedder in self.embedders.items()]
        joint = _join([_centred(block.read(sample)) for block in blocks], self.n_components, rng)
        self._blocks = [
            replace(block, arrays=block.arrays | {"projection": projection})
            for block, projection in zip(blocks, joint.projections, strict=True)
        ]
        self._offset = joint.offset
        self.explained_variance_ = joint.variance
        self._keep_curves(
            learn_query_map(
                self._linear(sample), CURVES, seed=self.seed, max_curve=_CURVE_COMPONENTS
            )
            if self.curvature > 0
            else None
        )
        return self

    @property
    def dim(self) -> int:
        """Number of features: linear ones, then curved ones."""
        curves = self._fitted_curves()
        return len(self._fitted_offset()) + (0 if curves is None else curves.dim - 1)

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features X, shape (n_texts, dim); works in chunks, so memory is X plus a constant.

        A text gives the same features in any batch, up to float32 rounding.
        """
        self._fitted_offset()
        if len(texts) <= _CHUNK:
            return self._transform_chunk(texts)
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), _CHUNK):
            part = slice(start, start + _CHUNK)
            out[part] = self._transform_chunk(texts[part])
        return out

    def _transform_chunk(self, texts: Sequence[str]) -> NDArray[np.float32]:
        linear = self._linear(texts)
        if self._lift is None:
            return linear
        curved = self._lift(linear).astype(np.float32) @ self._folded
        return np.concatenate((linear, curved), axis=1)

    def _keep_curves(self, curves: QueryMap | None) -> None:
        self._curves, self._lift = curves, None
        if curves is not None:
            size = np.sqrt(self.curvature * len(self._offset))
            self._lift = curves.lift()
            self._folded = curves.fold(size * np.eye(curves.dim)[:, 1:]).astype(np.float32)

    def _linear(self, texts: Sequence[str]) -> NDArray[np.float32]:
        out = np.empty((len(texts), len(self._offset)), dtype=np.float32)
        out[:] = self._offset
        for block in self._blocks:
            out += block.project(texts)
        return out

    def _fitted_curves(self) -> QueryMap | None:
        self._fitted_offset()
        return self._curves

    def _fitted_offset(self) -> NDArray[np.float32]:
        if not hasattr(self, "_offset"):
            raise NotFittedError.of(self)
        return self._offset

    @cached_property
    def endpoints(self) -> tuple[EndpointEmbedder, ...]:
        """Its embedders that send texts elsewhere."""
        found = (getattr(one, "embedder", one) for one in self.embedders.values())
        return tuple(one for one in found if isinstance(one, EndpointEmbedder))

    def state(self) -> ModelState:
        """What :func:`load_pipeline` needs; embedders are kept by spec and name."""
        offset = self._fitted_offset()
        arrays = {"offset": offset, "explained_variance": self.explained_variance_}
        for i, block in enumerate(self._blocks):
            arrays |= {f"block{i}.{key}": value for key, value in block.arrays.items()}
        curves = None if self._curves is None else self._curves.state()
        if curves is not None:
            arrays |= {f"curves.{key}": value for key, value in curves.arrays.items()}
        config = {
            "version": _VERSION,
            "name": self.name,
            "n_components": self.n_components,
            "curvature": self.curvature,
            "max_fit_texts": self.max_fit_texts,
            "seed": self.seed,
            "curves": None if curves is None else curves.config,
            "blocks": [block.identity() for block in self._blocks],
        }
        return ModelState(kind=_KIND, config=config, arrays=arrays)

    def _restore(
        self,
        blocks: list[_Block],
        arrays: Mapping[str, NDArray[np.float32]],
        curves: Mapping[str, Any] | None,
    ) -> Self:
        self._blocks = blocks
        self._offset = arrays["offset"]
        self._keep_curves(None if curves is None else _loaded_curves(curves, arrays))
        self.explained_variance_ = arrays["explained_variance"]
        return self


def make_pipeline(
    name: str = "default",
    *,
    n_components: int = 64,
    cache: Path | str | None = None,
    seed: int = 0,
) -> FeaturePipeline:
    """A feature pipeline by name, not fitted yet.

    Parameters
    ----------
    name : str, default "default"
        ``default`` (hashed n-grams, static embedding and surface features) or
        embedder specs joined by ``+``: ``static``, ``minilm+surface``,
        ``endpoint:https://host/v1#model``. A ``+`` inside a spec is written
        ``%2B``.
    n_components : int, at least 1, default 64.
    cache : file in which vectors that are slow to compute are kept, or None.
    seed : int, see :class:`FeaturePipeline`.

    Raises
    ------
    OptionError
        When a spec is not known or named twice.

    Examples
    --------
    >>> sorted(make_pipeline("static+surface").embedders)
    ['static', 'surface']
    """
    specs = [spec.replace("%2B", "+") for spec in _NAMES.get(name, name).split("+")]
    if len(set(specs)) < len(specs):
        raise OptionError.of("embedder", name, "each embedder once")
    return FeaturePipeline(
        embedders={spec: _embedder(spec, cache) for spec in specs},
        name=name,
        n_components=n_components,
        seed=seed,
    )


def load_pipeline(state: ModelState, *, cache: Path | str | None = None) -> FeaturePipeline:
    """The fitted pipeline that `state` describes; transforms are identical.

    Raises
    ------
    ArtifactError
        When the state is not of a feature pipeline, is written by a newer
        metarouter, lacks an array, or was fitted with another embedder than
        the one installed here.

    Examples
    --------
    >>> pipeline = make_pipeline("surface").fit(["a b", "What is it?", "c = 1"])
    >>> again = load_pipeline(pipeline.state())
    >>> bool((again.transform(["new"]) == pipeline.transform(["new"])).all())
    True
    """
    config = state.config
    if state.kind != _KIND or config.get("version") != _VERSION:
        raise ArtifactError(
            f"features of kind {state.kind!r}, version {config.get('version')!r} cannot be read; "
            f"this metarouter reads {_KIND!r}, version {_VERSION}: fit the router again"
        )
    try:
        blocks = [_loaded_block(i, entry, state, cache) for i, entry in enumerate(config["blocks"])]
        pipeline = FeaturePipeline(
            embedders={block.spec: block.embedder for block in blocks},
            name=config["name"],
            n_components=config["n_components"],
            curvature=config["curvature"],
            max_fit_texts=config["max_fit_texts"],
            seed=config["seed"],
        )
        return pipeline._restore(blocks, state.arrays, config["curves"])
    except KeyError as error:
        raise ArtifactError(f"the feature pipeline lacks {error}: fit the router again") from error


def _loaded_curves(
    config: Mapping[str, Any], arrays: Mapping[str, NDArray[np.float32]]
) -> QueryMap:
    prefix = "curves."
    own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
    return QueryMap.restore(ModelState(kind="query_map", config=dict(config), arrays=own))


def _loaded_block(
    i: int, entry: Mapping[str, Any], state: ModelState, cache: Path | str | None
) -> _Block:
    embedder = _embedder(entry["spec"], cache)
    if embedder.name != entry["embedder"]:
        raise ArtifactError(
            f"the router was fitted with the embedder {entry['embedder']!r}, installed is "
            f"{embedder.name!r}: install the former or fit the router again"
        )
    prefix = f"block{i}."
    arrays = {k.removeprefix(prefix): v for k, v in state.arrays.items() if k.startswith(prefix)}
    expected = (entry["dim"], len(state.arrays["offset"]))
    if arrays["projection"].shape != expected:
        raise ArtifactError(
            f"the projection of {entry['spec']} has shape {arrays['projection'].shape}, "
            f"{expected} expected: fit the router again"
        )
    return _Block(spec=entry["spec"], embedder=embedder, arrays=arrays)


def _embedder(spec: str, cache: Path | str | None) -> Embedder:
    embedder = make_embedder(spec)
    if cache is None or spec.partition(":")[0] in _NEVER_CACHED:
        return embedder
    return CachedEmbedder(embedder, cache)


def _sample(texts: Sequence[str], limit: int, rng: np.random.Generator) -> list[str]:
    if len(texts) <= limit:
        return list(texts)
    return [texts[i] for i in np.sort(rng.choice(len(texts), limit, replace=False))]


def _prepared(spec: str, embedder: Embedder, texts: Sequence[str]) -> _Block:
    """The block with its column weights or scales learned from the texts."""
    block = _Block(spec=spec, embedder=embedder)
    if isinstance(embedder, SparseEmbedder):
        in_texts = np.zeros(block.embedder.dim)
        for text in texts:
            in_texts[embedder.embed_one(text)[0]] += 1
        idf = 1.0 + np.log((1 + len(texts)) / (1 + in_texts))
        return replace(block, arrays={"idf": idf.astype(np.float32)})
    if getattr(embedder, "mixed_units", False):
        vectors = embedder.embed(texts)
        scale = vectors.std(axis=0)
        # A column that never varied in training says nothing: any value is left at 0 ± limit.
        scale[scale < 1e-6] = 1.0
        return replace(block, arrays={"mean": vectors.mean(axis=0), "scale": scale})
    return block


def _centred(rows: SparseRows | NDArray[np.float32]) -> Centred:
    return CentredSparse(rows) if isinstance(rows, SparseRows) else CentredDense(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Joint:
    """Projections of the blocks to common features, and the variance of each feature."""

    projections: list[NDArray[np.float32]]
    offset: NDArray[np.float32]
    variance: NDArray[np.float32]


def _join(matrices: Sequence[Centred], n_components: int, rng: np.random.Generator) -> _Joint:
    """Equalise the total variance of the blocks and find their joint components."""
    parts = [fit_components(matrix, _BLOCK_COMPONENTS, rng) for matrix in matrices]
    scaled = [part.directions / np.sqrt(part.variance.sum()) for part in parts]
    joined = np.hstack([matrix.dot(to) for matrix, to in zip(matrices, scaled, strict=True)])
    if joined.shape[1] == 0:
        raise _all_alike(len(joined))
    joint = fit_components(CentredDense(joined), n_components, rng)
    unit = np.sqrt(len(joint.variance) / joint.variance.sum())
    ends = np.cumsum([part.directions.shape[1] for part in parts])[:-1]
    turns = np.split(joint.directions * unit, ends)
    projections = [to @ turn for to, turn in zip(scaled, turns, strict=True)]
    offset = -sum(part.mean @ p for part, p in zip(parts, projections, strict=True))
    return _Joint(
        projections=[projection.astype(np.float32) for projection in projections],
        offset=np.asarray(offset, dtype=np.float32),
        variance=(joint.variance * unit**2).astype(np.float32),
    )


def _all_alike(n: int) -> DataError:
    return DataError(
        f"the {n} training texts all look the same to the embedders: "
        "at least two texts that differ are needed"
    )


def _nothing() -> None:
    """Stands in for the verification of an embedder that has none."""
