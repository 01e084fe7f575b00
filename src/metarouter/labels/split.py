"""Splits of a table by query, so that no query is on both sides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from metarouter.errors import DataError, OptionError
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, IntArray

__all__ = ["split_by_query", "take_queries"]


def split_by_query(
    table: GainTable, share: float, rng: np.random.Generator
) -> tuple[GainTable, GainTable]:
    """Split a table at random into two with no query in common.

    Queries of the same text stay together, whatever their query_id. Queries
    with gold labels and queries without are split apart from each other, so
    that both sides have the same share of gold up to rounding.

    Parameters
    ----------
    table : GainTable
    share : float in (0, 1)
        Share of the queries in the first table.
    rng : numpy.random.Generator

    Returns
    -------
    first, second : GainTable
        With the queries and the rows in the order of `table`.

    Raises
    ------
    OptionError
        When `share` is not inside (0, 1).

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(
    ...     queries=list("abcd"), gain=[1, 0, 1, 0], is_gold=[True, True, False, False]
    ... )
    >>> first, second = split_by_query(table, 0.5, np.random.default_rng(0))
    >>> int(first.is_gold.sum()), int(second.is_gold.sum())
    (1, 1)
    """
    if not 0 < share < 1:
        raise OptionError.of("share", share, "a number between 0 and 1")
    # the same text on both sides would leak, even under two query_ids
    text = _text_groups(table)
    has_gold = np.zeros(int(text.max(initial=-1)) + 1, dtype=np.bool_)
    has_gold[text[table.query[table.is_gold]]] = True
    in_first = _drawn(has_gold, share, rng) | _drawn(~has_gold, share, rng)
    first = in_first[text]
    return take_queries(table, np.flatnonzero(first)), take_queries(table, np.flatnonzero(~first))


def take_queries(table: GainTable, query_indices: IntArray) -> GainTable:
    """The table restricted to some queries, in the order given, and to their rows.

    Unlike :meth:`GainTable.rows` it drops the other queries and their features.

    Raises
    ------
    DataError
        When an index repeats or is outside the queries.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("ab"), gain=[1, 0], is_gold=[True, True])
    >>> take_queries(table, np.array([1])).queries
    ('b',)
    """
    chosen = np.asarray(query_indices, dtype=np.int64)
    if len(np.unique(chosen)) != len(chosen):
        raise DataError("query_indices holds an index more than once")
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < table.n_queries:
        raise DataError(f"query_indices must be in 0 … {table.n_queries - 1}")
    place = np.full(table.n_queries, -1, dtype=np.int64)
    place[chosen] = np.arange(len(chosen))
    rows = table.rows(place[table.query] >= 0)
    columns: dict[str, Any] = {"query": place[rows.query], "domain": table.domain[chosen]}
    if table.features is not None:
        columns["features"] = table.features[chosen]
    for column in columns.values():
        column.flags.writeable = False
    return replace(
        rows,
        queries=tuple(table.queries[i] for i in chosen),
        query_ids=tuple(table.query_ids[i] for i in chosen),
        **columns,
    )


def _text_groups(table: GainTable) -> IntArray:
    """A code for each query, equal for queries of the same text."""
    code: dict[str, int] = {}
    return np.array([code.setdefault(text, len(code)) for text in table.queries], dtype=np.int64)


def _drawn(stratum: BoolArray, share: float, rng: np.random.Generator) -> BoolArray:
    """A mask of `share` of the members of a stratum, drawn without replacement."""
    members = np.flatnonzero(stratum)
    drawn = np.zeros(len(stratum), dtype=np.bool_)
    drawn[rng.permutation(members)[: round(share * len(members))]] = True
    return drawn
