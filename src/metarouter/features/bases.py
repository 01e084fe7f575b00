"""Feature maps that one gain function may live in, learned without labels.

How quickly quality gains change over queries differs between applications: a
few broad kinds of query in one, subject matter in another. Instead of fixing a
kernel, a family of them is learned on *all* training prompts, labelled or not,
and the evidence of the gold labels weighs them (see :mod:`metarouter.evidence`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = [
    "BASES",
    "BASIS_PRIORS",
    "CURVES",
    "Lift",
    "QueryMap",
    "distinct_bases",
    "learn_query_map",
]

BASES = (
    "linear",
    *("rbf3", "rbf8", "rbf20"),
    *("linear+rbf3", "linear+rbf8", "linear+rbf20"),
)
BASIS_PRIORS = {"linear": 3.0, "index": 9.0}  # 1 for any other: where there is an index, half
_STRAIGHT = frozenset({"linear", "index"})
CURVES = ("rbf5", "rbf12")  # those of the features, which every gain model gets
_SAMPLE = 20_000  # queries that a map is learned on
_LANDMARKS = 150  # of each kernel
_ROUNDING = 1e-10  # spread below this share of the size is rounding: scaled up it would be noise
_SHARPNESS = 2.0  # exp(-sharpness · d²/median d²): length-scale is half the median distance


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryMap:
    """x ↦ v(x) = [1, parts...]: a constant, then blocks of features.

    ``linear`` holds principal components; ``rbfK`` holds Nyström features of a
    Gaussian kernel k on the leading K components, k(x, L) k(L, L)^(−1/2) for
    landmarks L (Williams and Seeger 2001); ``index`` holds linear functions of the
    components that :meth:`with_index` is given. Every part is centred and has unit
    mean squared length over the training queries, so that one prior variance
    means the same in each. A *basis* is one part or several joined by ``+``.

    References
    ----------
    Williams and Seeger (2001), Using the Nyström method to speed up kernel
    machines, https://papers.nips.cc/paper/1866.
    """

    mean: FloatArray  # (d,)
    rotation: FloatArray  # (d, k)
    scale: float
    parts: tuple[str, ...]
    landmarks: Mapping[str, FloatArray]  # (m, K) each
    precision: Mapping[str, float]
    whitening: Mapping[str, FloatArray]  # (m, r) each
    offset: Mapping[str, FloatArray]  # (r,) each
    index: FloatArray | None = None  # (k, r)

    @property
    def dim(self) -> int:
        """Length of v(x)."""
        return 1 + sum(self._width(part) for part in self.parts)

    def columns(self, basis: str) -> IntArray:
        """Entries of v(x) that a basis occupies, without the constant."""
        wanted = basis.split("+")
        found, start = [], 1
        for part in self.parts:
            stop = start + self._width(part)
            if part in wanted:
                found.append(np.arange(start, stop))
            start = stop
        return np.concatenate(found)

    def transform(self, X: NDArray[Any]) -> FloatArray:
        """Map rows of features (n, d) to v, shape (n, dim)."""
        if X.ndim != 2 or X.shape[1] != len(self.mean):
            raise DataError(
                f"features of shape {X.shape}; allowed: (n, {len(self.mean)}), as in training"
            )
        components = (np.asarray(X, dtype=np.float64) - self.mean) @ self.rotation
        blocks: list[FloatArray] = [np.ones((len(components), 1))]
        for part in self.parts:
            if part == "linear":
                blocks.append(components * self.scale)
            elif part == "index":
                blocks.append(components @ self._index())
            else:
                near = _kernel(components, self.landmarks[part], self.precision[part])
                blocks.append(near @ self.whitening[part] - self.offset[part])
        return np.hstack(blocks)

    def components(self, X: NDArray[Any], most: int | None = None) -> FloatArray:
        """Leading principal components of rows of features; all have mean squared length 1."""
        centred = np.asarray(X, dtype=np.float64) - self.mean
        return self.scale * (centred @ self.rotation[:, :most])

    def with_index(self, functions: FloatArray, X: NDArray[Any]) -> QueryMap:
        """The map with the part ``index``: linear functions of :meth:`components`.

        Parameters
        ----------
        functions : array, shape (k, r)
        X : array, shape (n, d), queries over which the part gets its size.
        """
        mapped = self.components(X) @ functions
        size = _size(mapped - mapped.mean(axis=0)) or 1.0
        index = np.ascontiguousarray(self.scale * functions / size)
        return replace(self, parts=(*self.parts, "index"), index=index)

    def leading(self, most: int) -> QueryMap:
        """The map with the leading eigenfunctions alone of each kernel.

        Its parts are a little smaller than 1 then: by a sixth with 64 of 150.
        """
        return replace(
            self,
            whitening={part: each[:, :most] for part, each in self.whitening.items()},
            offset={part: each[:most] for part, each in self.offset.items()},
        )

    def _index(self) -> FloatArray:
        assert self.index is not None  # noqa: S101 - with_index adds both
        return self.index

    def lift(self) -> Lift:
        """The map x ↦ z(x) of which v(x) is linear; :meth:`fold` says how."""
        curved = [part for part in self.parts if part not in _STRAIGHT]
        width = max((self.landmarks[part].shape[1] for part in curved), default=0)
        exponents = [self._exponents(part, width) for part in curved]
        return Lift(
            near=np.ascontiguousarray(self.rotation[:, :width]),
            exponents=np.hstack([np.zeros((1 + 2 * width, 0)), *exponents]),
            is_linear=not _STRAIGHT.isdisjoint(self.parts),
        )

    def _exponents(self, part: str, width: int) -> FloatArray:
        """B with [1, a, a²] B = −p‖a − l‖² for each landmark l, where a = x'near."""
        landmarks, precision = self.landmarks[part], self.precision[part]
        m, k = landmarks.shape
        moved = landmarks + self.mean @ self.rotation[:, :k]
        found = np.zeros((1 + 2 * width, m))
        found[0] = -precision * np.einsum("ij,ij->i", moved, moved)
        found[1 : 1 + k] = 2.0 * precision * moved.T
        found[1 + width : 1 + width + k] = -precision
        return found

    def fold(self, weights: FloatArray) -> FloatArray:
        """`folded` with v(x)'weights = z(x)'folded, for z(x) of :meth:`lift`.

        `weights` has shape (dim, k). Everything linear is multiplied out, so scoring a
        query is several times faster than ``transform(x) @ weights``.
        """
        constant = weights[:1].copy()
        linear: FloatArray | None = None
        curves: list[FloatArray] = []
        start = 1
        for part in self.parts:
            block = weights[start : start + self._width(part)]
            start += self._width(part)
            if part in _STRAIGHT:
                inner = self.scale * block if part == "linear" else self._index() @ block
                own = self.rotation @ inner
                linear = own if linear is None else linear + own
                constant -= self.mean @ own
            else:
                curves.append(self.whitening[part] @ block)
                constant -= self.offset[part] @ block
        return np.vstack([constant, *([] if linear is None else [linear]), *curves])

    def state(self) -> ModelState:
        """Arrays of kind "query_map"."""
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean, "rotation": self.rotation}
        if self.index is not None:
            arrays["index"] = self.index
        for part in self.landmarks:
            arrays[f"{part}.landmarks"] = self.landmarks[part]
            arrays[f"{part}.whitening"] = self.whitening[part]
            arrays[f"{part}.offset"] = self.offset[part]
        return ModelState(
            kind="query_map",
            config={
                "parts": list(self.parts),
                "scale": self.scale,
                "precision": dict(self.precision),
            },
            arrays=arrays,
        )

    @classmethod
    def restore(cls, state: ModelState) -> QueryMap:
        """Rebuild a map from its state."""
        arrays = state.arrays
        curved = [part for part in state.config["parts"] if part not in _STRAIGHT]
        return cls(
            mean=arrays["mean"],
            rotation=arrays["rotation"],
            scale=float(state.config["scale"]),
            parts=tuple(state.config["parts"]),
            landmarks={part: arrays[f"{part}.landmarks"] for part in curved},
            precision={part: float(state.config["precision"][part]) for part in curved},
            whitening={part: arrays[f"{part}.whitening"] for part in curved},
            offset={part: arrays[f"{part}.offset"] for part in curved},
            index=arrays.get("index"),
        )

    def _width(self, part: str) -> int:
        if part == "index":
            return int(self._index().shape[1])
        block = self.rotation if part == "linear" else self.whitening[part]
        return int(block.shape[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Lift:
    """x ↦ z(x) = [1, x, exp(−p‖a − l‖²) for each landmark l], with a = x'near.

    The exponents are linear in [1, a, a²], so that those of all parts take one product.
    """

    near: FloatArray  # (d, K)
    exponents: FloatArray  # (1 + 2K, m)
    is_linear: bool  # else z(x) is without x

    def __call__(self, X: NDArray[Any]) -> FloatArray:
        """Rows z of rows of features (n, d), shape (n, 1 + d + m)."""
        if X.ndim != 2 or X.shape[1] != len(self.near):
            raise DataError(
                f"features of shape {X.shape}; allowed: (n, {len(self.near)}), as in training"
            )
        one = np.empty((len(X), 1))
        one[:] = 1.0
        a = X @ self.near
        curves = np.concatenate((one, a, a * a), axis=1) @ self.exponents
        np.minimum(curves, 0.0, out=curves)  # above 0 by rounding alone
        np.exp(curves, out=curves)
        return np.concatenate((one, X, curves) if self.is_linear else (one, curves), axis=1)


def distinct_bases(bases: Sequence[str], n_features: int) -> list[str]:
    """The bases without those that look at the same components as an earlier one.

    Examples
    --------
    >>> distinct_bases(["linear", "rbf3", "rbf8", "rbf20"], 6)
    ['linear', 'rbf3', 'rbf8']
    """
    found: dict[tuple[int, ...], str] = {}
    for basis in bases:
        parts = set(basis.split("+"))
        seen = sorted(min(_n_components(part), n_features) for part in parts)
        found.setdefault(tuple(seen), basis)
    return list(found.values())


def _n_components(part: str) -> int:
    """That a kernel looks at; 0 for the linear part."""
    return 0 if part == "linear" else int(part.removeprefix("rbf"))


def learn_query_map(
    X: NDArray[Any],
    bases: Sequence[str] = BASES,
    *,
    seed: int = 0,
    max_dim: int | None = None,
    max_curve: int | None = None,
) -> QueryMap:
    """Learn the parts of the named bases on all training queries, labelled or not.

    Parameters
    ----------
    X : array, shape (n_queries, d)
    bases : names out of :data:`BASES`, or others of the same form.
    seed : int, draws the landmarks.
    max_dim : int, or None
        Bounds the number of principal components; the default keeps all.
    max_curve : int, or None
        Bounds the width of each curved part.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(40, 3))
    >>> learn_query_map(X, ["linear"]).transform(X).shape
    (40, 4)
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(X), min(len(X), _SAMPLE), replace=False)
    sample = np.asarray(X[np.sort(chosen)], dtype=np.float64)
    mean = sample.mean(axis=0)
    rotation = np.linalg.eigh(_gram(sample - mean))[1][:, ::-1][:, :max_dim]
    components = (sample - mean) @ rotation
    size = _size(components)
    if size <= _ROUNDING * float(np.linalg.norm(mean)):
        size, components = 1.0, np.zeros_like(components)
    parts = tuple(dict.fromkeys(part for name in bases for part in name.split("+")))
    if "linear" not in parts:  # only the components that a kernel looks at are needed
        rotation = rotation[:, : max(map(_n_components, parts))]
    learned = {
        part: _learn_rbf(components[:, : _n_components(part)], rng, max_curve)
        for part in parts
        if part != "linear"
    }
    return QueryMap(
        mean=mean,
        # Contiguous, as arrays read back from a file are: so both predict the same bits.
        rotation=np.ascontiguousarray(rotation),
        scale=1.0 / size,
        parts=parts,
        landmarks={part: each[0] for part, each in learned.items()},
        precision={part: each[1] for part, each in learned.items()},
        whitening={part: each[2] for part, each in learned.items()},
        offset={part: each[3] for part, each in learned.items()},
    )


def _learn_rbf(
    components: FloatArray, rng: np.random.Generator, max_dim: int | None
) -> tuple[FloatArray, float, FloatArray, FloatArray]:
    """Landmarks, precision, whitening and offset of one kernel."""
    n = len(components)
    landmarks = components[rng.choice(n, min(_LANDMARKS, n), replace=False)]
    precision = _SHARPNESS / (float(np.median(_distances(components[:1000], landmarks))) or 1.0)
    values, vectors = np.linalg.eigh(_kernel(landmarks, landmarks, precision))
    order = np.flatnonzero(values > 1e-6 * values[-1])[::-1][:max_dim]
    whitening = vectors[:, order] / np.sqrt(values[order])
    mapped = _kernel(components, landmarks, precision) @ whitening
    offset = mapped.mean(axis=0)
    size = _size(mapped - offset)
    if size <= _ROUNDING * float(np.linalg.norm(offset)):
        size = 1.0
    return landmarks, precision, np.ascontiguousarray(whitening / size), offset / size


def _kernel(components: FloatArray, landmarks: FloatArray, precision: float) -> FloatArray:
    near = components[:, : landmarks.shape[1]]
    result: FloatArray = np.exp(-precision * _distances(near, landmarks))
    return result


def _distances(A: FloatArray, B: FloatArray) -> FloatArray:
    squares: FloatArray = A @ (-2.0 * B.T)
    squares += np.einsum("ij,ij->i", A, A)[:, None]
    squares += np.einsum("ij,ij->i", B, B)
    return np.maximum(squares, 0.0, out=squares)


def _gram(rows: FloatArray) -> FloatArray:
    result: FloatArray = rows.T @ rows
    return result


def _size(rows: FloatArray) -> float:
    return float(np.sqrt((rows**2).sum(axis=1).mean()))
