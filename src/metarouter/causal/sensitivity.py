"""How strong a hidden confounder must be to overturn a mean effect.

A linear functional of the two regressions, θ = E[a₁(x) μ₁(x) + a₀(x) μ₀(x)], is
estimated doubly robustly. When a variable that was not observed drives both t
and y, θ is off by at most

    |bias| ≤ |ρ| · S · √C_y · √(C_d / (1 − C_d)),   S² = E[(y − μ_t)²] · E[α²],

where α is the weight of a row (the Riesz representer), C_y the share of the
outcome's residual variance that the confounder explains, and C_d the share of
the variance of the true α that x alone misses. ρ is the correlation of the two
errors, 1 at worst. Functionals of interest:

* mean effect: a₁ = 1, a₀ = −1 (the default);
* value of a choice c(x) in {0, 1} on the treated scale: a₁ = c, a₀ = 0;
* either over the untreated rows only: times (1 − e(x)) / P(t = 0).

References
----------
Chernozhukov, Cinelli, Newey, Sharma and Syrgkanis (2022), Long story short:
omitted variable bias in causal machine learning, https://arxiv.org/abs/2112.13398.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.causal.crossfit import cross_fit
from metarouter.causal.propensity import Propensity
from metarouter.errors import DataError, MissingDependencyError, OptionError
from metarouter.linear import Ridge
from metarouter.records import Estimate
from metarouter.types import BoolArray, FloatArray, IntArray, Regressor

__all__ = [
    "CovariateStrength",
    "Functional",
    "Nuisances",
    "Sensitivity",
    "compare_strength",
    "estimate_functional",
    "estimate_sensitivity",
    "fit_nuisances",
]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Nuisances:
    """Out-of-fold μ₀, μ₁ and e of the rows, shape (n,) each.

    `share` is E[share given x], of what :func:`estimate_functional` counts a row as.
    """

    mu0: FloatArray
    mu1: FloatArray
    e: FloatArray
    share: FloatArray | float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Functional:
    """A doubly robust θ̂ with what its confounding bound is made of.

    `value`, `sigma2` = E[(y − μ_t)²] and `nu2` = E[α²] are estimates; the
    `psi_` arrays, shape (n,), are their influence functions. Rows with the
    same value of `groups` count as one draw. `freedom` is one less than the
    groups of the rarer source that θ is about: its rows are few, and weigh most.
    """

    value: float
    sigma2: float
    nu2: float
    psi: FloatArray
    psi_sigma2: FloatArray
    psi_nu2: FloatArray
    freedom: int
    groups: NDArray[Any] | None = None

    @property
    def scale(self) -> float:
        """S = √(sigma2 · nu2), the bias of a confounder of strength one.

        Raises
        ------
        DataError
            When `nu2` is estimated as negative: too little overlap.
        """
        _require_overlap(self)
        return float(np.sqrt(self.sigma2 * self.nu2))

    def std_error(self, shift: float = 0.0) -> float:
        """Standard error of ``value + shift · scale``."""
        psi = self.psi
        if shift and self.scale > 0:
            psi_scale = (self.sigma2 * self.psi_nu2 + self.nu2 * self.psi_sigma2) / 2 / self.scale
            psi = psi + shift * psi_scale
        if self.groups is None:
            return float(np.sqrt((psi**2).sum())) / len(psi)
        total = np.bincount(np.unique(self.groups, return_inverse=True)[1], weights=psi)
        return float(np.sqrt((total**2).sum())) / len(psi)

    def estimate(self, level: float = 0.95) -> Estimate:
        """θ̂ with its interval of Student's t at `level`."""
        se = self.std_error()
        half = _t_quantile(0.5 + level / 2, self.freedom) * se
        return Estimate(
            value=self.value,
            std_error=se,
            low=self.value - half,
            high=self.value + half,
            n=len(self.psi),
            level=level,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """A mean effect under a hidden confounder of stated strength.

    Attributes
    ----------
    estimate : Estimate, without confounding.
    cf_y, cf_d, rho : the strengths C_y, C_d and ρ that were asked about.
    low, high : range of θ that such a confounder allows.
    ci_low, ci_high : the same with sampling error at the level of `estimate`.
    null : the value of θ at which the conclusion changes.
    robustness_value : the smallest common C_y = C_d for which [low, high]
        reaches `null`; 0 when the estimate is `null`.
    robustness_value_a : the same for [ci_low, ci_high]; 0 exactly when the
        estimate's own interval covers `null`.
    sentence : the result in plain words.
    """

    estimate: Estimate
    cf_y: float
    cf_d: float
    rho: float
    low: float
    high: float
    ci_low: float
    ci_high: float
    null: float
    robustness_value: float
    robustness_value_a: float
    sentence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CovariateStrength:
    """How strong a confounder an observed group of columns would have been.

    Attributes
    ----------
    name : of the group.
    cf_y, cf_d : its strengths, comparable with those of :class:`Sensitivity`.
    rho : correlation of the two errors that leaving it out makes.
    change : θ̂ without the group minus θ̂ with it.
    """

    name: str
    cf_y: float
    cf_d: float
    rho: float
    change: float


def fit_nuisances(
    X: NDArray[Any],
    y: FloatArray,
    t: BoolArray,
    folds: IntArray,
    *,
    make_model: Callable[[], Regressor] = Ridge,
    propensity: Propensity | None = None,
    share: FloatArray | float = 1.0,
) -> Nuisances:
    """Cross-fit μ₀, μ₁ and e on rows X (n, d).

    Parameters
    ----------
    X : array, shape (n, d)
    y : array, shape (n,), outcomes of both sources.
    t : bool array, shape (n,), the source.
    folds : int array, shape (n,)
        Of :func:`metarouter.causal.stratified_folds`; a row's nuisances come from
        models that did not see its fold.
    make_model : callable, default metarouter.linear.Ridge
        Makes an unfitted regressor of the outcome.
    propensity : Propensity, optional
        Estimated by default.
    share : array, shape (n,), or float, default 1
        What a row counts as, see :func:`estimate_functional`.

    Examples
    --------
    >>> from metarouter.causal.crossfit import stratified_folds
    >>> X = np.linspace(-1, 1, 60)[:, None]
    >>> t = np.arange(60) % 3 == 0
    >>> folds = stratified_folds(t, 5, np.random.default_rng(0))
    >>> found = fit_nuisances(X, X[:, 0] + t, t, folds, propensity=Propensity(known=1 / 3))
    >>> float((found.mu1 - found.mu0).mean().round(1))
    1.0
    """
    mu0, mu1 = (cross_fit(make_model, X, y, folds, train_mask=rows).predictions for rows in (~t, t))
    e = (propensity or Propensity()).estimate(X, t, folds).used
    if np.ptp(share) > 0:
        expected = cross_fit(make_model, X, np.asarray(share), folds).predictions
        share = np.clip(expected, np.min(share), np.max(share))
    return Nuisances(mu0=mu0, mu1=mu1, e=e, share=share)


def estimate_functional(
    y: FloatArray,
    t: BoolArray,
    nuisances: Nuisances,
    *,
    coef_treated: FloatArray | float = 1.0,
    coef_control: FloatArray | float = -1.0,
    groups: NDArray[Any] | None = None,
    share: FloatArray | float = 1.0,
) -> Functional:
    """Estimate θ = E[a₁(x) μ₁(x) + a₀(x) μ₀(x)] doubly robustly.

    Parameters
    ----------
    y : array, shape (n,)
    t : bool array, shape (n,)
    nuisances : Nuisances, each from models that did not see the row.
    coef_treated, coef_control : float or array of shape (n,)
        a₁(x) and a₀(x), default 1 and −1; they must not depend on y.
    groups : array, shape (n,), or None
        Rows of one group are dependent (labels of one query).
    share : array, shape (n,), or float, default 1
        What a row counts as in the mean over x: one over the rows of its group
        gives the mean over groups. `nuisances` must have its mean given x.

    Returns
    -------
    Functional

    Notes
    -----
    With ``α = a₁ t/e + a₀ (1−t)/(1−e)``, θ̂ is the mean of
    ``a₁ μ₁ + a₀ μ₀ + α (y − μ_t)``, and E[α²] is estimated by the mean of
    ``2 (a₁²/e + a₀²/(1−e)) − α²``, which errors of e reach in second order only.
    With shares s, the means of ``a₁ μ₁ + a₀ μ₀`` are weighted by s over its mean,
    and α has the factor E[s given x] over that mean.
    """
    mu0, mu1, e = nuisances.mu0, nuisances.mu1, nuisances.e
    a1, a0 = np.asarray(coef_treated, dtype=float), np.asarray(coef_control, dtype=float)
    part, expected = share / np.mean(share), nuisances.share / np.mean(share)
    alpha = expected * np.where(t, a1 / e, a0 / (1 - e))
    residual = y - np.where(t, mu1, mu0)
    score = part * (a1 * mu1 + a0 * mu0) + alpha * residual
    nu2_score = 2 * expected**2 * (a1**2 / e + a0**2 / (1 - e)) - alpha**2
    value, sigma2, nu2 = (float(each.mean()) for each in (score, residual**2, nu2_score))
    used = [rows for rows, coef in ((t, a1), (~t, a0)) if np.any(coef)] or [t, ~t]
    draws = np.arange(len(y)) if groups is None else groups
    return Functional(
        value=value,
        sigma2=sigma2,
        nu2=nu2,
        psi=score - part * value,
        psi_sigma2=residual**2 - sigma2,
        psi_nu2=nu2_score - nu2,
        freedom=max(min(len(np.unique(draws[rows])) for rows in used) - 1, 1),
        groups=groups,
    )


def estimate_sensitivity(
    functional: Functional,
    *,
    cf_y: float = 0.03,
    cf_d: float = 0.03,
    rho: float = 1.0,
    null: float = 0.0,
    level: float = 0.95,
    benchmarks: Sequence[CovariateStrength] = (),
) -> Sensitivity:
    """Bound a mean effect under a hidden confounder, and find what would overturn it.

    Parameters
    ----------
    functional : Functional
    cf_y : float in [0, 1), default 0.03
        Share of the outcome's residual variance that the confounder explains.
    cf_d : float in [0, 1), default 0.03
        Share of the variance of the true weight α that x misses.
    rho : float in [-1, 1], default 1
        Correlation of the two errors; 1 is the worst case.
    null : float, default 0
    level : float in (0, 1), default 0.95
        Of the two-sided intervals, also those of the bounds.
    benchmarks : sequence of CovariateStrength
        The strongest one is named in the sentence.

    Returns
    -------
    Sensitivity

    Raises
    ------
    OptionError
        When a strength is outside its range.
    DataError
        When the weights have no positive variance: too little overlap.

    Notes
    -----
    The robustness value solves ``|θ̂ − null| = |ρ| S r / √(1 − r)``, that is
    ``r = (√(f⁴ + 4f²) − f²) / 2`` with ``f = |θ̂ − null| / (|ρ| S)``.

    References
    ----------
    Chernozhukov et al. (2022), https://arxiv.org/abs/2112.13398.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> t = rng.random(2000) < 0.5
    >>> y = 1.0 * t + rng.normal(size=2000)
    >>> half = Nuisances(mu0=np.zeros(2000), mu1=np.ones(2000), e=np.full(2000, 0.5))
    >>> result = estimate_sensitivity(estimate_functional(y, t, half))
    >>> round(result.robustness_value, 1), result.low < 1 < result.high
    (0.4, True)
    """
    for name, strength in (("cf_y", cf_y), ("cf_d", cf_d), ("rho", abs(rho))):
        if not (0 <= strength < 1 or (name == "rho" and strength == 1)):
            raise OptionError.of(name, strength, "0 <= strength < 1, and |rho| <= 1")
    z = _t_quantile(0.5 + level / 2, functional.freedom)
    estimate = functional.estimate(level)
    shift = abs(rho) * _strength(cf_y, cf_d)
    low, high = (functional.value + side * shift * functional.scale for side in (-1, 1))
    rv = _robustness_value(functional, abs(rho), null, 0.0)
    rv_a = _robustness_value(functional, abs(rho), null, z)
    return Sensitivity(
        estimate=estimate,
        cf_y=cf_y,
        cf_d=cf_d,
        rho=rho,
        low=low,
        high=high,
        ci_low=low - z * functional.std_error(-shift),
        ci_high=high + z * functional.std_error(shift),
        null=null,
        robustness_value=rv,
        robustness_value_a=rv_a,
        sentence=_sentence(estimate, null, rv, rv_a, benchmarks),
    )


def compare_strength(name: str, long: Functional, short: Functional) -> CovariateStrength:
    """Strength of a group as a confounder, from the functional with it and without it.

    Parameters
    ----------
    name : of the group.
    long, short : Functional
        Estimated from nuisances that use the group, and from ones fitted anew without it.

    Raises
    ------
    DataError
        When the weights of either have no positive variance: too little overlap.

    Notes
    -----
    With R² the share of var y explained: ``C_y = (R²_long − R²_short) / (1 − R²_long)``,
    ``C_d = (ν²_long − ν²_short) / ν²_long``, both cut to [0, 1].

    References
    ----------
    Chernozhukov et al. (2022), section on benchmarking,
    https://arxiv.org/abs/2112.13398.
    """
    _require_overlap(long)
    _require_overlap(short)
    gain_y, gain_d = short.sigma2 - long.sigma2, long.nu2 - short.nu2
    change = short.value - long.value
    product = max(gain_y, 0.0) * max(gain_d, 0.0)
    return CovariateStrength(
        name=name,
        cf_y=float(np.clip(gain_y / long.sigma2, 0, 1)) if long.sigma2 > 0 else 0.0,
        cf_d=float(np.clip(gain_d / long.nu2, 0, 1)) if long.nu2 > 0 else 0.0,
        rho=float(np.clip(change / product**0.5, -1, 1)) if product > 0 else 0.0,
        change=change,
    )


def _require_overlap(functional: Functional) -> None:
    if functional.nu2 < 0:
        raise DataError(
            f"the variance of the weights is estimated as {functional.nu2:.3g}, below 0: the "
            "sources overlap too little for a sensitivity analysis; add labels of the rarer "
            "source, trim, or set Propensity(max_weight=...)"
        )


def _t_quantile(probability: float, freedom: int) -> float:
    try:
        from scipy.special import stdtrit
    except ImportError as error:
        raise MissingDependencyError.of("a sensitivity analysis", "train") from error
    return float(stdtrit(freedom, probability))


def _strength(cf_y: float, cf_d: float) -> float:
    return float(np.sqrt(cf_y * cf_d / (1 - cf_d)))


def _robustness_value(functional: Functional, rho: float, null: float, z: float) -> float:
    """Smallest r = C_y = C_d at which the bound, widened by z errors, reaches the null."""
    distance = abs(functional.value - null)
    if distance <= z * functional.std_error():
        return 0.0
    if rho * functional.scale == 0:
        return 1.0
    if z == 0:
        f2 = (distance / (rho * functional.scale)) ** 2
        return float(np.sqrt(f2**2 + 4 * f2) - f2) / 2
    side = -1.0 if functional.value > null else 1.0

    def slack(r: float) -> float:
        shift = rho * _strength(r, r)
        return distance - shift * functional.scale - z * functional.std_error(side * shift)

    low, high = 0.0, 1.0 - 1e-12
    for _ in range(60):  # bisection, to 1e-18
        middle = (low + high) / 2
        low, high = (middle, high) if slack(middle) > 0 else (low, middle)
    return (low + high) / 2


def _sentence(
    estimate: Estimate,
    null: float,
    rv: float,
    rv_a: float,
    benchmarks: Sequence[CovariateStrength],
) -> str:
    start = f"The estimate is {estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]. "
    if rv_a == 0:
        text = f"Its interval covers {null:g} even without a hidden confounder."
    else:
        text = (
            f"A hidden confounder must explain {rv:.1%} of what is left unexplained of both the "
            f"outcome and the selection to bring it to {null:g}, and {rv_a:.1%} to make its "
            f"interval cover {null:g}."
        )
    if benchmarks:
        top = max(benchmarks, key=_benchmark_strength)
        text += (
            f" The strongest observed group, {top.name}, explains {top.cf_y:.1%} "
            f"and {top.cf_d:.1%}."
            if _benchmark_strength(top) > 0
            else " No observed group explains anything of both."
        )
    return start + text


def _benchmark_strength(benchmark: CovariateStrength) -> float:
    return _strength(benchmark.cf_y, min(benchmark.cf_d, 1 - 1e-12))
