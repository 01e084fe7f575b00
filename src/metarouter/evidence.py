r"""Gold gain given a preference model, averaged over hypotheses by their evidence.

Nobody knows beforehand how a judge is wrong, how fast gains vary over queries,
or how much of a gold label is noise. This module writes each answer as a
Gaussian model of the gold labels alone,

.. math:: y_i = b + \rho\, f(x_i) + \delta(x_i) + \varepsilon_i,

with f the preference model (learned elsewhere, fixed here), δ a Gaussian
process, ε noise of variance σ²/weight, and weighs the answers by their marginal
likelihood. The hypotheses differ in

* the basis of δ (:mod:`metarouter.features.bases`) and its signal-to-noise
  ratio s, from nothing to more than label sets show;
* what f is worth:

  ``ignore``  ρ = 0, b ~ N(0, σ²): gold alone;
  ``trust``   ρ = 1, b ~ N(0, s σ²): the judge errs by b + δ. The level of the
  bias and its variation over queries share one scale, because a judge that is
  off on average is rarely off by the same amount everywhere; the level, which
  few labels determine well, so tells how far to trust the rest;
  ``rescale`` ρ ~ N(0, τ σ² / var f), b ~ N(0, σ²): a judge on another scale,
  weak, or perverse; the sign is free.

σ² is integrated out under the prior 1/σ², so the log evidence is

.. math:: -\tfrac{n}{2}\log y'C^{-1}y - \tfrac12 \log|C|,\qquad
          C = I + sK + W D W',

with the columns of W the level and f, and D their prior variances. One
eigendecomposition for each basis serves the whole grid. Averaging instead of
picking keeps harm away where 50 labels cannot tell the hypotheses apart.

References
----------
Kennedy and O'Hagan (2000), Predicting the output from a complex computer code
when fast approximations are available, https://doi.org/10.1093/biomet/87.1.1;
Hoeting, Madigan, Raftery and Volinsky (1999), Bayesian model averaging,
https://doi.org/10.1214/ss/1009212519.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metarouter.types import FloatArray, IntArray

__all__ = ["USES", "Evidence", "Hypothesis", "Posterior", "Priors", "weigh_hypotheses"]

USES = ("ignore", "trust", "rescale")
_SIGNALS = np.concatenate([[0.0], np.logspace(-3.0, 1.5, 14)])  # s = var δ / σ²
_SCALES = np.array([0.01, 0.04, 0.16, 0.64])  # τ = var(ρ f) / σ²
_KEEP = 3e-3  # hypotheses below this share of the best weight are dropped


@dataclass(frozen=True, kw_only=True, slots=True)
class Priors:
    """Prior weight of each use of the preference model; they are normalised.

    The defaults are cautious on purpose. A preference model learned from
    thousands of votes has a large amplitude, the gain learned from 50 gold
    labels a small one, so a judge that is trusted wrongly does several times
    the harm of one that is ignored wrongly; a few more gold labels outweigh
    the prior in either case.
    """

    ignore: float = 20.0
    trust: float = 1.0
    rescale: float = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """One Gaussian model of the gold labels and its posterior weight."""

    basis: int
    use: str
    signal: float
    scale: float
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """Posterior of θ in ψ(x) = u(x)'θ: mean (p,) and covariance (p, p)."""

    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rotated:
    """One basis on the gold rows, rotated so that its kernel is diagonal."""

    values: FloatArray  # (k,) eigenvalues of the kernel
    basis: FloatArray  # (p, k) directions in feature space
    columns: FloatArray  # (k, 3): level, preference model, gain


