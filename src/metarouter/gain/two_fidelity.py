"""The evidence-weighted Gaussian process as a gain model of corrected rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.evidence import weigh_hypotheses
from metarouter.features.bases import BASES, BASIS_PRIORS, distinct_bases, learn_query_map
from metarouter.gain.posterior import GainPosterior
from metarouter.gain.rows import ScoredGain, check_rows
from metarouter.types import FloatArray, ModelState

__all__ = ["TwoFidelityGain"]


class TwoFidelityGain(ScoredGain):
    """Gain = level + δ(x), with the kernel of δ averaged by evidence.

    The upper fidelity of :class:`metarouter.correction.fidelity.
    EvidenceCorrector` without a lower one: what that corrector learns from gold
    labels when there are no preferences. Together with that corrector the two
    are one model, and :func:`metarouter.correction.learn_gain` uses its
    posterior directly instead of fitting this to pseudo-labels.

    Parameters
    ----------
    max_rows : int, default 20,000
        More rows than this are sampled; the hundreds of coefficients do not
        need more.
    seed : int, default 0

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 2))
    >>> estimate = TwoFidelityGain().fit(X, X[:, 0]).predict(X[:2])
    >>> bool(np.abs(estimate.mean - X[:2, 0]).max() < 0.1)
    True
    """

    def __init__(self, *, max_rows: int = 20_000, seed: int = 0) -> None:
        self.max_rows = max_rows
        self.seed = seed

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        """Fit on features (n, d), gains (n,) and precisions (n,)."""
        weight = np.ones(len(gain)) if weight is None else np.asarray(weight, dtype=np.float64)
        check_rows(features, gain, weight)
        used = np.flatnonzero(weight > 0)
        if len(used) > self.max_rows:
            rng = np.random.default_rng(self.seed)
            used = np.sort(rng.choice(used, self.max_rows, replace=False))
        X, y, w = features[used], np.asarray(gain, dtype=np.float64)[used], weight[used]
        bases = distinct_bases(BASES, X.shape[1])
        query_map = learn_query_map(X, bases, seed=self.seed)
        design = query_map.transform(X)
        columns = [query_map.columns(basis) for basis in bases]
        evidence = weigh_hypotheses(
            [design[:, each] for each in columns],
            y,
            None,
            weight=w,
            label_variance=_variance(y, w),
            basis_priors=[BASIS_PRIORS.get(basis, 1.0) for basis in bases],
            basis_sizes=[1.0 + basis.count("+") for basis in bases],
        )
        posterior = evidence.posterior(columns, np.zeros(design.shape[1]), np.array([0]))
        fitted = GainPosterior(
            query_map=query_map, mean=posterior.mean[None], covariance=posterior.covariance
        ).state()
        return self._keep(
            ModelState(
                kind=fitted.kind, config=fitted.config | {"single": True}, arrays=fitted.arrays
            )
        )


def _variance(y: FloatArray, weight: FloatArray) -> float:
    """Of a label of weight 1; 1 where labels are all equal and so have no scale."""
    around = y - np.average(y, weights=weight)
    around[np.abs(around) < 1e-9 * np.abs(y).max()] = 0.0
    return float(weight @ around**2) / len(y) or 1.0
