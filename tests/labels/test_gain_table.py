"""The gain table itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarouter.errors import DataError
from metarouter.labels import GainTable, make_gain_table


def two_queries(**columns: Any) -> GainTable:
    values: dict[str, Any] = {"queries": ["a", "b"], "gain": [1, 0], "is_gold": [True, False]}
    return make_gain_table(**(values | columns))


def test_features_belong_to_queries_and_are_repeated_for_rows() -> None:
    table = make_gain_table(
        queries=["a", "b"], query=[1, 1, 0], gain=[0, 0, 0], is_gold=[True] * 3
    ).with_features(np.array([[1.0], [2.0]], dtype=np.float32))
    np.testing.assert_array_equal(table.row_features(), [[2.0], [2.0], [1.0]])


@pytest.mark.parametrize("features", [np.zeros(2), np.zeros((3, 1)), np.full((2, 1), np.nan)])
def test_features_that_do_not_fit_the_queries_are_refused(features: Any) -> None:
    with pytest.raises(DataError, match="features"):
        two_queries().with_features(features)


def test_a_table_without_features_says_what_to_call() -> None:
    with pytest.raises(DataError, match="with_features"):
        two_queries().row_features()


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"is_gold": [True]}, "is_gold"),
        ({"gain": [1, np.nan]}, "NaN"),
        ({"candidate": [0, 1]}, "candidate > baseline"),
        ({"query": [0, 2]}, "query indexes"),
        ({"query_ids": ["x"]}, "query_ids"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: dict[str, Any], word: str) -> None:
    with pytest.raises(DataError, match=word):
        two_queries(**columns)


def test_gold_and_preference_part_the_rows() -> None:
    table = two_queries()
    assert table.gold().gain.tolist() == [1.0]
    assert table.preference().gain.tolist() == [0.0]
    assert table.gold().n_queries == 2


def test_columns_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        two_queries().gain[0] = 5.0
