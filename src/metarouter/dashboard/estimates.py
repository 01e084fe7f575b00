"""Numbers with intervals that the pages show: shares, and what always the premium model would cost.

Arrays in, frozen values out; means are :func:`metarouter.store.offpolicy.clustered_mean`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from metarouter.errors import DataError
from metarouter.records import Estimate
from metarouter.types import FloatArray

__all__ = ["PremiumCost", "finite", "premium_cost", "saving_share", "share_estimate"]

_FEW = 30  # served by the premium model: fewer make a normal interval doubtful


def share_estimate(count: int, n: int, level: float = 0.95) -> Estimate | None:
    """A share of independent requests with Wilson's interval; None of nothing.

    Parameters
    ----------
    count, n : int, ``0 <= count <= n``
    level : float, default 0.95

    Notes
    -----
    With p = count/n and z the normal quantile, the interval is
    ``(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)``. It has width at
    p = 0 and p = 1, where the usual one has none.

    References
    ----------
    Wilson (1927), "Probable Inference, the Law of Succession, and Statistical
    Inference", JASA 22(158), https://doi.org/10.1080/01621459.1927.10502953.

    Examples
    --------
    >>> found = share_estimate(0, 20)
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.0, 0.0, 0.161)
    """
    if n == 0:
        return None
    z, p = NormalDist().inv_cdf(0.5 + level / 2), count / n
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Estimate(
        value=p,
        std_error=math.sqrt(p * (1 - p) / n),
        low=max(0.0, (centre - half) / scale),
        high=min(1.0, (centre + half) / scale),
        n=n,
        level=level,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PremiumCost:
    """What one policy's requests would have cost, all at its premium model.

    Attributes
    ----------
    spent : dollars that they did cost.
    always : dollars that they would have cost.
    variance : of `always`, in dollars².
    served : requests that the premium model did answer.
    others : requests that it did not.
    """

    spent: float
    always: float
    variance: float
    served: int
    others: int


def premium_cost(
    spent: ArrayLike, expected: ArrayLike, is_premium: ArrayLike, chance: ArrayLike
) -> PremiumCost:
    """Dollars that requests would have cost, had the premium model answered them all.

    Those that it answered cost what they did. The others are expected to cost
    `r` dollars for each unit of cost that the policy expected of the premium
    model for them, where `r` is what it took on the requests that it answered.
    Assumes that `r` is the same for both kinds of requests: that they differ
    in their expected cost and in nothing else that makes answers dearer. Where
    the model was drawn with a known chance, requests are weighted by its
    inverse, and random draws make the assumption true.

    Parameters
    ----------
    spent : array, shape (n,); dollars.
    expected : array, shape (n,)
        Expected cost of the premium model, above 0, in the policy's unit.
    is_premium : bool array, shape (n,); whether the premium model answered.
    chance : array, shape (n,), in (0, 1]
        Probability with which what was chosen was chosen.

    Returns
    -------
    PremiumCost

    Raises
    ------
    DataError
        When the premium model answered fewer than two of the requests.

    Notes
    -----
    With weights ωᵢ = 1/chanceᵢ over the requests P that it answered, U the
    others, x the expected costs and s the dollars,
    ``r = Σ_P ωs / Σ_P ωx`` and ``always = Σ_P s + r Σ_U x``. Its variance by
    the delta method is ``(Σ_U x)² · n/(n−1) · Σ_P ω²(s − rx)² / (Σ_P ωx)²``, and
    the noise of the unseen answers themselves adds ``σ² Σ_U x²`` with σ² the
    mean of ((s − rx)/x)²: noise grows with the cost, as that of lengths does.

    References
    ----------
    Cochran (1977), "Sampling Techniques", 3rd ed., chapter 6 (ratio estimates).

    Examples
    --------
    >>> found = premium_cost([2.0, 4.0, 0.1], [1.0, 2.0, 3.0], [True, True, False], [1, 1, 1])
    >>> round(found.always, 6), found.variance
    (12.0, 0.0)
    """
    s, x = np.asarray(spent, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    premium = np.asarray(is_premium, dtype=np.bool_)
    weight = 1.0 / np.asarray(chance, dtype=np.float64)[premium]
    own_s, own_x, other_x = s[premium], x[premium], x[~premium]
    n = len(own_s)
    if n < 2:
        raise DataError(f"the premium model answered {n} of {len(s)} requests: too few to go by")
    denominator = float(weight @ own_x)
    ratio = float(weight @ own_s) / denominator
    residual = own_s - ratio * own_x
    of_ratio = n / (n - 1) * float(((weight * residual) ** 2).sum()) / denominator**2
    of_answers = float(((residual / own_x) ** 2).mean()) * float((other_x**2).sum())
    return PremiumCost(
        spent=float(s.sum()),
        always=float(own_s.sum()) + ratio * float(other_x.sum()),
        variance=float(other_x.sum()) ** 2 * of_ratio + of_answers,
        served=n,
        others=len(other_x),
    )


def saving_share(costs: Sequence[PremiumCost], level: float = 0.95) -> Estimate | None:
    """Share of dollars saved against always the premium model, over several policies.

    Parameters
    ----------
    costs : sequence of PremiumCost, of disjoint requests.
    level : float, default 0.95

    Returns
    -------
    Estimate or None
        None when always the premium model would have cost nothing.

    Notes
    -----
    ``1 − S/A`` for S dollars spent and A = Σ always; its standard error is
    ``S/A² √(Σ variance)``. What was spent is known: only A is estimated.

    Examples
    --------
    >>> part = PremiumCost(spent=2.0, always=10.0, variance=0.25, served=40, others=60)
    >>> found = saving_share([part])
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.8, 0.78, 0.82)
    """
    spent, always = sum(c.spent for c in costs), sum(c.always for c in costs)
    if always <= 0:
        return None
    error = spent / always**2 * math.sqrt(sum(c.variance for c in costs))
    half = NormalDist().inv_cdf(0.5 + level / 2) * error
    fewest = min(c.served for c in costs)
    doubt = f"the premium model of a policy answered only {fewest} requests: a rough interval"
    return Estimate(
        value=1 - spent / always,
        std_error=error,
        low=1 - spent / always - half,
        high=1 - spent / always + half,
        n=sum(c.served + c.others for c in costs),
        level=level,
        warnings=(doubt,) if fewest < _FEW else (),
    )


def finite(values: Sequence[float | None]) -> FloatArray:
    """Values as an array, NaN where there is none."""
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)
