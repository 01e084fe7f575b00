r"""The gain of a new model, from models already known and a few labels of its own.

The models that a router knows are a population: their gains g_j(x) over the
reference (g_0 = 0 is the reference itself) say how gains vary between models.
A new one is taken as another draw,

.. math:: ψ(x) = \sum_j c_j g_j(x) + b + d'x,\qquad
          c \sim N(π, τV),\quad b \sim N(0, v_b),\quad d \sim N(0, sσ² I / d_x),

where π is the mean over models (or one model, if the user says which it is
like), V the covariance that makes Σ c_j g_j vary as the known gains do, and d a
departure of its own. k labels y = ψ(x) + ε, var ε = σ²/w, update θ = (c, b, d), w
being a label's weight over the mean weight of all, shared out among the labels of its
query; τ, s and σ² are averaged over a grid by marginal likelihood. Without labels
the prior is what is served, and its width is the spread between known models.

References
----------
Lindley and Smith (1972), Bayes estimates for the linear model,
https://doi.org/10.1111/j.2517-6161.1972.tb00885.x; MacKay (1992), Bayesian
interpolation, https://doi.org/10.1162/neco.1992.4.3.415.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarouter.types import FloatArray, IntArray

__all__ = ["NewGain", "Population", "estimate_gain", "make_population"]

_POPULATION = np.array([0.1, 0.3, 1.0, 3.0])  # τ: spread of the new model over the others'
_OWN = np.array([0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])  # s: own departure over label noise
_NOISE = np.array([0.75, 1.0])  # σ² over the variance of the labels
_KEEP = 1e-3  # hypotheses below this share of the best are dropped
_PRIOR_NOISE, _PRIOR_LABELS = 0.25, 5.0  # of right-or-wrong pairs; counts as so many labels
_LEAST_LEVEL = 0.05  # standard deviation of b, where the known levels agree by chance


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """What is believed of a new model before it has labels.

    Parameters
    ----------
    mean : array, shape (m,); π.
    root : array, shape (m, r); V = root root'.
    level_variance : float; v_b, in squared gain units.
    departure : float, default 0.03
        Median of s where the model departs at all: little, as exact-match labels
        show it.
    no_departure : float in (0, 1), default 0.1
        Prior probability that it does not, s = 0.
    """

    mean: FloatArray
    root: FloatArray
    level_variance: float
    departure: float = 0.03
    no_departure: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class NewGain:
    """ψ(x) = φ(x)'θ with the posterior of θ; see :func:`onboarding_rows` for φ.

    Parameters
    ----------
    mean : array, shape (p,)
    covariance : array, shape (p, p)
    noise_variance : float, σ², of one label.
    own_share : float in [0, 1]
        Posterior probability that the model departs from all known ones in a
        way of its own.
    """

    mean: FloatArray
    covariance: FloatArray
    noise_variance: float
    own_share: float

    def mean_gain(self, rows: FloatArray) -> tuple[float, float]:
        """Average of ψ over rows φ, shape (n, p), and its standard deviation."""
        average = rows.mean(axis=0)
        return float(average @ self.mean), float(np.sqrt(average @ self.covariance @ average))


def make_population(levels: FloatArray, like: int | None = None) -> Population:
    """Prior over combinations of known gains.

    Parameters
    ----------
    levels : array, shape (m,)
        Typical gain of each known candidate, which sets the spread of b.
    like : int, optional
        Model that the new one is expected to resemble: 0 the reference, j the
        j-th candidate; an average of the candidates when None.

    Notes
    -----
    ``V = Σ_j (e_j − π)(e_j − π)' / m`` over the m candidates and the reference
    (e_0 = 0), so the variance of Σ c_j g_j(x) is the mean squared distance of
    the known gains from the prior mean, at every x.

    Examples
    --------
    >>> population = make_population(np.array([0.2]))
    >>> population.mean.tolist(), (population.root @ population.root.T).tolist()
    ([1.0], [[1.0]])
    """
    m = len(levels)
    known = np.vstack([np.zeros(m), np.eye(m)])
    mean = np.full(m, 1.0 / m) if like is None else known[like]
    spread = float(((np.append(levels, 0.0) - levels @ mean) ** 2).sum() / m)
    return Population(
        mean=mean,
        root=(known - mean).T / np.sqrt(m),
        level_variance=max(spread, _LEAST_LEVEL**2),
    )


def estimate_gain(
    population: Population,
    rows: FloatArray,
    gain: FloatArray,
    weight: FloatArray,
    query: IntArray | None = None,
) -> NewGain:
    """Posterior of the new model's gain.

    Assumes labels that are independent given the query, and a new model that
    differs from the known ones as they differ from each other.

    Parameters
    ----------
    population : Population
    rows : array, shape (k, p), from :func:`onboarding_rows`; k may be 0.
    gain : array, shape (k,), of the new model over the reference.
    weight : array, shape (k,), precision of each label; only ratios matter.
    query : int array, shape (k,), or None
        Labels of one query share the new model's answer: together they count as one.
        None where no two labels are of one query.

    Examples
    --------
    >>> population = make_population(np.array([0.2]))
    >>> nothing = np.zeros(0)
    >>> found = estimate_gain(population, np.zeros((0, 4)), nothing, nothing)
    >>> found.mean.tolist()
    [1.0, 0.0, 0.0, 0.0]
    """
    weight = _per_query(weight, np.arange(len(gain)) if query is None else query)
    m = len(population.mean)
    inner = np.hstack([rows[:, :m] @ population.root, rows[:, m:]])  # V is 1 here
    problem = _Problem.of(inner, gain - rows[:, :m] @ population.mean, weight)
    grid = _hypotheses(population, rows.shape[1] - m - 1, _label_variance(gain, weight))
    log = np.array([problem.log_evidence(each.prior, each.noise) + each.log_prior for each in grid])
    probability = np.where(log > log.max() + np.log(_KEEP), np.exp(log - log.max()), 0.0)
    probability /= probability.sum()
    inner_mean, covariance = _averaged(problem, grid, probability)
    back = _unrotate(population, rows.shape[1])
    mean = back @ inner_mean
    mean[:m] += population.mean
    return NewGain(
        mean=mean,
        covariance=back @ covariance @ back.T,
        noise_variance=float(probability @ np.array([each.noise for each in grid])),
        own_share=float(probability @ np.array([each.departs for each in grid])),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hypothesis:
    prior: FloatArray  # (p,) variances of the rotated combination, the level, the departure
    noise: float  # σ²
    departs: bool
    log_prior: float


def _hypotheses(population: Population, n_own: int, variance: float) -> list[_Hypothesis]:
    n_root, level = population.root.shape[1], [population.level_variance]
    return [
        _Hypothesis(
            prior=np.concatenate(
                [np.full(n_root, tau), level, np.full(n_own, s * share * variance)]
            ),
            noise=float(share * variance),
            departs=bool(s > 0),
            log_prior=_log_prior(population, tau, s),
        )
        for tau in _POPULATION
        for s in _OWN
        for share in _NOISE
    ]


def _averaged(
    problem: _Problem, grid: list[_Hypothesis], probability: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of the mixture of the hypotheses that count."""
    counting = np.flatnonzero(probability)
    found = [problem.posterior(grid[i].prior, grid[i].noise) for i in counting]
    share = probability[counting]
    means = np.array([mean for mean, _ in found])
    mean = share @ means
    around = (means - mean) * np.sqrt(share)[:, None]
    covariance: FloatArray = around.T @ around
    for part, (_, own) in zip(share, found, strict=True):
        covariance += part * own
    return mean, covariance


