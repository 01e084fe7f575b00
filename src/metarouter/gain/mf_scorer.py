"""Scores a matrix-factorisation router with NumPy: :class:`MFScorer`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.gain.linear_error import LinearError
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["MFScorer"]

_CHUNK = 8_192


class MFScorer:
    """Gains of :class:`metarouter.gain.mf.MFGain` from its state.

    Notes
    -----
    For a given model the bilinear form is linear in the query,

        δ_m(x) = w₂ᵀ(v_m ⊙ (W₁ᵀx + b)) = xᵀ W₁(v_m ⊙ w₂) + bᵀ(v_m ⊙ w₂),

    so the state holds one column W₁((v_m − v_0) ⊙ w₂) for each ensemble member
    and candidate, and a query costs one matrix product. Its standard deviation is
    that of :class:`~metarouter.gain.linear_error.LinearError`; 0 where the state
    knows no labels, as that of an imported checkpoint.
    """

    def __init__(self, state: ModelState) -> None:
        self.state = state
        self._columns = np.asarray(state.arrays["columns"], dtype=np.float32)
        self._level = np.asarray(state.arrays["level"], dtype=np.float32)  # (members, candidates)
        self._centre = np.asarray(state.arrays["centre"], dtype=np.float64)
        self._mean_gain = np.asarray(state.arrays["mean_gain"], dtype=np.float64)
        self._slope = np.asarray(state.arrays["slope"], dtype=np.float64)
        config = state.config
        self._scale = float(config["scale"])
        self._tie_rate = float(config["tie_rate"])
        self._shared_variance = np.asarray(config["shared_variance"], dtype=np.float64)
        self._error = LinearError(state.arrays) if config["has_labels"] else None

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains s (2P − 1), averaged over members, and the s.d. of their error."""
        if len(features) <= _CHUNK:
            return self._predict(features)
        starts = range(0, len(features), _CHUNK)
        parts = [self._predict(features[start : start + _CHUNK]) for start in starts]
        return GainEstimate(
            mean=np.concatenate([part.mean for part in parts]),
            std=np.concatenate([part.std for part in parts]),
        )

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats ``models[0]``), ties counting half, (n, n_models − 1)."""
        return np.clip(0.5 + 0.5 * self.predict(features).mean / self._scale, 0.0, 1.0)

    def member_gains(self, features: NDArray[Any]) -> FloatArray:
        """Gains by each member, the slope left out, (n, members, candidates)."""
        if features.ndim != 2 or features.shape[1] != len(self._columns):
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {len(self._columns)}), "
                "as in training"
            )
        delta = features.astype(np.float32, copy=False) @ self._columns
        delta = delta.reshape(len(features), *self._level.shape) + self._level
        # 2 σ(δ) − 1 = tanh(δ/2), which cannot overflow
        gains: FloatArray = np.tanh(0.5 * delta, dtype=np.float64)
        gains *= self._scale * (1.0 - self._tie_rate)
        return gains

    def _predict(self, features: NDArray[Any]) -> GainEstimate:
        departure = self.member_gains(features).sum(axis=1) / len(self._level) - self._centre
        mean = self._mean_gain + self._slope * departure
        if self._error is None:
            return GainEstimate(mean=mean, std=np.zeros_like(mean))
        std = self._error.std(features.astype(np.float32, copy=False), mean)
        return GainEstimate(mean=mean, std=np.hypot(std, np.sqrt(self._shared_variance)))
