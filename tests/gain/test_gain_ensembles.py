"""Forest, boosting and network against scikit-learn's own predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from metarouter.gain.boosting import BoostingGain
from metarouter.gain.forest import ForestGain
from metarouter.gain.mlp import MLPGain
from metarouter.gain.rows import half_samples, prepare_rows
from metarouter.gain.scoring import MLPScorer, TreesScorer
from metarouter.gain.slope import held_out_slope
from metarouter.types import FloatArray


def make_rows(n: int, seed: int = 0) -> tuple[NDArray[np.float32], FloatArray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    return features, np.sign(features[:, 0]) * 0.5 + 0.3 * rng.normal(size=n)


def test_forest_scorer_is_the_forest_of_the_library() -> None:
    """Each bag predicts what scikit-learn's forest on the same half does."""
    features, gain = make_rows(120)
    weight = np.linspace(0.5, 1.5, 120)
    model = ForestGain(n_bags=4, bag_size=3, seed=7).fit(features, gain, weight)
    rng = np.random.default_rng(7)
    rows = prepare_rows(features, gain, weight)
    halves = half_samples(120, 4, 20_000, rng)
    seeds = rng.integers(2**31, size=4).tolist()
    new = make_rows(50, seed=1)[0]
    bags = TreesScorer(model.state()).bags(new)
    for i, (half, seed) in enumerate(zip(halves, seeds, strict=True)):
        chosen = half[rows.group]
        forest = RandomForestRegressor(
            3,
            max_features=1 / 3,
            min_weight_fraction_leaf=5 / half.sum(),
            bootstrap=False,
            random_state=seed,
        ).fit(features[chosen], gain[chosen], weight[chosen])
        np.testing.assert_allclose(bags[:, i], forest.predict(new), atol=1e-6)


def test_forest_takes_a_weight_of_two_as_the_row_twice() -> None:
    """Mean and std are those of the repeated rows."""
    features, gain = make_rows(100)
    weight = np.where(np.arange(100) < 40, 2.0, 1.0)
    twice = np.concatenate([np.arange(100), np.arange(40)])
    weighted = ForestGain().fit(features, gain, weight).predict(features)
    repeated = ForestGain().fit(features[twice], gain[twice]).predict(features)
    np.testing.assert_allclose(weighted.mean, repeated.mean, atol=1e-6)
    np.testing.assert_allclose(weighted.std, repeated.std, rtol=1e-4)


def test_forest_bags_have_a_largest_size() -> None:
    """Smaller bags are allowed, and their variance is brought to that of all rows."""
    features, gain = make_rows(400)
    new = make_rows(200, seed=1)[0]
    half = ForestGain().fit(features, gain)
    small = ForestGain(largest_bag=100).fit(features, gain)
    assert half.state().config["variance_factor"] == 1.0
    assert small.state().config["variance_factor"] == pytest.approx(100 / 300)
    assert 0.5 < small.predict(new).std.mean() / half.predict(new).std.mean() < 2.0


def test_boosting_scorer_is_the_boosting_of_the_library() -> None:
    """Each member predicts what scikit-learn's staged predictions say at its best stage."""
    features, gain = make_rows(200)
    weight = np.linspace(0.5, 1.5, 200)
    model = BoostingGain(n_members=2, max_trees=40, seed=3).fit(features, gain, weight)
    rows = prepare_rows(features, gain, weight)
    edges = np.quantile(features, np.arange(1, 32) / 32, axis=0, method="lower")

    def codes(x: NDArray[np.float32]) -> FloatArray:
        return np.asarray((x[:, None, :] > edges).sum(axis=1), dtype=np.float64)

    new = make_rows(60, seed=1)[0]
    bags = TreesScorer(model.state()).bags(new)
    for i, half in enumerate(half_samples(200, 2, 200, np.random.default_rng(3))):
        a, b = half[rows.group], ~half[rows.group]
        booster = HistGradientBoostingRegressor(
            learning_rate=0.05,
            max_iter=40,
            max_leaf_nodes=8,
            min_samples_leaf=10,
            early_stopping=True,
            random_state=3,
        ).fit(
            codes(features[a]),
            rows.target[a],
            rows.weight[a],
            X_val=codes(features[b]),
            y_val=rows.target[b],
            sample_weight_val=rows.weight[b],
        )
        stages = list(booster.staged_predict(codes(new)))
        best = stages[int(np.argmax(booster.validation_score_)) - 1]
        np.testing.assert_allclose(bags[:, i], rows.centre + rows.scale * best, atol=1e-9)


