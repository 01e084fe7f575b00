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
from metarouter.store.analytics import ShareSums
from metarouter.store.offpolicy import t_quantile
from metarouter.types import FloatArray

__all__ = [
    "PremiumCost",
    "clustered_share",
    "finite",
    "premium_cost",
    "saving_share",
    "share_estimate",
]

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
    return _wilson(count / n, n, NormalDist().inv_cdf(0.5 + level / 2), n, level)


def clustered_share(sums: ShareSums, level: float = 0.95) -> Estimate | None:
    """The premium share of requests whose conversations are independent; None of nothing.

    Parameters
    ----------
    sums : ShareSums
    level : float, default 0.95

    Returns
    -------
    Estimate or None
        `n` counts conversations.

    Notes
    -----
    Wilson's interval with the number of independent requests that the N requests of G
    conversations are worth, ``p(1−p)/V`` and at most N, in the place of n, where
    ``V = G/(G−1) Σ_g (k_g − p n_g)² / N²``, and with Student's quantile of G − 1 degrees
    of freedom in the place of the normal one. Where all or none are premium, V is 0 and
    says nothing; they are then worth ``N²/Σ n_g²``, as if each conversation spoke once.

    References
    ----------
    Korn & Graubard (1998), "Confidence Intervals for Proportions With Small Expected
    Number of Positive Counts Estimated From Survey Data", Survey Methodology 24(2).

    Examples
    --------
    >>> sums = {"bucket": 0, "requests": 20, "premium": 0, "crossed": 0, "premium_squares": 0}
    >>> alone = clustered_share(ShareSums(units=20, squares=20, **sums))
    >>> four_each = clustered_share(ShareSums(units=5, squares=80, **sums))
    >>> round(alone.high, 2), round(four_each.high, 2)
    (0.16, 0.61)
    """
    n, units = sums.requests, sums.units
    if units == n:
        return share_estimate(sums.premium, n, level)
    p = sums.premium / n
    spread = sums.premium_squares - 2 * p * sums.crossed + p * p * sums.squares
    worth = n * n / sums.squares
    if units > 1 and spread > 0:
        worth = min(float(n), p * (1 - p) * (units - 1) / units * n * n / spread)
    return _wilson(p, worth, t_quantile(0.5 + level / 2, max(units - 1, 1)), units, level)


