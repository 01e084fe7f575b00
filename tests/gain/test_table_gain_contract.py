"""What every registered table gain model promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from metarouter.correction import CORRECTORS, learn_gain, make_corrector
from metarouter.errors import ArtifactError, DataError
from metarouter.gain import (
    TABLE_GAIN_MODELS,
    PoolGainModel,
    load_gain_model,
    make_pool_model,
    make_table_gain_model,
)
from metarouter.labels import GainTable, make_gain_table
from metarouter.testing import TABLE_GAIN_MODEL_CHECKS
from metarouter.types import FloatArray, ModelState, TableGainModel

# Fitting mf needs torch: ./run test torch runs its part of the battery.
MF = pytest.param("mf", marks=pytest.mark.torch)
NAMES = [MF if name == "mf" else name for name in TABLE_GAIN_MODELS]
LEARNERS = [MF, "sw_ranking", "knn", "cluster", "logistic"]
MODELS = ("small", "medium", "large")


def make_pair(n: int = 200, seed: int = 0, **columns: Any) -> GainTable:
    """Two kinds of prompts: the premium model wins the first kind and loses the second."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    features = np.eye(6)[kind] + 0.25 * rng.normal(size=(n, 6))
    p = np.where(kind == 0, 0.75, 0.3)
    gain = (rng.random(n) < p).astype(float) - (rng.random(n) < 1 - p)
    columns = {"is_gold": np.ones(n, dtype=bool)} | columns
    queries = [f"query {i}" for i in range(n)]
    return make_gain_table(queries=queries, gain=gain, features=features, **columns)


def make_pool(n: int = 300, seed: int = 0) -> GainTable:
    """Votes between any two of three models whose strengths are apart."""
    rng = np.random.default_rng(seed)
    candidate = rng.integers(1, 3, n)
    baseline = np.where(candidate == 1, 0, rng.integers(0, 2, n))
    strength = np.array([0.0, 0.8, 1.6])
    p = 1.0 / (1.0 + np.exp(-(strength[candidate] - strength[baseline])))
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        models=MODELS,
        candidate=candidate,
        baseline=baseline,
        gain=np.where(rng.random(n) < p, 1.0, -1.0),
        is_gold=np.zeros(n, dtype=bool),
        features=rng.normal(size=(n, 5)),
    )


def fit(name: str, table: GainTable) -> TableGainModel:
    return make_table_gain_model(name, seed=3).fit(table)


@cache
def fitted(name: str) -> TableGainModel:
    """The model of the default pair, fitted once for all tests that only ask it."""
    return fit(name, make_pair())


