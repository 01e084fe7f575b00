r"""Gold gain given a preference model, averaged over hypotheses by their evidence.

Nobody knows beforehand how a judge is wrong, how fast gains vary over queries,
or how much of a gold label is noise. This module writes each answer as a
Gaussian model of the gold labels alone,

.. math:: y_i = b + \rho\, f(x_i) + (\kappa - \rho)\, \bar f
                + \delta(x_i) + \varepsilon_i,

with f the preference model (learned elsewhere, fixed here) and f̄ its level, δ a
Gaussian process, ε noise of variance σ²/weight, and weighs the answers by their
marginal likelihood. The hypotheses differ in

* the basis of δ (:mod:`metarouter.features.bases`) and the signal-to-noise
  ratio s = var ψ / σ² of the gain;
* what f is worth. With v = var f / σ²:

  ``ignore``  ρ = 0, var δ = s σ²: which queries differ is told by gold alone;
  ``inform``  the judge sees the gain through an error of its own, and its mean verdict is
      g = ψ + β, the two independent. f = E[g | votes], so with q = var g / σ² ≥ v, ψ given
      f has slope ρ = s/q and var δ = s(1 − ρ v/q) σ² left over. A judge whose verdicts vary
      much more over queries than gains do (q ≫ s) is mostly error, so it counts for little.
      Gains that vary more than verdicts (s > q) are not possible, and what they had of the
      prior is lost to this use;
  ``oppose``  the same with −f: ρ = −s/q; in both, ψ and β may go together a little: ρ is
      drawn around that value, with standard deviation 0.2 √(|ρ|(1 − |ρ|)), and κ moves with it;
  ``rescale`` κ = ρ ~ N(0, τ/q), var δ = s σ²: a judge on another scale or weak, of either
      sign;

* the level, but for ``rescale``, which has κ = ρ and b ~ N(0, σ²) (wider where the labels are
  further from 0). With a chance of one in five it is gold's own: such a b, and prior mean 0 of
  κ. Else it is the judge's: κ = 1 (−1 for ``oppose``), and the level of gain less verdict,
  b, follows from their variance over queries, (q − s) σ² + var δ, for ``ignore`` (q + s) σ².
  With even odds var b is 1/16 of that (the error averages out) or all of it, and to it comes
  the variance of the level of f. So a judge that sees no query as it is, but has the right
  mean, is not believed about queries for that. The level of a contestant is not believed.
  Where δ holds the levels, as in pools, b = 0, and κ is 0 for ``ignore``, ±1 for the next two.

σ² is integrated out under an inverse-gamma prior worth one label, around the
variance τ² of the gold labels (of which s leaves σ² = τ²/(1 + s) in v), so the
log evidence is

.. math:: -\tfrac{n + 1}{2}\log(r'C^{-1}r + \tau^2) - \tfrac12 \log|C|,\qquad
          C = I + dK + W D W',

with r the gain less what the hypothesis fixes, d = var δ / σ², the columns of W
the level and f, and D their prior variances. One eigendecomposition for each
basis serves all hypotheses. Averaging instead of picking keeps harm away where
50 labels cannot tell the hypotheses apart.

References
----------
Kennedy and O'Hagan (2000), Predicting the output from a complex computer code
when fast approximations are available, https://doi.org/10.1093/biomet/87.1.1;
Hoeting, Madigan, Raftery and Volinsky (1999), Bayesian model averaging,
https://doi.org/10.1214/ss/1009212519; Fuller (1987), Measurement error models,
https://doi.org/10.1002/9780470316665, for ρ = s/q.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from metarouter.types import FloatArray, IntArray

__all__ = ["USES", "Evidence", "Posterior", "Priors", "weigh_hypotheses"]

USES = ("ignore", "inform", "oppose", "rescale")
_SIGNALS = np.concatenate([[0.0], np.logspace(-3.0, 1.5, 14)])  # s = var ψ / σ²
_SCALES = np.array([0.01, 0.04, 0.16, 0.64])  # τ = var(ρ g) / σ²
_LEVELS = (0.25, 1.0)  # of the judge's error: standard deviation over that over queries
_CORRELATION = 0.2  # of ψ and β over queries, its prior standard deviation
_TAIL = 3.0  # degrees of freedom of log s: few, for rubrics can show signals above σ²
_PRIOR_LABELS = 1.0  # labels that the prior of σ² is worth
_KEEP = 3e-3  # hypotheses below this share of the best weight are dropped


@dataclass(frozen=True, kw_only=True, slots=True)
class Priors:
    """What is believed before the gold labels are seen.

    The first five are weights of what the preference model may be worth, which
    are normalised. Where somebody else judges, ``ignore`` has a twentieth, and more where the
    verdicts vary so little that few signals are possible. It has seven eighths where the
    judge is one of the models it judges, which sees least where the other model could do
    what it could not: with 50 gold labels, such a judge used wrongly does more harm than a
    good one left out.

    Parameters
    ----------
    ignore, inform, oppose, rescale : float
        Weights, at least 0.
    ignore_contestant : float
        Weight of ``ignore`` where the judge is one of the two models compared.
    judges_level : float, default 0.8
        Share of every use but ``rescale`` in which the level of the verdicts is that of the
        gain up to an error. A contestant's is not believed, since to prefer one's own words
        is a level before all; other verdicts beside his get less. No part of pools, nor of a
        judge that says the same of every query.
    signal : float, default 0.1
        Median of the prior of s. Exact-match labels show less, rubrics more.
    spread : float, default 1
        Scale of log s, in Student's t with three degrees of freedom. Four fifths of the prior
        are between 0.02 and 0.6, a twentieth is at no signal at all, which counts as much as
        one two of these units away, and another twentieth above 1.
    """

    ignore: float = 1.0
    ignore_contestant: float = 128.0
    inform: float = 16.0
    oppose: float = 2.0
    rescale: float = 0.5
    judges_level: float = 0.8
    signal: float = 0.1
    spread: float = 1.0

    def of_judges(self, contestants: float) -> Priors:
        """Priors for verdicts of which the share `contestants` is by a contestant."""
        ignore = self.ignore + contestants * (self.ignore_contestant - self.ignore)
        judges_level = self.judges_level * (1.0 - contestants)
        return replace(self, ignore=ignore, judges_level=judges_level)


@dataclass(frozen=True, kw_only=True, slots=True)
class Posterior:
    """Posterior of θ in ψ(x) = u(x)'θ: mean (p,) and covariance (p, p)."""

    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """Scales that the labels show, most as variances over that of gold labels."""

    judge_size: float  # standard deviation of f, in its unit
    ratio: float  # var f
    verdicts: float  # var g
    level_error: float  # variance of the level of f
    own_level: float  # of b where nothing is known of it, over σ²
    has_judge: bool  # whose verdicts differ over queries
    has_level: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hypotheses:
    """What is assumed on any basis; arrays of shape (g,), variances over σ²."""

    use: tuple[str, ...]
    log_prior: FloatArray
    discrepancy: FloatArray  # variance of δ
    slope: FloatArray  # of f, its prior mean
    slope_variance: FloatArray
    level: FloatArray  # κ − ρ, of f̄, fixed
    level_variance: FloatArray  # of b

    def rows(self, at: IntArray) -> _Hypotheses:
        return _Hypotheses(
            use=tuple(self.use[i] for i in at),
            log_prior=self.log_prior[at],
            discrepancy=self.discrepancy[at],
            slope=self.slope[at],
            slope_variance=self.slope_variance[at],
            level=self.level[at],
            level_variance=self.level_variance[at],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rotated:
    """One basis on the gold rows, rotated so that its kernel is diagonal."""

    values: FloatArray  # (k,) eigenvalues of the kernel
    basis: FloatArray  # (p, k) directions in feature space
    columns: FloatArray  # (k, 4): level, f, level of f, gain


@dataclass(frozen=True, kw_only=True, slots=True)
class _Solution:
    """Posterior of each hypothesis on one basis; first axis the hypotheses."""

    log_evidence: FloatArray  # (g,)
    noise: FloatArray  # (g,) posterior mean of σ²
    coef: FloatArray  # (g, 3): level, slope of f, of the level of f
    covariance: FloatArray  # (g, 2, 2) of the first two, over σ²


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """The hypotheses of one basis that matter, solved, with posterior weights."""

    rotated: _Rotated
    hypotheses: _Hypotheses
    solution: _Solution
    weight: FloatArray  # (g,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Hypotheses that matter, with what is needed to predict under each."""

    parts: tuple[_Part, ...]  # one for each basis
    mean_weight: float  # of a gold row

    def share(self, use: str) -> float:
        """Posterior probability of one use of the preference model."""
        return float(
            sum(part.weight[np.array(part.hypotheses.use) == use].sum() for part in self.parts)
        )

    def basis_share(self, basis: int) -> float:
        """Posterior probability of one basis."""
        return float(self.parts[basis].weight.sum())

    def judge_slope(self) -> float:
        """Posterior mean of ρ."""
        return float(sum(part.weight @ part.solution.coef[:, 1] for part in self.parts))

    def judge_slope_square(self) -> float:
        """Posterior mean of ρ²."""
        total = 0.0
        for part in self.parts:
            found = part.solution
            square = found.coef[:, 1] ** 2 + found.noise * found.covariance[:, 1, 1]
            total += float(part.weight @ square)
        return total

    def noise_variance(self) -> float:
        """Posterior mean of the variance of a gold label of weight 1."""
        found = sum(part.weight @ part.solution.noise for part in self.parts)
        return float(found) * self.mean_weight

    def discrepancy_variance(self, basis_sizes: Sequence[float]) -> float:
        """Posterior mean of var δ, with the mean squared length of a row in each basis."""
        parts = zip(self.parts, basis_sizes, strict=True)
        return float(
            sum(
                size * float((part.weight * part.solution.noise) @ part.hypotheses.discrepancy)
                for part, size in parts
            )
        )

    def posterior(
        self, columns: Sequence[IntArray], judge: FloatArray, constants: IntArray
    ) -> Posterior:
        """Posterior of θ in ψ(x) = u(x)'θ, over all hypotheses.

        Parameters
        ----------
        columns : int arrays
            Which entries of u each basis occupies.
        judge : array, shape (p,)
            The preference model as f(x) = u(x)'judge.
        constants : int array
            Entries of u that do not depend on the query. One that no basis
            holds takes the level b.
        """
        fixed = _fixed_directions(columns, judge, constants)
        means, spread = [], np.zeros((len(judge), len(judge)))
        for part, at in zip(self.parts, columns, strict=True):
            rows, mean = _directions(part, at, fixed)
            means.append(mean)
            spread += rows.T @ rows
            spread[np.ix_(at, at)] += _discrepancy_spread(part)
        share = np.concatenate([part.weight for part in self.parts])
        stacked = np.vstack(means)
        mean = share @ stacked
        around = (stacked - mean) * np.sqrt(share)[:, None]
        return Posterior(mean=mean, covariance=spread + around.T @ around)


def weigh_hypotheses(
    mapped: Sequence[FloatArray],
    gain: FloatArray,
    judge: FloatArray | None,
    *,
    judge_level: FloatArray | None = None,
    weight: FloatArray | None = None,
    level: FloatArray | None = None,
    judge_size: float | None = None,
    verdict_size: float | None = None,
    level_error: float = 0.0,
    label_variance: float | None = None,
    priors: Priors | None = None,
    uses: Sequence[str] = USES,
    basis_priors: Sequence[float] | None = None,
    basis_sizes: Sequence[float] | None = None,
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
    judge_level : array, shape (n,), or None
        The part of `judge` that does not depend on the query; the mean of
        `judge` when None.
    weight : array, shape (n,), or None
        Precision of each row, in gold labels.
    level : array, shape (n,), or None
        1 where a row has a level of its own (default), 0 where the bases hold
        the levels.
    judge_size : float, or None
        Standard deviation over queries of f without its levels; that over the
        gold rows when None.
    verdict_size : float, or None
        Standard deviation over queries of the judge's mean verdict g, of which f is what the
        votes tell; `judge_size`, as if they told all, when None or smaller. It is taken as
        known, which with few votes it is not.
    level_error : float, default 0
        Standard deviation of the level of f, by the votes; no part of pools, whose levels the
        bases hold.
    label_variance : float, or None
        Variance of a gold label of weight 1 around the mean of its contrast,
        positive; that of `gain` when None. It sets the scale of the weak prior
        of σ².
    priors, uses
        Prior beliefs, and the uses considered: ``ignore`` alone where there is no judge, or
        one that says the same of every query.
    basis_priors : sequence of float, or None
        Prior weight of each basis; equal when None.
    basis_sizes : sequence of float, or None
        Mean squared length of a query's row in each basis; 1 when None.
    average : bool, default True
        False gives the hypothesis of highest evidence all the weight.

    Returns
    -------
    Evidence
        Scaling `gain`, `judge` and what is in their unit by a constant changes no weight.
    """
    gain = np.asarray(gain, dtype=np.float64)
    n = len(gain)
    raw = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    w = raw / raw.mean()
    f = np.zeros(n) if judge is None else np.asarray(judge, dtype=np.float64)
    f_level = np.full(n, f.mean()) if judge_level is None else np.asarray(judge_level)
    ones = np.ones(n) if level is None else np.asarray(level, dtype=np.float64)
    size = float(np.std(f - f_level)) if judge_size is None else judge_size
    mean = float(w @ gain) / n
    spread = float(w @ (gain - mean) ** 2) / n  # of a row of average weight
    if label_variance is not None:
        spread = label_variance / float(raw.mean())
    # Labels that are all equal still have a scale.
    total = max(spread, 1e-12 * max(mean**2, size**2), 1e-300)
    columns = np.stack([ones, f, f_level, gain], axis=1) * np.sqrt(w)[:, None]
    known = _Known(
        judge_size=size,
        ratio=size**2 / total,
        verdicts=max(verdict_size or 0.0, size) ** 2 / total,
        level_error=level_error**2 / total,
        own_level=max(1.0, mean**2 / total),
        has_judge=judge is not None and size > 0,
        has_level=bool(ones.any()),
    )
    of_judge = uses if known.has_judge else ("ignore",)
    hypotheses = _hypotheses(priors or Priors(), of_judge, known)
    rotated = [_rotate(each * np.sqrt(w)[:, None], columns) for each in mapped]
    sizes = np.ones(len(mapped)) if basis_sizes is None else np.asarray(basis_sizes)
    scaled = [
        replace(hypotheses, discrepancy=hypotheses.discrepancy / float(each)) for each in sizes
    ]
    gram = columns.T @ columns
    solved = [
        _solve(basis, gram, each, n, total) for basis, each in zip(rotated, scaled, strict=True)
    ]
    log = np.stack([each.log_evidence for each in solved]) + hypotheses.log_prior
    if basis_priors is not None:
        log += np.log(np.asarray(basis_priors, dtype=np.float64))[:, None]
    weights = _posterior_weights(log, average)
    parts = zip(rotated, solved, weights, scaled, strict=True)
    return Evidence(parts=tuple(_kept(*each) for each in parts), mean_weight=float(raw.mean()))


def _hypotheses(priors: Priors, uses: Sequence[str], known: _Known) -> _Hypotheses:
    """All uses × signals × forms of the level (or scales)."""
    blocks: list[_Hypotheses] = []
    for use in uses:
        for share, block in _forms(priors, use, known):
            if share > 0:
                weight = np.log(max(getattr(priors, use) * share, 1e-300))
                blocks.append(replace(block, log_prior=block.log_prior + weight))
    joined = _Hypotheses(
        use=tuple(use for block in blocks for use in block.use),
        **{
            name: np.concatenate([getattr(block, name) for block in blocks])
            for name in _Hypotheses.__dataclass_fields__
            if name != "use"
        },
    )
    if known.has_level:
        return joined
    return replace(joined, level_variance=np.zeros_like(joined.level_variance))


def _forms(priors: Priors, use: str, known: _Known) -> list[tuple[float, _Hypotheses]]:
    """One use with every form of the level (or scale), and their shares of its weight."""
    if use == "rescale":
        free = _SCALES / known.verdicts * (known.ratio / known.judge_size**2)
        return [(1 / len(free), _alone(priors, use, known, None, float(each))) for each in free]
    make = _alone if use == "ignore" else _with_error
    if not known.has_level:
        return [(1.0, make(priors, use, known, None if use == "ignore" else 0.0))]
    told = priors.judges_level if known.has_judge else 0.0
    judges = [(told / len(_LEVELS), make(priors, use, known, level)) for level in _LEVELS]
    return [(1.0 - told, make(priors, use, known, None)), *judges]


def _alone(
    priors: Priors, use: str, known: _Known, level: float | None, slope_variance: float = 0.0
) -> _Hypotheses:
    """Hypotheses in which δ is all of the gain, but for a free slope."""
    s = _SIGNALS
    apart = known.verdicts * (1.0 + s) + s
    kept, level_variance = _level(known, level, np.zeros_like(s), 1.0, apart, s)
    return _Hypotheses(
        use=(use,) * len(s),
        log_prior=_log_prior(priors, s),
        discrepancy=s,
        slope=np.zeros_like(s),
        slope_variance=np.full_like(s, slope_variance),
        level=kept,
        level_variance=level_variance,
    )


def _with_error(priors: Priors, use: str, known: _Known, level: float | None) -> _Hypotheses:
    """Hypotheses in which the judge sees the gain, or its opposite, and an error."""
    verdicts = known.verdicts
    exact = verdicts / (1.0 - verdicts) if verdicts < 1.0 else np.inf  # s of a faultless judge
    s = np.append(_SIGNALS[1:], exact) if exact < _SIGNALS[-1] else _SIGNALS[1:]
    log_prior = _log_prior(priors, s)
    is_possible = s <= verdicts * (1.0 + s) * (1.0 + 1e-9)
    s, log_prior = s[is_possible], log_prior[is_possible]
    v, q = known.ratio * (1.0 + s), verdicts * (1.0 + s)
    slope = np.minimum(s / q, 1.0)
    left = s * (1.0 - slope * v / q)
    sign = 1.0 if use == "inform" else -1.0
    kept, level_variance = _level(known, level, slope, sign, np.maximum(q - s, 0.0) + left, s)
    return _Hypotheses(
        use=(use,) * len(s),
        log_prior=log_prior,
        discrepancy=left,
        slope=sign * slope,
        slope_variance=_CORRELATION**2 * slope * (1.0 - slope) * v / known.judge_size**2,
        level=kept,
        level_variance=level_variance,
    )


def _level(
    known: _Known,
    level: float | None,
    slope: FloatArray,
    sign: float,
    apart: FloatArray,
    s: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """κ − ρ and var b: the judge's level, off by `level` of what varies by `apart`, or none."""
    if level is None:
        return -sign * slope, np.full_like(s, known.own_level)
    return sign * (1.0 - slope), level**2 * apart + known.level_error * (1.0 + s)


def _log_prior(priors: Priors, s: FloatArray) -> FloatArray:
    """Student's t in log s, summing to one; s = 0 as two units of spread away."""
    away = (np.log(np.maximum(s, 1e-300)) - np.log(priors.signal)) / priors.spread
    log = -(_TAIL + 1.0) / 2.0 * np.log1p(np.where(s > 0, away, 2.0) ** 2 / _TAIL)
    result: FloatArray = log - np.log(np.exp(log).sum())
    return result


def _posterior_weights(log: FloatArray, average: bool) -> FloatArray:
    """Weights that sum to one over all bases and hypotheses, the smallest left out."""
    relative = np.exp(log - log.max())
    kept = np.where(relative >= (_KEEP if average else 1.0), relative, 0.0)
    result: FloatArray = kept / kept.sum()
    return result


def _kept(
    rotated: _Rotated, solution: _Solution, weight: FloatArray, hypotheses: _Hypotheses
) -> _Part:
    at = np.flatnonzero(weight)
    return _Part(
        rotated=rotated,
        hypotheses=hypotheses.rows(at),
        solution=_Solution(
            log_evidence=solution.log_evidence[at],
            noise=solution.noise[at],
            coef=solution.coef[at],
            covariance=solution.covariance[at],
        ),
        weight=weight[at],
    )


def _solve(rotated: _Rotated, gram: FloatArray, h: _Hypotheses, n: int, total: float) -> _Solution:
    """Posterior of every hypothesis on one basis."""
    spread = h.discrepancy[:, None] * rotated.values
    columns = rotated.columns
    outer = (columns[:, :, None] * columns[:, None, :]).reshape(-1, 16)
    products = gram - ((spread / (1.0 + spread)) @ outer).reshape(-1, 4, 4)  # columns' C⁻¹ columns
    shift = np.zeros((len(h.use), 4))  # the gain less what is fixed, in terms of the columns
    shift[:, 1], shift[:, 2], shift[:, 3] = -h.slope, -h.level, 1.0
    residual = np.einsum("gij,gj->gi", products, shift)
    variances = np.stack([h.level_variance, h.slope_variance], axis=1)
    covariance, log_det = _woodbury(products[:, :2, :2], variances)
    drawn = np.einsum("gij,gj->gi", covariance, residual[:, :2])
    quadratic = np.einsum("gi,gi->g", shift, residual)
    quadratic -= np.einsum("gi,gi->g", drawn, residual[:, :2])
    quadratic = np.maximum(quadratic, 0.0) + _PRIOR_LABELS * total
    log_det += np.log1p(spread).sum(axis=1)
    return _Solution(
        log_evidence=-0.5 * ((n + _PRIOR_LABELS) * np.log(quadratic) + log_det),
        noise=quadratic / max(n + _PRIOR_LABELS - 2.0, 1.0),
        coef=np.stack([drawn[:, 0], drawn[:, 1] + h.slope, h.level], axis=1),
        covariance=covariance,
    )


def _woodbury(A: FloatArray, prior: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(D⁻¹ + A)⁻¹ and log|I + D A| for 2 × 2 blocks, also where D has zeros."""
    v, t = prior[:, 0], prior[:, 1]
    a, c, d = A[:, 0, 0], A[:, 0, 1], A[:, 1, 1]
    det = (1 + v * a) * (1 + t * d) - v * t * c**2
    off = -v * t * c
    inverse = np.stack([v * (1 + t * d), off, off, t * (1 + v * a)], axis=1) / det[:, None]
    return inverse.reshape(-1, 2, 2), np.log(det)


def _fixed_directions(
    columns: Sequence[IntArray], judge: FloatArray, constants: IntArray
) -> FloatArray:
    """Level, f and the level of f as directions of θ, shape (3, p)."""
    fixed = np.zeros((3, len(judge)))
    own_level = np.setdiff1d(constants, np.concatenate(columns))
    fixed[0, own_level] = 1.0
    fixed[1] = judge
    fixed[2, constants] = judge[constants]
    return fixed


def _directions(part: _Part, at: IntArray, fixed: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rows whose squares are the spread of b and ρ, and the mean of each hypothesis."""
    rotated, h, solution = part.rotated, part.hypotheses, part.solution
    root = np.sqrt(rotated.values)
    loadings = h.discrepancy[:, None] * root / (1.0 + h.discrepancy[:, None] * rotated.values)
    residual = rotated.columns[:, 3] - solution.coef @ rotated.columns[:, :3].T
    means = solution.coef @ fixed
    means[:, at] += (loadings * residual) @ rotated.basis.T
    rows = np.zeros((len(h.use), 2, fixed.shape[1]))
    for i, weight in enumerate(part.weight * solution.noise):
        left = fixed[:2].copy()
        left[:, at] -= (rotated.columns[:, :2].T * loadings[i]) @ rotated.basis.T
        values, vectors = np.linalg.eigh(solution.covariance[i])
        rows[i] = (vectors * np.sqrt(weight * np.maximum(values, 0.0))).T @ left
    return rows.reshape(-1, fixed.shape[1]), means


def _discrepancy_spread(part: _Part) -> FloatArray:
    """Weighted posterior covariance of δ's coefficients in one basis."""
    rotated, d = part.rotated, part.hypotheses.discrepancy
    noise = part.weight * part.solution.noise
    learned = d**2 / (1.0 + d * rotated.values[:, None])
    result: FloatArray = float(noise @ d) * np.eye(len(rotated.basis))
    result -= (rotated.basis * (rotated.values * (learned @ noise))) @ rotated.basis.T
    return result


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
