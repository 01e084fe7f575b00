"""Which directions of the features the votes depend on.

A judge that is wrong about who wins can still tell which queries differ, and it may
look at few properties of a query: the right one, and those that mislead it. The
votes, being many, tell these directions apart from all others; the gold labels,
being few, then have to be explained by a handful of features and not by fifty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metarouter.types import FloatArray

__all__ = ["IndexModel", "index_functions", "learn_index"]

_UNITS = 4
_PRIOR = 0.5  # variance of the argument of a unit, over queries and the prior
_STEPS = 20
_TRIALS = 8  # of the damping at each step
_ENOUGH = 2e-4  # a smaller gain of a step, over what there was, ends the search
_LEAST_ROWS = 200
_LEAST_SHARE = 1e-6  # of the largest eigenvalue


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexModel:
    """E[vote given x] = c + Σ_h a_h tanh(x'w_h + t_h).

    Attributes
    ----------
    slopes : array, shape (k, k)
        E[∇f ∇f'] of the model f, for votes of variance one.
    """

    w: FloatArray  # (H, k)
    t: FloatArray  # (H,)
    a: FloatArray  # (H,)
    c: float
    slopes: FloatArray

    def predict(self, X: FloatArray) -> FloatArray:
        """The votes' mean at rows of features, shape (n,)."""
        found: FloatArray = self.c + np.tanh(X @ self.w.T + self.t) @ self.a
        return found


def learn_index(
    X: FloatArray, gain: FloatArray, weight: FloatArray, *, steps: int = _STEPS, seed: int = 0
) -> IndexModel | None:
    """A model of the votes that looks at four linear functions of the features.

    Fitted by penalised least squares (Levenberg and Marquardt); the variance of the
    noise, which sets the penalty, is learned on the way.

    Parameters
    ----------
    X : array, shape (n, k)
        Features of the votes' queries, of mean squared length about 1.
    gain : array, shape (n,)
        The votes; any unit.
    weight : array, shape (n,), above 0.
    steps : int, of the search at most.
    seed : int, draws the start.

    Returns
    -------
    IndexModel, or None
        None for fewer than 200 votes, and for votes that are all alike.

    References
    ----------
    Li (1991), Sliced inverse regression for dimension reduction,
    https://doi.org/10.1080/01621459.1991.10475035; Samarov (1993), Exploring
    regression structure using nonparametric functional estimation,
    https://doi.org/10.1080/01621459.1993.10476348.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 5)) / np.sqrt(5)
    >>> votes = np.tanh(3 * X[:, 0]) + 0.1 * rng.normal(size=2000)
    >>> C = index_functions(learn_index(X, votes, np.ones(2000)).slopes)
    >>> bool(abs(C[0, 0]) > 0.99 * np.linalg.norm(C))
    True
    """
    if len(X) < _LEAST_ROWS:
        return None
    mean = float(np.average(gain, weights=weight))
    size = float(np.sqrt(np.average((gain - mean) ** 2, weights=weight)))
    if size <= 1e-12 * max(float(np.abs(gain).max()), 1e-300):
        return None
    # votes on B against A are those on A against B turned round, and tell the same
    size = -size if float((weight * (gain - mean)) @ X[:, 0]) < 0 else size
    problem = _Problem(X=X, y=(gain - mean) / size, weight=weight / weight.mean())
    units = _solve(problem, steps, seed)
    w, t, a, c = problem.parts(units.flat)
    return IndexModel(w=w, t=t, a=size * a, c=mean + size * c, slopes=problem.slopes(units))


def index_functions(slopes: FloatArray) -> FloatArray:
    """Features x'C, each as large as the votes change along it, the largest first.

    Parameters
    ----------
    slopes : array, shape (k, k), as of an :class:`IndexModel`, or a sum with others.

    Returns
    -------
    array C, shape (k, r), with C C' = slopes
    """
    values, vectors = np.linalg.eigh(slopes)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > _LEAST_SHARE * max(float(values[0]), 1e-12)
    return np.ascontiguousarray(vectors[:, kept] * np.sqrt(values[kept]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Units:
    """Parameters of the model, and what they leave of the votes."""

    flat: FloatArray  # w_1, …, w_H, then t, a and c
    active: FloatArray  # (n, H) tanh of each unit
    residual: FloatArray  # (n,)
    cost: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Problem:
    X: FloatArray  # (n, k)
    y: FloatArray  # (n,) of mean 0 and variance 1
    weight: FloatArray  # (n,) of mean 1

    def parts(self, flat: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, float]:
        """Of the flat parameters: w (H, k), t (H,), a (H,) and c."""
        end = _UNITS * self.X.shape[1]
        w = flat[:end].reshape(_UNITS, -1)
        return w, flat[end : end + _UNITS], flat[end + _UNITS : -1], float(flat[-1])

    def penalty(self, noise: float) -> FloatArray:
        """Of each parameter: the noise's variance over the parameter's beforehand."""
        found = np.full(_UNITS * (self.X.shape[1] + 2) + 1, noise)
        found[: _UNITS * self.X.shape[1]] /= _PRIOR
        found[-1] = 0.0
        return found

    def at(self, flat: FloatArray, penalty: FloatArray) -> _Units:
        w, t, a, c = self.parts(flat)
        active = np.tanh(self.X @ w.T + t)
        residual = self.y - c - active @ a
        cost = float(self.weight @ residual**2 + penalty @ flat**2)
        return _Units(flat=flat, active=active, residual=residual, cost=cost)

    def noise(self, units: _Units) -> float:
        return float(np.average(units.residual**2, weights=self.weight))

    def jacobian(self, units: _Units) -> FloatArray:
        """Of the model at each row, (n, H (k + 2) + 1), rows times the root of their weight."""
        n, k = self.X.shape
        root = np.sqrt(self.weight)[:, None]
        slopes = (1.0 - units.active**2) * self.parts(units.flat)[2] * root
        found = np.empty((n, _UNITS * (k + 2) + 1))
        for h in range(_UNITS):
            np.multiply(self.X, slopes[:, h : h + 1], out=found[:, h * k : (h + 1) * k])
        found[:, _UNITS * k : -1] = np.hstack([slopes, units.active * root])
        found[:, -1:] = root
        return found

    def slopes(self, units: _Units) -> FloatArray:
        """Mean outer product of the model's gradients, shape (k, k)."""
        w, _, a, _ = self.parts(units.flat)
        slopes = (1.0 - units.active**2) * a
        gram = slopes.T @ (slopes * self.weight[:, None]) / len(slopes)
        result: FloatArray = w.T @ gram @ w
        return result


def _solve(problem: _Problem, steps: int, seed: int) -> _Units:
    """The units by damped Gauss-Newton steps; the noise is learned on the way."""
    rng = np.random.default_rng(seed)
    w = np.sqrt(_PRIOR) * rng.normal(size=_UNITS * problem.X.shape[1])
    t, a = 0.3 * rng.normal(size=_UNITS), rng.choice([-1.0, 1.0], _UNITS) / _UNITS
    penalty = problem.penalty(1.0)
    units = problem.at(np.concatenate([w, t, a, [0.0]]), penalty)
    damping = 0.01
    for _ in range(steps):
        found, damping = _improved(problem, units, penalty, damping)
        if found is None:
            break
        gained = (units.cost - found.cost) / units.cost
        penalty = problem.penalty(problem.noise(found))
        units = replace(found, cost=problem.at(found.flat, penalty).cost)
        if gained < _ENOUGH:
            break
    return units


def _improved(
    problem: _Problem, units: _Units, penalty: FloatArray, damping: float
) -> tuple[_Units | None, float]:
    """A step to a lower cost, and the damping for the next one; None where none is found."""
    J = problem.jacobian(units)
    curvature = J.T @ J
    descent = J.T @ (np.sqrt(problem.weight) * units.residual) - penalty * units.flat
    curvature[np.diag_indices_from(curvature)] += penalty
    diagonal = np.diag(np.diag(curvature))
    for _ in range(_TRIALS):
        step = np.linalg.solve(curvature + damping * diagonal, descent)
        found = problem.at(units.flat + step, penalty)
        if found.cost < units.cost:
            return found, max(damping / 5.0, 1e-6)
        damping *= 5.0
    return None, damping