def _wilson(p: float, worth: float, z: float, n: int, level: float) -> Estimate:
    """Wilson's interval of a share that `worth` independent requests tell."""
    centre = p + z * z / (2 * worth)
    half = z * math.sqrt(p * (1 - p) / worth + z * z / (4 * worth * worth))
    scale = 1 + z * z / worth
    return Estimate(
        value=p,
        std_error=math.sqrt(p * (1 - p) / worth),
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
    effective_n : answers of the premium model that the estimate is worth.
    n : requests.
    """

    spent: float
    always: float
    variance: float
    effective_n: float
    n: int


def premium_cost(
    spent: ArrayLike, expected: ArrayLike, is_premium: ArrayLike, chance: ArrayLike
) -> PremiumCost:
    """Dollars that requests would have cost, had the premium model answered them all.

    Those that it answered cost what they did. The others are expected to cost
    `r` dollars for each unit of cost that the policy expected of the premium
    model for them, where `r` is what it took on requests that it answered.

    Of requests that the premium model had a chance to answer, `r` is learned from
    those that it answered by chance, weighted so that they stand for those that
    it did not: no assumption is needed but that the chances are right. For
    requests that it had no chance to answer, `r` is that of all that it did
    answer; this assumes that requests kept from it differ from those in their
    expected cost and in nothing else that makes answers dearer.

    Parameters
    ----------
    spent : array, shape (n,); dollars.
    expected : array, shape (n,)
        Expected cost of the premium model, above 0, in the policy's unit.
    is_premium : bool array, shape (n,); whether the premium model answered.
    chance : array, shape (n,), in [0, 1]
        Probability with which the premium model was to answer; 1 or 0 where
        nothing was left to chance.

    Returns
    -------
    PremiumCost

    Raises
    ------
    DataError
        When the premium model answered fewer than two of the requests.

    Notes
    -----
    Let P be the requests that it answered, U those that it had a chance p to
    answer and did not, V those that it had none to, x expected costs and s
    dollars. A request of P stands for ω = (1−p)/p of U. With
    ``r_U = Σ_P ωs / Σ_P ωx`` and ``r_V = Σ_P s / Σ_P x``,
    ``always = Σ_P s + r_U Σ_U x + r_V Σ_V x``. By the delta method a request of P adds
    ``h = (Σ_U x) ω(s − r_U x) / Σ_P ωx + (Σ_V x) (s − r_V x) / Σ_P x`` to its
    error, so the variance is ``n/(n−1) Σ_P h²``; the noise of the unseen answers
    themselves adds ``σ² Σ x²`` over U and V, with σ² the mean of
    ((s − r_V x)/x)²: noise grows with the cost, as that of lengths does.

    References
    ----------
    Cochran (1977), "Sampling Techniques", 3rd ed., chapter 6 (ratio estimates).
    Hirano, Imbens & Ridder (2003), Econometrica 71(4),
    https://doi.org/10.1111/1468-0262.00442 (weights for those not treated).

    Examples
    --------
    >>> found = premium_cost([2.0, 4.0, 0.1], [1.0, 2.0, 3.0], [True, True, False], [1, 1, 0])
    >>> round(found.always, 6), found.variance
    (12.0, 0.0)
    """
    s, x = np.asarray(spent, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    premium, p = np.asarray(is_premium, dtype=np.bool_), np.asarray(chance, dtype=np.float64)
    own_s, own_x, n = s[premium], x[premium], int(premium.sum())
    if n < 2:
        raise DataError(f"the premium model answered {n} of {len(s)} requests: too few to go by")
    odds = (1 - p[premium]) / p[premium]
    by_chance = ~premium & (p > 0)
    if not odds.any():  # nothing was answered by chance
        odds, by_chance = np.ones(n), np.zeros(len(s), dtype=np.bool_)
    drawn_x, kept_x = float(x[by_chance].sum()), float(x[~premium & ~by_chance].sum())
    drawn, kept = _ratio(own_s, own_x, odds), _ratio(own_s, own_x, np.ones(n))
    error = drawn_x * drawn.influence + kept_x * kept.influence
    noise = float(((own_s / own_x - kept.value) ** 2).mean()) * float((x[~premium] ** 2).sum())
    return PremiumCost(
        spent=float(s.sum()),
        always=float(own_s.sum()) + drawn.value * drawn_x + kept.value * kept_x,
        variance=n / (n - 1) * float((error**2).sum()) + noise,
        effective_n=float(odds.sum() ** 2 / (odds**2).sum()) if drawn_x else float(n),
        n=len(s),
    )


@dataclass(frozen=True, slots=True)
class _Ratio:
    """A weighted ratio of sums, and what each row adds to its error, shape (n,)."""

    value: float
    influence: FloatArray


def _ratio(above: FloatArray, below: FloatArray, weight: FloatArray) -> _Ratio:
    total = float(weight @ below)
    value = float(weight @ above) / total
    return _Ratio(value, weight * (above - value * below) / total)


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
    >>> part = PremiumCost(spent=2.0, always=10.0, variance=0.25, effective_n=40, n=100)
    >>> found = saving_share([part])
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.8, 0.78, 0.82)
    """
    spent, always = sum(c.spent for c in costs), sum(c.always for c in costs)
    if always <= 0:
        return None
    error = spent / always**2 * math.sqrt(sum(c.variance for c in costs))
    half = NormalDist().inv_cdf(0.5 + level / 2) * error
    fewest = min(c.effective_n for c in costs)
    doubt = f"what the premium model takes is known from {fewest:.0f} answers: a rough interval"
    return Estimate(
        value=1 - spent / always,
        std_error=error,
        low=1 - spent / always - half,
        high=1 - spent / always + half,
        n=sum(c.n for c in costs),
        level=level,
        warnings=(doubt,) if fewest < _FEW else (),
    )


def finite(values: Sequence[float | None]) -> FloatArray:
    """Values as an array, NaN where there is none."""
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)
