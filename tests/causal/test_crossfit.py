"""Folds, cross-fitting and repeated splits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.causal.crossfit import (
    check_folds,
    cross_fit,
    cross_fit_pairs,
    repeat_median,
    stratified_folds,
)
from metarouter.errors import DataError, OptionError
from metarouter.types import BoolArray, FloatArray


@dataclass
class SeenRows:
    """A regressor whose prediction is the sum of 2^row over the rows it has seen."""

    total: float = 0.0

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SeenRows:
        """Remember the marks in y."""
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        self.total = float(weight @ y)
        return self

    def predict(self, X: Any) -> FloatArray:
        """The same number for every row."""
        return np.full(len(X), self.total)


def _marks(n: int) -> tuple[FloatArray, FloatArray]:
    return np.zeros((n, 1)), np.exp2(np.arange(n, dtype=np.float64))


def _rows_in(total: float, n: int) -> set[int]:
    return {i for i in range(n) if int(total) >> i & 1}


@settings(max_examples=50)
@given(
    n1=st.integers(5, 40),
    n0=st.integers(5, 40),
    n_folds=st.integers(2, 5),
    seed=st.integers(0, 1000),
)
def test_each_source_is_dealt_evenly(n1: int, n0: int, n_folds: int, seed: int) -> None:
    """Fold sizes differ by one at most, within each source and in all."""
    t = np.r_[np.ones(n1, bool), np.zeros(n0, bool)]
    folds = stratified_folds(t, n_folds, np.random.default_rng(seed))
    for rows in (t, ~t, np.ones_like(t)):
        sizes = np.bincount(folds[rows], minlength=n_folds)
        assert sizes.max() - sizes.min() <= 1


@settings(max_examples=50)
@given(seed=st.integers(0, 1000), n_folds=st.integers(2, 4))
def test_groups_stay_whole_and_every_fold_has_both_sources(seed: int, n_folds: int) -> None:
    """Also when most groups hold rows of one source only."""
    rng = np.random.default_rng(seed)
    groups = np.r_[np.arange(12), rng.integers(0, 12, 30)]
    t = np.r_[np.arange(12) < 5, rng.random(30) < 0.3]
    folds = stratified_folds(t, n_folds, rng, groups)
    assert check_folds(folds, len(t), groups) == n_folds
    for fold in range(n_folds):
        assert t[folds == fold].any()
        assert not t[folds == fold].all()


def test_scarce_groups_of_every_kind_fill_every_fold() -> None:
    """Three groups of each single source and two of both are just enough for five folds."""
    groups = np.array([0, 1, 2, 3, 3, 4, 4, 5, 6, 7])
    t = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1], dtype=bool)
    for seed in range(20):
        folds = stratified_folds(t, 5, np.random.default_rng(seed), groups)
        assert set(folds[t]) == set(folds[~t]) == set(range(5))


def test_folds_are_reproducible_and_random() -> None:
    """The generator decides, and nothing else."""
    t = np.arange(50) % 3 == 0
    first, again, other = (stratified_folds(t, 5, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("t", "n_folds", "groups", "error"),
    [
        (np.arange(9) < 2, 3, None, DataError),
        (np.arange(9) < 7, 3, None, DataError),
        (np.arange(9) < 5, 3, np.arange(9) // 5, DataError),
        (np.arange(9) < 5, 1, None, OptionError),
    ],
)
def test_folds_that_cannot_be_drawn_are_refused(
    t: BoolArray, n_folds: int, groups: Any, error: type[Exception]
) -> None:
    """Too few independent rows of a source, or too few folds."""
    with pytest.raises(error, match="fold"):
        stratified_folds(t, n_folds, np.random.default_rng(0), groups)


@pytest.mark.parametrize(
    "folds", [np.zeros(4, int), np.array([0, 1, 1]), np.array([0, 2, 0, 2]), np.ones(4) * 0.5]
)
def test_what_is_no_partition_is_refused(folds: Any) -> None:
    """One fold, wrong length, a gap in the numbers, not integers."""
    with pytest.raises(DataError, match="folds must be"):
        cross_fit(SeenRows, np.zeros((4, 1)), np.zeros(4), folds)


def test_group_in_two_folds_is_refused() -> None:
    """Folds that are disjoint in rows but not in groups."""
    with pytest.raises(DataError, match="not disjoint"):
        check_folds(np.array([0, 1, 0, 1]), 4, np.array(["a", "a", "b", "c"]))


def test_cross_fit_predicts_each_row_from_all_other_folds() -> None:
    """And from them only, seen through a model that reports its training rows."""
    n = 9
    X, y = _marks(n)
    folds = np.arange(n) % 3
    fitted = cross_fit(SeenRows, X, y, folds)
    for i in range(n):
        expected = {j for j in range(n) if folds[j] != folds[i]}
        assert _rows_in(fitted.predictions[i], n) == expected
    assert [model.total for model in fitted.models] == [y[folds != k].sum() for k in range(3)]


def test_cross_fit_pairs_also_leaves_out_the_second_fold() -> None:
    """Entry (i, k) has seen neither the fold of i nor fold k."""
    n = 12
    X, y = _marks(n)
    folds = np.arange(n) % 4
    mask = np.arange(n) != 5
    pairs = cross_fit_pairs(SeenRows, X, y, folds, train_mask=mask)
    for i in range(n):
        for k in range(4):
            expected = {j for j in range(n) if folds[j] not in (folds[i], k) and mask[j]}
            assert _rows_in(pairs.predictions[i, k], n) == expected
    single = cross_fit(SeenRows, X, y, folds, train_mask=mask)
    assert np.array_equal(pairs.without(None), single.predictions)


def test_weights_follow_their_rows() -> None:
    """A weight reaches the model with the row it belongs to."""
    X, y = _marks(6)
    weight = np.array([1.0, 0, 1, 0, 1, 0])
    fitted = cross_fit(SeenRows, X, y, np.arange(6) % 2, sample_weight=weight)
    assert fitted.predictions.tolist() == [0.0, 21.0, 0.0, 21.0, 0.0, 21.0]


def test_fold_without_training_rows_is_refused() -> None:
    """A mask that leaves nothing to learn from."""
    with pytest.raises(DataError, match="no row to train on"):
        cross_fit(
            SeenRows, np.zeros((4, 1)), np.zeros(4), np.arange(4) % 2, train_mask=np.arange(4) == 0
        )
    with pytest.raises(DataError, match="at least 3 folds"):
        cross_fit_pairs(SeenRows, np.zeros((4, 1)), np.zeros(4), np.arange(4) % 2)


def test_repeat_median_takes_the_median_of_independent_runs() -> None:
    """Value and spread by hand, with one generator per repeat."""
    draws: list[float] = []

    def draw(rng: np.random.Generator) -> FloatArray:
        draws.append(float(rng.normal()))
        return np.array([draws[-1], 1.0])

    result = repeat_median(draw, 5, np.random.default_rng(3))
    middle = sorted(draws)[2]
    assert len(set(draws)) == 5
    assert result.value.tolist() == [middle, 1.0]
    assert result.split_variance[0] == sorted((d - middle) ** 2 for d in draws)[2]
    assert result.split_variance[1] == 0
    with pytest.raises(OptionError, match="n_repeats"):
        repeat_median(draw, 0, np.random.default_rng(0))
