"""Effects and variances of the final stages, against the formulas by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from metarouter.causal.final_stage import Blend, Difference, Direct, Toggle, interact
from metarouter.linear import Ridge
from metarouter.types import FloatArray


@dataclass
class Constant:
    """A fitted model that predicts one number with one standard deviation."""

    mean: float
    std: float

    def predict(self, X: Any) -> FloatArray:
        """The mean, once a row."""
        return np.full(len(X), self.mean)

    def predict_std(self, X: Any) -> FloatArray:
        """The standard deviation, once a row."""
        return np.full(len(X), self.std)


def _told(variance: FloatArray | None) -> FloatArray:
    assert variance is not None
    return variance


X = np.zeros((2, 1))
E = np.array([0.1, 0.5])


def test_direct_and_difference() -> None:
    """One model's own numbers; variances of independent models add."""
    direct = Direct(Constant(2.0, 3.0))
    assert direct.predict(X, None).tolist() == [2, 2]
    assert np.allclose(_told(direct.variance(X, None)), 9)
    difference = Difference(Constant(2.0, 3.0), Constant(5.0, 1.0))
    assert difference.predict(X, None).tolist() == [-3, -3]
    assert np.allclose(_told(difference.variance(X, None)), 10)


def test_blend_weighs_the_treated_model_by_one_minus_e() -> None:
    """Δ̂ = e · control + (1 − e) · treated, and its variance."""
    blend = Blend(Constant(2.0, 3.0), Constant(4.0, 1.0))
    assert np.allclose(blend.predict(X, E), [0.9 * 2 + 0.1 * 4, 3])
    assert np.allclose(_told(blend.variance(X, E)), [0.81 * 9 + 0.01, 0.25 * 10])


def test_no_variance_without_predict_std() -> None:
    """One silent model is enough."""

    class Silent:
        def predict(self, X: Any) -> FloatArray:
            return np.zeros(len(X))

    assert Direct(Silent()).variance(X, None) is None
    assert Difference(Silent(), Constant(0.0, 1.0)).variance(X, None) is None
    assert Blend(Constant(0.0, 1.0), Silent()).variance(X, E) is None
    assert Toggle(Silent(), 1.0).variance(X, None) is None


def test_toggle_variance_is_the_posterior_of_the_difference() -> None:
    """Namely z' σ² (X'X + αI)⁻¹ z on centred features, for z = features on − features off."""
    rng = np.random.default_rng(0)
    rows, t, alpha, scale = rng.normal(size=(50, 2)), np.arange(50) % 3 == 0, 0.7, 1.5
    wide = interact(rows, t, scale)
    model = Ridge(penalty=alpha).fit(wide, rng.normal(size=50))
    new = rng.normal(size=(4, 2))
    centred = wide - wide.mean(axis=0)
    posterior = np.linalg.inv(centred.T @ centred + alpha * np.eye(5)) * model.noise_variance_
    z = np.column_stack([np.zeros((4, 2)), np.full(4, scale), new])
    toggle = Toggle(model, scale)
    assert np.allclose(_told(toggle.variance(new, None)), [row @ posterior @ row for row in z])
    assert np.allclose(toggle.predict(new, None), z @ np.asarray(model.coef_))
