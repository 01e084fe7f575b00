"""The utility rule and its decisions."""

from __future__ import annotations

import time
import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.errors import DataError, OptionError
from metarouter.policy.rule import UtilityPolicy
from metarouter.records import GainEstimate

MODELS = ("small", "middle", "large")
finite = st.floats(-2, 2, allow_nan=False)
small_costs = st.floats(0, 5, allow_nan=False)


@given(st.tuples(finite, finite), st.tuples(small_costs, small_costs, small_costs), finite)
def test_choice_is_the_best_utility_and_ties_go_to_the_cheaper(
    mean: tuple[float, float], costs: tuple[float, float, float], w: float
) -> None:
    """Same model as a loop over the models; batch and single query agree."""
    utilities = [gain - w * cost for gain, cost in zip((0.0, *mean), costs, strict=True)]
    best = min(range(3), key=lambda m: (-utilities[m], costs[m], m))
    policy = UtilityPolicy(models=MODELS, w=w)
    assert policy.choose(np.array([mean]), np.array([costs])).tolist() == [best]
    assert policy.decide_one(mean, (0.1, 0.1), costs).model == MODELS[best]
    assert policy.choose_one(mean, costs) == MODELS[best]


@given(st.lists(finite, min_size=1, max_size=40), finite, st.floats(0, 1))
def test_premium_calls_do_not_grow_with_the_price(
    gains: list[float], w: float, step: float
) -> None:
    """A higher w never sends a new query to the premium model."""
    pair = ("cheap", "premium")
    costs = np.array([0.0, 1.0])
    low = UtilityPolicy(models=pair, w=w).choose(np.array(gains), costs)
    high = UtilityPolicy(models=pair, w=w + step).choose(np.array(gains), costs)
    assert (high <= low).all()


@given(st.floats(0, 3), st.floats(0, 3), st.floats(0, 2))
def test_threshold_grows_with_the_extra_cost(first: float, second: float, w: float) -> None:
    """The gain that must be exceeded is w times the extra cost."""
    policy = UtilityPolicy(models=("cheap", "premium"), w=w)
    low, high = sorted((first, second))
    thresholds = [policy.decide_one([0.1], [0.1], [0.0, c]).threshold for c in (low, high)]
    assert thresholds == [w * low, w * high]


def test_a_decision_carries_its_reasons() -> None:
    """Gain, deviation, threshold, intervals and the ranked options are all there."""
    policy = UtilityPolicy(models=("cheap", "premium"), w=0.08, version="v7")
    gain = GainEstimate(mean=np.array([0.12, 0.05]), std=np.array([0.05, 0.02]))
    premium, cheap = policy.decide(gain, np.array([0.0, 1.0]))
    assert premium.reason == (
        "predicted gain 0.120 ± 0.050 of premium over cheap is above the threshold 0.080"
    )
    assert "is not above the threshold 0.080" in cheap.reason
    assert (premium.model, cheap.model) == ("premium", "cheap")
    assert (premium.cost, cheap.cost) == (1.0, 0.0)
    assert (premium.predicted_gain, premium.predicted_gain_std) == (0.12, 0.05)
    assert [option.model for option in cheap.options] == ["cheap", "premium"]
    assert premium.options[0].gain_low == pytest.approx(0.12 - 1.96 * 0.05, abs=1e-4)
    assert premium.options[0].utility == pytest.approx(0.04)
    assert premium.policy_version == "v7"


def test_no_queries_are_no_decisions() -> None:
    """An empty batch is allowed."""
    nothing = GainEstimate(mean=np.zeros(0), std=np.zeros(0))
    policy = UtilityPolicy(models=("a", "b"), w=0.1)
    assert policy.decide(nothing, np.zeros((0, 2))) == []
    assert policy.choose(nothing.mean, np.zeros((0, 2))).tolist() == []


def test_what_bound_the_decision() -> None:
    """'cost' when a better model was held back by its price, else 'gain'."""
    policy = UtilityPolicy(models=MODELS, w=0.1, cost_unit="USD")
    held_back = policy.decide_one([0.2, 0.25], [0.1, 0.1], [0.0, 1.0, 2.0])
    assert (held_back.model, held_back.bound) == ("middle", "cost")
    assert policy.decide_one([0.2, 0.5], [0.1, 0.1], [0.0, 1.0, 2.0]).bound == "gain"
    assert policy.decide_one([-0.2, -0.5], [0.1, 0.1], [0.0, 1.0, 2.0]).bound == "gain"
    assert held_back.reason == (
        "predicted gain 0.200 ± 0.100 of middle over small is above the threshold 0.100, "
        "for 1 USD more; next is large with 0.250, for 2 USD more"
    )
    above_small_alone = policy.decide_one([0.2, -0.3], [0.1, 0.1], [0.0, 1.0, 2.0])
    assert "next" not in above_small_alone.reason
    dear_reference = policy.decide_one([0.2, 0.3], [0.1, 0.1], [1.0, 0.5, 2.0])
    assert "of middle over small is above the threshold -0.050, for 0.5 USD less;" in (
        dear_reference.reason
    )


@pytest.mark.speed
def test_one_decision_takes_microseconds() -> None:
    """The serving path stays below 30 µs of processor time a query (best of five runs)."""
    policy = UtilityPolicy(models=("cheap", "premium"), w=0.1)
    runs = timeit.repeat(
        lambda: policy.decide_one([0.2], [0.1], [0.0, 1.0]),
        timer=time.process_time,
        number=500,
        repeat=5,
    )
    assert min(runs) / 500 < 30e-6


def test_impossible_policies_and_arrays_are_refused() -> None:
    """Two different models, a finite price, and arrays that fit."""
    with pytest.raises(OptionError, match="models"):
        UtilityPolicy(models=("a", "a"), w=0.1)
    with pytest.raises(OptionError, match="w = nan"):
        UtilityPolicy(models=("a", "b"), w=float("nan"))
    policy = UtilityPolicy(models=("a", "b"), w=0.1)
    with pytest.raises(DataError, match="costs of shape"):
        policy.choose(np.zeros(3), np.zeros((2, 2)))
    with pytest.raises(DataError, match="NaN"):
        policy.choose(np.array([np.nan]), np.zeros(2))
    with pytest.raises(DataError, match="for 2 models"):
        policy.choose(np.zeros((3, 2)), np.zeros(3))
