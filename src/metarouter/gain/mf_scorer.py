"""Scores a matrix-factorisation router with NumPy: :class:`MFScorer`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
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

    so the state holds one column W₁((v_m − v_0) ⊙ w₂) for each candidate and
    ensemble member, and a query costs one matrix product.
    """

    def __init__(self, state: ModelState) -> None:
        self._slope = np.asarray(state.arrays["slope"], dtype=np.float32)  # (d, members · models)
        self._level = np.asarray(state.arrays["level"], dtype=np.float32)  # (members, candidates)
        self._scale = float(state.config["scale"])
        self._tie_rate = float(state.config["tie_rate"])
        self._floor = float(state.config["std_floor"])
        self._shared_variance = float(state.config["shared_variance"])

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats ``models[0]``), ties counting half, (n, n_models − 1)."""
        return self._by_chunks(features)[0]

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains s (2P − 1), averaged over members; s.d. between members."""
        win, spread = self._by_chunks(features)
        std = 2.0 * self._scale * spread
        std = np.sqrt(np.maximum(std * std, self._floor**2) + self._shared_variance)
        return GainEstimate(mean=self._scale * (2.0 * win - 1.0), std=std)

    def _by_chunks(self, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation of P over members."""
        if features.ndim != 2 or features.shape[1] != len(self._slope):
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {len(self._slope)}), "
                "as in training"
            )
        if len(features) <= _CHUNK:
            return self._moments(features)
        starts = range(0, len(features), _CHUNK)
        parts = [self._moments(features[start : start + _CHUNK]) for start in starts]
        means, spreads = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(spreads)

    def _moments(self, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        members, candidates = self._level.shape
        delta = (features.astype(np.float32, copy=False) @ self._slope).reshape(
            len(features), members, candidates
        )
        delta += self._level
        # σ(δ) as a tangent cannot overflow.
        win = 0.5 + 0.5 * np.tanh(0.5 * delta, dtype=np.float64)
        win = self._tie_rate / 2 + (1.0 - self._tie_rate) * win
        mean = win.sum(axis=1) / members
        if members == 1:
            return mean, np.zeros_like(mean)
        departure = win - mean[:, None]
        variance = (departure * departure).sum(axis=1) / (members - 1)
        return mean, np.sqrt(variance)
