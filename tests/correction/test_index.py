"""The directions that votes depend on, whatever the votes say along them."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.correction import index
from metarouter.correction.index import index_functions, learn_index
from metarouter.types import FloatArray


def features(n: int = 4_000, k: int = 20, seed: int = 0) -> FloatArray:
    """Components of falling variance, of mean squared length 1."""
    scale = 1.0 / np.sqrt(np.arange(1, k + 1))
    X: FloatArray = np.random.default_rng(seed).normal(size=(n, k)) * scale
    return np.asarray(X / np.sqrt((X**2).sum(axis=1).mean()))


def directions(X: FloatArray, seed: int = 1) -> tuple[FloatArray, FloatArray]:
    """Two linear functions of variance one."""
    weights = np.random.default_rng(seed).normal(size=(X.shape[1], 2))
    u, v = (X @ weights / (X @ weights).std(axis=0)).T
    return np.asarray(u), np.asarray(v)


def kept_of(u: FloatArray, X: FloatArray, C: FloatArray, most: int) -> float:
    """Correlation of a function with the nearest one of the leading `most` index features."""
    F = (X @ C)[:, :most]
    fitted = F @ np.linalg.lstsq(F, u, rcond=None)[0]
    return float(np.corrcoef(fitted, u)[0, 1])


def functions(X: FloatArray, votes: FloatArray, weight: FloatArray) -> FloatArray:
    model = learn_index(X, votes, weight)
    assert model is not None
    return index_functions(model.slopes)


@pytest.mark.parametrize("bias", ["another direction", "curved", "steps"])
def test_the_direction_of_the_gain_is_found_beside_that_of_the_bias(bias: str) -> None:
    """A line through the same votes finds the difference of the two alone."""
    X = features()
    u, v = directions(X)
    wrong = {
        "another direction": np.tanh(v),
        "curved": 1.2 * np.sin(2 * v) * np.cos(u),
        "steps": np.select([v > 0.6, v < -0.6], [-1.4, 0.6], -0.4),
    }[bias]
    votes = np.tanh(u) - wrong + np.random.default_rng(2).normal(size=len(u))
    C = functions(X, votes, np.ones(len(votes)))
    line = X @ np.linalg.lstsq(X, votes - votes.mean(), rcond=None)[0]
    assert kept_of(u, X, C, 3) > 0.9
    if bias != "curved":
        assert abs(np.corrcoef(line, u)[0, 1]) < 0.8


def test_directions_come_by_how_much_the_votes_change_along_them() -> None:
    X = features(k=6)
    votes = 3 * np.sin(4 * X[:, 1]) + 0.5 * np.sin(4 * X[:, 4])
    C = functions(X, votes, np.ones(len(votes)))
    assert (np.abs(C[:, :2]).argmax(axis=0) == [1, 4]).all()
    sizes = (C**2).sum(axis=0)
    assert (np.diff(sizes) <= 0).all()
    assert C.shape[1] <= 4


def test_the_unit_of_the_votes_and_of_their_weights_does_not_matter() -> None:
    X = features(1_000)
    u, v = directions(X)
    votes, weight = np.tanh(u) - v**2, np.random.default_rng(3).uniform(0.5, 2.0, 1_000)
    one = functions(X, votes, weight)
    other = functions(X, 10.0 - 3.0 * votes, 100.0 * weight)
    np.testing.assert_allclose(other @ other.T, one @ one.T, rtol=1e-3, atol=1e-6)


def test_a_weight_is_a_number_of_votes() -> None:
    X = features(600)
    votes = np.tanh(directions(X)[0]) + 0.1 * np.random.default_rng(4).normal(size=600)
    times = np.random.default_rng(5).integers(1, 4, 600)
    weighted = functions(X, votes, times.astype(float))
    repeated = functions(np.repeat(X, times, axis=0), np.repeat(votes, times), np.ones(times.sum()))
    # the penalty is set against one vote, of which there are more here
    np.testing.assert_allclose(weighted @ weighted.T, repeated @ repeated.T, rtol=0.2, atol=0.1)


@pytest.mark.parametrize(
    ("n", "votes"), [(199, "any"), (1000, "alike"), (1000, "nearly alike")], ids=str
)
def test_few_votes_and_votes_without_variety_tell_no_direction(n: int, votes: str) -> None:
    X = features(n)
    gain = {
        "any": np.random.default_rng(6).normal(size=n),
        "alike": np.full(n, 0.3),
        "nearly alike": 0.3 + 1e-17 * np.arange(n),
    }[votes]
    assert learn_index(X, gain, np.ones(n)) is None


def test_the_same_votes_give_the_same_directions() -> None:
    X = features(500)
    votes = np.tanh(directions(X)[0])
    one, again = (functions(X, votes, np.ones(500)) for _ in range(2))
    np.testing.assert_array_equal(one, again)


def test_votes_are_predicted_in_their_own_unit() -> None:
    X = features()
    truth = 10.0 - 5.0 * np.tanh(2 * directions(X)[0])
    votes = truth + 0.5 * np.random.default_rng(9).normal(size=len(truth))
    model = learn_index(X[:3000], votes[:3000], np.ones(3000))
    assert model is not None
    np.testing.assert_allclose(model.predict(X[3000:]), truth[3000:], atol=0.6)


def test_slopes_are_those_of_the_model() -> None:
    """Against differences of the model itself, for parameters and for features."""
    rng = np.random.default_rng(8)
    X = features(50, k=3)
    problem = index._Problem(X=X, y=rng.normal(size=50), weight=np.ones(50))
    flat, zero = rng.normal(size=4 * 5 + 1), np.zeros(4 * 5 + 1)

    def model(flat: FloatArray, X: FloatArray) -> FloatArray:
        moved = index._Problem(X=X, y=np.zeros(50), weight=np.ones(50))
        return -moved.at(flat, zero).residual

    units, step = problem.at(flat, zero), 1e-6
    for place in range(len(flat)):
        move = step * np.eye(len(flat))[place]
        change = (model(flat + move, X) - model(flat - move, X)) / (2 * step)
        np.testing.assert_allclose(problem.jacobian(units)[:, place], change, atol=1e-7)
    gradients = np.stack(
        [(model(flat, X + step * e) - model(flat, X - step * e)) / (2 * step) for e in np.eye(3)],
        axis=1,
    )
    np.testing.assert_allclose(problem.slopes(units), gradients.T @ gradients / 50, atol=1e-6)
