"""Strengths and tiers equal straight-line re-implementations, and behave at the edges."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.gain.bradley_terry import BradleyTerry, solve_strengths
from metarouter.gain.tiers import optimal_tiers, rated_tiers
from metarouter.labels.table import make_gain_table
from metarouter.types import FloatArray, IntArray

Battles = tuple[IntArray, IntArray, FloatArray, FloatArray]


def make_battles(n: int = 600, n_models: int = 6, seed: int = 0) -> Battles:
    """Battles with wins, ties and losses, of models that differ in strength."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_models, n)
    second = (first + rng.integers(1, n_models, n)) % n_models
    p = 1.0 / (1.0 + np.exp(-0.5 * (first - second)))
    outcome = np.where(rng.random(n) < 0.25, 0.5, (rng.random(n) < p).astype(float))
    return first, second, outcome, rng.uniform(0.2, 3.0, n)


def logistic_elo(
    first: IntArray, second: IntArray, outcome: FloatArray, w: FloatArray
) -> FloatArray:
    """Elo as the field computes it: each battle twice, a tie once each way, plain logistic.

    The design has ±ln 10, so that 400 points of a coefficient are odds of 10
    to 1; Newton steps from 0 with the least-norm solution, until nothing moves.
    """
    n, m = len(first), int(max(first.max(), second.max())) + 1
    x = np.zeros((2 * n, m))
    y, weight = np.zeros(2 * n), np.concatenate([w, w])
    for copy in (0, 1):
        for i in range(n):
            x[copy * n + i, first[i]] = math.log(10.0)
            x[copy * n + i, second[i]] = -math.log(10.0)
            won = outcome[i] == 1.0 or (outcome[i] == 0.5 and copy == 0)
            y[copy * n + i] = float(won)
    beta = np.zeros(m)
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-x @ beta))
        gradient = x.T @ (weight * (y - p))
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x
        beta = beta + np.linalg.pinv(hessian) @ gradient
    return np.asarray(400.0 * beta + 1000.0)


def test_elo_equals_a_plain_logistic_regression_with_doubled_battles() -> None:
    """Ratings agree to 1e-8 points with ties split over two copies of each battle."""
    battles = make_battles()
    model = BradleyTerry(penalty=0.0).fit(*battles)
    np.testing.assert_allclose(model.elo, logistic_elo(*battles), atol=1e-8)


def test_win_probability_follows_elo() -> None:
    """P = 1 / (1 + 10^((b − a) / 400)), as the field writes it."""
    model = BradleyTerry(penalty=0.0).fit(*make_battles())
    a, b = np.array([0, 3]), np.array([5, 1])
    expected = 1.0 / (1.0 + 10.0 ** ((model.elo[b] - model.elo[a]) / 400.0))
    np.testing.assert_allclose(model.win_probability(a, b), expected, rtol=1e-12)


def test_a_tie_is_half_a_win_for_each() -> None:
    """Ties and an equal number of wins each way give the same strengths."""
    first, second, outcome, _ = make_battles()
    tie = outcome == 0.5
    split = BradleyTerry(penalty=0.3).fit(
        np.concatenate([first[~tie], first[tie], first[tie]]),
        np.concatenate([second[~tie], second[tie], second[tie]]),
        np.concatenate([outcome[~tie], np.ones(tie.sum()), np.zeros(tie.sum())]),
        np.concatenate([np.ones((~tie).sum()), np.full(2 * tie.sum(), 0.5)]),
    )
    whole = BradleyTerry(penalty=0.3).fit(first, second, outcome)
    np.testing.assert_allclose(split.strength_, whole.strength_, atol=1e-9)


def test_the_penalised_strengths_solve_their_equation() -> None:
    """The gradient of the log posterior is zero, computed battle by battle."""
    first, second, outcome, weight = make_battles(200)
    model = BradleyTerry(penalty=2.5).fit(first, second, outcome, weight)
    gradient = -2.5 * model.strength_
    for a, b, y, w in zip(first, second, outcome, weight, strict=True):
        residual = w * (y - 1.0 / (1.0 + math.exp(model.strength_[b] - model.strength_[a])))
        gradient[a] += residual
        gradient[b] -= residual
    np.testing.assert_allclose(gradient, 0.0, atol=1e-8)


def test_covariance_is_the_sandwich_of_the_battles() -> None:
    """H⁻¹ (Σ w² r² x x' + λI) H⁻¹, summed battle by battle, for every contrast."""
    first, second, outcome, weight = make_battles(300)
    model = BradleyTerry(penalty=0.7).fit(first, second, outcome, weight)
    x = np.eye(6)[first] - np.eye(6)[second]
    p = 1.0 / (1.0 + np.exp(-x @ model.strength_))
    hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 0.7 * np.eye(6)
    meat = (x * ((weight * (outcome - p)) ** 2)[:, None]).T @ x + 0.7 * np.eye(6)
    expected = np.linalg.inv(hessian) @ meat @ np.linalg.inv(hessian)
    for a, b in combinations(range(6), 2):
        contrast = np.eye(6)[a] - np.eye(6)[b]
        np.testing.assert_allclose(
            contrast @ model.covariance_ @ contrast, contrast @ expected @ contrast, rtol=1e-6
        )


