"""Cross-fitting: every row is predicted by models that did not see it.

Nothing here knows of treatment effects. Folds are one integer per row, so they
are disjoint and cover all rows by construction; that rows of one group stay
together is checked.

Two levels are offered. :func:`cross_fit` predicts a row with the model fitted
without the row's fold. A learner that goes on to fit a *second* model on such
predictions, and then applies it to fold k, still has fold k's outcomes inside
them: the predictions for the other folds came from models that saw fold k.
:func:`cross_fit_pairs` removes that path. For every fold k it also predicts
each row with a model that saw neither the row's fold nor fold k. That costs
K(K + 1)/2 fits instead of K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.types import BoolArray, FloatArray, IntArray, Regressor

__all__ = [
    "CrossFit",
    "CrossFitPairs",
    "RepeatedEstimate",
    "check_folds",
    "cross_fit",
    "cross_fit_pairs",
    "fit_model",
    "repeat_median",
    "stratified_folds",
]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossFit:
    """Out-of-fold predictions and the models that made them.

    Attributes
    ----------
    predictions : array, shape (n,), row i by a model that did not see its fold.
    models : one fitted model per fold; ``models[k]`` did not see fold k.
    folds : array, shape (n,), the fold of each row.
    """

    predictions: FloatArray
    models: tuple[Any, ...]
    folds: IntArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CrossFitPairs:
    """Predictions without the row's own fold and without one more fold.

    Attributes
    ----------
    predictions : array, shape (n, n_folds)
        Entry (i, k) is the prediction of row i by the model that saw neither
        the fold of i nor fold k.
    folds : array, shape (n,), the fold of each row.
    """

    predictions: FloatArray
    folds: IntArray

    def without(self, fold: int | None) -> FloatArray:
        """Predictions, shape (n,), that also leave out `fold` (None: no other)."""
        if fold is None:
            own: FloatArray = self.predictions[np.arange(len(self.folds)), self.folds]
            return own
        return self.predictions[:, fold]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RepeatedEstimate:
    """Median over repeated random splits, with the variance the splits add.

    Attributes
    ----------
    value : array, the element-wise median over the repeats.
    split_variance : array, the median of the squared deviations from `value`.
    n_repeats : how many splits were drawn.
    """

    value: FloatArray
    split_variance: FloatArray
    n_repeats: int


def stratified_folds(
    t: BoolArray, n_folds: int, rng: np.random.Generator, groups: NDArray[Any] | None = None
) -> IntArray:
    """Draw folds in which every source has its share and no group is split.

    Parameters
    ----------
    t : bool array, shape (n,)
        The source of each row.
    n_folds : int, at least 2
    rng : numpy.random.Generator
    groups : array, shape (n,), or None
        Rows with the same value (a query with several labels) stay in one
        fold; None takes each row as its own group.

    Returns
    -------
    array of int, shape (n,), with values 0 … n_folds − 1.

    Raises
    ------
    OptionError
        When `n_folds` is below 2.
    DataError
        When a source has fewer groups than folds.

    Notes
    -----
    Groups are of three kinds: rows of source 0 only, of both, of source 1 only.
    Each kind is shuffled and dealt out in turn, large groups first, and the
    next kind starts where the last one stopped, so that sizes stay even.

    Examples
    --------
    >>> t = np.array([True] * 4 + [False] * 6)
    >>> folds = stratified_folds(t, 2, np.random.default_rng(0))
    >>> [int(t[folds == k].sum()) for k in range(2)]
    [2, 2]
    """
    if n_folds < 2:
        raise OptionError.of("n_folds", n_folds, "an integer of at least 2")
    t = np.asarray(t, dtype=bool)
    row_group = np.arange(len(t)) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = np.bincount(row_group)
    n_treated = np.bincount(row_group, weights=t)
    for has_source, name in ((n_treated > 0, "1"), (n_treated < size, "0")):
        if int(has_source.sum()) < n_folds:
            raise DataError(
                f"source {name} has {int(has_source.sum())} independent rows, fewer than the "
                f"{n_folds} folds: give more labels of that source, or fewer folds"
            )
    # Ordered so that the kinds that share a source are neighbours: every fold gets its share.
    kind = (n_treated > 0).astype(int) - (n_treated < size)
    shuffled = rng.permutation(len(size))
    order = shuffled[np.lexsort((-size[shuffled], kind[shuffled]))]
    fold_of_group = np.empty(len(size), dtype=np.int64)
    fold_of_group[order] = np.arange(len(size)) % n_folds
    folds: IntArray = fold_of_group[row_group]
    return folds


def check_folds(folds: NDArray[Any], n: int, groups: NDArray[Any] | None = None) -> int:
    """Check that folds partition `n` rows and split no group; give their number.

    Raises
    ------
    DataError
        When the fold numbers are not 0 … K − 1 with K of at least 2, when
        there is not one per row, or when a group has rows in two folds.
    """
    folds = np.asarray(folds)
    if folds.shape != (n,) or not np.issubdtype(folds.dtype, np.integer):
        raise DataError(f"folds must be {n} integers, got shape {folds.shape} of {folds.dtype}")
    present = np.unique(folds)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise DataError(f"folds must be numbered 0 to K - 1 with K >= 2, got {present.tolist()}")
    if groups is not None:
        pairs = len(set(zip(np.asarray(groups).tolist(), folds.tolist(), strict=True)))
        if pairs != len(np.unique(groups)):
            raise DataError("folds are not disjoint: a group has rows in two folds")
    return len(present)


def cross_fit(
    make_model: Callable[[], Regressor],
    X: NDArray[Any],
    y: FloatArray,
    folds: IntArray,
    *,
    train_mask: BoolArray | None = None,
    sample_weight: FloatArray | None = None,
) -> CrossFit:
    """Predict every row with a model fitted on the other folds.

    Parameters
    ----------
    make_model : callable
        Makes a new unfitted regressor.
    X : array, shape (n, d)
    y : array, shape (n,)
    folds : array of int, shape (n,)
    train_mask : bool array, shape (n,), or None
        Rows that may train; all rows are predicted. None takes all.
    sample_weight : array, shape (n,), or None

    Returns
    -------
    CrossFit

    Raises
    ------
    DataError
        When the folds are no partition or a fold leaves no row to train on.

    Examples
    --------
    >>> from metarouter.linear import Ridge
    >>> X, folds = np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 0, 1])
    >>> cross_fit(lambda: Ridge(penalty=0.0), X, 3 * X[:, 0], folds).predictions.round(6).tolist()
    [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    """
    models, predictions = [], np.empty(len(y))
    for fold in range(check_folds(folds, len(y))):
        held_out = folds == fold
        model = _fit_rows(make_model, X, y, ~held_out, train_mask, sample_weight)
        predictions[held_out] = model.predict(X[held_out])
        models.append(model)
    return CrossFit(predictions=predictions, models=tuple(models), folds=folds)


def cross_fit_pairs(
    make_model: Callable[[], Regressor],
    X: NDArray[Any],
    y: FloatArray,
    folds: IntArray,
    *,
    train_mask: BoolArray | None = None,
    sample_weight: FloatArray | None = None,
) -> CrossFitPairs:
    """Predict every row without its own fold and, in turn, without each other fold.

    Parameters are those of :func:`cross_fit`; three folds at least are needed.

    Returns
    -------
    CrossFitPairs

    Raises
    ------
    DataError
        When the folds are no partition, fewer than 3, or a pair of them leaves
        no row to train on.
    """
    n_folds = check_folds(folds, len(y))
    if n_folds < 3:
        raise DataError(f"pairs of folds are left out, which needs at least 3 folds, got {n_folds}")
    predictions = np.empty((len(y), n_folds))
    for j, k in _fold_pairs(n_folds):
        in_j, in_k = folds == j, folds == k
        model = _fit_rows(make_model, X, y, ~(in_j | in_k), train_mask, sample_weight)
        predictions[in_j, k] = model.predict(X[in_j])
        if j != k:
            predictions[in_k, j] = model.predict(X[in_k])
    return CrossFitPairs(predictions=predictions, folds=folds)


def repeat_median(
    fn: Callable[[np.random.Generator], FloatArray], n_repeats: int, rng: np.random.Generator
) -> RepeatedEstimate:
    """Repeat an estimate over random splits and take the median.

    Parameters
    ----------
    fn : callable
        Takes a generator (its own random split) and gives an array.
    n_repeats : int, at least 1
    rng : numpy.random.Generator

    Returns
    -------
    RepeatedEstimate

    References
    ----------
    Chernozhukov et al. (2018), Double/debiased machine learning, Definition
    3.3, https://doi.org/10.1111/ectj.12097.

    Examples
    --------
    >>> repeat_median(lambda g: g.normal(size=2), 3, np.random.default_rng(0)).value.shape
    (2,)
    """
    if n_repeats < 1:
        raise OptionError.of("n_repeats", n_repeats, "an integer of at least 1")
    runs = np.stack([np.asarray(fn(child), dtype=np.float64) for child in rng.spawn(n_repeats)])
    value = np.median(runs, axis=0)
    spread = np.median((runs - value) ** 2, axis=0)
    return RepeatedEstimate(value=value, split_variance=spread, n_repeats=n_repeats)


def fit_model(
    make_model: Callable[[], Regressor],
    X: NDArray[Any],
    y: FloatArray,
    sample_weight: FloatArray | None = None,
) -> Any:
    """Fit a new model; one that takes no weights is only given them when there are any."""
    model = make_model()
    if sample_weight is None:
        model.fit(X, y)
    else:
        model.fit(X, y, sample_weight=sample_weight)
    return model


def _fold_pairs(n_folds: int) -> Iterator[tuple[int, int]]:
    yield from ((k, k) for k in range(n_folds))
    yield from combinations(range(n_folds), 2)


def _fit_rows(
    make_model: Callable[[], Regressor],
    X: NDArray[Any],
    y: FloatArray,
    rows: BoolArray,
    train_mask: BoolArray | None,
    sample_weight: FloatArray | None,
) -> Any:
    if train_mask is not None:
        rows = rows & train_mask
    if not rows.any():
        raise DataError("a fold leaves no row to train on: use fewer folds, or give more labels")
    weight = None if sample_weight is None else sample_weight[rows]
    return fit_model(make_model, X[rows], y[rows], weight)
