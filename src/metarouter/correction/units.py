"""Both label sources of one pair of models, each query counted once a source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarouter.labels.noise import MIN_LABELS
from metarouter.labels.rows import group_mean
from metarouter.labels.split import take_queries
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = [
    "MAX_PLAIN",
    "SourceUnits",
    "main_contrast",
    "paired_table",
    "source_units",
]

MAX_PLAIN = 20_000
"""Queries without gold that are looked at."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SourceUnits:
    """Mean gain of each (query, source); arrays of shape (n,) but `features` (n, d).

    Attributes
    ----------
    query : index of the unit's query in the table it was made from.
    is_gold : the source.
    gain : weighted mean over the labels of this query and source.
    features : of the query.
    """

    query: IntArray
    is_gold: BoolArray
    gain: FloatArray
    features: FloatArray

    def has_both(self, at_least: int = MIN_LABELS) -> bool:
        """Whether both sources have enough queries."""
        n_gold = int(self.is_gold.sum())
        return min(n_gold, len(self.is_gold) - n_gold) >= at_least

    @property
    def share(self) -> FloatArray:
        """One over the units of each unit's query, so that a query counts once."""
        _, code, count = np.unique(self.query, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / count[code], dtype=np.float64)


def main_contrast(table: GainTable) -> tuple[int, int] | None:
    """The pair of models that both sources know best, as (candidate, baseline).

    The one whose rarer source has most rows; None without any row.
    """
    if not len(table):
        return None
    size = len(table.models)
    pair = table.candidate * size + table.baseline
    gold, preference = (
        np.bincount(pair[rows], minlength=size**2) for rows in (table.is_gold, ~table.is_gold)
    )
    # The rarer source decides; with one source only, its most frequent pair.
    best = int(np.lexsort((gold + preference, np.minimum(gold, preference)))[-1])
    return best // size, best % size


def paired_table(
    table: GainTable, contrast: tuple[int, int], rng: np.random.Generator, most: int = MAX_PLAIN
) -> tuple[GainTable, IntArray]:
    """Rows of one pair of models on at most `most` queries without gold.

    Returns
    -------
    GainTable, and the indices in `table` of its queries.
    """
    about = (table.candidate == contrast[0]) & (table.baseline == contrast[1])
    table = table.rows(about & (table.weight > 0))
    gold = np.unique(table.query[table.is_gold])
    plain = rng.permutation(np.setdiff1d(table.query, gold))[:most]
    queries = np.sort(np.concatenate([gold, plain]))
    return take_queries(table, queries), queries


def source_units(table: GainTable) -> SourceUnits:
    """Average the labels of each query and source; queries of the same text are one."""
    features = table.row_features()
    text = _text_codes(table)[table.query]
    _, first, unit = np.unique(2 * text + table.is_gold, return_index=True, return_inverse=True)
    return SourceUnits(
        query=text[first],
        is_gold=table.is_gold[first],
        gain=group_mean(unit, table.gain, table.weight),
        features=features[first].astype(np.float64),
    )


def _text_codes(table: GainTable) -> IntArray:
    """For each query, the index of the first query of the same text."""
    first: dict[str, int] = {}
    codes = [first.setdefault(text, i) for i, text in enumerate(table.queries)]
    return np.array(codes, dtype=np.int64)