def _unrotate(population: Population, p: int) -> FloatArray:
    """The map from the rotated combination, the level and the departure to θ."""
    m, n_root = population.root.shape
    back = np.zeros((p, p - m + n_root))
    back[:m, :n_root] = population.root
    back[m:, n_root:] = np.eye(p - m)
    return back


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    """Rows and targets scaled to equal precision; no more rows than columns + 1."""

    rows: FloatArray  # (r, p)
    target: FloatArray  # (r,)
    n: float  # queries, what the weights add up to

    @classmethod
    def of(cls, rows: FloatArray, target: FloatArray, weight: FloatArray) -> _Problem:
        joint = np.column_stack([rows, target]) * np.sqrt(weight)[:, None]
        if len(joint) > joint.shape[1]:  # the rotated rows hold all that the others say
            joint = np.asarray(np.linalg.qr(joint).R)
        return cls(rows=joint[:, :-1], target=joint[:, -1], n=float(weight.sum()))

    def log_evidence(self, prior: FloatArray, noise: float) -> float:
        """Log marginal likelihood under θ ~ N(0, diag(prior)), but for a constant."""
        lower = np.linalg.cholesky(self._covariance(prior, noise))
        target = np.linalg.solve(lower, self.target)
        log_determinant = 2.0 * np.log(np.diag(lower)).sum()
        log_determinant += (self.n - len(lower)) * np.log(noise)
        return -0.5 * float(log_determinant + target @ target)

    def posterior(self, prior: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of θ."""
        spread = self.rows * prior
        held = np.linalg.solve(self._covariance(prior, noise), spread).T
        return held @ self.target, np.diag(prior) - held @ spread

    def _covariance(self, prior: FloatArray, noise: float) -> FloatArray:
        result: FloatArray = (self.rows * prior) @ self.rows.T
        result[np.diag_indices_from(result)] += noise
        return result


def _per_query(weight: FloatArray, query: IntArray) -> FloatArray:
    """Weights that add up to the number of queries, as labels of weight 1 would."""
    _, code, rows = np.unique(query, return_inverse=True, return_counts=True)
    share = 1.0 / rows[code]
    result: FloatArray = share * weight * (share.sum() / (share @ weight or 1.0))
    return result


def _log_prior(population: Population, tau: float, s: float) -> float:
    """Log-normal about τ = 1 and, where there is a departure, about its median."""
    weights = np.exp(-0.5 * (np.log(_OWN[1:] / population.departure) / 2.0) ** 2)
    some = 1.0 - population.no_departure
    weights = np.append(population.no_departure, some * weights / weights.sum())
    return float(np.log(weights[s == _OWN][0]) - 0.5 * np.log(tau) ** 2)


def _label_variance(gain: FloatArray, weight: FloatArray) -> float:
    """Variance of the labels, drawn to that of right-or-wrong pairs when they are few."""
    total = float(weight.sum())
    if not total:
        return _PRIOR_NOISE
    square = float(weight @ (gain - weight @ gain / total) ** 2)
    return (square + _PRIOR_LABELS * _PRIOR_NOISE) / (total + _PRIOR_LABELS)
