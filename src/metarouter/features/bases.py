"""Feature maps that one gain function may live in, learned without labels.

How quickly quality gains change over queries differs between applications: a
few broad kinds of query in one, subject matter in another. Instead of fixing a
kernel, a family of them is learned on *all* training prompts, labelled or not,
and the evidence of the gold labels weighs them (see :mod:`metarouter.evidence`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["BASES", "BASIS_PRIORS", "CURVES", "FoldedMap", "QueryMap", "learn_query_map"]

BASES = ("linear", "rbf5", "rbf12", "linear+rbf5", "linear+rbf12")
CURVES = ("rbf5", "rbf12")
BASIS_PRIORS = {"linear": 3.0, "rbf5": 1.0, "rbf12": 1.0, "linear+rbf5": 1.0, "linear+rbf12": 1.0}
_SAMPLE = 20_000  # queries that a map is learned on
_LANDMARKS = 150
_SHARPNESS = 2.0  # exp(-sharpness · d²/median d²): length-scale is half the median distance


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryMap:
    """x ↦ v(x) = [1, parts...]: a constant, then blocks of features.

    ``linear`` holds principal components; ``rbfK`` holds Nyström features of a
    Gaussian kernel k on the leading K components, k(x, L) k(L, L)^(−1/2) for
    landmarks L (Williams and Seeger 2001). Every part is centred and has unit
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
            else:
                near = _kernel(components, self.landmarks[part], self.precision[part])
                blocks.append(near @ self.whitening[part] - self.offset[part])
        return np.hstack(blocks)

    def fold(self, weights: FloatArray, dtype: type[np.floating[Any]] = np.float64) -> FoldedMap:
        """The map x ↦ v(x)'weights, shape (n, k), with everything linear multiplied out.

        `weights` has shape (dim, k). Scoring one query is several times faster
        than ``transform(x) @ weights``, and faster still with `dtype` float32,
        in which the wide products are then made.
        """
        linear = np.zeros((len(self.mean), weights.shape[1]))
        constant = weights[0].copy()
        curves: list[_Curve] = []
        start = 1
        for part in self.parts:
            block = weights[start : start + self._width(part)]
            start += self._width(part)
            if part == "linear":
                linear += self.scale * (self.rotation @ block)
                constant -= self.mean @ linear
            else:
                constant -= self.offset[part] @ block
                curves.append(
                    self._folded_curve(part, (self.whitening[part] @ block).astype(dtype))
                )
        return FoldedMap(linear=linear.astype(dtype), constant=constant, curves=tuple(curves))

    def _folded_curve(self, part: str, weights: NDArray[np.floating[Any]]) -> _Curve:
        landmarks, precision = self.landmarks[part], self.precision[part]
        near = self.rotation[:, : landmarks.shape[1]]
        moved = landmarks + self.mean @ near
        return _Curve(
            near=near,
            cross=2.0 * precision * moved.T,
            norm=-precision * np.einsum("ij,ij->i", moved, moved),
            precision=precision,
            weights=weights,
        )

    def state(self) -> ModelState:
        """Arrays of kind "query_map"."""
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean, "rotation": self.rotation}
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
        arrays, curved = state.arrays, [p for p in state.config["parts"] if p != "linear"]
        return cls(
            mean=arrays["mean"],
            rotation=arrays["rotation"],
            scale=float(state.config["scale"]),
            parts=tuple(state.config["parts"]),
            landmarks={part: arrays[f"{part}.landmarks"] for part in curved},
            precision={part: float(state.config["precision"][part]) for part in curved},
            whitening={part: arrays[f"{part}.whitening"] for part in curved},
            offset={part: arrays[f"{part}.offset"] for part in curved},
        )

    def _width(self, part: str) -> int:
        block = self.rotation if part == "linear" else self.whitening[part]
        return int(block.shape[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Curve:
    """exp(−p‖a − l‖²)'weights with a = x'near, its exponent as a'cross + norm − p‖a‖²."""

    near: FloatArray  # (d, K)
    cross: FloatArray  # (K, m)
    norm: FloatArray  # (m,)
    precision: float
    weights: NDArray[np.floating[Any]]  # (m, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldedMap:
    """A :class:`QueryMap` followed by a linear map, ready to score."""

    linear: NDArray[np.floating[Any]]  # (d, k)
    constant: FloatArray  # (k,)
    curves: tuple[_Curve, ...]

    def __call__(self, X: NDArray[Any]) -> FloatArray:
        """Scores of rows of features (n, d), shape (n, k)."""
        if X.ndim != 2 or X.shape[1] != len(self.linear):
            raise DataError(
                f"features of shape {X.shape}; allowed: (n, {len(self.linear)}), as in training"
            )
        dtype = self.linear.dtype
        scores: FloatArray = X.astype(dtype, copy=False) @ self.linear + self.constant
        for curve in self.curves:
            components = X @ curve.near
            exponent = components @ curve.cross
            exponent += curve.norm
            exponent -= curve.precision * np.einsum("ij,ij->i", components, components)[:, None]
            np.exp(np.minimum(exponent, 0.0, out=exponent), out=exponent)
            scores += exponent.astype(dtype, copy=False) @ curve.weights
        return scores


def learn_query_map(
    X: NDArray[Any],
    bases: Sequence[str] = BASES,
    *,
    seed: int = 0,
    max_dim: int | None = None,
) -> QueryMap:
    """Learn the parts of the named bases on all training queries, labelled or not.

    Parameters
    ----------
    X : array, shape (n_queries, d)
    bases : names out of :data:`BASES`, or others of the same form.
    seed : int, draws the landmarks.
    max_dim : int, or None
        Bounds the width of each part; the default keeps all of it.

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
    parts = tuple(dict.fromkeys(part for name in bases for part in name.split("+")))
    if "linear" not in parts:  # only the components that a kernel looks at are needed
        rotation = rotation[:, : max(int(part[3:]) for part in parts)]
    learned = {
        part: _learn_rbf(components[:, : int(part[3:])], rng, max_dim)
        for part in parts
        if part != "linear"
    }
    return QueryMap(
        mean=mean,
        # Contiguous, as arrays read back from a file are: so both predict the same bits.
        rotation=np.ascontiguousarray(rotation),
        scale=1.0 / (_size(components) or 1.0),
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
    size = _size(mapped - offset) or 1.0
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
