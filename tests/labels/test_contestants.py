"""Verdicts of a model on its own answers are found, whatever the provider calls it."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.labels.contestants import judged_by_contestant
from metarouter.labels.repeats import merge_repeats
from metarouter.labels.table import GainTable, make_gain_table


def pool(judge: list[int], judges: tuple[str, ...]) -> GainTable:
    """Verdicts on b against a and on c against a, in turn."""
    n = len(judge)
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        gain=np.zeros(n),
        is_gold=np.zeros(n, dtype=bool),
        models=("a", "b", "c"),
        candidate=[1 + i % 2 for i in range(n)],
        baseline=np.zeros(n),
        judge=judge,
        judges=judges,
    )


def test_a_judge_is_a_contestant_of_the_rows_that_compare_it() -> None:
    """First b judges b against a, then c against a; a judges both; nobody judges the last."""
    table = pool([0, 0, 1, 1, -1], ("b", "a"))
    assert judged_by_contestant(table).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize("name", ["B", " b ", "acme/b", "acme/eu/B"])
def test_case_provider_and_white_space_do_not_hide_a_contestant(name: str) -> None:
    assert judged_by_contestant(pool([0], (name,))).tolist() == [True]


@pytest.mark.parametrize("name", ["", "b2", "b/other", "people"])
def test_another_name_is_another_judge(name: str) -> None:
    assert judged_by_contestant(pool([0], (name,))).tolist() == [False]


def test_a_panel_of_several_judges_is_no_contestant() -> None:
    two = make_gain_table(
        queries=["one query"],
        query=[0, 0],
        gain=[1.0, 0.0],
        is_gold=[False, False],
        models=("a", "b"),
        judges=("a", "b"),
        judge=[0, 1],
    )
    assert judged_by_contestant(two).all()
    assert judged_by_contestant(merge_repeats(two)).tolist() == [False]


def test_a_model_of_two_providers_is_a_contestant_at_both() -> None:
    """Their keys are the same; the other of the two is compared in no row here."""
    table = make_gain_table(
        queries=["one", "two"],
        gain=[1.0, 0.0],
        is_gold=[False, False],
        models=("east/a", "west/a", "c"),
        candidate=[2, 2],
        baseline=[0, 1],
        judges=("east/a",),
        judge=[0, 0],
    )
    assert judged_by_contestant(table).all()