def test_network_scorer_is_the_plain_forward_pass() -> None:
    """Each member equals a loop over layers of its exported arrays."""
    model = MLPGain(n_members=2, max_epochs=5).fit(*make_rows(80))
    arrays = model.state().arrays
    new = make_rows(6, seed=1)[0]
    members = MLPScorer(model.state()).bags(new)
    for j in range(2):
        for i in range(6):
            hidden = new[i].astype(np.float64)
            for k in range(3):
                hidden = hidden @ arrays[f"weight_{k}"][j] + arrays[f"bias_{k}"][j, 0]
                hidden = np.maximum(hidden, 0) if k < 2 else hidden
            assert members[i, j] == pytest.approx(hidden[0])


@pytest.mark.parametrize("make", [ForestGain, BoostingGain, MLPGain])
def test_noise_is_not_learned(make: type[ForestGain | BoostingGain | MLPGain]) -> None:
    """Where labels are noise alone, predictions keep close to the mean gain."""
    rng = np.random.default_rng(0)
    features, gain = rng.normal(size=(400, 10)), rng.normal(size=400)
    estimate = make().fit(features, gain).predict(rng.normal(size=(300, 10)))
    assert np.sqrt(np.mean((estimate.mean - gain.mean()) ** 2)) < 0.25


@pytest.mark.parametrize("make", [ForestGain, BoostingGain, MLPGain])
def test_a_step_is_learned(make: type[ForestGain | BoostingGain | MLPGain]) -> None:
    """Departures from linear are what these models are for.

    The best linear fit of the step is off by 0.5 √(1 − 2/π) = 0.30.
    """
    features, gain = make_rows(600)
    new = make_rows(300, seed=1)[0]
    estimate = make().fit(features, gain).predict(new)
    assert np.sqrt(np.mean((estimate.mean - np.sign(new[:, 0]) * 0.5) ** 2)) < 0.28


@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 40))
def test_halves_come_in_pairs_without_overlap(n: int, pairs: int, largest: int) -> None:
    """The two of a pair share no group, and cover all when size allows."""
    halves = half_samples(n, 2 * pairs, largest, np.random.default_rng(0))
    for first, second in zip(halves[::2], halves[1::2], strict=True):
        assert not (first & second).any()
        assert max(first.sum(), second.sum()) == min(largest, n - n // 2)
        if largest >= n:
            assert (first | second).all()


def test_rows_of_one_query_stay_together() -> None:
    """Rows with the same features share a group, others do not."""
    features, gain = make_rows(50)
    rows = prepare_rows(np.concatenate([features, features[:20]]), np.append(gain, gain[:20]))
    np.testing.assert_array_equal(rows.group[50:], rows.group[:20])
    assert rows.n_groups == 50


def test_held_out_slope_is_weighted_least_squares_drawn_to_one() -> None:
    """Value and error equal their formulas, here with every row its own query."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=300), rng.uniform(0.5, 2, size=300)
    y = 0.2 + 1.8 * x + rng.normal(size=300)
    design = np.column_stack([np.ones(300), x])
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
    coef = inverse @ design.T @ (weight * y)
    meat = design * (weight * (y - design @ coef))[:, None]
    variance = (inverse @ meat.T @ meat @ inverse)[1, 1]
    slope = held_out_slope(x, y, weight, np.arange(300))
    expected = 1 + (1 - variance / (coef[1] - 1) ** 2) * (coef[1] - 1)
    assert slope.value == pytest.approx(expected)
    assert slope.std_error == pytest.approx(np.sqrt(variance))


def test_an_uncertain_slope_is_left_at_one() -> None:
    """A slope within its standard error of 1 changes nothing."""
    rng = np.random.default_rng(1)
    x = 0.05 * rng.normal(size=30)
    y = x + rng.normal(size=30)
    slope = held_out_slope(x, y, np.ones(30), np.arange(30))
    assert slope.std_error > 1
    assert abs(slope.value - 1.0) < 0.5


@pytest.mark.parametrize("make", [ForestGain, BoostingGain, MLPGain])
def test_the_seed_draws_the_halves(make: type[ForestGain | BoostingGain | MLPGain]) -> None:
    """Another seed gives other predictions."""
    features, gain = make_rows(30)
    first, second = (make(seed=seed).fit(features, gain).predict(features) for seed in (0, 1))
    assert not np.array_equal(first.mean, second.mean)
