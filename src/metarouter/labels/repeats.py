"""Several labels of one query, counted once: :func:`merge_repeats`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import IntArray

__all__ = ["first_of_text", "merge_repeats"]


def merge_repeats(table: GainTable) -> GainTable:
    """Average the labels that a source gives one query and pair of models.

    What features do not explain of a query's gain is shared by all its labels:
    ten votes on one query are not ten queries. Taken as independent they look
    like a function without noise, and a model that infers its noise follows
    every one of them. So each (text, candidate, baseline) becomes one row a
    source, for preferences one a judge, with the weighted mean gain and the
    mean weight; that its mean is somewhat more precise than one label is left
    unused. Rows of weight 0 are dropped.

    Parameters
    ----------
    table : GainTable
        Queries of equal text count as one, whatever their ids.

    Returns
    -------
    GainTable
        The same queries and features; rows about equal texts name the first of them.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b"], query=[0, 0, 1], gain=[1.0, 0.0, 1.0],
    ...     is_gold=[True, True, True])
    >>> merge_repeats(table).gain.tolist()
    [0.5, 1.0]
    """
    if (table.weight <= 0).any():
        table = table.rows(table.weight > 0)
    first_query = first_of_text(table)
    if (first_query != np.arange(len(first_query))).any():  # one id a text
        table = replace(table, query=first_query[table.query])
    size = len(table.models)
    judge = np.where(table.is_gold, 0, table.judge + 1)
    parts = (table.query, table.candidate, table.baseline, judge)
    key = parts[0]
    for part, base in zip(parts[1:], (size, size, int(judge.max(initial=0)) + 1), strict=True):
        key = key * base + part
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    if len(first) == len(table):
        return table
    weight = np.bincount(group, table.weight)
    count = np.bincount(group)
    merged = table.rows(first)
    return replace(
        merged.with_gains(
            np.bincount(group, table.weight * table.gain) / weight,
            np.bincount(group, table.weight * table.variance) / weight,
        ),
        weight=weight / count,
    )


def first_of_text(table: GainTable) -> IntArray:
    """Index of the first query with the same text, for each query."""
    seen: dict[str, int] = {}
    return np.array(
        [seen.setdefault(text, i) for i, text in enumerate(table.queries)], dtype=np.int64
    )
