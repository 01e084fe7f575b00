"""Do the two sources meet: weights, separability and what they warn of."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from metarouter.errors import DataError
from metarouter.records import Estimate
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = [
    "OverlapReport",
    "crump_threshold",
    "effective_sample_size",
    "estimate_auc",
    "report_overlap",
]

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# Each limit is a convention, not a test: they decide when a sentence is written.
_LOW_ESS_SHARE = 0.2
_SEPARABLE_AUC = 0.9
_EXTREME_SHARE = 0.05  # share of rows clipped or trimmed


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapReport:
    """How far the two sources cover the same x.

    Attributes
    ----------
    n_treated, n_control : rows of each source.
    low, high : smallest and largest propensity before clipping.
    quantiles : pairs (probability, propensity).
    ess_treated, ess_control : effective sample sizes after weighting each
        source to the pooled rows with the propensities in use.
    auc : how well x tells the sources apart, 0.5 not at all, 1 fully, with a
        DeLong interval. Out-of-fold when the propensity was estimated.
    n_clipped, n_trimmed : rows whose propensity was clipped, rows left out.
    warnings : plain sentences, empty when nothing is wrong.
    """

    n_treated: int
    n_control: int
    low: float
    high: float
    quantiles: tuple[tuple[float, float], ...]
    ess_treated: float
    ess_control: float
    auc: Estimate
    n_clipped: int
    n_trimmed: int
    warnings: tuple[str, ...] = ()


def effective_sample_size(weight: FloatArray) -> float:
    """Kish's effective number of rows, ``(Σw)² / Σw²``; n when all are equal.

    References
    ----------
    Kish (1965), Survey Sampling, Wiley.

    Examples
    --------
    >>> effective_sample_size(np.array([1.0, 1.0, 2.0])).__round__(2)
    2.67
    """
    total = float((weight**2).sum())
    return float(weight.sum()) ** 2 / total if total > 0 else 0.0


def estimate_auc(score: FloatArray, t: BoolArray, level: float = 0.95) -> Estimate:
    """Area under the ROC curve of a score for t = 1, with DeLong's interval.

    Parameters
    ----------
    score : array, shape (n,)
    t : bool array, shape (n,), with both values present
    level : float in (0, 1), default 0.95

    Returns
    -------
    Estimate
        Ties count one half; the interval is cut to [0, 1].

    Raises
    ------
    DataError
        When one of the sources is absent.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson (1988), https://doi.org/10.2307/2531595.

    Examples
    --------
    >>> estimate_auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])).value
    0.875
    """
    n1, n0 = int(t.sum()), int((~t).sum())
    if n1 == 0 or n0 == 0:
        raise DataError(f"an AUC needs rows of both sources, got {n1} and {n0}")
    rank = _midrank(score)
    # For a treated row: the share of controls below it; for a control: of treated above it.
    place1 = (rank[t] - _midrank(score[t])) / n0
    place0 = 1 - (rank[~t] - _midrank(score[~t])) / n1
    value = float(place1.mean())
    variance = sum(float(p.var(ddof=1)) / len(p) for p in (place1, place0) if len(p) > 1)
    half = NormalDist().inv_cdf(0.5 + level / 2) * variance**0.5
    return Estimate(
        value=value,
        std_error=variance**0.5,
        low=max(value - half, 0.0),
        high=min(value + half, 1.0),
        n=n1 + n0,
        level=level,
    )


def crump_threshold(e: FloatArray) -> float:
    """The α whose range [α, 1 − α] minimises the variance of the mean effect.

    Parameters
    ----------
    e : array, shape (n,), strictly inside (0, 1)

    Returns
    -------
    float in [0, 0.5); 0 when no row should be left out.

    Notes
    -----
    With k = 1 / (e (1 − e)), the optimal set keeps ``k ≤ γ`` for the γ that
    solves ``γ = 2 · mean(k | k ≤ γ)``, and α = 1/2 − √(1/4 − 1/γ). When the
    largest k is at most twice the mean, all rows stay.

    References
    ----------
    Crump, Hotz, Imbens and Mitnik (2009), Dealing with limited overlap in
    estimation of average treatment effects, https://doi.org/10.1093/biomet/asn055.

    Examples
    --------
    >>> crump_threshold(np.full(10, 0.02))
    0.0
    """
    k = np.sort(1 / (e * (1 - e)))
    bound = 2 * np.cumsum(k) / np.arange(1, len(k) + 1)
    if k[-1] <= bound[-1]:
        return 0.0
    # The last k inside twice the mean of those up to it: γ lies just above.
    gamma = float(bound[np.flatnonzero(k <= bound)[-1]])
    return 0.5 - float(np.sqrt(0.25 - 1 / gamma))


def report_overlap(
    t: BoolArray, *, raw: FloatArray, used: FloatArray, kept: BoolArray, n_clipped: int
) -> OverlapReport:
    """Summarise propensities before (`raw`) and after (`used`) clipping and trimming."""
    treated, control = t & kept, ~t & kept
    parts = {
        "n_treated": int(t.sum()),
        "n_control": int((~t).sum()),
        "ess_treated": effective_sample_size(1 / used[treated]),
        "ess_control": effective_sample_size(1 / (1 - used[control])),
        "n_clipped": n_clipped,
        "n_trimmed": int((~kept).sum()),
    }
    auc = estimate_auc(raw, t)
    return OverlapReport(
        **parts,  # type: ignore[arg-type]
        low=float(raw.min()),
        high=float(raw.max()),
        quantiles=tuple((q, float(np.quantile(raw, q))) for q in _QUANTILES),
        auc=auc,
        warnings=_warnings(auc=auc, n=len(t), **parts),  # type: ignore[arg-type]
    )


def _warnings(
    *,
    auc: Estimate,
    n: int,
    n_treated: int,
    n_control: int,
    ess_treated: float,
    ess_control: float,
    n_clipped: int,
    n_trimmed: int,
) -> tuple[str, ...]:
    found = []
    if auc.low > _SEPARABLE_AUC:
        found.append(
            f"The sources are almost separable (AUC {auc.value:.2f}): where only one of them "
            "has rows, the effect is extrapolated."
        )
    for name, rows, ess in ((1, n_treated, ess_treated), (0, n_control, ess_control)):
        if ess < _LOW_ESS_SHARE * rows:
            found.append(
                f"The {rows} rows of source {name} weigh no more than {ess:.0f} independent ones: "
                "a few rows with extreme propensities decide the result."
            )
    for verb, count in (("clipped", n_clipped), ("left out", n_trimmed)):
        if count > _EXTREME_SHARE * n:
            found.append(f"{count} of {n} rows had extreme propensities and were {verb}.")
    return tuple(found)


def _midrank(score: FloatArray) -> FloatArray:
    """One-based ranks, ties sharing their mean."""
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    last: IntArray = np.cumsum(count)
    rank: FloatArray = (last - (count - 1) / 2)[inverse]
    return rank
