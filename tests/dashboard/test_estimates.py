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
    premium_cost,
    saving_share,
    share_estimate,
)
from metarouter.errors import DataError

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


def test_cost_of_always_premium_is_that_of_a_plain_loop() -> None:
    """The same numbers from a straight-line version of the formulas."""
    rng = np.random.default_rng(0)
    expected = rng.uniform(1, 3, 30)
    is_premium = rng.random(30) < 0.5
    spent = np.where(is_premium, 2 * expected * rng.lognormal(0, 0.3, 30), 0.1)
    chance = rng.uniform(0.2, 1, 30)
    found = premium_cost(spent, expected, is_premium, chance)

    above = below = other = squares = own = 0.0
    for s, x, p, c in zip(spent, expected, is_premium, chance, strict=True):
        if p:
            above, below, own = above + s / c, below + x / c, own + s
        else:
            other, squares = other + x, squares + x * x
    ratio, n = above / below, int(is_premium.sum())
    errors = noise = 0.0
    for s, x, p, c in zip(spent, expected, is_premium, chance, strict=True):
        if p:
            errors += ((s - ratio * x) / c) ** 2
            noise += ((s - ratio * x) / x) ** 2 / n
    variance = other**2 * n / (n - 1) * errors / below**2 + noise * squares
    assert found.always == pytest.approx(own + ratio * other)
    assert found.variance == pytest.approx(variance)
    assert (found.served, found.others) == (n, 30 - n)


def test_one_premium_answer_is_too_few() -> None:
    with pytest.raises(DataError, match="answered 1 of 3"):
        premium_cost([1, 2, 3], [1, 1, 1], [True, False, False], [1, 1, 1])


def _world(
    rng: np.random.Generator, n: int, *, chance: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[PremiumCost, float]:
    """A log of one policy, and what always premium would really have cost."""
    dollars = 0.004 * x * rng.lognormal(-0.125, 0.5, n)  # what the premium model would take
    is_premium = rng.random(n) < chance
    spent = np.where(is_premium, dollars, dollars / 30)
    drawn = np.where(is_premium, chance, 1 - chance)
    return premium_cost(spent, x, is_premium, drawn), float(dollars.sum())


def test_the_interval_holds_the_true_saving_as_often_as_it_says() -> None:
    """95 % intervals of the saving cover the unseen truth in 90 to 99 of 100 worlds."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        x = rng.uniform(0.5, 2, 200)
        cost, truth = _world(rng, 200, chance=np.full(200, 0.4), x=x)
        found = saving_share([cost])
        assert found is not None
        held += found.low <= 1 - cost.spent / truth <= found.high
    assert 0.90 <= held / 300 <= 0.99


def test_weights_undo_a_choice_that_goes_with_how_dear_an_answer_is() -> None:
    """Where dear answers are drawn more often, known chances make the estimate right."""
    rng = np.random.default_rng(2)
    n = 20_000
    hidden = rng.random(n) < 0.5  # twice as dear as the policy expects
    dollars = np.where(hidden, 2.0, 1.0)
    chance = np.where(hidden, 0.8, 0.2)
    is_premium = rng.random(n) < chance
    spent = np.where(is_premium, dollars, 0.0)
    drawn = np.where(is_premium, chance, 1 - chance)
    weighted = premium_cost(spent, np.ones(n), is_premium, drawn)
    plain = premium_cost(spent, np.ones(n), is_premium, np.ones(n))
    # of the unseen 10,000, a fifth is hidden: 1.2 each; the weighted ratio is 1.5 a request
    assert plain.always > weighted.always
    assert weighted.always == pytest.approx(
        is_premium @ dollars + 1.5 * (n - is_premium.sum()), rel=0.02
    )


def test_savings_of_policies_add_up() -> None:
    """Two policies save what their dollars together say; variances add."""
    parts = [
        PremiumCost(spent=1.0, always=4.0, variance=0.09, served=50, others=50),
        PremiumCost(spent=3.0, always=6.0, variance=0.16, served=20, others=50),
    ]
    found = saving_share(parts)
    assert found is not None
    assert found.value == pytest.approx(0.6)
    assert found.high - found.low == pytest.approx(2 * Z * 4 / 100 * 0.5)
    assert found.warnings == (
        "the premium model of a policy answered only 20 requests: a rough interval",
    )


def test_nothing_is_saved_where_nothing_would_cost() -> None:
    free = PremiumCost(spent=0.0, always=0.0, variance=0.0, served=50, others=50)
    assert saving_share([free]) is None
