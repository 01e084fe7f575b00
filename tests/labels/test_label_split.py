"""Splits by query."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.errors import DataError, OptionError
from metarouter.labels import GainTable, make_gain_table, split_by_query, take_queries


def random_table(seed: int, n_queries: int = 60, n_rows: int = 150) -> GainTable:
    """Queries with none to many rows of both sources; some texts under two ids."""
    rng = np.random.default_rng(seed)
    return make_gain_table(
        queries=[f"text {i // 2 if i < 20 else i}" for i in range(n_queries)],
        query_ids=[f"id {i}" for i in range(n_queries)],
        query=rng.integers(n_queries, size=n_rows),
        gain=rng.normal(size=n_rows),
        is_gold=rng.random(n_rows) < 0.3,
        domain=rng.integers(-1, 2, size=n_queries),
        domains=("x", "y"),
        features=rng.normal(size=(n_queries, 3)).astype(np.float32),
    )


def row_set(table: GainTable) -> set[tuple[str, float, bool, float]]:
    features = table.row_features()
    return {
        (
            table.query_ids[table.query[i]],
            float(table.gain[i]),
            bool(table.is_gold[i]),
            float(features[i, 0]),
        )
        for i in range(len(table))
    }


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95))
@settings(max_examples=40)
def test_a_split_shares_no_text_and_loses_no_row(seed: int, share: float) -> None:
    table = random_table(seed)
    first, second = split_by_query(table, share, np.random.default_rng(seed))
    assert not set(first.queries) & set(second.queries)
    assert row_set(first) | row_set(second) == row_set(table)
    assert len(first) + len(second) == len(table)
    assert first.n_queries + second.n_queries == table.n_queries


def test_both_sides_have_the_share_of_gold_queries() -> None:
    n = 1000
    is_gold = np.arange(n) < 100
    table = make_gain_table(queries=[f"q{i}" for i in range(n)], gain=np.zeros(n), is_gold=is_gold)
    first, second = split_by_query(table, 0.3, np.random.default_rng(0))
    assert int(first.is_gold.sum()) == 30
    assert int(second.is_gold.sum()) == 70
    assert len(first) == 300


def test_the_seed_decides_the_split() -> None:
    table = random_table(0)
    ids = [
        split_by_query(table, 0.5, np.random.default_rng(seed))[0].query_ids for seed in (1, 1, 2)
    ]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(OptionError, match="share"):
        split_by_query(random_table(0), share, np.random.default_rng(0))


def test_taking_queries_keeps_their_order_rows_domains_and_features() -> None:
    table = random_table(3)
    taken = take_queries(table, np.array([7, 2]))
    assert taken.query_ids == ("id 7", "id 2")
    assert taken.features is not None
    assert table.features is not None
    np.testing.assert_array_equal(taken.features, table.features[[7, 2]])
    np.testing.assert_array_equal(taken.domain, table.domain[[7, 2]])
    np.testing.assert_array_equal(
        np.sort(taken.gain), np.sort(table.gain[np.isin(table.query, [7, 2])])
    )
    assert {taken.query_ids[q] for q in taken.query} <= {"id 7", "id 2"}


def test_what_is_taken_cannot_be_written_to() -> None:
    taken = take_queries(random_table(3), np.array([7, 2]))
    with pytest.raises(ValueError, match="read-only"):
        taken.query[0] = 0


@pytest.mark.parametrize("indices", [[1, 1], [-1], [60]])
def test_query_indices_that_repeat_or_do_not_exist_are_refused(indices: list[int]) -> None:
    with pytest.raises(DataError, match="query_indices"):
        take_queries(random_table(0), np.array(indices))
