"""Ridge as a gain model: closed form, with the posterior spread of its mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import NotFittedError
from metarouter.gain.rows import check_rows
from metarouter.linear import Ridge
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["RidgeGain"]


@dataclass
class RidgeGain:
    """Linear gain ψ(x) = b + x'β with a Gaussian prior on β.

    The penalty is chosen by restricted marginal likelihood, which keeps its
    head on a hundred labels, or by generalised cross-validation. The standard
    deviation is that of the posterior mean: exact when labels are normal with
    the variances that the weights state. Where labels are all equal, so that
    they show no noise, it is taken to be of their size, and 1 where they are 0.

    Parameters
    ----------
    penalty : {"evidence", "gcv"} or float, default "evidence"
        See :class:`metarouter.linear.Ridge`.

    Attributes
    ----------
    model_ : the fitted :class:`metarouter.linear.Ridge`.

    Examples
    --------
    >>> X = np.arange(8.0)[:, None]
    >>> RidgeGain(penalty=0.0).fit(X, 0.1 * X[:, 0]).predict(X[:2]).mean.round(6).tolist()
    [0.0, 0.1]
    """

    penalty: Literal["evidence", "gcv"] | float = "evidence"
    model_: Ridge | None = field(default=None, init=False, repr=False)

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        """Fit on features (n, d), gains (n,) and precisions (n,)."""
        check_rows(features, gain, weight)
        self.model_ = Ridge(penalty=self.penalty).fit(features, gain, sample_weight=weight)
        problem = self.model_.spectrum_
        assert problem is not None  # noqa: S101 - set by the fit
        if problem.total <= 1e-18 * problem.n * problem.y_mean**2:
            self.model_.noise_variance_ = problem.y_mean**2 or 1.0
        return self

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ and its standard deviation, each of shape (n,)."""
        model = self._fitted()
        return GainEstimate(mean=model.predict(features), std=model.predict_std(features))

    def state(self) -> ModelState:
        """State of kind "linear"."""
        model = self._fitted()
        coef, problem = model.coef_, model.spectrum_
        assert coef is not None  # noqa: S101 - set together with model_ by fit
        assert problem is not None  # noqa: S101
        slopes, (level, unseen) = model.std_factor()
        if unseen > 0:
            basis = problem.basis
            outside = np.sqrt(unseen) * (np.eye(len(basis)) - basis @ basis.T)
            slopes = np.hstack([slopes, outside])
        factor = np.vstack([-problem.x_mean @ slopes, slopes])
        flat = np.zeros((len(factor), 1))
        flat[0] = np.sqrt(level)
        return ModelState(
            kind="linear",
            config={"penalty": model.penalty_, "noise_variance": model.noise_variance_},
            arrays={
                "coef": coef,
                "intercept": np.asarray(model.intercept_),
                "factor": np.hstack([flat, factor]),
            },
        )

    def _fitted(self) -> Ridge:
        if self.model_ is None:
            raise NotFittedError.of(self)
        return self.model_
