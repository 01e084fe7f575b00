"""Gaussian process of the gain: :class:`GaussianProcessGain`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.extras import import_train, one_thread
from metarouter.gain.rows import ScoredGain, TrainingRows, prepare_rows
from metarouter.gain.scoring import gain_kernel
from metarouter.types import FloatArray, ModelState

__all__ = ["GaussianProcessGain", "KernelVariances", "log_evidence"]

# Priors of log(linear, rbf, length_sq, noise), with gains of variance 1 and
# features of mean squared norm 1: a label is mostly noise, and queries at the
# usual squared distance of 2 have half their departure from the trend in common.
_PRIOR_MEAN = np.log([0.1, 0.1, 1.5, 0.8])
_PRIOR_SD = np.array([1.5, 1.5, 1.0, 1.0])
# Rows handled at once when n is large: 8192 × 1000 points are 65 MB.
_BLOCK_ROWS = 8_192


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelVariances:
    """Hyper-parameters in standardised units; see :func:`gain_kernel`.

    `noise` is σ², the variance of a label of weight 1.
    """

    constant: float = 1.0
    linear: float
    rbf: float
    length_sq: float
    noise: float

    def kernel(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Covariance of the gain at the rows of `a` and of `b`."""
        return gain_kernel(a, b, self.constant, self.linear, self.rbf, self.length_sq)

    def kernel_diagonal(self, a: FloatArray) -> FloatArray:
        """Prior variance of the gain at each row of `a`."""
        variance: FloatArray = self.constant + self.linear * (a * a).sum(axis=1) + self.rbf
        return variance


