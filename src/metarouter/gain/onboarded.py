"""Gain of a model that a router was not fitted on, served from the router's own gains."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.scoring import GainScorer, load_gain_model
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["OnboardedScorer", "base_gains", "base_state", "onboarding_rows"]

_PREFIX = "base."


def base_gains(scorer: GainScorer, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Mean and std of the gains of the known candidates, each (n, m) for pairs too."""
    estimate = scorer.predict(features)
    if estimate.mean.ndim == 1:
        return estimate.mean[:, None], estimate.std[:, None]
    return estimate.mean, estimate.std


def onboarding_rows(gains: FloatArray, features: NDArray[Any], size: float) -> FloatArray:
    """φ(x) = [g(x), 1, x / size] of each row, shape (n, m + 1 + d).

    Parameters
    ----------
    gains : array, shape (n, m)
        Predicted gains g of the known candidates.
    features : array, shape (n, d)
    size : float, above 0; what a row of features is divided by.
    """
    own = np.asarray(features, dtype=np.float64) / size
    return np.hstack([gains, np.ones((len(gains), 1)), own])


def base_state(state: ModelState) -> ModelState:
    """State of the model whose gains an onboarded one rests on."""
    base = state.config["base"]
    arrays = {
        name.removeprefix(_PREFIX): array
        for name, array in state.arrays.items()
        if name.startswith(_PREFIX)
    }
    return ModelState(kind=base["kind"], config=base["config"], arrays=arrays)


class OnboardedScorer:
    """Known gains, and ψ(x) = φ(x)'θ of one more model with the posterior of θ.

    Made by :func:`metarouter.onboard`. The error of the known gains counts as
    shared between them, since they are against one reference: their standard
    deviations add up, weighted by |θ|.
    """

    def __init__(self, state: ModelState) -> None:
        self._base = load_gain_model(base_state(state))
        self._keeps_base = bool(state.config["keeps_base"])
        # routers of before 2026-11-22 have the new model last
        self._place = state.config.get("place")
        self._size = float(state.config["size"])
        self._mean = np.asarray(state.arrays["mean"], dtype=np.float64)
        self._factor = np.asarray(state.arrays["factor"], dtype=np.float64)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """The known candidates and the new model at its place; it alone where the pair is new."""
        gains, std = base_gains(self._base, features)
        rows = onboarding_rows(gains, features, self._size)
        spread = rows @ self._factor
        inherited = std @ np.abs(self._mean[: gains.shape[1]])
        own = np.sqrt(np.einsum("ij,ij->i", spread, spread) + inherited**2)
        mean = rows @ self._mean
        if not self._keeps_base:
            return GainEstimate(mean=mean[:, None], std=own[:, None])
        place = gains.shape[1] if self._place is None else int(self._place)
        return GainEstimate(
            mean=np.insert(gains, place, mean, axis=1), std=np.insert(std, place, own, axis=1)
        )
