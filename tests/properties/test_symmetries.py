"""Symmetries that hold from labels to decisions, on tables that hypothesis makes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.correction import learn_gain, make_corrector
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.linear import Ridge
from metarouter.policy import calibrate_share
from metarouter.records import GainEstimate

# Each corrector with a gain model, fast enough for many examples.
ROUTES = (
    ("auto", "auto"),
    ("two_fidelity", "two_fidelity"),
    ("none", "auto"),
    ("mean_shift", "ridge"),
    ("gold_only", "ridge"),
)
few_examples = settings(max_examples=6)


@st.composite
def tables(draw: st.DrawFn) -> GainTable:
    """A pair of models, labels of both sources with a bias, some queries labelled twice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(20, 60)), draw(st.integers(1, 5))
    query = np.concatenate([np.arange(n), rng.integers(n, size=draw(st.integers(0, 10)))])
    X = rng.normal(size=(n, d))
    is_gold = rng.random(len(query)) < draw(st.floats(0.2, 0.8))
    is_gold[:6] = np.arange(6) % 2 == 0
    bias = draw(st.floats(-0.5, 0.5))
    gain = 0.5 * X[query, 0] + bias * ~is_gold + 0.4 * rng.normal(size=len(query))
    return make_gain_table(
        queries=[f"q{i}" for i in range(n)], query=query, gain=gain, is_gold=is_gold, features=X
    )


def predicted(table: GainTable, corrector: str, gain_model: str) -> GainEstimate:
    learned = learn_gain(table, make_corrector(corrector), gain_model=gain_model)
    assert table.features is not None
    return learned.predict(table.features)


def same(a: GainEstimate, b: GainEstimate, sign: float = 1.0, shift: float = 0.0) -> None:
    np.testing.assert_allclose(b.mean, sign * a.mean + shift, atol=1e-5)
    np.testing.assert_allclose(b.std, a.std, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("corrector", "gain_model"), ROUTES)
@given(table=tables(), data=st.data())
@few_examples
def test_the_order_of_rows_does_not_matter(
    corrector: str, gain_model: str, table: GainTable, data: st.DataObject
) -> None:
    at = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(len(table))
    if corrector == "none":  # its gain model learns landmarks from rows, in their order
        gain_model = "ridge"
    same(predicted(table, corrector, gain_model), predicted(table.rows(at), corrector, gain_model))


@pytest.mark.parametrize(("corrector", "gain_model"), ROUTES)
@given(table=tables())
@few_examples
def test_negated_labels_negate_the_gain(corrector: str, gain_model: str, table: GainTable) -> None:
    """Swapping the two models' scores is all it takes to swap their roles."""
    negated = table.with_gains(-table.gain, table.variance)
    same(predicted(table, corrector, gain_model), predicted(negated, corrector, gain_model), -1.0)


@given(table=tables(), shift=st.floats(-3, 3))
@few_examples
def test_a_level_added_to_all_labels_is_added_to_the_gain(table: GainTable, shift: float) -> None:
    """For gain models that give the level no prior."""
    shifted = table.with_gains(table.gain + shift, table.variance)
    for corrector in ("none", "gold_only", "mean_shift"):
        same(
            predicted(table, corrector, "ridge"),
            predicted(shifted, corrector, "ridge"),
            shift=shift,
        )


@given(table=tables(), shift=st.floats(-3, 3))
@few_examples
def test_a_level_added_to_the_votes_is_shifted_away(table: GainTable, shift: float) -> None:
    votes = table.with_gains(table.gain + shift * ~table.is_gold, table.variance)
    same(predicted(table, "mean_shift", "ridge"), predicted(votes, "mean_shift", "ridge"))


@given(seed=st.integers(0, 999), power=st.floats(-6, 6))
@settings(max_examples=30)
def test_ridge_follows_the_units_of_features_and_labels(seed: int, power: float) -> None:
    rng = np.random.default_rng(seed)
    X, y, unit = rng.normal(size=(25, 4)), rng.normal(size=25), 10.0**power
    one = Ridge().fit(X, y)
    for model, factor, rows in (
        (Ridge().fit(X, unit * y), unit, X),
        (Ridge().fit(unit * X, y), 1.0, unit * X),
    ):
        np.testing.assert_allclose(model.predict(rows), factor * one.predict(X), rtol=1e-5)
        np.testing.assert_allclose(model.predict_std(rows), factor * one.predict_std(X), rtol=1e-5)


gains = st.lists(st.floats(-1, 1), min_size=2, max_size=40)


@given(mean=gains, share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_share_asks_for_no_higher_price(
    mean: list[float], share: float, more: float
) -> None:
    values, costs = np.array(mean)[:, None], np.tile([0.0, 1.0], (len(mean), 1))
    small, large = (
        calibrate_share(values, costs, min(each, 1.0)).w for each in (share, share + more)
    )
    assert large <= small
