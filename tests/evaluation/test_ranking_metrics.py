"""Curves and areas against loops over permutations and a plain sort."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.evaluation.curves import (
    collected_gain_curve,
    efficiency_gain_curve,
    pgr_curve,
    quality_curve,
)
from metarouter.evaluation.metrics import (
    apgr,
    apgr_grid,
    apgr_statistic,
    cost_saving_ratio,
    cpt,
    cpt_statistic,
    efficiency_gain_area,
    efficiency_gain_area_statistic,
    efficiency_gain_at_statistic,
    folded_area_statistic,
)

Array = NDArray[np.float64]


@st.composite
def ranked(draw: st.DrawFn) -> tuple[Array, Array]:
    """Scores with ties, and gains in {−1, 0, 1}."""
    n = draw(st.integers(2, 30))
    score = draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n))
    gain = draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n))
    return np.array(score, dtype=float), np.array(gain, dtype=float)


def expected_collected(score: Array, gain: Array) -> Array:
    """Mean over all orders of the rows that a stable sort could give, k = 0 … n."""
    curves = [
        np.append(0.0, np.cumsum(gain[list(order)])) / len(gain)
        for order in permutations(range(len(score)))
        if all(score[a] >= score[b] for a, b in pairwise(order))
    ]
    return np.asarray(np.mean(curves, axis=0))


def test_ties_move_in_random_order_on_average() -> None:
    """The curve is the mean over every order that the tied scores allow."""
    score = np.array([2.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    gain = np.array([0.0, 1.0, -1.0, 0.5, 0.0, 1.0])
    curve = collected_gain_curve(score, gain)
    grid = np.arange(7) / 6
    np.testing.assert_allclose(curve.at(grid), expected_collected(score, gain), atol=1e-12)


def test_area_is_the_limit_of_a_riemann_sum() -> None:
    """The exact area over part of the range equals a fine numerical integral."""
    rng = np.random.default_rng(1)
    score, gain = rng.integers(0, 8, 40).astype(float), rng.normal(size=40)
    curve = efficiency_gain_curve(score, gain)
    for low, high in [(0.0, 1.0), (0.2, 0.8), (0.33, 0.34)]:
        middle = low + (np.arange(200_000) + 0.5) / 200_000 * (high - low)
        fine = curve.at(middle).mean() * (high - low)
        assert efficiency_gain_area(score, gain, low, high) == pytest.approx(fine, abs=1e-8)
        assert curve.area(low, high) == pytest.approx(fine, abs=1e-8)


@given(ranked())
def test_efficiency_gain_and_pgr_are_one_curve(data: tuple[Array, Array]) -> None:
    """EG(c) = (PGR(c) − c) · mean gain, and the areas likewise, where there is a gain."""
    score, gain = data
    cheap = np.zeros(len(gain))
    if gain.sum() <= 0:
        assert np.isnan(apgr(score, cheap, gain))
        assert np.isnan(cpt(score, cheap, gain, 0.5))
        return
    grid = np.linspace(0, 1, 17)
    expected = (pgr_curve(score, cheap, gain).at(grid) - grid) * gain.mean()
    np.testing.assert_allclose(efficiency_gain_curve(score, gain).at(grid), expected, atol=1e-12)
    area = efficiency_gain_area(score, gain)
    assert apgr(score, cheap, gain) == pytest.approx(0.5 + area / gain.mean())


@given(ranked())
def test_only_the_order_of_the_scores_counts(data: tuple[Array, Array]) -> None:
    """A strictly increasing transform of the score changes no metric."""
    score, gain = data
    other = np.exp(score / 3) - 7
    assert efficiency_gain_area(score, gain) == efficiency_gain_area(other, gain)
    assert efficiency_gain_area(score, gain, 0.2, 0.8) == efficiency_gain_area(
        other, gain, 0.2, 0.8
    )


@given(ranked())
def test_the_order_of_the_rows_does_not_count(data: tuple[Array, Array]) -> None:
    """Shuffling rows changes nothing beyond rounding."""
    score, gain = data
    order = np.random.default_rng(len(score)).permutation(len(score))
    assert efficiency_gain_area(score[order], gain[order]) == pytest.approx(
        efficiency_gain_area(score, gain), abs=1e-12
    )


@given(ranked())
def test_no_score_beats_the_oracle_or_is_beaten_by_its_reverse(
    data: tuple[Array, Array],
) -> None:
    """The gold gain itself is the best score; its negative has the opposite area."""
    score, gain = data
    best = efficiency_gain_area(gain, gain)
    assert -best - 1e-12 <= efficiency_gain_area(score, gain) <= best + 1e-12
    assert efficiency_gain_area(-score, gain) == pytest.approx(
        -efficiency_gain_area(score, gain), abs=1e-12
    )


def test_a_constant_score_is_a_random_router() -> None:
    """One block of ties has no efficiency gain, APGR 0.5 and CPT(x) = x."""
    cheap, premium = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 1.0])
    score = np.zeros(4)
    assert efficiency_gain_area(score, premium - cheap) == 0.0
    assert apgr(score, cheap, premium) == pytest.approx(0.5)
    assert apgr_grid(score, cheap, premium) == pytest.approx(0.5)
    assert cpt(score, cheap, premium, 0.8) == pytest.approx(0.8)
    assert cost_saving_ratio(score, cheap, premium, 0.8) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "gain",
    [
        np.array([0.1, 0.2, -0.3]),  # the sum is 2.8e-17
        np.array([0.3, -0.1, -0.2]),  # and here −2.8e-17 or 0
        np.array([1.0, -1.0, -0.5]),
        np.zeros(3),
    ],
)
def test_no_share_of_a_gap_that_is_not_there(gain: Array) -> None:
    """A premium model that is equal or worse leaves nothing to recover: NaN, not noise."""
    cheap, score = np.full(3, 0.5), np.array([3.0, 2.0, 1.0])
    premium = cheap + gain
    assert np.isnan(pgr_curve(score, cheap, premium).value).all()
    assert np.isnan(apgr(score, cheap, premium))
    assert np.isnan(apgr_grid(score, cheap, premium))
    assert np.isnan(cpt(score, cheap, premium, 0.5))
    assert np.isnan(cost_saving_ratio(score, cheap, premium, 0.5))


@given(ranked(), st.floats(1e-6, 1e-3))
def test_a_small_gap_is_still_a_gap(data: tuple[Array, Array], size: float) -> None:
    """Scaling all gains down changes no share of them."""
    score, gain = data
    small = apgr(score, np.zeros(len(gain)), size * gain)
    whole = apgr(score, np.zeros(len(gain)), gain)
    np.testing.assert_allclose(small, whole, rtol=1e-6, atol=1e-12)  # a share may be 0


def test_cpt_is_the_first_crossing_of_a_curve_that_comes_back() -> None:
    """PGR 0, 1, 0.5, 1 … : half the gap is first reached on the way up."""
    cheap = np.zeros(4)
    premium = np.array([2.0, -1.0, 0.0, 1.0])
    score = np.array([4.0, 3.0, 2.0, 1.0])
    assert cpt(score, cheap, premium, 0.5) == pytest.approx(0.125)
    assert cpt(score, cheap, premium, 0.0) == 0.0
    assert np.isnan(cpt(score, cheap, premium, 1.5))


def test_quality_runs_from_cheap_to_premium() -> None:
    """Ends of the quality curve are the two models' means."""
    rng = np.random.default_rng(3)
    cheap, premium = rng.random(20), rng.random(20)
    curve = quality_curve(rng.random(20), cheap, premium)
    assert curve.value[0] == pytest.approx(cheap.mean())
    assert curve.value[-1] == pytest.approx(premium.mean())


