"""NumPy scorer of :class:`metarouter.gain.logistic.LogisticGain`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.gain.logistic_rows import sigmoid
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["LogisticScorer", "gains_of"]


def gains_of(logits: FloatArray, scale: float, is_scored: bool) -> FloatArray:
    """Gains over the reference model from one regression's log-odds.

    Parameters
    ----------
    logits : array, shape (n, n_models) of successes when `is_scored`, else
        (n, n_models − 1) of wins over the reference model.
    scale : float, gain of a sure win.
    is_scored : bool

    Examples
    --------
    >>> gains_of(np.array([[0.0, np.log(3.0)]]), 2.0, True).round(6).tolist()
    [[0.5]]
    >>> gains_of(np.array([[np.log(3.0)]]), 2.0, False).round(6).tolist()
    [[1.0]]
    """
    p = sigmoid(logits)
    return scale * (p[:, 1:] - p[:, :1]) if is_scored else scale * (2.0 * p - 1.0)


class LogisticScorer:
    """Averages the gains of several logistic regressions."""

    def __init__(self, state: ModelState) -> None:
        config = state.config
        self._weight = np.asarray(state.arrays["weight"], dtype=np.float64)
        self._coef = np.asarray(state.arrays["coef"], dtype=np.float64)
        self._factor = np.asarray(state.arrays["factor"], dtype=np.float64)
        self._scale, self._is_scored = float(config["scale"]), bool(config["is_scored"])
        self._noise = float(config["noise"])
        self._shared_variance = np.asarray(config["shared_variance"], dtype=np.float64)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ and its standard deviation, each of shape (n, n_models − 1)."""
        width = self._coef.shape[1] - 1
        if features.ndim != 2 or features.shape[1] != width:
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {width}), as in training"
            )
        n_candidates = self._coef.shape[2] - self._is_scored
        mean = np.zeros((len(features), n_candidates))
        for weight, coef in zip(self._weight, self._coef, strict=True):
            logits = features @ coef[1:] + coef[0]
            mean += weight * gains_of(logits, self._scale, self._is_scored)
        tilt = features @ self._factor[1:] + self._factor[0]
        own = self._noise * np.einsum("ij,ij->i", tilt, tilt)
        shared = np.broadcast_to(self._shared_variance, n_candidates)
        return GainEstimate(mean=mean, std=np.sqrt(own[:, None] + shared))

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats ``models[0]``), ties counting half: (1 + ψ̂ / s) / 2."""
        probability: FloatArray = 0.5 + 0.5 * self.predict(features).mean / self._scale
        return probability
