"""The formulas whose conditional mean is the treatment effect.

Each takes arrays of shape (n,) and gives, per row, a number whose (weighted)
regression on X estimates Δ(x) = E[y | t=1, x] − E[y | t=0, x]. No fitting, no
clipping, no randomness. Symbols: y outcome, t source (1 treated),
e = P(t=1 | x), m = E[y | x], μ₁ and μ₀ = E[y | t, x].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarouter.errors import DataError
from metarouter.types import BoolArray, FloatArray

__all__ = ["PseudoOutcome", "dr_pseudo_outcome", "r_pseudo_outcome", "x_pseudo_outcome"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PseudoOutcome:
    """Regression targets and the precision weights that go with them, (n,) each."""

    value: FloatArray
    weight: FloatArray


def r_pseudo_outcome(y: FloatArray, t: BoolArray, *, m: FloatArray, e: FloatArray) -> PseudoOutcome:
    """Residual on residual (R-learner).

    Unbiased for Δ in the weighted regression when m and e are right; an error
    in either enters only as a product of errors.

    Returns
    -------
    PseudoOutcome
        ``(y − m) / (t − e)`` with weight ``(t − e)²``.

    Raises
    ------
    DataError
        When a propensity is not strictly between 0 and 1.

    References
    ----------
    Nie and Wager (2021), Quasi-oracle estimation of heterogeneous treatment
    effects, https://doi.org/10.1093/biomet/asaa076.

    Examples
    --------
    >>> y, t = np.array([3.0, 1.0]), np.array([True, False])
    >>> r_pseudo_outcome(y, t, m=np.full(2, 2.0), e=np.full(2, 0.5)).value.tolist()
    [2.0, 2.0]
    """
    _check_propensity(e)
    residual = t - e
    return PseudoOutcome(value=(y - m) / residual, weight=residual**2)


def dr_pseudo_outcome(
    y: FloatArray, t: BoolArray, *, mu0: FloatArray, mu1: FloatArray, e: FloatArray
) -> PseudoOutcome:
    """Augmented inverse propensity score (DR-learner).

    Its conditional mean is Δ(x) when either e or both μ are right.

    Returns
    -------
    PseudoOutcome
        ``μ₁ − μ₀ + (t − e) / (e (1 − e)) · (y − μ_t)`` with weight 1.

    Raises
    ------
    DataError
        When a propensity is not strictly between 0 and 1.

    References
    ----------
    Kennedy (2023), Towards optimal doubly robust estimation of heterogeneous
    causal effects, https://doi.org/10.1214/23-EJS2157.

    Examples
    --------
    >>> y, t = np.array([3.0, 1.0]), np.array([True, False])
    >>> mu = dict(mu0=np.ones(2), mu1=np.full(2, 2.0))
    >>> dr_pseudo_outcome(y, t, **mu, e=np.full(2, 0.5)).value.tolist()
    [3.0, 1.0]
    """
    _check_propensity(e)
    residual = y - np.where(t, mu1, mu0)
    value = mu1 - mu0 + (t - e) / (e * (1 - e)) * residual
    return PseudoOutcome(value=value, weight=np.ones_like(value))


def x_pseudo_outcome(
    y: FloatArray, t: BoolArray, *, mu0: FloatArray, mu1: FloatArray
) -> PseudoOutcome:
    """Imputed effects (X-learner): the outcome that was not seen is predicted.

    Treated rows are unbiased for Δ when μ₀ is right, the others when μ₁ is.

    Returns
    -------
    PseudoOutcome
        ``y − μ₀`` where t = 1, ``μ₁ − y`` where t = 0, with weight 1.

    References
    ----------
    Künzel, Sekhon, Bickel and Yu (2019), Metalearners for estimating
    heterogeneous treatment effects, https://doi.org/10.1073/pnas.1804597116.

    Examples
    --------
    >>> y, t = np.array([3.0, 1.0]), np.array([True, False])
    >>> x_pseudo_outcome(y, t, mu0=np.ones(2), mu1=np.full(2, 2.0)).value.tolist()
    [2.0, 1.0]
    """
    value: FloatArray = np.where(t, y - mu0, mu1 - y)
    return PseudoOutcome(value=value, weight=np.ones_like(value))


def _check_propensity(e: FloatArray) -> None:
    bad = (e <= 0) | (e >= 1) | ~np.isfinite(e)
    if bad.any():
        raise DataError(
            f"propensity of row {int(np.argmax(bad))} is {float(e[np.argmax(bad)])!r}; allowed: "
            "strictly between 0 and 1 (clip or trim with Propensity)"
        )