def routellm_apgr(score: Array, cheap: Array, premium: Array) -> float:
    """RouteLLM's evaluation, as section 2.6 of the methods notes describes it."""
    _, thresholds = pd.qcut(pd.Series(score), 10, retbins=True)
    share, accuracy = [], []
    for position, threshold in enumerate(thresholds):
        last = position == len(thresholds) - 1
        strong = score > threshold if last else score >= threshold
        share.append(strong.mean())
        accuracy.append(np.where(strong, premium, cheap).mean())
    order = np.argsort(share)
    x, y = np.array(share)[order], np.array(accuracy)[order]
    area = float(np.sum((y[1:] + y[:-1]) / 2 * np.diff(x)))
    weak, strong_mean = cheap.mean(), premium.mean()
    return float((area - weak) / (strong_mean - weak))


def test_grid_apgr_is_routellms() -> None:
    """Eleven quantile thresholds and a trapezoid give the same number."""
    rng = np.random.default_rng(5)
    cheap, premium = rng.integers(0, 2, 203), rng.integers(0, 3, 203)
    score = premium - cheap + rng.normal(size=203)
    expected = routellm_apgr(score, cheap.astype(float), premium.astype(float))
    assert apgr_grid(score, cheap, premium) == pytest.approx(expected, abs=1e-12)


