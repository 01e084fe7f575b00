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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.features.pipeline import FeaturePipeline
from metarouter.gain.out_of_bag import follows_rows, unseen_gains
from metarouter.gain.scoring import GainScorer
from metarouter.gain.text.rows import row_inputs
from metarouter.labels.split import take_queries
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["CrossFitted", "cross_fit", "predicted_contrast"]

MIN_GOLD = 20
"""Fewer gold queries than this cannot say what a router is worth."""

_MAX_PLAIN_QUERIES = 20_000
_MAX_PROBES = 500  # gold rows on which the levels of the folds' models are compared


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossFitted:
    """Out-of-fold predictions for gold rows.

    Attributes
    ----------
    query : int array, shape (n,); index of each row's query in the table.
    score : float array, shape (n,); predicted gain of each gold row's candidate
        over its baseline.
    gain : float array, shape (n,); the gold gain.
    weight : float array, shape (n,).
    fold : int array, shape (n,); whose model predicted the row.
    level : float array, shape (n,); what that model predicts for all gold rows, on average;
        for 500 of them where there are more.
    rank : float array, shape (n,), in [0, 1], or None
        Place of the row's score among those of the fold's own training queries; None but of
        a pair whose gain model follows its training rows.
    """

    query: IntArray
    score: FloatArray
    gain: FloatArray
    weight: FloatArray
    fold: IntArray
    level: FloatArray
    rank: FloatArray | None = None

    @property
    def n_queries(self) -> int:
        """Number of distinct queries."""
        return len(np.unique(self.query))

    def by_query(self) -> CrossFitted:
        """Weighted means over the rows of each query, which are independent of each other."""
        queries, first, row = np.unique(self.query, return_index=True, return_inverse=True)
        weight = np.bincount(row, self.weight).astype(np.float64)
        return CrossFitted(
            query=queries,
            score=np.bincount(row, self.weight * self.score) / weight,
            gain=np.bincount(row, self.weight * self.gain) / weight,
            weight=weight,
            fold=self.fold[first],
            level=self.level[first],
            rank=None if self.rank is None else self.rank[first],
        )

    def levelled(self) -> FloatArray:
        """Scores of a pair as if all models were on the level that they have on average.

        The level of a model is that of the labels of the other folds, which is low where those
        of its own fold are high: scores of several folds must not be compared as they are.
        """
        return self.score - self.level + float(self.level.mean())


def cross_fit(
    table: GainTable,
    make_features: Callable[[], FeaturePipeline],
    learn: Callable[[GainTable], GainScorer],
    *,
    folds: int = 5,
    seed: int = 0,
) -> CrossFitted:
    """Predict every gold row by a model that saw nothing of its query.

    Parameters
    ----------
    table : GainTable
        Gold and preference rows; features it may hold are not used, nor rows of weight 0.
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
    table = table.rows(table.weight > 0)
    kept, fold = _folded(table, folds, np.random.default_rng(seed))
    table = take_queries(table, kept)
    shared = _plain_features(table, fold, make_features)
    score = np.full(len(table), np.nan)
    level, rank = score.copy(), score.copy()
    gold = np.flatnonzero(table.is_gold)
    probe = _probes(len(gold), seed)
    for k in range(folds):
        seen = fold != k
        features = _fitted_on(table, seen, make_features) if shared is None else shared
        whole = table.with_features(features)
        model = learn(take_queries(whole, np.flatnonzero(seen)))
        own = ~seen[table.query[gold]]
        asked = own | probe
        predicted = predicted_contrast(model, whole.rows(gold[asked]))
        score[gold[own]], level[gold[own]] = predicted[own[asked]], predicted[probe[asked]].mean()
        if table.is_pair and follows_rows(model):
            rank[gold[own]] = _rank(predicted[own[asked]], unseen_gains(model, features[seen]))
    return CrossFitted(
        query=kept[table.query[gold]],
        score=score[gold],
        gain=table.gain[gold],
        weight=table.weight[gold],
        fold=fold[table.query[gold]],
        level=level[gold],
        rank=None if np.isnan(rank[gold]).any() else rank[gold],
    )


def predicted_contrast(model: GainScorer, table: GainTable) -> FloatArray:
    """Predicted gain of each row's candidate over its baseline, shape (n_rows,)."""
    over_reference = model.predict(row_inputs(model, table)).mean.reshape(len(table), -1)
    gains = np.column_stack([np.zeros(len(table)), over_reference])
    rows = np.arange(len(table))
    contrast: FloatArray = gains[rows, table.candidate] - gains[rows, table.baseline]
    return contrast


def _probes(n: int, seed: int) -> BoolArray:
    """Some of n gold rows, the same for every fold."""
    probe = np.zeros(n, dtype=np.bool_)
    probe[np.random.default_rng([seed, n]).permutation(n)[:_MAX_PROBES]] = True
    return probe


def _rank(values: FloatArray, known: FloatArray) -> FloatArray:
    """Share of the known values that are below each value, equal ones counting half."""
    known = np.sort(known.ravel())
    below, up_to = (np.searchsorted(known, values, side=side) for side in ("left", "right"))
    rank: FloatArray = (below + up_to) / (2.0 * len(known))
    return rank


def _folded(table: GainTable, folds: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Indices of gold queries and of at most 20,000 others, and their folds: −1 without gold.

    Queries of the same text share a fold, whatever their id.
    """
    code: dict[str, int] = {}
    text = np.array([code.setdefault(query, len(code)) for query in table.queries])
    gold = rng.permutation(np.unique(text[table.query[table.is_gold]]))
    if len(gold) < MIN_GOLD:
        raise DataError(f"{len(gold)} queries with gold labels; cross-fitting needs {MIN_GOLD}")
    fold_of_text = np.full(len(code), -1)
    fold_of_text[gold] = np.arange(len(gold)) % folds
    fold = fold_of_text[text]
    plain = rng.permutation(np.flatnonzero(fold < 0))[:_MAX_PLAIN_QUERIES]
    kept = np.sort(np.concatenate([np.flatnonzero(fold >= 0), plain]))
    return kept, fold[kept]


def _plain_features(
    table: GainTable, fold: IntArray, make_features: Callable[[], FeaturePipeline]
) -> NDArray[np.float32] | None:
    """Features of a pipeline learned on prompts without gold, if there are enough."""
    plain = fold < 0
    return _fitted_on(table, plain, make_features) if plain.sum() >= (~plain).sum() else None


def _fitted_on(
    table: GainTable, seen: BoolArray, make_features: Callable[[], FeaturePipeline]
) -> NDArray[np.float32]:
    texts = [table.queries[i] for i in np.flatnonzero(seen)]
    return make_features().fit(texts).transform(table.queries)
