"""Policies to compare with."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from metarouter.policy.baselines import (
    always,
    cost_quality_hull,
    deterministic,
    oracle,
    premium_index,
    random_mix,
)


def test_random_calls_each_model_as_often_as_a_policy_does() -> None:
    """Whatever the query, and also where the policy leaves one model out."""
    assert always(-1, 2, 3).tolist() == [[0, 0, 1]] * 2
    choice = np.array([0, 1, 1, 1, 3])
    assert random_mix(deterministic(choice, 4)).tolist() == [[0.2, 0.6, 0.0, 0.2]] * 5


def test_oracle_weighs_gold_against_cost() -> None:
    """At w = 0 the best answer, the cheaper of equals; at a high price the cheapest model."""
    scores = np.array([[0.0, 1.0], [1.0, 1.0], [0.2, 0.3]])
    costs = np.tile([0.0, 1.0], (3, 1))
    assert oracle(scores, costs).argmax(axis=1).tolist() == [1, 0, 1]
    assert oracle(scores, costs, w=0.5).argmax(axis=1).tolist() == [1, 0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    st.floats(0, 10),
)
def test_no_mixture_of_two_models_is_above_the_hull(
    models: list[tuple[int, int]], budget: float
) -> None:
    """At any budget the hull is as good as every pair of models mixed by a coin."""
    cost, quality = (np.array(column, dtype=float) for column in zip(*models, strict=True))
    corners = cost_quality_hull(cost, quality)
    assert all(cost[a] < cost[b] and quality[a] < quality[b] for a, b in pairwise(corners))
    if budget < cost.min():
        return
    hull = np.interp(budget, cost[corners], quality[corners])
    for a in range(len(cost)):
        for b in range(len(cost)):
            low, high = sorted((a, b), key=lambda m: cost[m])
            if cost[low] <= budget:
                room = cost[high] - cost[low]
                part = min(1.0, (budget - cost[low]) / room) if room > 0 else 0.0
                mixed = (1 - part) * quality[low] + part * quality[high]
                assert mixed <= hull + 1e-9


def test_the_premium_model_is_the_dearest_and_the_last_of_several() -> None:
    """Cost decides first, the order of the models only between equal costs."""
    assert premium_index(np.array([0.0, 1.0, 1.0])) == 2
    assert premium_index(np.array([0.1, 2.0, 1.0])) == 1
    assert premium_index(np.array([1.0, 1.0])) == 1