@dataclass(kw_only=True, eq=False)
class GaussianProcessGain(ScoredGain):
    """Gaussian process with a level, a linear trend and a smooth departure.

    Hyper-parameters maximise the evidence (marginal likelihood) times weak
    log-normal priors, which keep them sane with a handful of labels. A row of
    weight w has noise σ²/w.

    Parameters
    ----------
    exact_rows : int, default 3000
        Up to this many rows the posterior is exact; cost grows with its cube.
    n_points : int, default 1000
        Beyond, the process is held by this many training queries, drawn at
        random; cost is linear in rows.
    evidence_rows : int, default 600
        Most rows, drawn at random, that the evidence is computed on.
    seed : int, default 0

    Attributes
    ----------
    variances_ : KernelVariances
    state_ : ModelState of kind "gp".

    Raises
    ------
    DataError
        From ``fit``, see :func:`~metarouter.gain.rows.prepare_rows`.
    MissingDependencyError
        From ``fit``, without SciPy.

    Notes
    -----
    Features are centred and divided by one number, their root mean squared
    norm, which leaves rotations and the relative size of components alone.
    With points Z, ``L Lᵀ = K_zz``, ``B = L⁻¹ K_zx`` and the diagonal matrix
    ``Λ_ii = σ²/w_i + k(x_i, x_i) − (BᵀB)_ii``,

        M = I + B Λ⁻¹ Bᵀ,      α = L⁻ᵀ M⁻¹ B Λ⁻¹ y,
        mean(x) = k(x, Z) α,   var(x) = k(x, x) − k(x, Z) L⁻ᵀ (I − M⁻¹) L⁻¹ k(Z, x),

    in which what the points miss of a row counts as its own noise. It is the
    exact posterior where Z are the training rows, and falls back to the prior
    far from Z. The hyper-parameters are plugged in: the standard deviation
    does not include their own uncertainty.

    References
    ----------
    Rasmussen & Williams (2006), Gaussian processes for machine learning,
    sections 2.2 and 5.4.1. https://gaussianprocess.org/gpml/
    Snelson & Ghahramani (2006), Sparse Gaussian processes using pseudo-inputs.
    https://papers.nips.cc/paper/2857

    Examples
    --------
    >>> x = np.linspace(-2, 2, 60)[:, None]
    >>> model = GaussianProcessGain().fit(x, np.sin(2 * x[:, 0]))
    >>> bool(abs(model.predict(np.array([[0.5]])).mean[0] - np.sin(1.0)) < 0.05)
    True
    """

    exact_rows: int = 3_000
    n_points: int = 1_000
    evidence_rows: int = 600
    seed: int = 0

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        """Choose the hyper-parameters, then compute the posterior."""
        rows = prepare_rows(features, gain, weight)
        rng = np.random.default_rng(self.seed)
        x = rows.features.astype(np.float64)
        centre = np.average(x, axis=0, weights=rows.weight)
        x -= centre
        squared = np.average((x * x).sum(axis=1), weights=rows.weight)
        feature_scale = float(np.sqrt(squared)) or 1.0
        x /= feature_scale
        self.variances_ = _most_likely(x, rows, self.evidence_rows, rng)
        alpha, factor, points = self._posterior(x, rows, rng)
        config = asdict(self.variances_) | {
            "feature_scale": feature_scale,
            "gain_centre": rows.centre,
            "gain_scale": rows.scale,
        }
        arrays = {"points": points, "centre": centre, "alpha": alpha, "factor": factor}
        return self._keep(ModelState(kind="gp", config=config, arrays=arrays))

    def _posterior(
        self, x: FloatArray, rows: TrainingRows, rng: np.random.Generator
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        precision = rows.weight / self.variances_.noise
        if len(x) <= self.exact_rows:
            return *exact_posterior(x, rows.target, precision, self.variances_), x
        _, first = np.unique(rows.group, return_index=True)
        points = x[rng.permutation(first)[: self.n_points]]
        return *projected_posterior(x, rows.target, precision, points, self.variances_), points


def log_evidence(
    log_variances: FloatArray, x: FloatArray, target: FloatArray, weight: FloatArray
) -> tuple[float, FloatArray]:
    """Log marginal likelihood of standardised rows, and its gradient.

    Parameters
    ----------
    log_variances : array (4,); logarithms of linear, rbf, length_sq, noise.
    x : array, shape (n, d)
    target, weight : arrays, shape (n,)

    Notes
    -----
    ``−½ yᵀα − ½ log det K − ½ n log 2π`` with ``K = k(x, x) + σ² W⁻¹`` and
    ``α = K⁻¹ y``; its derivative by θ is ``½ tr((ααᵀ − K⁻¹) ∂K/∂θ)``.

    References
    ----------
    Rasmussen & Williams (2006), equations 5.8 and 5.9.
    """
    linalg = import_train("scipy.linalg", "GaussianProcessGain")
    linear, rbf, length_sq, noise = np.exp(log_variances)
    dot = x @ x.T
    norm = np.diag(dot)
    squared = np.maximum(norm[:, None] + norm - 2.0 * dot, 0.0)
    bump = rbf * np.exp(squared / (-2.0 * length_sq))
    covariance = 1.0 + linear * dot + bump + np.diag(noise / weight)
    chol = linalg.cho_factor(covariance, lower=True)
    inverse = linalg.cho_solve(chol, np.eye(len(x)))
    alpha = inverse @ target
    log_det = 2.0 * np.log(np.diag(chol[0])).sum()
    value = -0.5 * (target @ alpha + log_det + len(x) * np.log(2.0 * np.pi))
    slope = 0.5 * (np.outer(alpha, alpha) - inverse)
    gradient = np.array(
        [
            (slope * dot).sum() * linear,
            (slope * bump).sum(),
            (slope * bump * squared).sum() / (2.0 * length_sq),
            (np.diag(slope) / weight).sum() * noise,
        ]
    )
    return float(value), gradient


def exact_posterior(
    x: FloatArray, target: FloatArray, precision: FloatArray, variances: KernelVariances
) -> tuple[FloatArray, FloatArray]:
    """α = K⁻¹ y and A = chol(K)⁻¹, with var(x) = k(x, x) − ‖A k(X, x)‖²."""
    linalg = import_train("scipy.linalg", "GaussianProcessGain")
    covariance = variances.kernel(x, x) + np.diag(1.0 / precision)
    chol = linalg.cholesky(covariance, lower=True)
    factor: FloatArray = linalg.solve_triangular(chol, np.eye(len(x)), lower=True)
    return factor.T @ (factor @ target), factor


def projected_posterior(
    x: FloatArray,
    target: FloatArray,
    precision: FloatArray,
    points: FloatArray,
    variances: KernelVariances,
) -> tuple[FloatArray, FloatArray]:
    """α and A of the process held by `points`; formulas in the class Notes."""
    linalg = import_train("scipy.linalg", "GaussianProcessGain")
    gram = variances.kernel(points, points)
    gram[np.diag_indices_from(gram)] += 1e-8 * np.trace(gram) / len(points)
    root = linalg.solve_triangular(
        linalg.cholesky(gram, lower=True), np.eye(len(points)), lower=True
    )
    inner, moment = np.eye(len(points)), np.zeros(len(points))
    for start in range(0, len(x), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        basis = root @ variances.kernel(points, x[block])  # (n_points, rows)
        prior = variances.kernel_diagonal(x[block])
        missed = np.maximum(prior - (basis * basis).sum(axis=0), 0.0)
        weighted = basis / (1.0 / precision[block] + missed)
        inner += weighted @ basis.T
        moment += weighted @ target[block]
    size, vectors = np.linalg.eigh(inner)  # M = U diag(size) Uᵀ, every size >= 1
    alpha = root.T @ (vectors @ ((vectors.T @ moment) / size))
    shrink = np.sqrt(np.maximum(1.0 - 1.0 / size, 0.0))
    return alpha, shrink[:, None] * (vectors.T @ root)


def _most_likely(
    x: FloatArray, rows: TrainingRows, largest: int, rng: np.random.Generator
) -> KernelVariances:
    """Maximise evidence × prior on a random part of the rows."""
    optimize = import_train("scipy.optimize", "GaussianProcessGain")
    part = np.sort(rng.permutation(len(x))[:largest])
    x, target, weight = x[part], rows.target[part], rows.weight[part]

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = log_evidence(theta, x, target, weight)
        z = (theta - _PRIOR_MEAN) / _PRIOR_SD
        return 0.5 * float(z @ z) - value, z / _PRIOR_SD - gradient

    bounds = list(zip(_PRIOR_MEAN - 5 * _PRIOR_SD, _PRIOR_MEAN + 5 * _PRIOR_SD, strict=True))
    with one_thread():
        best = optimize.minimize(loss, _PRIOR_MEAN, jac=True, method="L-BFGS-B", bounds=bounds)
    linear, rbf, length_sq, noise = np.exp(best.x).tolist()
    return KernelVariances(linear=linear, rbf=rbf, length_sq=length_sq, noise=noise)