def test_weights_are_repetitions() -> None:
    """A weight of 2 on a row gives what the row twice would give, for every metric."""
    rng = np.random.default_rng(6)
    score = rng.integers(0, 6, 25).astype(float)
    cheap, premium = rng.random(25), rng.random(25) + 0.2
    counts = rng.integers(0, 3, 25)
    rows = np.repeat(np.arange(25), counts)
    weights = counts[None, :].astype(float)
    gain = premium - cheap
    area = efficiency_gain_area_statistic(score, gain, 0.2, 0.8)(weights)[0]
    assert area == pytest.approx(efficiency_gain_area(score[rows], gain[rows], 0.2, 0.8))
    repeated = (score[rows], cheap[rows], premium[rows])
    assert apgr_statistic(score, cheap, premium)(weights)[0] == pytest.approx(apgr(*repeated))
    assert cpt_statistic(score, cheap, premium, 0.5)(weights)[0] == pytest.approx(
        cpt(*repeated, 0.5)
    )
    at = efficiency_gain_at_statistic(score, gain, [0.3, 0.6])(weights)[0]
    expected = efficiency_gain_curve(score[rows], gain[rows]).at([0.3, 0.6])
    np.testing.assert_allclose(at, expected, atol=1e-12)


def test_scale_of_the_labels_only_changes_the_unit() -> None:
    """Gains × 3 give areas × 3 and the same APGR and CPT."""
    rng = np.random.default_rng(7)
    score, cheap, premium = rng.random(30), rng.random(30), rng.random(30) + 0.3
    assert efficiency_gain_area(score, 3 * (premium - cheap)) == pytest.approx(
        3 * efficiency_gain_area(score, premium - cheap)
    )
    assert apgr(score, 3 * cheap, 3 * premium) == pytest.approx(apgr(score, cheap, premium))


@pytest.mark.parametrize(
    ("score", "gain", "message"),
    [
        ([], [], "shape"),
        ([1.0, 2.0], [1.0], "1 values for 2 queries"),
        ([np.nan, 1.0], [1.0, 1.0], r"score\[0\] = nan"),
        ([0.0, 1.0], [1.0, np.inf], r"gain\[1\] = inf"),
    ],
)
def test_bad_columns_are_named(score: list[float], gain: list[float], message: str) -> None:
    """The error says which column is wrong, where, and how."""
    with pytest.raises(DataError, match=message):
        collected_gain_curve(score, gain)


def test_ranges_are_checked() -> None:
    """An empty or reversed range of shares is refused."""
    with pytest.raises(OptionError, match="low, high"):
        efficiency_gain_area([1.0], [1.0], 0.8, 0.2)


def test_the_area_within_folds_is_their_mean_by_weight() -> None:
    """Ranks of other folds do not matter, nor does a fold that a resample left out."""
    rng = np.random.default_rng(5)
    score, gain, fold = rng.normal(size=40), rng.normal(size=40), np.arange(40) % 4
    weights = rng.integers(0, 3, size=(3, 40)).astype(np.float64)
    weights[1, fold == 2] = 0.0
    found = folded_area_statistic(score, gain, fold)(weights)
    for row, value in zip(weights, found, strict=True):
        total = 0.0
        for k in range(4):
            repeats = np.repeat(np.flatnonzero(fold == k), row[fold == k].astype(int))
            if len(repeats):
                total += len(repeats) * efficiency_gain_area(score[repeats], gain[repeats])
        assert value == pytest.approx(total / row.sum())
    moved = folded_area_statistic(score + 7.0 * fold, gain, fold)(weights)
    np.testing.assert_allclose(moved, found)
