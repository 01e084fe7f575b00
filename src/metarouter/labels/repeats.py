"""Several labels of one query, counted once: :func:`merge_repeats`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metarouter.labels.table import GainTable
from metarouter.types import IntArray

__all__ = ["first_of_text", "merge_repeats"]

_MAX_PANELS = 20


def merge_repeats(table: GainTable) -> GainTable:
    """Average the labels that a source gives one query and pair of models.

    What features do not explain of a query's gain is shared by all its labels:
    ten votes on one query are not ten queries, nor are the verdicts of ten
    judges. Taken as independent they look like a function without noise, and a
    model that infers its noise follows every one of them. So each (text,
    candidate, baseline) becomes one row a source, with the weighted mean gain
    and the mean weight; that its mean is somewhat more precise than one label
    is left unused. Several judges of one query become a panel, which is a judge
    of its own: one that is lenient is not in the same panels as one that is
    not. Rows of weight 0 are dropped.

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
    table = _averaged(table, _groups(table, np.where(table.is_gold, 0, table.judge + 1)))
    group = _groups(table, np.where(table.is_gold, 0, 1))
    return _averaged(_with_panels(table, group), group)


def first_of_text(table: GainTable) -> IntArray:
    """Index of the first query with the same text, for each query."""
    seen: dict[str, int] = {}
    return np.array(
        [seen.setdefault(text, i) for i, text in enumerate(table.queries)], dtype=np.int64
    )


def _groups(table: GainTable, part: IntArray) -> IntArray:
    """Number of each row's group: the same query, models and `part`."""
    size = len(table.models)
    key = (table.query * size + table.candidate) * size + table.baseline
    key = key * (int(part.max(initial=0)) + 1) + part
    group: IntArray = np.unique(key, return_inverse=True)[1]
    return group


def _averaged(table: GainTable, group: IntArray) -> GainTable:
    """One row a group, in the place of its first: weighted mean gain, mean weight."""
    first = np.unique(group, return_index=True)[1]
    if len(first) == len(table):
        return table
    weight = np.bincount(group, table.weight)
    return replace(
        table.rows(first).with_gains(
            np.bincount(group, table.weight * table.gain) / weight,
            np.bincount(group, table.weight * table.variance) / weight,
        ),
        weight=weight / np.bincount(group),
    )


def _with_panels(table: GainTable, group: IntArray) -> GainTable:
    """Rows of a group with several judges by a judge that stands for all of them."""
    shared = np.bincount(group)[group] > 1
    if not shared.any():
        return table
    # A panel is told by the sum of its members' numbers; a collision would only join two panels.
    number = np.random.default_rng(0).integers(2**62, size=len(table.judges), dtype=np.uint64)
    total = np.zeros(int(group.max()) + 1, dtype=np.uint64)
    np.add.at(total, group[shared], number[table.judge[shared]])
    panels, panel, size = np.unique(total[group[shared]], return_inverse=True, return_counts=True)
    place = np.empty(len(panels), dtype=np.int64)
    place[np.argsort(-size, kind="stable")] = np.arange(len(panels))
    judge = table.judge.copy()
    # Rare panels, each of which would cost a level of its own, count as one.
    judge[shared] = len(table.judges) + np.minimum(place[panel], _MAX_PANELS)
    names = [f"panel {i + 1}" for i in range(min(len(panels), _MAX_PANELS))]
    return replace(table, judge=judge, judges=(*table.judges, *names, "other panels"))
