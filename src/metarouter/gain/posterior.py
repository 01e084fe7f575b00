"""Gaussian posterior of the gain functions of a pair or a pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.features.bases import QueryMap
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["LEVEL_SCALE", "Elsewhere", "GainPosterior", "PosteriorScorer", "contrast_rows"]

LEVEL_SCALE = 2.0
"""In a pool, prior standard deviation of a model's level over that of its slope."""

_CHUNK = 8_192


def contrast_rows(
    mapped: FloatArray, candidate: IntArray, baseline: IntArray, n_candidates: int
) -> FloatArray:
    """Rows u with u'θ = v'θ_candidate − v'θ_baseline and θ_reference = 0.

    Parameters
    ----------
    mapped : array, shape (n, q); v(x) of each row.
    candidate, baseline : int arrays, shape (n,); indices into the models.
    n_candidates : int

    Returns
    -------
    array, shape (n, n_candidates · q); `mapped` itself for a pair.
    """
    if n_candidates == 1:
        return mapped
    n, q = mapped.shape
    scaled = _scaled(mapped)
    u = np.zeros((n, n_candidates, q))
    at = np.arange(n)
    u[at, candidate - 1] += scaled
    below = baseline > 0
    u[at[below], baseline[below] - 1] -= scaled[below]
    return u.reshape(n, n_candidates * q)


def _scaled(mapped: FloatArray) -> FloatArray:
    scaled = mapped.copy()
    scaled[:, 0] *= LEVEL_SCALE
    return scaled


@dataclass(frozen=True, kw_only=True, slots=True)
class Elsewhere:
    """Doubt that what gold labels taught holds where there are hardly any.

    A posterior extrapolates by the smoothness that it found where gold is. Elsewhere
    the gain may have a level of its own, a·h(x) with a ~ N(0, τ²), of which gold labels
    tell nothing as h is 0 where gold is as frequent as on average.

    Parameters
    ----------
    weights : array, shape (1 + d,)
        h(x) = weights[0] + x'weights[1:], cut to [0, 1]: the share of the gold labels
        that is missing around x.
    variance : float, τ².
    """

    weights: FloatArray
    variance: float

    def at(self, features: NDArray[Any]) -> FloatArray:
        """Variance to add at rows of features (n, d), shape (n,)."""
        missing = np.clip(self.weights[0] + features @ self.weights[1:], 0.0, 1.0)
        return np.asarray(self.variance * missing**2, dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class GainPosterior:
    """ψ_m(x) = v(x)'θ_m for each candidate m, with the posterior of θ.

    Parameters
    ----------
    query_map : QueryMap, x ↦ v(x) of length q.
    mean : array, shape (n_candidates, q)
    covariance : array, shape (n_candidates · q, n_candidates · q)
    elsewhere : Elsewhere, or None
        What predictions add to their variance where gold labels are rare.
    """

    query_map: QueryMap
    mean: FloatArray
    covariance: FloatArray
    elsewhere: Elsewhere | None = None

    def contrast(
        self, features: NDArray[Any], candidate: IntArray, baseline: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of ψ_candidate − ψ_baseline at rows, each (n,).

        By the covariance alone: it weighs rows, which doubt that they share should not.
        """
        mean, variance = np.empty(len(features)), np.empty(len(features))
        for start in range(0, len(features), _CHUNK):
            at = slice(start, start + _CHUNK)
            mapped = self.query_map.transform(features[at])
            u = contrast_rows(mapped, candidate[at], baseline[at], len(self.mean))
            mean[at] = u @ self.mean.ravel()
            variance[at] = np.maximum(np.einsum("ij,ij->i", u @ self.covariance, u), 0.0)
        return mean, variance

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains over the reference model, mean and std of shape (n, n_candidates)."""
        return PosteriorScorer(self.state()).predict(features)

    def predict_mean(self, features: NDArray[Any]) -> FloatArray:
        """The mean of :meth:`predict` alone: deviations take most of the time."""
        return PosteriorScorer(self.state()).predict_mean(features)

    def state(self) -> ModelState:
        """State of kind "posterior"."""
        n_candidates, q = self.mean.shape
        blocks = [
            self.covariance[m * q : (m + 1) * q, m * q : (m + 1) * q] for m in range(n_candidates)
        ]
        mapped = self.query_map.state()
        config: dict[str, Any] = {"map": mapped.config, "single": False}
        arrays = {f"map.{name}": array for name, array in mapped.arrays.items()}
        arrays |= {"mean": self.mean}
        arrays |= {f"factor.{m}": _factor(block) for m, block in enumerate(blocks)}
        if self.elsewhere is not None:
            config["elsewhere"] = self.elsewhere.variance
            arrays["elsewhere"] = self.elsewhere.weights
        return ModelState(kind="posterior", config=config, arrays=arrays)


class PosteriorScorer:
    """Scores a :class:`GainPosterior` from its state, with NumPy alone."""

    def __init__(self, state: ModelState) -> None:
        prefix = "map."
        query_map = QueryMap.restore(
            ModelState(
                kind="query_map",
                config=state.config["map"],
                arrays={
                    name.removeprefix(prefix): array
                    for name, array in state.arrays.items()
                    if name.startswith(prefix)
                },
            )
        )
        means = np.asarray(state.arrays["mean"], dtype=np.float64)
        factors = [np.asarray(state.arrays[f"factor.{m}"]) for m in range(len(means))]
        level = np.ones((means.shape[1], 1))
        level[0] = LEVEL_SCALE if len(means) > 1 else 1.0
        self._lift = query_map.lift()
        self._mean = query_map.fold(level * means.T)
        # float32: half the bytes to read on a cold cache, for 1e-5 of the standard deviation.
        self._factors = [query_map.fold(level * each).astype(np.float32) for each in factors]
        self._single = bool(state.config["single"])
        self._elsewhere = None
        if "elsewhere" in state.arrays:
            weights = np.asarray(state.arrays["elsewhere"], dtype=np.float64)
            variance = float(state.config["elsewhere"])
            self._elsewhere = Elsewhere(weights=weights, variance=variance)

    def predict_mean(self, features: NDArray[Any]) -> FloatArray:
        """ψ̂ alone, (n, n_candidates): deviations take most of the time."""
        if len(features) <= _CHUNK:
            mean: FloatArray = self._lift(features) @ self._mean
            return mean
        starts = range(0, len(features), _CHUNK)
        return np.concatenate([self.predict_mean(features[at : at + _CHUNK]) for at in starts])

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ and its standard deviation: (n, n_candidates), or (n,) for a single gain."""
        mean = np.empty((len(features), len(self._factors)))
        variance = np.empty_like(mean)
        for start in range(0, max(len(features), 1), _CHUNK):
            at = slice(start, start + _CHUNK)
            lifted = self._lift(features[at])
            mean[at] = lifted @ self._mean
            short = lifted.astype(np.float32)
            for m, factor in enumerate(self._factors):
                spread = short @ factor
                variance[at, m] = np.vecdot(spread, spread)
            if self._elsewhere is not None:
                variance[at] += self._elsewhere.at(features[at])[:, None]
        std = np.sqrt(variance)
        if self._single:
            return GainEstimate(mean=mean[:, 0], std=std[:, 0])
        return GainEstimate(mean=mean, std=std)


def _factor(covariance: FloatArray) -> FloatArray:
    """Lower triangle F with F F' = covariance, up to rounding."""
    jitter = 1e-10 * max(float(np.diag(covariance).max()), 1e-300)
    lower = np.linalg.cholesky(covariance + jitter * np.eye(len(covariance)))
    return np.asarray(lower, dtype=np.float64)
