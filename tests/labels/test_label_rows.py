"""Group codes, against a dictionary of rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.labels.rows import group_mean, group_rows

# Wide ranges, so that the codes of four columns do not fit 64 bits unless renumbered.
WIDE = st.sampled_from([-(2**40), -1, 0, 1, 2**40])
ROWS = st.lists(st.tuples(WIDE, WIDE, st.booleans(), st.sampled_from([0.1, -2.5, 7.0])), min_size=1)


@given(rows=ROWS)
@settings(max_examples=100)
def test_groups_are_the_distinct_rows_in_the_order_of_their_first(
    rows: list[tuple[int, int, bool, float]],
) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    group, first = group_rows(*columns)
    code: dict[tuple[int, int, bool, float], int] = {}
    expected = [code.setdefault(row, len(code)) for row in rows]
    assert group.tolist() == expected
    assert first.tolist() == [expected.index(i) for i in range(len(code))]


def test_a_group_mean_is_weighted_and_undefined_without_weight() -> None:
    group = np.array([0, 0, 1])
    mean = group_mean(group, np.array([1.0, 4.0, 5.0]), np.array([2.0, 1.0, 0.0]))
    np.testing.assert_array_equal(mean, [2.0, np.nan])
