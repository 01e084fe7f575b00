"""Duplicates, conflicts and the way from scores to gains, against a plain re-implementation."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.labels import GainTable, read_gain_table

Row = dict[str, Any]


def score(query: str, model: str, value: float, **more: Any) -> Row:
    return {"query": query, "model": model, "score": value, **more}


def vote(winner: str, **more: Any) -> Row:
    return {"query": "q", "model_a": "a", "model_b": "b", "winner": winner, **more}


def test_exact_duplicates_of_scores_count_once() -> None:
    rows = [score("q", "a", 0.0), score("q", "b", 1.0), score("q", "b", 1.0)]
    table, report = read_gain_table(rows)
    assert table.gain.tolist() == [1.0]
    assert table.weight.tolist() == [1.0]
    assert (report.repeats, report.rows_merged, report.conflicts) == (1, 1, 0)


def test_conflicting_scores_are_averaged_and_counted() -> None:
    rows = [score("q", "a", 0.0), *(score("q", "b", value) for value in (1.0, 1.0, 0.25))]
    table, report = read_gain_table(rows)
    assert table.gain.tolist() == [0.75]
    assert (report.repeats, report.rows_merged, report.conflicts) == (1, 2, 1)


def test_scores_are_averaged_by_their_weights() -> None:
    rows = [score("q", "a", 0.0), score("q", "b", 1.0, weight=3), score("q", "b", 0.0, weight=1)]
    assert read_gain_table(rows)[0].gain.tolist() == [0.75]


def test_scores_of_several_annotators_weigh_as_many() -> None:
    rows = [
        score("q", model, float(model == "b"), annotator=name) for model in "ab" for name in "xyz"
    ]
    table, report = read_gain_table(rows)
    assert table.weight.tolist() == [3.0]
    assert (report.repeats, report.conflicts) == (0, 0)


def test_the_weight_of_a_difference_is_the_harmonic_mean_of_the_weights() -> None:
    rows = [score("q", "a", 0.0, weight=1), score("q", "b", 1.0, weight=3)]
    assert read_gain_table(rows)[0].weight.tolist() == [1.5]


def test_a_score_without_weight_gives_a_gain_without_weight() -> None:
    rows = [score("q", "a", 0.0, weight=0), score("q", "b", 1.0, weight=0)]
    table, _ = read_gain_table(rows)
    assert table.weight.tolist() == [0.0]


def test_repeated_votes_are_kept_one_by_one() -> None:
    rows = [vote("model_a"), vote("model_a"), vote("model_b"), vote("model_a", annotator="x")]
    table, report = read_gain_table(preference=rows)
    assert sorted(np.abs(table.gain)) == [1.0] * 4
    assert (report.repeats, report.conflicts, report.rows_merged) == (1, 1, 0)


def test_a_vote_repeated_with_the_models_swapped_is_a_repeat() -> None:
    swapped = {"query": "q", "model_a": "b", "model_b": "a", "winner": "model_b"}
    table, report = read_gain_table(preference=[vote("model_a"), swapped])
    assert len(set(table.gain.tolist())) == 1
    assert (report.repeats, report.conflicts) == (1, 0)


def test_repeated_gains_are_averaged_like_scores() -> None:
    rows = [
        {"query": "q", "model_a": "a", "model_b": "b", "gain": -0.25},
        {"query": "q", "model_a": "b", "model_b": "a", "gain": 0.75},
    ]
    table, report = read_gain_table(rows)
    assert table.models == ("a", "b")
    assert table.gain.tolist() == [0.5]
    assert (report.rows_merged, report.conflicts) == (1, 1)


def test_token_counts_are_averaged_where_they_are_known() -> None:
    rows = [score("q", "a", 0.0), score("q", "b", 1.0)]
    rows += [score("q", "b", 1.0, completion_tokens=n) for n in (10, 20)]
    assert read_gain_table(rows)[0].candidate_tokens.tolist() == [15.0]


def test_the_first_domain_of_a_query_is_kept_and_others_counted() -> None:
    rows = [score("q", "a", 0.0, domain="x"), score("q", "b", 1.0, domain="y")]
    table, report = read_gain_table(rows)
    assert table.domains == ("x",)
    assert report.domain_conflicts == 1


SCORE_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "query": st.sampled_from(["q0", "q1", "q2"]),
            "model": st.sampled_from(["a", "b", "c"]),
            "score": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            "judge": st.sampled_from(["", "x", "y"]),
        }
    ),
    min_size=1,
    max_size=25,
)
# One query that all judge the same way, so that every example has a gain.
ANCHOR = [score("anchor", "a", 0.0), score("anchor", "b", 0.5), score("anchor", "c", 1.0)]


def plain_gains(rows: list[Row], models: tuple[str, ...]) -> dict[tuple[str, str, str, str], float]:
    """Gain by (query, judge, candidate, baseline), written without arrays."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["query"], row.get("judge", "")][row["model"]].append(row["score"])
    gains = {}
    for (query, judge), by_model in cells.items():
        baseline, *candidates = sorted(by_model, key=models.index)
        for candidate in candidates:
            gain = fmean(by_model[candidate]) - fmean(by_model[baseline])
            gains[query, judge, candidate, baseline] = gain
    return gains


def gains_of(table: GainTable) -> dict[tuple[str, str, str, str], float]:
    return {
        (
            table.queries[table.query[i]],
            table.judges[table.judge[i]],
            table.models[table.candidate[i]],
            table.models[table.baseline[i]],
        ): float(table.gain[i])
        for i in range(len(table))
    }


@given(rows=SCORE_ROWS)
@settings(max_examples=100)
def test_gains_from_scores_equal_the_plain_computation(rows: list[Row]) -> None:
    rows = ANCHOR + rows
    table, report = read_gain_table(rows)
    expected = plain_gains(rows, table.models)
    found = gains_of(table)
    assert found.keys() == expected.keys()
    for key, gain in expected.items():
        np.testing.assert_allclose(found[key], gain, atol=1e-12)
    fates = ("used", "skipped", "merged", "unpaired", "other_models")
    assert report.rows_read == sum(getattr(report, f"rows_{fate}") for fate in fates)


@given(rows=SCORE_ROWS, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_the_order_of_rows_changes_no_gain(rows: list[Row], seed: int) -> None:
    rows = ANCHOR + rows
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    first, _ = read_gain_table(rows)
    second, _ = read_gain_table(shuffled)
    assert first.models == second.models
    expected, found = gains_of(first), gains_of(second)
    assert found.keys() == expected.keys()
    for key, gain in expected.items():
        np.testing.assert_allclose(found[key], gain, atol=1e-12)


@given(rows=SCORE_ROWS, shift=st.sampled_from([-3.0, 1.5, 10.0]))
@settings(max_examples=50)
def test_adding_a_constant_to_all_scores_changes_no_gain(rows: list[Row], shift: float) -> None:
    rows = ANCHOR + rows
    first, _ = read_gain_table(rows)
    second, _ = read_gain_table([{**row, "score": row["score"] + shift} for row in rows])
    if first.models == second.models:
        np.testing.assert_allclose(first.gain, second.gain, atol=1e-12)
