"""Feature maps that one gain function may live in, learned without labels.

How quickly quality gains change over queries differs between applications: a
few broad kinds of query in one, subject matter in another. Instead of fixing a
kernel, a family of them is learned on *all* training prompts, labelled or not,
and the evidence of the gold labels weighs them (see
:mod:`metarouter.correction.evidence`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.types import FloatArray, ModelState

__all__ = ["BASES", "Basis", "LinearMap", "RbfMap", "load_basis", "make_bases"]

_SAMPLE = 20_000  # rows that a map is learned on
_LANDMARKS = 150
_SHARPNESS = 2.0  # exp(-sharpness · d²/median d²): length-scale is half the median distance


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearMap:
    """x ↦ (x − mean)·scale, with unit mean squared length over the training rows."""

    mean: FloatArray
    scale: float

    def transform(self, X: NDArray[Any]) -> FloatArray:
        """Map rows, shape (n, d)."""
        result: FloatArray = (np.asarray(X, dtype=np.float64) - self.mean) * self.scale
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class RbfMap:
    """Nyström features of a Gaussian kernel on the leading principal components.

    With landmarks L and kernel k, φ(x) = k(x, L) k(L, L)^(−1/2), centred and
    scaled to unit mean squared length (Williams and Seeger 2001).
    """

    mean: FloatArray
    rotation: FloatArray  # (d, k)
    landmarks: FloatArray  # (m, k)
    precision: float
    whitening: FloatArray  # (m, r)
    offset: FloatArray  # (r,)

    def transform(self, X: NDArray[Any]) -> FloatArray:
        """Map rows, shape (n, r)."""
        components = (np.asarray(X, dtype=np.float64) - self.mean) @ self.rotation
        result: FloatArray = self._kernel(components) @ self.whitening - self.offset
        return result

    def _kernel(self, components: FloatArray) -> FloatArray:
        result: FloatArray = np.exp(-self.precision * _distances(components, self.landmarks))
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """A named concatenation of maps; a ridge prior on it is one kernel."""

    name: str
    maps: tuple[LinearMap | RbfMap, ...]

    def transform(self, X: NDArray[Any]) -> FloatArray:
        """Map rows, shape (n, r); unit mean squared length for each map."""
        result: FloatArray = np.hstack([each.transform(X) for each in self.maps])
        return result

    def state(self) -> ModelState:
        """Arrays of the maps, for the artifact."""
        arrays: dict[str, NDArray[Any]] = {}
        kinds = []
        for i, each in enumerate(self.maps):
            kinds.append("linear" if isinstance(each, LinearMap) else "rbf")
            for key in each.__slots__:
                arrays[f"{i}.{key}"] = np.asarray(getattr(each, key))
        return ModelState(kind="basis", config={"name": self.name, "maps": kinds}, arrays=arrays)


def load_basis(state: ModelState) -> Basis:
    """Rebuild a basis from its state."""
    maps: list[LinearMap | RbfMap] = []
    for i, kind in enumerate(state.config["maps"]):
        prefix = f"{i}."
        parts: dict[str, Any] = {
            key[len(prefix) :]: value
            for key, value in state.arrays.items()
            if key.startswith(prefix)
        }
        for scalar in ("scale", "precision"):
            if scalar in parts:
                parts[scalar] = float(parts[scalar])
        maps.append(LinearMap(**parts) if kind == "linear" else RbfMap(**parts))
    return Basis(name=str(state.config["name"]), maps=tuple(maps))


BASES = ("linear", "rbf5", "rbf12", "linear+rbf5", "linear+rbf12")


def make_bases(
    X: NDArray[Any], names: Sequence[str] = BASES, *, seed: int = 0
) -> tuple[Basis, ...]:
    """Learn the named bases on all training features, labelled or not.

    Parameters
    ----------
    X : array, shape (n, d)
        Features of every training query.
    names : names out of :data:`BASES`; ``rbfK`` is a Gaussian kernel on the
        leading K principal components.
    seed : int
        Draws the landmarks.

    References
    ----------
    Williams and Seeger (2001), Using the Nyström method to speed up kernel
    machines, https://papers.nips.cc/paper/1866.
    """
    rng = np.random.default_rng(seed)
    sample = np.asarray(X, dtype=np.float64)
    if len(X) > _SAMPLE:
        sample = np.asarray(X[rng.choice(len(X), _SAMPLE, replace=False)], dtype=np.float64)
    mean = sample.mean(axis=0)
    centred = sample - mean
    size = float(np.sqrt((centred**2).sum(axis=1).mean())) or 1.0
    linear = LinearMap(mean=mean, scale=1.0 / size)
    rotation = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
    made: dict[str, LinearMap | RbfMap] = {"linear": linear}
    for part in dict.fromkeys(part for name in names for part in name.split("+")):
        if part != "linear":
            k = int(part.removeprefix("rbf"))
            made[part] = _rbf_map(mean, centred @ rotation[:, :k], rotation[:, :k], rng)
    return tuple(
        Basis(name=name, maps=tuple(made[part] for part in name.split("+"))) for name in names
    )


def _rbf_map(
    mean: FloatArray, components: FloatArray, rotation: FloatArray, rng: np.random.Generator
) -> RbfMap:
    n = len(components)
    chosen = rng.choice(n, min(_LANDMARKS, n), replace=False)
    landmarks = components[chosen]
    median = float(np.median(_distances(components[: min(n, 1000)], landmarks))) or 1.0
    precision = _SHARPNESS / median
    gram = np.exp(-precision * _distances(landmarks, landmarks))
    values, vectors = np.linalg.eigh(gram)
    keep = values > 1e-6 * values[-1]
    whitening = vectors[:, keep] / np.sqrt(values[keep])
    mapped = np.exp(-precision * _distances(components, landmarks)) @ whitening
    offset = mapped.mean(axis=0)
    size = float(np.sqrt(((mapped - offset) ** 2).sum(axis=1).mean())) or 1.0
    return RbfMap(
        mean=mean,
        rotation=rotation,
        landmarks=landmarks,
        precision=precision,
        whitening=whitening / size,
        offset=offset / size,
    )


def _distances(A: FloatArray, B: FloatArray) -> FloatArray:
    squares = (A**2).sum(axis=1)[:, None] + (B**2).sum(axis=1)[None, :] - 2 * A @ B.T
    result: FloatArray = np.maximum(squares, 0.0)
    return result
