"""Weights of rows and the label noise behind them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.correction import learn_gain, make_corrector
from metarouter.errors import DataError
from metarouter.gain import row_weights
from metarouter.gain.weights import shared_variance
from metarouter.labels.noise import label_noise
from metarouter.labels.table import make_gain_table


def test_weight_is_the_precision_relative_to_a_gold_label() -> None:
    """Gold rows keep their weight, pseudo-gold rows get σ²/(σ² + variance) of it."""
    table = make_gain_table(
        queries=list("abcde"),
        gain=[0.0, 1.0, 2.0, 9.0, 9.0],
        is_gold=[True, True, True, False, False],
        variance=[0.0, 0.0, 0.0, 3.0, 0.5],
        weight=[1.0, 1.0, 1.0, 1.0, 2.0],
    )
    assert label_noise(table) == pytest.approx(1.0)  # variance of 0, 1, 2
    np.testing.assert_allclose(row_weights(table), [1, 1, 1, 0.25, 1 / (1 / 2 + 0.5)])


def test_infinite_variance_leaves_a_row_out() -> None:
    """Such a row gets weight 0 and does not enter the noise."""
    table = make_gain_table(
        queries=list("abc"),
        gain=[0.0, 1.0, 1e9],
        is_gold=[False] * 3,
        variance=[0.0, 0.0, np.inf],
    )
    assert row_weights(table).tolist() == [1.0, 1.0, 0.0]
    assert label_noise(table) == pytest.approx(0.5)


def test_a_row_more_precise_than_a_gold_label_weighs_more() -> None:
    """Variance −σ²/2 leaves half the variance of a gold label, hence twice the weight."""
    table = make_gain_table(
        queries=list("abcd"),
        gain=[0.0, 1.0, 2.0, 9.0],
        is_gold=[True, True, True, False],
        variance=[0.0, 0.0, 0.0, -0.5],
    )
    np.testing.assert_allclose(row_weights(table), [1, 1, 1, 2])


@pytest.mark.parametrize("variance", [-1.0, -3.0, np.nan])
def test_variances_that_leave_nothing_are_refused(variance: float) -> None:
    """σ² + variance must be positive, and σ² is 1 here."""
    table = make_gain_table(
        queries=list("abcd"),
        gain=[0.0, 1.0, 2.0, 9.0],
        is_gold=[True, True, True, False],
        variance=[0.0, 0.0, 0.0, variance],
    )
    with pytest.raises(DataError, match="variance"):
        row_weights(table)


def test_shared_error_is_that_of_the_corrected_rows() -> None:
    """Squared part of the weight times mean variance; σ² + variance where that is negative."""
    table = make_gain_table(
        queries=list("abcdef"),
        gain=[0.0, 1.0, 2.0, 9.0, 9.0, 9.0],
        is_gold=[True, True, True, False, False, False],
        variance=[0.0, 0.0, 0.0, 1.0, -0.5, 0.0],  # σ² is 1; the last row is a plain vote
    )
    part = (0.5 + 2.0) / (3.0 + 0.5 + 2.0 + 1.0)
    assert shared_variance(table) == pytest.approx(part**2 * (1.0 + 0.5) / 2)
    plain = table.with_gains(table.gain, np.where(table.is_gold, 0.0, np.inf))
    assert shared_variance(plain) == 0.0


def test_each_candidate_has_the_shared_error_of_its_own_rows() -> None:
    """Over 60 pools std is the error made, for 100 gold labels as for 6 of another candidate."""
    made, stated = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        candidate = np.repeat([1, 2], 200)
        is_gold = np.arange(400) % 200 < np.where(candidate == 1, 100, 6)
        table = make_gain_table(
            queries=[str(i) for i in range(400)],
            models=("a", "b", "c"),
            candidate=candidate,
            gain=0.5 * rng.normal(size=400) + 0.2 * ~is_gold,
            is_gold=is_gold,
            features=rng.normal(size=(400, 2)),
        )
        gain = learn_gain(table, make_corrector("mean_shift"), gain_model="ridge")
        found = gain.predict(rng.normal(size=(20, 2)))
        made.append((found.mean**2).mean(axis=0))
        stated.append((found.std**2).mean(axis=0))
    ratio = np.sqrt(np.mean(made, axis=0) / np.mean(stated, axis=0))
    assert ((ratio > 0.7) & (ratio < 1.4)).all()


def test_negative_weights_are_refused() -> None:
    """A negative weight is an error, not a subtraction."""
    table = make_gain_table(queries=["a"], gain=[0.0], is_gold=[True], weight=[-1.0])
    with pytest.raises(DataError, match="negative"):
        row_weights(table)


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=20),
    st.floats(0.01, 100),
    st.floats(0, 10),
)
def test_weights_do_not_depend_on_the_unit(gain: list[float], unit: float, variance: float) -> None:
    """Gains in another unit, with variances in its square, give the same weights."""
    values = np.array([*gain, gain[0] + 0.5])

    def weights(factor: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        table = make_gain_table(
            queries=[str(i) for i in range(len(values))],
            gain=factor * values,
            is_gold=[True] * (len(values) - 1) + [False],
            variance=[0.0] * (len(values) - 1) + [factor**2 * variance],
        )
        return row_weights(table)

    if np.var(values[:-1]) > 1e-6:
        np.testing.assert_allclose(weights(unit), weights(1.0), rtol=1e-6)
