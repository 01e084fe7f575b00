"""The mean shift where a source tells little: of a model, or at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarouter.correction import learn_gain, make_corrector
from metarouter.correction.simple import MeanShift
from metarouter.errors import DataError
from metarouter.labels.table import GainTable, make_gain_table


def make_pool(gold_about: tuple[tuple[int, int], ...], seed: int = 0) -> GainTable:
    """Votes on all three pairs of models, gold on some; levels 0, 0.2, 0.6, votes 0.1 more."""
    rng = np.random.default_rng(seed)
    pairs = ((1, 0), (2, 0), (2, 1))
    rows = [(pair, False) for pair in pairs for _ in range(60)]
    rows += [(pair, True) for pair in gold_about for _ in range(20)]
    level = np.array([0.0, 0.2, 0.6])
    candidate, baseline = np.array([pair for pair, _ in rows]).T
    is_gold = np.array([gold for _, gold in rows])
    gain = level[candidate] - level[baseline] + 0.3 * rng.normal(size=len(rows))
    return make_gain_table(
        queries=[f"q{i}" for i in range(len(rows))],
        models=("a", "b", "c"),
        candidate=candidate,
        baseline=baseline,
        gain=gain + 0.1 * ~is_gold * (baseline == 0),
        is_gold=is_gold,
        features=rng.normal(size=(len(rows), 2)),
    )


def is_left_out(table: GainTable, candidate: int, baseline: int) -> bool:
    """Whether all votes on a pair, or none of them, have infinite variance."""
    rows = ~table.is_gold & (table.candidate == candidate) & (table.baseline == baseline)
    found = np.unique(np.isinf(table.variance[rows]))
    assert len(found) == 1
    return bool(found[0])


@pytest.mark.parametrize(
    ("gold_about", "known"),
    [
        (((1, 0), (2, 0)), {(1, 0), (2, 0), (2, 1)}),
        (((1, 0), (2, 1)), {(1, 0), (2, 0), (2, 1)}),
        (((1, 0),), {(1, 0)}),
        (((2, 1),), {(2, 1)}),
    ],
    ids=["both", "chain", "one candidate", "two candidates alone"],
)
def test_votes_on_models_that_gold_does_not_link_are_left_out(
    gold_about: tuple[tuple[int, int], ...], known: set[tuple[int, int]]
) -> None:
    """A level that no gold label tells is unknown; least squares of least norm would call it 0."""
    table = make_pool(gold_about)
    result = MeanShift().fit(table).transform(table)
    for pair in ((1, 0), (2, 0), (2, 1)):
        assert is_left_out(result, *pair) == (pair not in known)
    shift = (result.gain - table.gain)[~table.is_gold & np.isfinite(result.variance)]
    assert np.abs(shift).max() < 0.4  # that of the votes is 0.1 and 0


@pytest.mark.parametrize("name", ["t", "x", "r", "dr"])
def test_a_meta_learner_leaves_out_the_same_votes(name: str) -> None:
    """In the fitted table and in another; what others say of a shift is not said of its own."""
    table = make_pool(((2, 1),))
    corrector = make_corrector(name).fit(table)
    for result in (corrector.transform(table), corrector.transform(table.rows(np.arange(180)))):
        assert [is_left_out(result, *pair) for pair in ((1, 0), (2, 0), (2, 1))] == [
            True,
            True,
            False,
        ]
    new = corrector.transform(make_pool(((2, 1),), seed=1))
    assert [is_left_out(new, *pair) for pair in ((1, 0), (2, 0), (2, 1))] == [True, True, False]


def test_the_guess_of_the_s_learner_is_less_sure_than_what_gold_tells() -> None:
    """Its penalty draws a shift without gold to that of the others: votes stay, for less."""
    table = make_pool(((1, 0),))
    result = make_corrector("s").fit(table).transform(table)
    about = (table.candidate == 2) & (table.baseline == 0) & ~table.is_gold
    known = (table.candidate == 1) & ~table.is_gold
    assert np.isfinite(result.variance).all()
    assert result.variance[about].mean() > 3 * result.variance[known].mean()


@pytest.mark.parametrize("name", ["mean_shift", "t", "x", "r", "dr"])
def test_a_candidate_without_gold_is_refused(name: str) -> None:
    """Its votes alone say nothing of its gold gain, whose level the shift is to set."""
    with pytest.raises(DataError, match="no usable label for c"):
        learn_gain(make_pool(((1, 0),)), make_corrector(name), gain_model="ridge")


@pytest.mark.parametrize("n_gold", [1, 2])
def test_the_shift_of_few_gold_labels_is_as_uncertain_as_they_are(n_gold: int) -> None:
    """Over 300 tables the mean stated variance of the shift is its mean squared error."""
    errors, stated = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        is_gold = np.arange(50) < n_gold
        table = make_gain_table(
            queries=[str(i) for i in range(50)],
            gain=0.5 * rng.normal(size=50) + 0.3 * ~is_gold,
            is_gold=is_gold,
        )
        model: Any = MeanShift().fit(table)
        errors.append((model.shift_[0] + 0.3) ** 2)
        stated.append(model.covariance_[0, 0])
    assert np.mean(stated) == pytest.approx(np.mean(errors), rel=0.3)


def test_two_gold_labels_that_are_equal_do_not_tell_the_shift_for_sure() -> None:
    """They say no more of their noise than one does, which has that of the votes."""
    votes = np.tile([1.0, 0.1, -1.0], 20)

    def error(n_gold: int) -> float:
        table = make_gain_table(
            queries=[str(i) for i in range(60 + n_gold)],
            gain=np.concatenate([votes, np.full(n_gold, 0.1)]),
            is_gold=np.arange(60 + n_gold) >= 60,
        )
        model: Any = MeanShift().fit(table)
        return float(model.covariance_[0, 0])

    assert error(2) == pytest.approx(error(1) / 2, rel=0.05)
    assert error(2) > 0.9 * votes.var() / 2


def test_the_shift_counts_queries_and_not_graders() -> None:
    """Queries that gain more have three graders in gold; the votes are 0.1 too high everywhere."""
    rng = np.random.default_rng(4)
    n, is_gold = 4000, np.arange(4000) < 1000
    psi = 0.4 * rng.normal(size=n)
    weight = np.where(is_gold & (psi > 0), 3.0, 1.0)
    gain = psi + 0.2 * rng.normal(size=n) / np.sqrt(weight) + 0.1 * ~is_gold
    table = make_gain_table(
        queries=[str(i) for i in range(n)], gain=gain, is_gold=is_gold, weight=weight
    )
    model: Any = MeanShift().fit(table)
    assert model.shift_[0] == pytest.approx(gain[is_gold].mean() - gain[~is_gold].mean())
    assert abs(model.shift_[0] + 0.1) < 3 * np.sqrt(model.covariance_[0, 0])


@pytest.mark.parametrize("slope", [-0.8, 0.6])
def test_votes_against_gold_on_the_same_queries_make_the_shift_less_sure(slope: float) -> None:
    """All queries in both: the error is that of the paired differences, but never smaller."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=60)
    votes = slope * gold + rng.normal(size=60)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(60)],
        query=np.tile(np.arange(60), 2),
        gain=np.concatenate([gold, votes]),
        is_gold=np.arange(120) < 60,
    )
    model: Any = MeanShift().fit(table)
    apart = (gold.var(ddof=1) + votes.var(ddof=1)) / 60
    paired = (votes - gold).var(ddof=1) / 60
    assert (paired > apart) == (slope < 0)
    assert model.covariance_[0, 0] == pytest.approx(max(paired, apart))


