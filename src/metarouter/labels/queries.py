"""Which rows, and which texts, are about the same query."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metarouter.labels.rows import LabelRows
from metarouter.types import BoolArray, IntArray

__all__ = ["clashing_ids", "hash_queries", "match_queries"]


def hash_queries(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Identity of queries by their texts: the first 64 bits of the sha256 of each.

    Examples
    --------
    >>> hashes = hash_queries([" Hi ", "Hi", "Ho"])
    >>> bool(hashes[0] == hashes[1]), bool(hashes[1] == hashes[2])
    (True, False)
    """
    digests = (hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")) for text in texts)
    return np.array(
        [int.from_bytes(digest.digest()[:8], "big") for digest in digests], dtype=np.uint64
    )


def clashing_ids(rows: LabelRows) -> BoolArray:
    """Rows whose query_id was given another text before, shape (n_rows,)."""
    known = rows.query_id >= 0
    first_text = _first_value(rows.query_id[known], rows.text[known])
    clash = np.zeros(len(rows), dtype=np.bool_)
    clash[known] = first_text[rows.query_id[known]] != rows.text[known]
    return clash


def match_queries(rows: LabelRows, n_ids: int) -> IntArray:
    """A key for each row, equal for rows about the same query.

    A query is its query_id where that is given, else its text. A preference
    row whose query_id no gold row has belongs to the gold query of the same
    text if there is one, and so does a row without a query_id.

    Notes
    -----
    Keys below `n_ids` are query_ids, the others are `n_ids` plus the text's code.
    Gold rows come first, so the first key of a text is gold's if gold has it.
    """
    has_id = rows.query_id >= 0
    key = np.where(has_id, rows.query_id, n_ids + rows.text)
    # a row without a query_id joins the first one that has its text
    id_of_text = _first_value(rows.text[has_id], rows.query_id[has_id])
    key = np.where(has_id, key, _known(id_of_text, rows.text, key))
    # one more entry than ids, for code −1 to index
    gold_ids = np.zeros(n_ids + 1, dtype=np.bool_)
    gold_ids[rows.query_id[rows.is_gold & has_id]] = True
    key_of_gold_text = _first_value(rows.text[rows.is_gold], key[rows.is_gold])
    by_text = ~rows.is_gold & ~(has_id & gold_ids[rows.query_id])
    return np.where(by_text, _known(key_of_gold_text, rows.text, key), key)


def _first_value(index: IntArray, value: IntArray) -> IntArray:
    """For each index, the value of its first row; −1 for an index without a row."""
    seen, first = np.unique(index, return_index=True)
    values = np.full(int(index.max(initial=-1)) + 1, -1, dtype=np.int64)
    values[seen] = value[first]
    return values


def _known(table: IntArray, index: IntArray, default: IntArray) -> IntArray:
    """``table[index]`` where the table has an entry, else `default`."""
    inside = index < len(table)
    found = np.full(len(index), -1, dtype=np.int64)
    found[inside] = table[index[inside]]
    return np.where(found >= 0, found, default)