def test_standard_errors_match_the_spread_over_samples() -> None:
    """Over 200 samples the mean stated variance of a contrast is the observed one."""
    strengths, stated = [], []
    for seed in range(200):
        model = BradleyTerry(penalty=0.01).fit(*make_battles(400, n_models=4, seed=seed)[:3])
        strengths.append(model.strength_[3] - model.strength_[0])
        c = np.array([-1.0, 0.0, 0.0, 1.0])
        stated.append(c @ model.covariance_ @ c)
    # the variance of 200 draws has a relative standard error of 10 %
    assert np.mean(stated) == pytest.approx(np.var(strengths, ddof=1), rel=0.35)


def test_the_spread_of_ratings_holds_no_common_level() -> None:
    """Over 100 samples of 3,000 battles the stated variance of each rating is the observed one.

    The mean of the ratings is fixed, so that what fixes it is no part of their error.
    """
    fits = [
        BradleyTerry().fit(*make_battles(3_000, n_models=3, seed=seed)[:3]) for seed in range(100)
    ]
    observed = np.var([model.strength_ for model in fits], axis=0, ddof=1)
    stated = np.mean([np.diag(model.covariance_) for model in fits], axis=0)
    # the variance of 100 draws has a relative standard error of 14 %
    np.testing.assert_allclose(stated, observed, rtol=0.45)
    np.testing.assert_allclose(fits[0].covariance_.sum(axis=0), 0.0, atol=1e-12)


def test_votes_of_one_group_add_no_certainty() -> None:
    """Each battle four times in one group is as uncertain as it is with four times the weight."""
    first, second, outcome, weight = make_battles(300)
    heavy = BradleyTerry().fit(first, second, outcome, 4 * weight)
    copies = [np.repeat(column, 4) for column in (first, second, outcome, weight)]
    grouped = BradleyTerry().fit(*copies, groups=np.repeat(np.arange(300), 4))
    np.testing.assert_allclose(grouped.covariance_, heavy.covariance_, rtol=1e-8)


def test_covariance_adds_up_the_scores_of_a_group() -> None:
    """Battles of different pairs in one group: Σ s s', group by group."""
    first, second, outcome, weight = make_battles(300)
    group = np.arange(300) // 5
    model = BradleyTerry(penalty=0.7).fit(first, second, outcome, weight, groups=group)
    x = np.eye(6)[first] - np.eye(6)[second]
    p = 1.0 / (1.0 + np.exp(-x @ model.strength_))
    hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + 0.7 * np.eye(6)
    scores = [(weight * (outcome - p))[group == g] @ x[group == g] for g in range(60)]
    meat = sum(np.outer(score, score) for score in scores) + 0.7 * np.eye(6)
    expected = np.linalg.inv(hessian) @ meat @ np.linalg.inv(hessian)
    for a, b in combinations(range(6), 2):
        contrast = np.eye(6)[a] - np.eye(6)[b]
        np.testing.assert_allclose(
            contrast @ model.covariance_ @ contrast, contrast @ expected @ contrast, rtol=1e-6
        )


@pytest.mark.parametrize(
    ("first", "second", "won"),
    [([0, 0, 1], [1, 1, 2], [1.0, 1.0, 0.5]), ([0], [1], [1.0]), ([0, 0, 1], [1, 2, 2], [1.0] * 3)],
)
def test_a_model_that_won_everything_is_finite_with_a_penalty_only(
    first: list[int], second: list[int], won: list[float]
) -> None:
    """Separable battles need the penalty; without it the error says so."""
    assert np.isfinite(BradleyTerry(penalty=0.01).fit(first, second, won).strength_).all()
    with pytest.raises(DataError, match="penalty above 0"):
        BradleyTerry(penalty=0.0).fit(first, second, won)


def test_models_that_never_met_need_a_penalty() -> None:
    """Two groups without a battle between them have no common scale."""
    with pytest.raises(DataError, match="no battles link"):
        BradleyTerry(penalty=0.0).fit([0, 1, 2, 3], [1, 0, 3, 2], [1.0, 1.0, 1.0, 1.0])


def test_many_problems_at_once_equal_one_by_one() -> None:
    """A stack of matrices of wins is solved as each of them alone."""
    rng = np.random.default_rng(0)
    wins = rng.uniform(0.1, 5.0, (7, 4, 4))
    centre = np.array([0.3, 0.0, -0.1, -0.2])
    together = solve_strengths(wins, penalty=1.5, centre=centre)[0]
    alone = [solve_strengths(w, penalty=1.5, centre=centre)[0] for w in wins]
    np.testing.assert_allclose(together, alone, atol=1e-9)