def ask(n: int = 9, d: int = 6) -> FloatArray:
    """Features of new queries."""
    return np.random.default_rng(7).normal(size=(n, d))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", TABLE_GAIN_MODEL_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, check: Callable[[Any], None]) -> None:
    """What is promised is the sentence of the check."""
    check(partial(make_table_gain_model, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_gain_is_the_scale_times_two_p_minus_one(name: str) -> None:
    """Gain and probability of a win say the same thing."""
    x = ask()
    expected = 2.0 * fitted(name).win_probability(x) - 1.0  # the labels' scale is 1
    np.testing.assert_allclose(fitted(name).predict(x).mean, expected, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_labels_times_three_give_predictions_times_three(name: str) -> None:
    """The unit of the gain is nothing but a unit; probabilities stay."""
    table, x = make_pair(), ask()
    three = fit(name, replace(table, gain=3 * table.gain))
    np.testing.assert_allclose(three.predict(x).mean, 3 * fitted(name).predict(x).mean, rtol=1e-6)
    np.testing.assert_allclose(three.predict(x).std, 3 * fitted(name).predict(x).std, rtol=1e-6)
    np.testing.assert_allclose(three.win_probability(x), fitted(name).win_probability(x), rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_without_its_arrays_is_refused(name: str) -> None:
    """A damaged artifact is told, with the kind and what it lacks."""
    state = fitted(name).state()
    damaged = ModelState(kind=state.kind, config=state.config)
    with pytest.raises(ArtifactError, match=f"{state.kind!r} lacks"):
        load_gain_model(damaged)


@pytest.mark.parametrize("name", NAMES)
def test_tables_that_say_nothing_of_a_model_are_refused(name: str) -> None:
    """No features, and a model that no label links to the reference."""
    with pytest.raises(DataError, match="no features"):
        fit(name, replace(make_pair(), features=None))
    with pytest.raises(DataError, match="other"):
        fit(name, replace(make_pair(), models=("cheap", "premium", "other")))


@pytest.mark.parametrize("name", LEARNERS)
def test_features_of_another_width_are_refused(name: str) -> None:
    """The message says which width was learned."""
    with pytest.raises(DataError, match=r"allowed: \(n, 6\)"):
        fitted(name).predict(np.zeros((2, 5)))


@pytest.mark.parametrize("name", LEARNERS)
def test_learns_which_kind_of_prompt_needs_the_premium_model(name: str) -> None:
    """Gains at the two kinds have the right signs and lie near the truth, 0.5 and −0.4."""
    mean = fit(name, make_pair(2_000)).predict(np.eye(6)[:2]).mean[:, 0]
    assert mean[0] > 0.15
    assert mean[1] < -0.1


@pytest.mark.parametrize("name", ["knn", "cluster"])
def test_local_means_reach_the_truth(name: str) -> None:
    """With enough labels the mean near a prompt is the gain there."""
    mean = fit(name, make_pair(3_000)).predict(np.eye(6)[:2]).mean[:, 0]
    np.testing.assert_allclose(mean, [0.5, -0.4], atol=0.12)


@pytest.mark.parametrize("name", LEARNERS)
def test_learns_the_order_of_a_pool_from_votes_between_any_two(name: str) -> None:
    """Gains over the small model are near 2σ(0.8) − 1 and, larger, 2σ(1.6) − 1."""
    mean = fit(name, make_pool(3_000)).predict(ask(20, 5)).mean.mean(axis=0)
    assert mean[0] == pytest.approx(0.38, abs=0.12)
    assert mean[1] - mean[0] > 0.1
    assert mean[1] == pytest.approx(0.66, abs=0.15)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_constant_gain_is_predicted(name: str) -> None:
    """Labels that all say 0.5 give about 0.5, with a positive standard deviation."""
    table = make_pair()
    estimate = fit(name, replace(table, gain=np.full(len(table), 0.5))).predict(ask())
    np.testing.assert_allclose(estimate.mean, 0.5, atol=0.01)
    assert (estimate.std > 0).all()


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_handful_of_rows_is_enough_to_fit(name: str, n: int) -> None:
    """With very few labels predictions stay within the largest gain."""
    table = make_pair(n)
    estimate = fit(name, replace(table, gain=np.linspace(0.2, 0.6, n))).predict(ask())
    assert np.isfinite(estimate.std).all()
    assert (np.abs(estimate.mean) <= 0.6).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_more_labels_are_more_certain(name: str) -> None:
    """The standard deviation falls with the number of labels."""
    x = np.eye(6)[:2]
    few, many = fit(name, make_pair(60)).predict(x), fit(name, make_pair(2_000)).predict(x)
    assert (many.std < 0.8 * few.std).all()


@pytest.mark.parametrize("corrector", CORRECTORS)
def test_every_corrector_goes_before_a_table_gain_model(corrector: str) -> None:
    """Any corrector's table is learned from, and gold rows bring the bias down."""
    table = biased_pair(240)
    gain = learn_gain(table, make_corrector(corrector, seed=0), gain_model="sw_ranking", seed=0)
    estimate = gain.predict(ask())
    assert estimate.mean.shape == (9, 1)
    assert np.isfinite(estimate.mean).all()
    assert np.isfinite(estimate.std).all()


@pytest.mark.parametrize("name", LEARNERS)
def test_correction_takes_the_bias_out_of_every_router(name: str) -> None:
    """Judges who favour the premium model by 0.8 mislead the router only when pooled."""
    table, x = biased_pair(1_200), np.eye(6)[:2]
    truth = np.array([0.5, -0.4])
    pooled, shifted = (
        learn_gain(table, make_corrector(c, seed=0), gain_model=name, seed=0).predict(x).mean[:, 0]
        for c in ("none", "mean_shift")
    )
    assert np.abs(shifted - truth).mean() < 0.7 * np.abs(pooled - truth).mean()


def biased_pair(n: int) -> GainTable:
    """A quarter gold rows; the judge of the others adds 0.8 to the premium model's gain."""
    table = make_pair(n, is_gold=np.arange(n) % 4 == 0)
    return replace(table, gain=table.gain + np.where(table.is_gold, 0.0, 0.8))


def test_a_model_of_one_gain_becomes_a_pool_and_a_table_model_stands_alone() -> None:
    """One function makes either kind."""
    assert isinstance(make_pool_model("ridge"), PoolGainModel)
    assert isinstance(make_pool_model("cluster", n_clusters=4), TableGainModel)


def test_options_reach_the_model() -> None:
    """They are arguments of its class."""
    few = make_table_gain_model("cluster", n_clusters=2).fit(make_pair()).state()
    assert few.arrays["centres"].shape == (2, 6)
