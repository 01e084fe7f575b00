"""What every registered gain model promises."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.gain import GAIN_MODELS, make_gain_model
from metarouter.testing import GAIN_MODEL_CHECKS
from metarouter.types import FloatArray, GainModel

NAMES = [name for name in GAIN_MODELS if name != "auto"]  # which is two_fidelity
pytestmark = pytest.mark.parametrize("name", NAMES)

Rows = tuple[NDArray[np.float32], FloatArray, FloatArray]


def make_rows(n: int, d: int = 5, noise: float = 0.3, seed: int = 0) -> Rows:
    """Features, noisy gains, and the true gain: linear, standard deviation 0.3."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)).astype(np.float32)
    truth = 0.1 + features[:, :2].astype(np.float64) @ np.array([0.24, -0.18])
    return features, truth + noise * rng.normal(size=n), truth


def fit(
    name: str,
    features: NDArray[Any],
    gain: FloatArray,
    weight: FloatArray | None = None,
) -> GainModel:
    return make_gain_model(name, seed=0).fit(features, gain, weight)


@cache
def fitted(name: str) -> GainModel:
    """The model of the default rows, fitted once for all tests that only ask it."""
    return fit(name, *make_rows(100)[:2])


@pytest.mark.parametrize("check", GAIN_MODEL_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, check: Callable[[Any], None]) -> None:
    """What is promised is the sentence of the check."""
    check(partial(make_gain_model, name))


def test_only_relative_weights_count(name: str) -> None:
    """Multiplying all weights by four changes nothing."""
    features, gain, _ = make_rows(100)
    weight = np.linspace(0.5, 2.0, 100)
    one = fit(name, features, gain, weight).predict(features)
    four = fit(name, features, gain, 4 * weight).predict(features)
    np.testing.assert_allclose(one.mean, four.mean, atol=1e-5)
    np.testing.assert_allclose(one.std, four.std, rtol=1e-4)


def test_weights_move_the_fit(name: str) -> None:
    """Where two kinds of rows disagree on the level, the heavier kind decides."""
    features, _, _ = make_rows(160)
    gain = np.where(np.arange(160) % 2 == 0, 1.0, -1.0)
    weight = np.where(gain > 0, 50.0, 1.0)
    assert fit(name, features, gain, weight).predict(features).mean.mean() > 0.7


def test_labels_times_three_give_predictions_times_three(name: str) -> None:
    """The unit of the gain is nothing but a unit."""
    features, gain, _ = make_rows(100)
    one = fitted(name).predict(features)
    three = fit(name, features, 3 * gain).predict(features)
    np.testing.assert_allclose(three.mean, 3 * one.mean, atol=1e-3)
    np.testing.assert_allclose(three.std, 3 * one.std, rtol=1e-3)


def test_a_constant_gain_is_predicted(name: str) -> None:
    """Labels that all say 0.5 give 0.5, with a standard deviation that is finite and not 0.

    The prior of two_fidelity says that the level is 0 with the weight of one label.
    """
    features, _, _ = make_rows(60)
    estimate = fit(name, features, np.full(60, 0.5)).predict(features)
    expected = 0.5 * 60 / 61 if name == "two_fidelity" else 0.5
    np.testing.assert_allclose(estimate.mean, expected, atol=1e-6)
    assert np.isfinite(estimate.std).all()
    assert (estimate.std > 0).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_rows_is_enough_to_fit(name: str, n: int) -> None:
    """With very few labels predictions stay within reach of the labels."""
    features, gain, _ = make_rows(n)
    estimate = fit(name, features, gain).predict(features)
    assert np.isfinite(estimate.std).all()
    assert (estimate.std > 0).all()
    assert (np.abs(estimate.mean - gain.mean()) <= np.ptp(gain) + 0.2).all()


def test_collinear_and_constant_features_do_no_harm(name: str) -> None:
    """A copied column and a constant one leave the fit sound."""
    features, gain, truth = make_rows(200)
    wide = np.column_stack([features, features[:, :1], np.ones(200, dtype=np.float32)])
    estimate = fit(name, wide, gain).predict(wide)
    assert np.isfinite(estimate.std).all()
    assert np.corrcoef(estimate.mean, truth)[0, 1] > 0.7


def test_std_shrinks_with_more_rows(name: str) -> None:
    """Fifteen times the labels clearly lower the typical standard deviation."""
    features = make_rows(100, seed=9)[0]
    few, many = (fit(name, *make_rows(n)[:2]).predict(features).std.mean() for n in (60, 900))
    assert many < 0.75 * few


def test_std_is_the_size_of_the_error(name: str) -> None:
    """Over three worlds, errors have the root mean square that std states, within a factor."""
    squares = []
    for seed in range(3):
        features, _, truth = make_rows(200, seed=100 + seed)
        estimate = fit(name, *make_rows(150, seed=seed)[:2]).predict(features)
        squares.append(((estimate.mean - truth) / estimate.std) ** 2)
    assert 0.4 < np.sqrt(np.mean(squares)) < 2.0


@pytest.mark.speed
def test_two_thousand_rows_fit_in_reasonable_time_and_are_learned(name: str) -> None:
    """2,000 rows of 64 features take less than 20 s of processor time."""
    features, gain, truth = make_rows(2_000, d=64)
    began = time.process_time()
    model = fit(name, features, gain)
    assert time.process_time() - began < 20
    fresh, _, truth = make_rows(500, d=64, seed=5)
    assert np.corrcoef(model.predict(fresh).mean, truth)[0, 1] > 0.85


@pytest.mark.parametrize(
    ("gain", "weight"),
    [
        ([0.0, np.nan, 1.0], [1.0, 1.0, 1.0]),
        ([0.0, 1.0, 1.0], [1.0, -1.0, 1.0]),
        ([0.0, 1.0, 1.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0], [1.0, 1.0]),
    ],
    ids=["nan gain", "negative weight", "no weight", "lengths"],
)
def test_unusable_rows_are_refused(name: str, gain: list[float], weight: list[float]) -> None:
    """Bad rows give a DataError, never a wrong fit."""
    with pytest.raises(DataError):
        fit(name, np.eye(3), np.array(gain), np.array(weight))