def test_a_strong_penalty_keeps_strengths_at_their_centre() -> None:
    """In the limit only the centre is left."""
    centre = np.array([1.0, -1.0])
    strength, _ = solve_strengths(np.array([[0.0, 1.0], [9.0, 0.0]]), penalty=1e9, centre=centre)
    np.testing.assert_allclose(strength, centre, atol=1e-6)


def test_misuse_is_refused() -> None:
    """A negative penalty and asking before fit are errors."""
    with pytest.raises(OptionError, match="penalty = -1"):
        BradleyTerry(penalty=-1).fit([0], [1], [1.0])
    with pytest.raises(NotFittedError):
        BradleyTerry().win_probability(0, 1)


def brute_force_cost(rating: list[float], n_tiers: int) -> float:
    """Least sum of population variances over all ways to cut the sorted ratings."""
    order = sorted(rating, reverse=True)
    costs = []
    for cuts in combinations(range(1, len(order)), n_tiers - 1):
        edges = [0, *cuts, len(order)]
        parts = [order[a:b] for a, b in pairwise(edges)]
        costs.append(sum(float(np.var(part)) for part in parts))
    return min(costs)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 2_000), min_size=1, max_size=9),
    st.integers(1, 6),
)
def test_tiers_are_the_best_of_all_cuts(rating: list[int], n_tiers: int) -> None:
    """No other cut of the sorted ratings varies less within its segments."""
    ratings = [float(value) for value in rating]
    tier = optimal_tiers(ratings, n_tiers)
    wanted = min(n_tiers, len(ratings))
    assert set(tier.tolist()) == set(range(wanted))
    cost = sum(float(np.var(np.array(ratings)[tier == t])) for t in range(wanted))
    assert cost == pytest.approx(brute_force_cost(ratings, wanted), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("outcome", "weight", "message"),
    [
        ([], [], "no battles"),
        ([1.0, math.inf], [1.0, 1.0], "an outcome is"),
        ([1.0, math.nan], [1.0, 1.0], "an outcome is"),
        ([1.0, 0.0], [1.0, -1.0], "a weight is"),
        ([1.0, 0.0], [1.0, math.nan], "a weight is"),
        ([1.0, 0.0], [1.0, math.inf], "a weight is"),
    ],
)
def test_battles_that_cannot_be_counted_are_refused(
    outcome: list[float], weight: list[float], message: str
) -> None:
    """A negative weight gave strengths of the wrong sign, NaN a message about a penalty."""
    first = [0] * len(outcome)
    with pytest.raises(DataError, match=message):
        BradleyTerry().fit(first, [1] * len(outcome), outcome, weight)


@settings(max_examples=40)
@given(st.lists(st.floats(-500, 3_000), min_size=2, max_size=30, unique=True))
def test_better_ratings_are_in_better_tiers(rating: list[float]) -> None:
    """Tiers never cross: a higher rating has a tier that is at least as good."""
    tier = optimal_tiers(rating, 4)
    in_order = tier[np.argsort(-np.array(rating), kind="stable")]
    assert (np.diff(in_order) >= 0).all()


def test_tiers_do_not_hang_on_the_order_of_models() -> None:
    """Shuffling the models shuffles their tiers."""
    rng = np.random.default_rng(0)
    rating = rng.normal(1000, 100, 25)
    order = rng.permutation(25)
    np.testing.assert_array_equal(
        optimal_tiers(rating, 10)[order], optimal_tiers(rating[order], 10)
    )


@pytest.mark.parametrize("rating", [[], [1.0, math.nan], [[1.0]]])
def test_ratings_that_cannot_be_sorted_are_refused(rating: list[float]) -> None:
    """No ratings, NaN, and a matrix are errors."""
    with pytest.raises(DataError, match="ratings of shape"):
        optimal_tiers(rating)


def test_less_than_one_tier_is_refused() -> None:
    """The message says what is allowed."""
    with pytest.raises(OptionError, match="n_tiers = 0; allowed: 1 or more"):
        optimal_tiers([1.0], 0)


def test_repeated_votes_do_not_make_ratings_surer() -> None:
    """A table with every row four times has the ratings and the deviations of one with it once."""
    first, second, outcome, _ = make_battles(200, n_models=3)

    def rated(copies: int) -> list[dict[str, Any]]:
        table = make_gain_table(
            queries=[f"q{i}" for i in range(200)],
            models=("a", "b", "c"),
            query=np.repeat(np.arange(200), copies),
            candidate=np.repeat(np.maximum(first, second), copies),
            baseline=np.repeat(np.minimum(first, second), copies),
            gain=np.repeat(2 * outcome - 1, copies),
            is_gold=np.zeros(200 * copies, dtype=np.bool_),
        )
        return rated_tiers(table, 2)

    for once, often in zip(rated(1), rated(4), strict=True):
        assert often["elo"] == pytest.approx(once["elo"], abs=0.1)  # the penalty counts for less
        assert often["elo_std"] == pytest.approx(once["elo_std"], rel=0.01)
