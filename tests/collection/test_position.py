"""The position report against its formulas, and its intervals against known truth."""

from __future__ import annotations

import math
import random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.collection.position import OrderedPair, position_report
from metarouter.collection.verdicts import Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def _pair(cluster: str, forward: Verdict, backward: Verdict) -> OrderedPair:
    return OrderedPair(cluster=cluster, forward=forward, backward=backward)


@pytest.mark.parametrize(
    ("forward", "backward", "flip", "soft", "first"),
    [
        ("A", "B", 0, 0, 0.5),  # the same response both times
        ("B", "A", 0, 0, 0.5),
        ("A", "A", 1, 0, 1.0),  # the first place both times
        ("B", "B", 1, 0, 0.0),
        ("tie", "tie", 0, 0, 0.5),
        ("A", "tie", 0, 1, 0.75),
        ("tie", "B", 0, 1, 0.25),
    ],
)
def test_each_pair_of_verdicts_counts_as_what_it_is(
    forward: Verdict, backward: Verdict, flip: float, soft: float, first: float
) -> None:
    report = position_report([_pair("q", forward, backward)])
    values = (report.flips.value, report.softened.value, report.first_preference.value)
    assert values == (flip, soft, first)


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)),
        min_size=2,
        max_size=40,
    )
)
def test_intervals_are_the_clustered_wilson_ones(
    rows: list[tuple[int, Verdict, Verdict]],
) -> None:
    """Recomputed straight from the formula with arrays."""
    report = position_report([_pair(str(c), f, b) for c, f, b in rows])
    points = {"A": 1.0, "tie": 0.5, "B": 0.0}
    y = np.array([(points[f] + points[b]) / 2 for _, f, b in rows])
    cluster = np.array([c for c, _, _ in rows])
    p, n_clusters = y.mean(), len(np.unique(cluster))
    sums = np.array([(y - p)[cluster == c].sum() for c in np.unique(cluster)])
    v = n_clusters / max(n_clusters - 1, 1) * (sums**2).sum() / len(y) ** 2
    n = p * (1 - p) / v if v > 1e-15 and 0 < p < 1 else n_clusters
    z = 1.959963984540054
    root = math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((p + z * z / (2 * n) + s * z * root) / (1 + z * z / n) for s in (-1, 1))
    share = report.first_preference
    if v > 1e-15 or v == 0:
        assert share.value == pytest.approx(p)
        assert share.low == pytest.approx(max(0, low), abs=1e-9)
        assert share.high == pytest.approx(min(1, high), abs=1e-9)
    assert 0 <= share.low <= share.value <= share.high <= 1


def test_nothing_judged_is_nan() -> None:
    report = position_report([])
    assert report.n_pairs == 0
    assert math.isnan(report.flips.value)


def test_intervals_cover_the_true_preference_of_a_judge_with_several_pairs_a_query() -> None:
    """400 judges, 60 queries of 1 to 6 pairs, verdicts that depend within a query: about 95 %."""
    rng = random.Random(7)
    covered = 0
    for _ in range(400):
        pairs = []
        for query in range(60):
            # the judge's liking for the first place differs by query and is 0.65 on average
            liking = 0.35 if rng.random() < 0.3 else 0.65 + 0.3 * 0.3 / 0.7
            for _ in range(rng.randint(1, 6)):
                forward, backward = ("A" if rng.random() < liking else "B" for _ in range(2))
                pairs.append(_pair(str(query), forward, backward))  # type: ignore[arg-type]
        mean = 0.3 * 0.35 + 0.7 * (0.65 + 0.3 * 0.3 / 0.7)
        share = position_report(pairs).first_preference
        covered += share.low <= mean <= share.high
    assert 0.92 <= covered / 400 <= 0.98
