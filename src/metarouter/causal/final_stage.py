"""Final stages of the learners: what turns fitted models into Δ̂(x) and its variance.

Each answers ``predict(X, e)`` and ``variance(X, e)``; e is the propensity at X,
which only the blend reads. The variance comes from the models' own
``predict_std`` and is None where they have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.linear import Ridge
from metarouter.types import BoolArray, FloatArray

__all__ = ["Blend", "Difference", "Direct", "ShiftModel", "Toggle", "interact"]


class ShiftModel(Protocol):
    """A fitted Δ̂."""

    def predict(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        """Δ̂ at rows X (n, d) with propensities e (n,), shape (n,)."""
        ...

    def variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray | None:
        """Variance of Δ̂ by the models' own account, shape (n,), or None."""
        ...


@dataclass(frozen=True, slots=True)
class Direct:
    """A final model whose prediction is Δ̂."""

    model: Any

    def predict(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        """Δ̂, shape (n,)."""
        return np.asarray(self.model.predict(X), dtype=np.float64)

    def variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray | None:
        """Variance of Δ̂, or None."""
        return _model_variance(self.model, X)


@dataclass(frozen=True, slots=True)
class Difference:
    """Δ̂ = prediction of one model minus that of another, fitted on other rows."""

    treated: Any
    control: Any

    def predict(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        """Δ̂, shape (n,)."""
        return np.asarray(self.treated.predict(X) - self.control.predict(X), dtype=np.float64)

    def variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray | None:
        """Variance of Δ̂, or None."""
        v1, v0 = _model_variance(self.treated, X), _model_variance(self.control, X)
        return None if v1 is None or v0 is None else v1 + v0


@dataclass(frozen=True, slots=True)
class Blend:
    """Δ̂ = e · control + (1 − e) · treated."""

    treated: Any
    control: Any

    def predict(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        """Δ̂, shape (n,)."""
        assert e is not None  # noqa: S101 - the X-learner always has one
        result: FloatArray = e * self.control.predict(X) + (1 - e) * self.treated.predict(X)
        return result

    def variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray | None:
        """Variance of Δ̂, or None."""
        v1, v0 = _model_variance(self.treated, X), _model_variance(self.control, X)
        return None if v1 is None or v0 is None or e is None else e**2 * v0 + (1 - e) ** 2 * v1


@dataclass(frozen=True, slots=True)
class Toggle:
    """Δ̂ = one model with t switched on minus switched off."""

    model: Any
    scale: float

    def predict(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray:
        """Δ̂, shape (n,)."""
        on, off = (interact(X, np.full(len(X), t), self.scale) for t in (True, False))
        return np.asarray(self.model.predict(on) - self.model.predict(off), dtype=np.float64)

    def variance(self, X: NDArray[Any], e: FloatArray | None) -> FloatArray | None:
        """Variance of Δ̂ for ridge; None for others, whose covariance is not told."""
        if not isinstance(self.model, Ridge) or self.model.spectrum_ is None:
            return None
        # Linear, so the difference is one step z from the centre, where β is apart from b.
        centre = self.model.spectrum_.x_mean
        on, off = (interact(X, np.full(len(X), t), self.scale) for t in (True, False))
        spread = self.model.predict_std(centre + on - off) ** 2
        result: FloatArray = spread - self.model.predict_std(centre[None, :]) ** 2
        return result


def interact(X: NDArray[Any], t: BoolArray, scale: float) -> NDArray[Any]:
    """Features (n, 2d + 1): X, scale · t and t · X."""
    return np.column_stack([X, (scale * t).astype(X.dtype), X * t[:, None]])


def _model_variance(model: Any, X: NDArray[Any]) -> FloatArray | None:
    predict_std = getattr(model, "predict_std", None)
    return None if predict_std is None else np.asarray(predict_std(X), dtype=np.float64) ** 2