@dataclass(frozen=True, kw_only=True, slots=True)
class _Solution:
    """Posterior of one hypothesis for a grid of signals; first axis the grid."""

    log_evidence: FloatArray  # (g,)
    noise: FloatArray  # (g,) posterior mean of σ²
    coef: FloatArray  # (g, 2): level and slope of f
    covariance: FloatArray  # (g, 2, 2) of them, over σ²
    loadings: FloatArray  # (g, k, 3): how δ at x takes from level, f and gain


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Hypotheses that matter, with what is needed to predict under each."""

    hypotheses: tuple[Hypothesis, ...]
    rotated: tuple[_Rotated, ...]
    gram: FloatArray  # (3, 3) inner products of level, f and gain over gold rows
    judge_size: float
    level_variance: float
    n: int

    def share(self, use: str) -> float:
        """Posterior probability of one use of the preference model."""
        return float(sum(h.weight for h in self.hypotheses if h.use == use))

    def basis_share(self, basis: int) -> float:
        """Posterior probability of one basis."""
        return float(sum(h.weight for h in self.hypotheses if h.basis == basis))

    def judge_slope(self) -> float:
        """Posterior mean of ρ."""
        return float(sum(h.weight * self._solve(h).coef[0, 1] for h in self.hypotheses))

    def judge_slope_square(self) -> float:
        """Posterior mean of ρ², by which the variance of f enters that of the gain."""
        total = 0.0
        for h in self.hypotheses:
            found = self._solve(h)
            total += h.weight * float(
                found.coef[0, 1] ** 2 + found.noise[0] * found.covariance[0, 1, 1]
            )
        return total

    def noise_variance(self) -> float:
        """Posterior mean of σ², the variance of one gold label."""
        return float(sum(h.weight * self._solve(h).noise[0] for h in self.hypotheses))

    def posterior(self, columns: Sequence[IntArray], judge: FloatArray, level: int) -> Posterior:
        """Posterior of θ in ψ(x) = u(x)'θ, over all hypotheses.

        Parameters
        ----------
        columns : int arrays
            Which entries of u each basis occupies.
        judge : array, shape (p,)
            The preference model as f(x) = u(x)'judge.
        level : int
            Entry of u that is the level, or −1 when bases hold the levels.
        """
        p = len(judge)
        fixed = np.zeros((2, p))
        fixed[1] = judge
        if level >= 0:
            fixed[0, level] = 1.0
        means = np.zeros((len(self.hypotheses), p))
        rows = np.zeros((len(self.hypotheses), 2, p))  # their squares are the spread of b and ρ
        for i, h in enumerate(self.hypotheses):
            rotated, solution = self.rotated[h.basis], self._solve(h)
            coef, loadings, at = solution.coef[0], solution.loadings[0], columns[h.basis]
            weight = h.weight * solution.noise[0]
            means[i] = coef @ fixed
            means[i, at] += rotated.basis @ (loadings[:, 2] - loadings[:, :2] @ coef)
            left = fixed.copy()
            left[:, at] -= loadings[:, :2].T @ rotated.basis.T
            values, vectors = np.linalg.eigh(solution.covariance[0])
            rows[i] = (vectors * np.sqrt(weight * np.maximum(values, 0.0))).T @ left
        stacked = rows.reshape(-1, p)
        spread = stacked.T @ stacked
        for index, at in enumerate(columns):
            spread[np.ix_(at, at)] += self._basis_spread(index)
        share = np.array([h.weight for h in self.hypotheses])
        mean = share @ means
        around = (means - mean) * np.sqrt(share)[:, None]
        return Posterior(mean=mean, covariance=spread + around.T @ around)

    def _basis_spread(self, index: int) -> FloatArray:
        """Weighted posterior covariance of δ's coefficients in one basis."""
        rotated = self.rotated[index]
        chosen = [h for h in self.hypotheses if h.basis == index]
        signal = np.array([h.signal for h in chosen])
        noise = np.array([h.weight * self._solve(h).noise[0] for h in chosen])
        learned = signal**2 / (1.0 + signal * rotated.values[:, None])
        drop = rotated.values * (learned @ noise)
        size = len(rotated.basis)
        result: FloatArray = float(noise @ signal) * np.eye(size)
        result -= (rotated.basis * drop) @ rotated.basis.T
        return result

    def _solve(self, h: Hypothesis) -> _Solution:
        return _solve(self, h.basis, h.use, h.scale, np.array([h.signal]))


def weigh_hypotheses(
    mapped: Sequence[FloatArray],
    gain: FloatArray,
    judge: FloatArray | None,
    *,
    weight: FloatArray | None = None,
    level: FloatArray | None = None,
    judge_size: float | None = None,
    priors: Priors | None = None,
    uses: Sequence[str] = USES,
    average: bool = True,
) -> Evidence:
    """Weigh every hypothesis on the gold labels.

    Parameters
    ----------
    mapped : arrays, each of shape (n, p_i)
        The gold rows in each basis.
    gain : array, shape (n,)
        Gold gains.
    judge : array, shape (n,), or None
        Preference model at the gold rows, from fits that did not see the rows'
        own preference labels; None when there are no preferences.
    weight : array, shape (n,), or None
        Precision of each row, in gold labels.
    level : array, shape (n,), or None
        1 where a row has a level of its own (default), 0 where the bases hold
        the levels.
    judge_size : float, or None
        Standard deviation of f over all training queries; that over the gold
        rows when None.
    priors, uses
        Prior weights, and the uses considered.
    average : bool, default True
        False gives the hypothesis of highest evidence all the weight.

    Returns
    -------
    Evidence
        Scaling `gain` and `judge` by a constant changes no weight.
    """
    gain = np.asarray(gain, dtype=np.float64)
    n = len(gain)
    w = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64) / np.mean(weight)
    f = np.zeros(n) if judge is None else np.asarray(judge, dtype=np.float64)
    ones = np.ones(n) if level is None else np.asarray(level, dtype=np.float64)
    size = float(np.std(f)) if judge_size is None else judge_size
    columns = np.stack([ones, f, gain], axis=1) * np.sqrt(w)[:, None]
    partial = Evidence(
        hypotheses=(),
        rotated=tuple(_rotate(each * np.sqrt(w)[:, None], columns) for each in mapped),
        gram=columns.T @ columns,
        judge_size=size,
        level_variance=float(ones.any()),
        n=n,
    )
    considered = uses if size > 0 and judge is not None else ("ignore",)
    return replace(partial, hypotheses=_weigh(partial, priors or Priors(), considered, average))


