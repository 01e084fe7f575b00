"""Meta-learner correctors are the causal learners, cross-fitted, on a gain table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarouter.causal import DRLearner, Propensity, RLearner, SLearner, TLearner, XLearner
from metarouter.correction import learn_gain, make_corrector
from metarouter.correction.meta import MetaCorrector
from metarouter.errors import OptionError
from metarouter.labels.repeats import merge_repeats
from metarouter.labels.table import make_gain_table
from metarouter.testing import make_simulation

TABLE = make_simulation(310, 5, n_gold=80, n_test=10, bias="linear", seed=1).table
LEARNERS: dict[str, Any] = {
    "s": lambda: SLearner(seed=4),
    "t": lambda: TLearner(seed=4),
    "x": lambda: XLearner(seed=4, propensity=Propensity()),
    "r": lambda: RLearner(seed=4, propensity=Propensity()),
    "dr": lambda: DRLearner(seed=4, propensity=Propensity()),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_training_row_gets_the_shift_of_models_that_did_not_see_it(name: str) -> None:
    corrector = make_corrector(name, seed=4).fit(TABLE)
    result = corrector.transform(TABLE)
    learner = LEARNERS[name]().fit(
        TABLE.row_features().astype(np.float64),
        TABLE.gain,
        TABLE.is_gold,
        sample_weight=TABLE.weight,
        groups=TABLE.query,
    )
    plain = ~TABLE.is_gold
    shift = (result.gain - TABLE.gain)[plain]
    np.testing.assert_allclose(shift, learner.out_of_fold_[plain], atol=1e-12)
    np.testing.assert_allclose(result.variance[plain], learner.shift_variance_[plain])
    assert corrector.diagnostics_["mean_shift"] == pytest.approx(learner.out_of_fold_.mean())


def test_a_new_row_gets_the_shift_of_the_whole_model() -> None:
    new = make_simulation(50, 5, n_gold=10, n_test=10, bias="linear", seed=2).table.preference()
    result = make_corrector("dr", seed=4).fit(TABLE).transform(new)
    learner = LEARNERS["dr"]().fit(
        TABLE.row_features().astype(np.float64),
        TABLE.gain,
        TABLE.is_gold,
        sample_weight=TABLE.weight,
        groups=TABLE.query,
    )
    expected = learner.predict(new.row_features().astype(np.float64))
    np.testing.assert_allclose(result.gain - new.gain, expected, atol=1e-12)


def test_a_known_share_of_gold_stands_for_the_propensity() -> None:
    """Leaving it unestimated is stating the share of gold rows."""
    share = float(TABLE.is_gold.mean())
    one = make_corrector("dr", estimate_propensity=False).fit(TABLE).transform(TABLE)
    other = make_corrector("dr", annotation_propensity=share).fit(TABLE).transform(TABLE)
    np.testing.assert_array_equal(one.gain, other.gain)


@pytest.mark.parametrize("name", ["x", "r", "dr"])
def test_a_known_propensity_may_differ_by_row(name: str) -> None:
    """An array is used as it is; on another table it does not fit, and that is said."""
    known = np.linspace(0.1, 0.9, len(TABLE))
    corrector = make_corrector(name, annotation_propensity=known).fit(TABLE)
    np.testing.assert_array_equal(corrector.learner_.propensity_.used, known)  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match=f"{len(TABLE) - 1} values"):
        make_corrector(name, annotation_propensity=known).fit(TABLE.rows(np.arange(1, len(TABLE))))


def test_a_known_propensity_is_that_of_rows_after_repeats_were_merged() -> None:
    """Fewer rows than values is an error, never another row's value."""
    again = np.append(np.arange(len(TABLE)), [3, 5, 5])
    repeated = TABLE.rows(again)
    known = np.linspace(0.1, 0.9, len(TABLE))[again]
    with pytest.raises(OptionError, match=rf"has {len(again)} values.*merge_repeats"):
        learn_gain(repeated, make_corrector("dr", annotation_propensity=known), gain_model="ridge")
    merged = merge_repeats(repeated)
    by_query = dict(zip(repeated.query.tolist(), known.tolist(), strict=True))
    known = np.array([by_query[query] for query in merged.query.tolist()])
    corrector = make_corrector("dr", annotation_propensity=known)
    learn_gain(merged, corrector, gain_model="ridge")
    assert len(merged) == len(TABLE)
    np.testing.assert_array_equal(corrector.learner_.propensity_.used, known)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_constant_bias_is_found(name: str) -> None:
    """With 300 gold labels the mean shift is the true one, within three standard errors."""
    table = make_simulation(1_210, 5, n_gold=300, n_test=10, bias="constant", seed=6).table
    corrector = make_corrector(name).fit(table)
    error = 0.4 * np.sqrt(1 / 300 + 1 / 900)  # 0.4: standard deviation of a label
    assert corrector.diagnostics_["mean_shift"] == pytest.approx(-0.15, abs=3 * error)


def test_alignment_comes_first() -> None:
    """Votes in another unit are corrected alike when they are aligned."""
    scale = np.where(TABLE.is_gold, 1.0, 5.0)
    stretched = TABLE.with_gains(scale * TABLE.gain, TABLE.variance)
    one, other = (
        make_corrector("t", alignment="variance").fit(table).transform(table).gain
        for table in (TABLE, stretched)
    )
    np.testing.assert_allclose(other, one, atol=1e-9)


def test_unknown_learners_are_refused() -> None:
    with pytest.raises(OptionError, match="dr"):
        MetaCorrector(learner="q").fit(TABLE)


def test_rows_of_seen_queries_are_corrected_out_of_fold_in_any_order() -> None:
    """A permuted or restricted table gets the same Δ̂ for a row as the fitted table."""
    world = make_simulation(300, 4, n_gold=60, n_test=10, bias="linear", seed=3)
    corrector = make_corrector("dr").fit(world.table)
    whole = corrector.transform(world.table)
    order = np.random.default_rng(0).permutation(len(world.table))

    permuted = corrector.transform(world.table.rows(order))
    part = corrector.transform(world.table.preference())

    np.testing.assert_array_equal(permuted.gain, whole.gain[order])
    np.testing.assert_array_equal(part.gain, whole.gain[~whole.is_gold])


@pytest.mark.parametrize("name", LEARNERS)
def test_in_a_pool_each_model_has_a_bias_of_its_own(name: str) -> None:
    """The judge errs by x for one candidate and by −x for the other: rows turn the sign with it."""
    rng = np.random.default_rng(0)
    n, x = 600, rng.normal(size=(600, 2))
    candidate = rng.integers(1, 3, n)
    baseline = np.where(candidate == 2, rng.integers(0, 2, n), 0)
    bias = np.column_stack([np.zeros(n), x[:, 0], -x[:, 0]])
    error = bias[np.arange(n), candidate] - bias[np.arange(n), baseline]
    is_gold = rng.random(n) < 0.4
    table = make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=np.where(is_gold, 0.0, error) + 0.1 * rng.normal(size=n),
        is_gold=is_gold,
        models=("m0", "m1", "m2"),
        candidate=candidate,
        baseline=baseline,
        features=x,
    )
    corrected = make_corrector(name, seed=0).fit(table).transform(table)
    left = corrected.gain[~is_gold]
    assert np.std(left) < 0.3 * np.std(table.gain[~is_gold])