def test_in_a_pool_only_the_candidate_that_is_judged_backwards_is_less_sure() -> None:
    """Candidate b's votes go against its gold labels, candidate c's with them."""
    gold = np.tile([1.0, -1.0], 200)
    candidate = np.repeat([1, 2], 200)
    votes = np.where(candidate == 1, -gold, gold)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(400)],
        query=np.tile(np.arange(400), 2),
        models=("a", "b", "c"),
        candidate=np.tile(candidate, 2),
        gain=np.concatenate([gold, votes]),
        is_gold=np.arange(800) < 400,
    )
    model: Any = MeanShift().fit(table)
    assert model.covariance_[0, 0] == pytest.approx(4 / 200, rel=0.02)
    assert model.covariance_[1, 1] == pytest.approx(2 / 200, rel=0.02)


def test_rows_of_no_weight_are_not_there() -> None:
    table = make_gain_table(
        queries=list("abcd"),
        gain=[0.5, 9.0, 0.2, 0.0],
        is_gold=[True, True, False, False],
        weight=[1.0, 0.0, 1.0, 1.0],
    )
    model: Any = MeanShift().fit(table)
    assert model.shift_[0] == pytest.approx(0.4)
    with pytest.raises(DataError, match="both sources"):
        MeanShift().fit(table.rows(np.array([1, 2, 3])))
