"""Predictions for gold labels by routers that never saw them.

A router is fitted on all labels it is given. What such a router is worth, and
how large a loss a threshold risks, is estimated here: the gold queries are cut
into folds, and each fold is predicted by features, corrector and gain model
that were learned without its queries.

Everything is refitted for each fold, with two concessions to time, neither of
which lets a held-out label or prompt in. When at least as many training
prompts carry no gold label as do, one feature pipeline is learned on those
alone and serves every fold. And no more than 20,000 queries without gold are
used, so that for larger data the estimate is of a router fitted on less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.features.pipeline import FeaturePipeline
from metarouter.gain.pool import PoolGainModel
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["CrossFitted", "cross_fit", "predicted_contrast", "used_queries"]

MIN_GOLD = 20
"""Fewer gold queries than this cannot say what a router is worth."""

_MAX_PLAIN_QUERIES = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossFitted:
    """Out-of-fold predictions for gold rows.

    Attributes
    ----------
    score : float array, shape (n,); predicted gain of each gold row's candidate
        over its baseline.
    gain : float array, shape (n,); the gold gain.
    weight : float array, shape (n,).
    """

    score: FloatArray
    gain: FloatArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.gain)


def cross_fit(
    table: GainTable,
    make_features: Callable[[], FeaturePipeline],
    learn: Callable[[GainTable], PoolGainModel],
    *,
    folds: int = 5,
    seed: int = 0,
) -> CrossFitted:
    """Predict every gold row by a model that saw nothing of its query.

    Parameters
    ----------
    table : GainTable
        Gold and preference rows; features it may hold are not used.
    make_features : callable without arguments
        Gives an unfitted feature pipeline.
    learn : callable
        Corrects a table with features and fits a gain model to it.
    folds : int, at least 2, default 5
    seed : int, of the folds.

    Returns
    -------
    CrossFitted

    Raises
    ------
    DataError
        When fewer than 20 queries have a gold label.
    """
    rng = np.random.default_rng(seed)
    gold_queries = rng.permutation(np.unique(table.query[table.is_gold]))
    if len(gold_queries) < MIN_GOLD:
        raise DataError(f"{len(gold_queries)} gold queries; cross-fitting needs {MIN_GOLD}")
    fold = np.full(table.n_queries, -1)
    fold[gold_queries] = np.arange(len(gold_queries)) % folds
    table, fold = _limited(table, fold, rng)
    shared = _plain_features(table, fold, make_features)
    score = np.full(len(table), np.nan)
    for k in range(folds):
        features = _fold_features(table, fold != k, make_features) if shared is None else shared
        whole = table.with_features(features)
        test = table.is_gold & (fold[table.query] == k)
        model = learn(used_queries(whole.rows(fold[table.query] != k)))
        score[test] = predicted_contrast(model, whole.rows(test))
    gold = table.is_gold
    return CrossFitted(score=score[gold], gain=table.gain[gold], weight=table.weight[gold])


def predicted_contrast(model: PoolGainModel, table: GainTable) -> FloatArray:
    """Predicted gain of each row's candidate over its baseline, shape (n_rows,)."""
    over_reference = model.predict(table.row_features()).mean.reshape(len(table), -1)
    gains = np.column_stack([np.zeros(len(table)), over_reference])
    rows = np.arange(len(table))
    contrast: FloatArray = gains[rows, table.candidate] - gains[rows, table.baseline]
    return contrast


def used_queries(table: GainTable) -> GainTable:
    """The table without the queries that no row is about."""
    used, position = np.unique(table.query, return_inverse=True)
    return _queries(table, used, position)


def _queries(table: GainTable, used: IntArray, position: IntArray) -> GainTable:
    return replace(
        table,
        queries=tuple(table.queries[i] for i in used),
        query_ids=tuple(table.query_ids[i] for i in used),
        domain=table.domain[used],
        query=position.astype(np.int64),
        features=None if table.features is None else table.features[used],
    )


def _limited(
    table: GainTable, fold: IntArray, rng: np.random.Generator
) -> tuple[GainTable, IntArray]:
    """Gold queries and at most 20,000 others."""
    plain = np.flatnonzero(fold < 0)
    keep = fold >= 0
    keep[rng.permutation(plain)[:_MAX_PLAIN_QUERIES]] = True
    rows = table.rows(keep[table.query])
    used, position = np.unique(rows.query, return_inverse=True)
    return _queries(rows, used, position), fold[used]


def _plain_features(
    table: GainTable, fold: IntArray, make_features: Callable[[], FeaturePipeline]
) -> NDArray[np.float32] | None:
    """Features of a pipeline learned on prompts without gold, if there are enough."""
    plain = fold < 0
    return _fold_features(table, plain, make_features) if plain.sum() >= (~plain).sum() else None


def _fold_features(
    table: GainTable, seen: BoolArray, make_features: Callable[[], FeaturePipeline]
) -> NDArray[np.float32]:
    texts = [table.queries[i] for i in np.flatnonzero(seen)]
    return make_features().fit(texts).transform(table.queries)
