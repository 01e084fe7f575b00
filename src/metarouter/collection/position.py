"""How much a judge's verdicts depend on the order of the responses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from metarouter.collection.verdicts import Verdict

__all__ = ["OrderedPair", "PositionReport", "Share", "position_report"]

_LEVEL = 0.95
_FIRST: Mapping[Verdict, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderedPair:
    """Verdicts by position on one pair in its two orders; pairs of a query share `cluster`."""

    cluster: str
    forward: Verdict
    backward: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share with its 95 % interval; NaN without data."""

    value: float
    low: float
    high: float

    def to_text(self) -> str:
        """Per cent with the interval."""
        value, low, high = (f"{100 * x:.1f}" for x in (self.value, self.low, self.high))
        return f"{value} % [{low}, {high}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionReport:
    """Position bias of a judge over pairs judged in both orders.

    Attributes
    ----------
    n_pairs : pairs with two readable verdicts.
    n_queries : queries that they are about, the units of the intervals.
    flips : share of pairs in which the judge prefers one response in one order
        and the other in the other: the position decided.
    softened : share in which one order is a tie and the other is not.
    first_preference : share of verdicts for the response in first place, a tie
        counting half; 0.5 is no preference.
    """

    n_pairs: int
    n_queries: int
    flips: Share
    softened: Share
    first_preference: Share

    def to_record(self) -> dict[str, Any]:
        """Flat values for machine output."""
        record: dict[str, Any] = {"n_pairs": self.n_pairs, "n_queries": self.n_queries}
        for name in ("flips", "softened", "first_preference"):
            share: Share = getattr(self, name)
            record |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
        return record

    def to_text(self) -> str:
        """Two sentences for people."""
        return (
            f"position bias over {self.n_pairs} pairs: the other response is preferred when the "
            f"order is swapped in {self.flips.to_text()}, a tie appears or goes in "
            f"{self.softened.to_text()}. The response in first place is preferred in "
            f"{self.first_preference.to_text()} (50 % is no bias)"
        )


def position_report(pairs: Sequence[OrderedPair]) -> PositionReport:
    """Estimate the position bias from verdicts in both orders.

    Parameters
    ----------
    pairs : verdicts on pairs; those of one query may depend on each other.

    Returns
    -------
    PositionReport

    Notes
    -----
    Each share is the mean of a value in [0, 1] over pairs. Its variance is the
    cluster-robust one over G queries: with residual sums e_g of query g,
    v = G/(G−1) · Σ e_g² / n². The interval is Wilson's with the effective number
    of pairs p(1−p)/v, at most G when the residuals do not vary; so it stays in
    [0, 1] and is not empty at a share of 0 or 1.

    References
    ----------
    Wilson (1927), https://doi.org/10.1080/01621459.1927.10502953;
    Zheng et al. (2023), position bias of judges, https://arxiv.org/abs/2306.05685

    Examples
    --------
    >>> pairs = [OrderedPair(cluster=str(i), forward="A", backward="B") for i in range(8)]
    >>> pairs += [OrderedPair(cluster=str(i), forward="A", backward="A") for i in range(8, 10)]
    >>> report = position_report(pairs)
    >>> report.flips.value, report.first_preference.value
    (0.2, 0.6)
    """
    clusters = [pair.cluster for pair in pairs]
    verdicts = [(pair.forward, pair.backward) for pair in pairs]
    return PositionReport(
        n_pairs=len(pairs),
        n_queries=len(set(clusters)),
        # the same position twice is the other response twice
        flips=_share([float(f == b != "tie") for f, b in verdicts], clusters),
        softened=_share([float((f == "tie") != (b == "tie")) for f, b in verdicts], clusters),
        first_preference=_share([(_FIRST[f] + _FIRST[b]) / 2.0 for f, b in verdicts], clusters),
    )


def _share(values: Sequence[float], clusters: Sequence[str]) -> Share:
    n, n_clusters = len(values), len(set(clusters))
    if n == 0:
        return Share(value=math.nan, low=math.nan, high=math.nan)
    p = math.fsum(values) / n
    sums: dict[str, float] = dict.fromkeys(clusters, 0.0)
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] += value - p
    squares = math.fsum(total**2 for total in sums.values())
    variance = n_clusters / max(n_clusters - 1, 1) * squares / n**2
    size = p * (1 - p) / variance if variance > 0 and 0 < p < 1 else float(n_clusters)
    low, high = _wilson(p, size)
    return Share(value=p, low=low, high=high)


def _wilson(p: float, n: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)
