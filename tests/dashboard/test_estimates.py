"""Shares and savings: formulas against straight-line versions, and against known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from metarouter.dashboard.estimates import (
    PremiumCost,
    clustered_share,
    premium_cost,
    saving_share,
    share_estimate,
)
from metarouter.errors import DataError
from metarouter.store.analytics import ShareSums

Z = 1.959963984540054


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_ends_of_a_share_are_where_a_test_of_it_turns(n: int, share: float) -> None:
    """Wilson's ends solve |p̂ − p| = z √(p(1−p)/n), the score test's edge."""
    found = share_estimate(round(share * n), n)
    assert found is not None
    for end in (found.low, found.high):
        if 1e-9 < end < 1 - 1e-9:  # at 0 and 1 the score is not defined
            edge = Z * math.sqrt(end * (1 - end) / n)
            assert abs(found.value - end) == pytest.approx(edge, abs=1e-9)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1


def test_there_is_no_share_of_nothing() -> None:
    assert share_estimate(0, 0) is None


def _sums(counts: NDArray[np.int64], dear: NDArray[np.int64]) -> ShareSums:
    """Of conversations with so many requests, so many of them premium."""
    return ShareSums(
        bucket=0,
        units=len(counts),
        requests=int(counts.sum()),
        premium=int(dear.sum()),
        squares=int((counts * counts).sum()),
        crossed=int((counts * dear).sum()),
        premium_squares=int((dear * dear).sum()),
    )


def test_conversations_of_one_request_are_independent_requests() -> None:
    ones = np.ones(30, dtype=np.int64)
    assert clustered_share(_sums(ones, (np.arange(30) < 9).astype(np.int64))) == share_estimate(
        9, 30
    )


def test_a_share_of_conversations_is_worth_what_a_plain_loop_says() -> None:
    """The standard error is that of means over conversations, squared residuals summed."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, 25)
    dear = rng.binomial(counts, rng.beta(0.5, 0.5, 25))
    found = clustered_share(_sums(counts, dear))
    assert found is not None
    n, p = counts.sum(), dear.sum() / counts.sum()
    squares = sum((k - p * m) ** 2 for m, k in zip(counts, dear, strict=True))
    assert found.n == 25
    assert found.value == pytest.approx(p)
    assert found.std_error == pytest.approx(math.sqrt(25 / 24 * squares) / n)


@pytest.mark.parametrize("conversations", [5, 20, 50])
@pytest.mark.parametrize("alike", [0.5, 0.95])
def test_intervals_of_a_share_hold_it_where_turns_are_alike(
    conversations: int, alike: float
) -> None:
    """In 90 to 99 of a hundred logs; the interval for independent requests in 85 at most."""
    rng = np.random.default_rng(2)
    held, held_plain, runs = 0, 0, 1000
    for _ in range(runs):
        counts = rng.geometric(0.25, conversations)
        scale = (1 - alike) / alike
        chance = rng.beta(0.3 * scale, 0.7 * scale, conversations)
        dear = rng.binomial(counts, chance)
        found = clustered_share(_sums(counts, dear))
        plain = share_estimate(int(dear.sum()), int(counts.sum()))
        assert found is not None
        assert plain is not None
        held += found.low <= 0.3 <= found.high
        held_plain += plain.low <= 0.3 <= plain.high
    assert 0.90 <= held / runs <= 0.99
    assert held_plain / runs < 0.85


def test_cost_of_always_premium_is_that_of_a_plain_loop() -> None:
    """The same numbers from a straight-line version of the formulas."""
    rng = np.random.default_rng(0)
    n = 40
    expected = rng.uniform(1, 3, n)
    chance = np.where(np.arange(n) < 10, 0.0, rng.uniform(0.2, 0.9, n))
    is_premium = rng.random(n) < chance
    spent = np.where(is_premium, 2 * expected * rng.lognormal(0, 0.3, n), 0.1)
    found = premium_cost(spent, expected, is_premium, chance)

    own = [
        (s, x, (1 - p) / p)
        for s, x, a, p in zip(spent, expected, is_premium, chance, strict=True)
        if a
    ]
    drawn_x = sum(
        x for x, a, p in zip(expected, is_premium, chance, strict=True) if not a and p > 0
    )
    kept_x = sum(x for x, p in zip(expected, chance, strict=True) if p == 0)
    squares = sum(x * x for x, a in zip(expected, is_premium, strict=True) if not a)
    weighted_x = sum(w * x for _, x, w in own)
    plain_x = sum(x for _, x, _ in own)
    drawn = sum(w * s for s, _, w in own) / weighted_x
    kept = sum(s for s, _, _ in own) / plain_x
    errors = noise = 0.0
    for s, x, w in own:
        from_drawn = drawn_x * w * (s - drawn * x) / weighted_x
        errors += (from_drawn + kept_x * (s - kept * x) / plain_x) ** 2
        noise += (s / x - kept) ** 2 / len(own)
    total = sum(s for s, _, _ in own) + drawn * drawn_x + kept * kept_x
    assert found.always == pytest.approx(total)
    assert found.variance == pytest.approx(len(own) / (len(own) - 1) * errors + noise * squares)
    assert found.effective_n == pytest.approx(
        sum(w for _, _, w in own) ** 2 / sum(w * w for _, _, w in own)
    )


