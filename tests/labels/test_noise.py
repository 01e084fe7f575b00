"""The variance of a gold label given its query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.labels.noise import label_noise
from metarouter.labels.table import make_gain_table


def test_noise_is_taken_around_the_mean_of_each_contrast() -> None:
    """A difference between candidates is not noise."""
    table = make_gain_table(
        queries=list("abcd"),
        models=("x", "y", "z"),
        gain=[0.0, 2.0, 100.0, 102.0],
        candidate=[1, 1, 2, 2],
        baseline=[0, 0, 0, 0],
        is_gold=[True] * 4,
    )
    assert label_noise(table) == pytest.approx(4 / 2)  # four squares of 1, two degrees of freedom


@pytest.mark.parametrize(
    ("gold", "gain", "variance", "expected"),
    [
        ([False, False, False], [0.0, 2.0, 4.0], [1.0, 1.0, 1.0], 4.0),
        ([True, False, False], [5.0, 0.0, 2.0], [0.0, 1.0, 1.0], 19 / 3),
        ([True, True, False], [0.1, 0.1, 0.1], [0.0, 0.0, 0.7], 0.7),
        ([True, True, True], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0], 1.0),
        ([True, True, False], [0.1, 0.1, 0.1], [0.0, 0.0, -0.7], 1.0),
    ],
    ids=["no gold", "one gold", "constant labels", "constant gold", "negative variance"],
)
def test_noise_falls_back_where_gold_cannot_tell(
    gold: list[bool], gain: list[float], variance: list[float], expected: float
) -> None:
    """Other rows, then the stated variances, then 1 stand in."""
    table = make_gain_table(queries=list("abc"), gain=gain, is_gold=gold, variance=variance)
    assert label_noise(table) == pytest.approx(expected)


def test_rows_left_out_do_not_enter() -> None:
    """Infinite variance or weight 0 keeps even an absurd gold row out."""
    table = make_gain_table(
        queries=list("abcd"),
        gain=[0.0, 1.0, 1e9, -1e9],
        is_gold=[True] * 4,
        variance=[0.0, 0.0, np.inf, 0.0],
        weight=[1.0, 1.0, 1.0, 0.0],
    )
    assert label_noise(table) == pytest.approx(0.5)


def test_a_row_that_stands_for_more_labels_counts_more() -> None:
    """Two labels' mean has half the variance, so its square is doubled."""
    table = make_gain_table(
        queries=list("abc"), gain=[0.0, 3.0, 0.0], is_gold=[True] * 3, weight=[1.0, 2.0, 1.0]
    )
    mean = 6.0 / 4.0
    assert label_noise(table) == pytest.approx((mean**2 + 2 * (3 - mean) ** 2 + mean**2) / 2)


def test_it_estimates_the_variance_of_labels() -> None:
    gain = 0.4 + 0.3 * np.random.default_rng(0).normal(size=4_000)
    names = [str(i) for i in range(4_000)]
    table = make_gain_table(queries=names, gain=gain, is_gold=[True] * 4_000)
    assert label_noise(table) == pytest.approx(0.09, rel=0.07)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=20),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
def test_level_and_unit(gain: list[float], unit: float, level: float) -> None:
    """A level changes nothing, a unit enters squared."""
    values = np.array([*gain, gain[0] + 0.5])
    names = [str(i) for i in range(len(values))]

    def noise(gains: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        return label_noise(make_gain_table(queries=names, gain=gains, is_gold=[True] * len(names)))

    assert noise(unit * values) == pytest.approx(unit**2 * noise(values), rel=1e-9)
    assert noise(values + level) == pytest.approx(noise(values), rel=1e-6)
