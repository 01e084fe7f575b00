r"""Where labels scatter: which gold labels say more than others.

Two models that both solve a query, or both fail it, differ by nothing, whoever
looks; where either may win, one gold label says little. Few gold labels cannot
tell which queries are which. The votes can, whatever they say of who wins: where
the answers are hard to tell apart they scatter less. So a gold label of query x
is taken to have a variance in proportion to

.. math:: v(x) = 1 + \lambda\,(h(x) - 1),

h(x) the expected squared distance of a vote from the preference model, over its
mean. The judge's own noise dilutes h, so λ may exceed 1; a judge whose scatter
tells nothing has λ = 0. The gold labels weigh λ by their likelihood.

Gold labels count by 1/√v, not 1/v. Where labels hardly vary the gain is next to
nothing as well, so that such a label, precise as it is, tells less of how gains
vary than its precision says; counted by 1/v it makes the model sure of itself
where labels vary. For the same reason stated variances take no credit for what
the weights gain: they are to be multiplied by the mean squared residual of the
gold labels over its weighted mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarouter.linear import Ridge
from metarouter.types import FloatArray

__all__ = ["learn_scatter", "relative_weight"]

_LEAST_VOTES = 200
_JUDGE_VOTES = 10.0  # of an average judge, which every judge is given beside its own
_LARGEST = 20.0  # square of a vote's deviation over its mean: what is beyond counts as this
_STRENGTHS = np.array([0.0, 1.0, 2.0])  # λ
_PRIOR = np.array([0.5, 0.25, 0.25])
_LOW, _HIGH = 0.2, 5.0  # of v
_ROUNDING = 1e-24  # squares below this share of what they were before a mean was taken out


def learn_scatter(
    X: FloatArray, deviation: FloatArray, weight: FloatArray, group: NDArray[np.int64]
) -> Ridge | None:
    """Learn h(x), the relative squared deviation of votes from what is expected of them.

    A line through the features, so that what is open in the middle alone is not seen. Votes on
    one query are taken as independent, and where the preference model is wrong about the judge,
    that counts as scatter. Squares above 20 times their mean count as that.

    Parameters
    ----------
    X : array, shape (n, d)
        Features of the votes' queries.
    deviation : array, shape (n,)
        Votes less the preference model, any unit.
    weight : array, shape (n,)
        Precisions of the votes, above 0.
    group : int array, shape (n,)
        Judge of each vote. Each has a level and a size of noise of its own, as far as
        its votes tell them.

    Returns
    -------
    Ridge, or None
        Its predictions are about 1 on average, and may be negative. None for fewer than
        200 votes, and where no vote deviates.

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
    _, judge = np.unique(group, return_inverse=True)
    weight = weight / weight.mean()
    level = np.bincount(judge, weight * deviation) / (np.bincount(judge, weight) + _JUDGE_VOTES)
    square = weight * (deviation - level[judge]) ** 2
    pooled = float(square.mean())
    if pooled <= _ROUNDING * float((weight * deviation**2).mean()):
        return None
    size = np.bincount(judge, square) + _JUDGE_VOTES * pooled
    size /= np.bincount(judge) + _JUDGE_VOTES
    relative = square / size[judge]
    return Ridge().fit(X, np.minimum(relative / relative.mean(), _LARGEST))


def relative_weight(
    scatter: FloatArray, gain: FloatArray, judge: FloatArray, weight: FloatArray, noise: float
) -> tuple[FloatArray, float]:
    r"""Weight of each gold label beside its own, 1/√v over its mean, and what it seems to gain.

    λ is the posterior mean over 0 (beforehand as likely as the others together), 1 and 2, given
    gold gains that are linear in f, by their restricted likelihood, with σ² integrated out
    under a prior worth one label. How gains vary beyond f counts as noise here: few gold labels
    tell it from noise. The likelihood is that of normal labels, to the power 2/(κ − 1) where
    their kurtosis κ is above 3, since the variance of such labels is known that much less well.

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
    weight : array, shape (n,)
        The largest is at most five times the smallest, and the mean weighted by `weight` is 1.
        Ones where gold gains are linear in f, which leaves nothing to learn from.
    seeming_gain : float, at least 1
        Mean squared residual of gold gains beyond f, over its weighted mean: by how much the
        noise seems smaller than that of equal labels.

    References
    ----------
    Davidian and Carroll (1987), Variance function estimation,
    https://doi.org/10.1080/01621459.1987.10478543; Harville (1974), Bayesian inference for
    variance components using only error contrasts, https://doi.org/10.1093/biomet/61.2.383.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> h = np.repeat([0.4, 1.6], 200)
    >>> gain = rng.normal(size=400) * np.sqrt(h)
    >>> w, seeming_gain = relative_weight(h, gain, np.zeros(400), np.ones(400), 1.0)
    >>> w[[0, -1]].round(1).tolist(), round(seeming_gain, 1)
    ([1.3, 0.7], 1.3)
    """
    design = np.stack([np.ones_like(judge), judge], axis=1)
    strength = _strength(scatter, gain, design, weight, noise)
    found = 1.0 / np.sqrt(_variance(scatter, strength))
    found /= np.average(found, weights=weight)
    square = _residual(design, gain, weight * found) ** 2
    weighted = float(square.mean())
    seeming_gain = float((square / found).mean()) / weighted if weighted > 0 else 1.0
    return found, max(seeming_gain, 1.0)


def _variance(scatter: FloatArray, strength: float) -> FloatArray:
    """v, up to a constant."""
    result: FloatArray = np.clip(1.0 + strength * (scatter - 1.0), _LOW, _HIGH)
    return result


def _strength(
    scatter: FloatArray, gain: FloatArray, design: FloatArray, weight: FloatArray, noise: float
) -> float:
    """Posterior mean of λ."""
    tail = _tail(gain, design, weight)
    if tail is None:
        return 0.0
    shapes = [_variance(scatter, each) for each in _STRENGTHS]
    precisions = [weight / (v / v.mean()) for v in shapes]
    log = np.array([_log_likelihood(design, gain, each, noise) for each in precisions])
    chance = _PRIOR * np.exp(tail * (log - log.max()))
    return float(chance @ _STRENGTHS / chance.sum())


def _tail(gain: FloatArray, design: FloatArray, weight: FloatArray) -> float | None:
    """2/(κ − 1), at most 1; None where nothing is left over."""
    residual = _residual(design, gain, weight)
    square = residual**2
    if square.mean() <= _ROUNDING * float((weight * gain**2).mean()):
        return None
    kurtosis = float(((square / square.mean()) ** 2).mean())
    return min(1.0, 2.0 / max(kurtosis - 1.0, 1e-9))


def _residual(design: FloatArray, gain: FloatArray, precision: FloatArray) -> FloatArray:
    root = np.sqrt(precision)
    X, y = design * root[:, None], gain * root
    result: FloatArray = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return result


def _log_likelihood(
    design: FloatArray, gain: FloatArray, precision: FloatArray, noise: float
) -> float:
    """Restricted log likelihood up to a constant."""
    residual = _residual(design, gain, precision)
    values = np.linalg.svd(design * np.sqrt(precision)[:, None], compute_uv=False)
    told = values[values > 1e-9 * values[0]]
    quadratic = float(residual @ residual) + noise
    log_det = 0.5 * float(np.log(precision).sum()) - float(np.log(told).sum())
    return log_det - 0.5 * (len(gain) - len(told) + 1) * float(np.log(quadratic))