def test_one_premium_answer_is_too_few() -> None:
    with pytest.raises(DataError, match="answered 1 of 3"):
        premium_cost([1, 2, 3], [1, 1, 1], [True, False, False], [1, 1, 1])


def _world(rng: np.random.Generator, chance: NDArray[np.float64]) -> tuple[PremiumCost, float]:
    """A log of one policy, and what always premium would really have cost."""
    n = len(chance)
    x = rng.uniform(0.5, 2, n)
    dollars = 0.004 * x * rng.lognormal(-0.125, 0.5, n)  # what the premium model would take
    is_premium = rng.random(n) < chance
    spent = np.where(is_premium, dollars, dollars / 30)
    return premium_cost(spent, x, is_premium, chance), float(dollars.sum())


@pytest.mark.parametrize("kind", ["drawn alike", "drawn unlike", "not drawn"])
def test_the_interval_holds_the_true_saving_as_often_as_it_says(kind: str) -> None:
    """95 % intervals of the saving cover the unseen truth in 90 to 99 of 100 worlds."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        drawn = rng.random(300) < 0.5
        chance = {
            "drawn alike": np.full(300, 0.4),
            "drawn unlike": np.where(drawn, 0.8, 0.2),
            "not drawn": drawn.astype(np.float64),
        }[kind]
        cost, truth = _world(rng, chance)
        found = saving_share([cost])
        assert found is not None
        held += found.low <= 1 - cost.spent / truth <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_chances_undo_a_choice_that_goes_with_how_dear_an_answer_is() -> None:
    """Where dear answers are drawn more often, known chances find the truth that others miss."""
    rng = np.random.default_rng(2)
    n = 20_000
    hidden = rng.random(n) < 0.5  # twice as dear as the policy expects
    dollars = np.where(hidden, 2.0, 1.0)
    chance = np.where(hidden, 0.8, 0.2)
    is_premium = rng.random(n) < chance
    spent = np.where(is_premium, dollars, 0.0)
    known = premium_cost(spent, np.ones(n), is_premium, chance)
    unknown = premium_cost(spent, np.ones(n), is_premium, is_premium.astype(float))
    assert known.always == pytest.approx(dollars.sum(), rel=0.01)
    assert unknown.always > 1.1 * dollars.sum()


def test_requests_without_a_chance_go_by_all_answers() -> None:
    """What the premium model was kept from has the plain ratio; what it was drawn for, the odds."""
    spent = [1.0, 3.0, 0.0, 0.0]
    is_premium = [True, True, False, False]
    found = premium_cost(spent, [1.0, 1.0, 1.0, 1.0], is_premium, [0.5, 1.0, 0.5, 0.0])
    # only the first was answered by chance: the third costs 1; the fourth costs the mean, 2
    assert found.always == pytest.approx(4.0 + 1.0 + 2.0)
    assert found.effective_n == 1.0


def test_savings_of_policies_add_up() -> None:
    """Two policies save what their dollars together say; variances add."""
    parts = [
        PremiumCost(spent=1.0, always=4.0, variance=0.09, effective_n=50, n=100),
        PremiumCost(spent=3.0, always=6.0, variance=0.16, effective_n=20, n=70),
    ]
    found = saving_share(parts)
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.high - found.low == pytest.approx(2 * Z * 4 / 100 * 0.5)
    assert found.warnings == (
        "what the premium model takes is known from 20 answers: a rough interval",
    )


def test_nothing_is_saved_where_nothing_would_cost() -> None:
    free = PremiumCost(spent=0.0, always=0.0, variance=0.0, effective_n=50, n=100)
    assert saving_share([free]) is None
