r"""Where labels scatter: the noise of a gold label depends on its query.

Two models that both solve a query, or both fail it, differ by nothing, whoever
looks; where either may win, one gold label says little. Few gold labels cannot
tell which queries are which. The votes can, whatever they say of who wins: where
the answers are hard to tell apart they scatter less. So a gold label of query x
has variance σ² v(x) with

.. math:: v(x) \propto 1 + \lambda\,(h(x) - 1),

h(x) the expected squared distance of a vote from the preference model, over its
mean. The judge's own noise dilutes h, so λ may exceed 1; a judge whose scatter
tells nothing has λ = 0. The gold labels weigh λ by their likelihood.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarouter.linear import Ridge
from metarouter.types import FloatArray

__all__ = ["learn_scatter", "relative_noise"]

_LEAST_VOTES = 200
_STRENGTHS = np.array([0.0, 1.0, 2.0])  # λ
_PRIOR = np.array([0.5, 0.25, 0.25])
_ROUNDING = 1e-24  # squares below this share of what they were before a mean was taken out
_LOW, _HIGH = 0.2, 5.0  # of v over its mean: no label counts for more than five, or less than 1/5


def learn_scatter(
    X: FloatArray, deviation: FloatArray, weight: FloatArray, group: NDArray[np.int64]
) -> Ridge | None:
    """Learn h(x), the relative squared deviation of votes from what is expected of them.

    Parameters
    ----------
    X : array, shape (n, d)
        Features of the votes' queries.
    deviation : array, shape (n,)
        Votes less the preference model, any unit.
    weight : array, shape (n,)
        Precisions of the votes, above 0.
    group : int array, shape (n,)
        Judge of each vote. Each has a level and a size of noise of its own.

    Returns
    -------
    Ridge, or None
        Its predictions are 1 on average, and may be negative. None for fewer than 200
        votes, and where no judge's votes deviate.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 1))
    >>> votes = rng.normal(size=2000) * np.where(X[:, 0] > 0, 2.0, 1.0)
    >>> h = learn_scatter(X, votes, np.ones(2000), np.zeros(2000, dtype=np.int64))
    >>> h.predict(np.array([[-1.0], [1.0]])).round(1).tolist()
    [0.6, 1.5]
    """
    if len(deviation) < _LEAST_VOTES:
        return None
    _, group = np.unique(group, return_inverse=True)
    level = np.bincount(group, weight * deviation) / np.bincount(group, weight)
    square = weight * (deviation - level[group]) ** 2
    total = np.bincount(group, square)
    is_rounding = total <= _ROUNDING * np.bincount(group, weight * deviation**2)
    varies = ~is_rounding[group]
    if not varies.any():
        return None
    size = (total / np.bincount(group))[group]
    return Ridge().fit(X[varies], square[varies] / size[varies])


def relative_noise(
    scatter: FloatArray, gain: FloatArray, judge: FloatArray, weight: FloatArray, noise: float
) -> tuple[FloatArray, float]:
    r"""Estimate v(x) at the gold labels.

    λ is the posterior mean over 0 (beforehand as likely as the others together), 1 and 2, under
    the Gaussian likelihood of gold gains that are linear in f, with coefficients at their
    estimates and σ² integrated out under a prior worth one label. How gains vary beyond f counts
    as noise here: few gold labels tell it from noise, and it is small beside it.

    Parameters
    ----------
    scatter : array, shape (n,)
        h at the gold labels' queries.
    gain : array, shape (n,)
        Gold gains.
    judge : array, shape (n,)
        Preference model f at the gold labels.
    weight : array, shape (n,)
        Precisions of the gold labels, above 0.
    noise : float
        Variance of a gold label of weight 1, about; it centres the prior of σ².

    Returns
    -------
    v : array, shape (n,), between 0.2 and 5 before its weighted mean is made 1
    strength : float in [0, 2], λ

    References
    ----------
    Davidian and Carroll (1987), Variance function estimation,
    https://doi.org/10.1080/01621459.1987.10478543.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> h = np.repeat([0.5, 1.5], 200)
    >>> gain = rng.normal(size=400) * np.sqrt(h)
    >>> v, strength = relative_noise(h, gain, np.zeros(400), np.ones(400), 1.0)
    >>> v[[0, -1]].round(1).tolist(), round(strength)
    ([0.5, 1.5], 1)
    """
    design = np.stack([np.ones_like(judge), judge], axis=1)
    shapes = [_shape(scatter, each, weight) for each in _STRENGTHS]
    log = np.array([_log_likelihood(design, gain, weight / v, noise) for v in shapes])
    chance = _PRIOR * np.exp(log - log.max())
    strength = float(chance @ _STRENGTHS / chance.sum())
    return _shape(scatter, strength, weight), strength


def _shape(scatter: FloatArray, strength: float, weight: FloatArray) -> FloatArray:
    v = np.clip(1.0 + strength * (scatter - 1.0), _LOW, _HIGH)
    result: FloatArray = v / np.average(v, weights=weight)
    return result


def _log_likelihood(
    design: FloatArray, gain: FloatArray, precision: FloatArray, noise: float
) -> float:
    """Up to a constant, with the coefficients at their estimates."""
    root = np.sqrt(precision)
    X, y = design * root[:, None], gain * root
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    quadratic = float(residual @ residual) + noise
    return 0.5 * float(np.log(precision).sum()) - 0.5 * (len(y) + 1) * float(np.log(quadratic))