def _weigh(
    evidence: Evidence, priors: Priors, uses: Sequence[str], average: bool
) -> tuple[Hypothesis, ...]:
    found: list[tuple[int, str, float, float, float]] = []
    for index in range(len(evidence.rotated)):
        for use in uses:
            scales = _SCALES if use == "rescale" else np.zeros(1)
            prior = float(np.log(getattr(priors, use) / len(scales)))
            for scale in scales:
                logs = _solve(evidence, index, use, float(scale), _SIGNALS).log_evidence + prior
                found += [
                    (index, use, float(signal), float(scale), float(log))
                    for signal, log in zip(_SIGNALS, logs, strict=True)
                ]
    best = max(each[-1] for each in found)
    floor = best + np.log(_KEEP) if average else best
    kept = [each for each in found if each[-1] >= floor]
    total = sum(float(np.exp(each[-1] - best)) for each in kept)
    return tuple(
        Hypothesis(
            basis=index, use=use, signal=s, scale=t, weight=float(np.exp(log - best)) / total
        )
        for index, use, s, t, log in kept
    )


def _solve(
    evidence: Evidence, index: int, use: str, scale: float, signals: FloatArray
) -> _Solution:
    """Posterior of one basis, use and scale at each signal."""
    rotated = evidence.rotated[index]
    columns, gram = rotated.columns, evidence.gram
    offset = 1.0 if use == "trust" else 0.0
    if offset:
        shift = np.eye(3)
        shift[1, 2] = -1.0  # gain − f takes the place of the gain
        columns, gram = columns @ shift, shift.T @ gram @ shift
    inner = 1.0 / (1.0 + signals[:, None] * rotated.values)  # (g, k)
    weighted = columns[None] * (1.0 - inner)[:, :, None]
    precision = gram - np.einsum("gki,kj->gij", weighted, columns)  # columns' C⁻¹ columns
    prior = _prior_variances(evidence, use, scale, signals)
    covariance, log_det = _woodbury(precision[:, :2, :2], prior)
    coef = np.einsum("gij,gj->gi", covariance, precision[:, :2, 2])
    quadratic = precision[:, 2, 2] - np.einsum("gi,gi->g", coef, precision[:, :2, 2])
    quadratic = np.maximum(quadratic, 1e-12 * max(float(evidence.gram[2, 2]), 1e-300))
    log_det += np.log1p(signals[:, None] * rotated.values).sum(axis=1)
    root = signals[:, None] * np.sqrt(rotated.values) * inner
    return _Solution(
        log_evidence=-0.5 * (evidence.n * np.log(quadratic) + log_det),
        noise=quadratic / max(evidence.n - 2, 1),
        coef=coef + np.array([0.0, offset]),
        covariance=covariance,
        loadings=root[:, :, None] * rotated.columns,
    )


def _prior_variances(evidence: Evidence, use: str, scale: float, signals: FloatArray) -> FloatArray:
    """Prior variances of level and slope over σ², shape (g, 2)."""
    level = signals if use == "trust" else np.ones_like(signals)
    slope = np.full_like(signals, scale / max(evidence.judge_size**2, 1e-300))
    return np.stack([level * evidence.level_variance, slope], axis=1)


def _woodbury(A: NDArray[np.float64], prior: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(D⁻¹ + A)⁻¹ and log|I + D A| for 2 × 2 blocks, also where D has zeros."""
    v, t = prior[:, 0], prior[:, 1]
    a, c, d = A[:, 0, 0], A[:, 0, 1], A[:, 1, 1]
    det = (1 + v * a) * (1 + t * d) - v * t * c**2
    off = -v * t * c
    inverse = np.stack([v * (1 + t * d), off, off, t * (1 + v * a)], axis=1) / det[:, None]
    return inverse.reshape(-1, 2, 2), np.log(det)


def _rotate(rows: FloatArray, columns: FloatArray) -> _Rotated:
    if rows.shape[0] > rows.shape[1]:
        values, basis = np.linalg.eigh(rows.T @ rows)
        keep = values > 1e-10 * max(float(values[-1]), 1e-300)
        values, basis = values[keep], basis[:, keep]
        left = rows @ (basis / np.sqrt(values))
    else:
        values, left = np.linalg.eigh(rows @ rows.T)
        keep = values > 1e-10 * max(float(values[-1]), 1e-300)
        values, left = values[keep], left[:, keep]
        basis = rows.T @ (left / np.sqrt(values))
    return _Rotated(values=values, basis=basis, columns=left.T @ columns)
