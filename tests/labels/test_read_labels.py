"""Labels of every form, in memory, to one gain table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from metarouter.errors import LabelError, MissingDependencyError, OptionError
from metarouter.labels import read_gain_table

Row = dict[str, Any]


def scores(query: str, **by_model: float) -> list[Row]:
    return [{"query": query, "model": name, "score": score} for name, score in by_model.items()]


def vote(query: str, winner: str, a: str = "large", b: str = "small", **more: Any) -> Row:
    return {"query": query, "model_a": a, "model_b": b, "winner": winner, **more}


GOLD = [*scores("q0", small=0.0, large=1.0), *scores("q1", small=0.5, large=0.5)]


def test_two_scores_of_a_query_make_the_gain_of_the_better_model() -> None:
    table, report = read_gain_table(GOLD)
    assert table.models == ("small", "large")
    assert table.queries == ("q0", "q1")
    np.testing.assert_array_equal(table.gain, [1.0, 0.0])
    np.testing.assert_array_equal(table.candidate_score, [1.0, 0.5])
    np.testing.assert_array_equal(table.baseline_score, [0.0, 0.5])
    assert table.is_gold.all()
    assert report.rows_used == report.rows_read == 4


def test_a_gain_counts_for_model_a_over_model_b() -> None:
    rows = [
        {"query": "q0", "model_a": "large", "model_b": "small", "gain": 0.75},
        {"query": "q1", "model_a": "small", "model_b": "large", "gain": 0.25},
    ]
    table, _ = read_gain_table(rows)
    assert table.models == ("small", "large")
    np.testing.assert_array_equal(table.gain, [0.75, -0.25])
    assert np.isnan(table.candidate_score).all()


@pytest.mark.parametrize(
    ("winner", "gain"),
    [
        ("model_a", 1.0),
        ("model_b", -1.0),
        ("tie", 0.0),
        ("both_bad", 0.0),
        ("large", 1.0),
        ("small", -1.0),
    ],
)
def test_a_vote_is_a_gain_of_one_none_or_minus_one(winner: str, gain: float) -> None:
    table, _ = read_gain_table(GOLD, [vote("q0", winner)])
    np.testing.assert_array_equal(table.preference().gain, [gain])


def test_a_probability_is_a_gain_of_two_p_minus_one() -> None:
    rows = [{"query": "q0", "model_a": "small", "model_b": "large", "p_a": 0.25}]
    table, _ = read_gain_table(GOLD, rows)
    np.testing.assert_array_equal(table.preference().gain, [0.5])


def test_a_probability_goes_before_a_winner_that_agrees() -> None:
    row = vote("q0", "model_a", p_a=0.75)
    table, _ = read_gain_table(GOLD, [row])
    np.testing.assert_array_equal(table.preference().gain, [0.5])


def test_the_pair_is_ordered_by_gold_even_against_preference() -> None:
    votes = [vote(f"q{i}", "small") for i in range(5)]
    table, _ = read_gain_table(scores("q9", small=0.0, large=1.0), votes)
    assert table.models == ("small", "large")
    table, _ = read_gain_table(preference=votes)
    assert table.models == ("large", "small")


def test_named_models_set_the_direction() -> None:
    table, _ = read_gain_table(GOLD, premium="small", cheap="large")
    assert table.models == ("large", "small")
    np.testing.assert_array_equal(table.gain, [-1.0, 0.0])


@pytest.mark.parametrize("option", ["premium", "cheap"])
def test_one_named_model_is_enough(option: str) -> None:
    names = {option: "small"}
    table, _ = read_gain_table(GOLD, **names)  # type: ignore[arg-type]
    assert table.models[-1 if option == "premium" else 0] == "small"


def test_a_query_with_many_graders_counts_once_in_the_order_of_the_models() -> None:
    """The model that is better over queries is the premium one, as an evaluation has it."""
    rows = [
        {"query": f"q{i}", "model": model, "score": score, "annotator": f"grader {grader}"}
        for i in range(8)
        for grader in range(9 if i < 2 else 1)
        for model, score in (("x", 0.2 if i < 2 else 0.8), ("y", 0.9 if i < 2 else 0.5))
    ]
    table, _ = read_gain_table(rows)
    assert table.models == ("y", "x")
    assert table.gain.mean() == pytest.approx((6 * 0.3 - 2 * 0.7) / 8)


def test_a_pool_is_ordered_by_mean_gold_score_from_the_reference_up() -> None:
    rows = [*scores("q0", b=0.5, c=0.9, a=0.1), *scores("q1", b=0.4, c=0.2, a=0.0)]
    table, _ = read_gain_table(rows)
    assert table.models == ("a", "b", "c")
    np.testing.assert_array_equal(table.candidate, [1, 2, 1, 2])
    np.testing.assert_array_equal(table.baseline, 0)
    np.testing.assert_allclose(table.gain, [0.4, 0.8, 0.4, 0.2])


def test_without_the_reference_the_lowest_model_present_is_the_baseline() -> None:
    rows = [*scores("q0", a=0.0, b=0.5, c=1.0), *scores("q1", c=1.0, b=0.25)]
    table, _ = read_gain_table(rows)
    assert table.models == ("a", "b", "c")
    about_q1 = table.query == 1
    assert table.candidate[about_q1].tolist() == [2]
    assert table.baseline[about_q1].tolist() == [1]
    np.testing.assert_array_equal(table.gain[about_q1], [0.75])


def test_models_without_gold_come_after_those_with_gold() -> None:
    votes = [vote("q5", "new", a="new", b="small"), vote("q6", "old", a="old", b="small")]
    votes.append(vote("q7", "new", a="new", b="old"))
    table, _ = read_gain_table(GOLD, votes)
    assert table.models == ("small", "large", "old", "new")


def test_a_model_without_gold_stands_where_its_votes_put_it() -> None:
    """Else it would count as the premium model of a pool, however many votes it lost."""
    lost = [vote(f"q{i}", "large", b="new") for i in range(5, 8)]
    lost += [vote(f"q{i}", "large", b="worst") for i in range(8, 12)]
    won = [vote("q12", "new", a="new", b="small"), vote("q13", "tie", a="worst", b="small")]
    table, _ = read_gain_table(GOLD, lost + won)
    # "worst" lost more than "small", but a model without gold is no reference
    assert table.models == ("small", "worst", "new", "large")


def test_gold_and_preference_meet_by_query_id() -> None:
    gold = [{**row, "query_id": "one"} for row in scores("same text", small=0.0, large=1.0)]
    table, _ = read_gain_table(gold, [vote("same text", "tie", query_id="one")])
    assert table.query_ids == ("one",)
    assert table.query.tolist() == [0, 0]
    assert table.is_gold.tolist() == [True, False]


@pytest.mark.parametrize("query_id", [None, "an id of another system"])
def test_gold_and_preference_meet_by_text_where_ids_do_not(query_id: str | None) -> None:
    gold = [{**row, "query_id": "one"} for row in scores("same text", small=0.0, large=1.0)]
    table, _ = read_gain_table(gold, [vote("same text", "tie", query_id=query_id)])
    assert table.query_ids == ("one",)
    assert table.query.tolist() == [0, 0]


def test_the_same_text_under_two_ids_is_two_queries_and_reported() -> None:
    gold = [
        {**row, "query_id": name}
        for name in ("one", "two")
        for row in scores("same text", small=0.0, large=1.0)
    ]
    table, report = read_gain_table(gold)
    assert table.query_ids == ("one", "two")
    assert report.texts_under_several_ids == 1


def test_integers_name_queries_judges_and_annotators() -> None:
    table, _ = read_gain_table(GOLD, [vote("q0", "tie", query_id=7, judge=3, annotator=5)])
    assert table.judges == ("", "3")


def test_rows_about_other_models_are_counted_when_both_models_are_named() -> None:
    votes = [vote("q0", "tie"), vote("q0", "tie", a="other"), vote("q1", "tie", b="other")]
    rows = [*GOLD, *scores("q0", other=0.3)]
    table, report = read_gain_table(rows, votes, premium="large", cheap="small")
    assert table.models == ("small", "large")
    assert len(table) == 3
    assert [file.rows_other_models for file in report.files] == [1, 2]
    assert report.rows_read == report.rows_used + report.rows_other_models


def test_a_score_without_a_rival_is_reported_as_unpaired() -> None:
    table, report = read_gain_table([*GOLD, *scores("q2", large=1.0)])
    assert table.n_queries == 2
    assert report.rows_unpaired == 1


def test_scores_of_different_judges_are_not_compared() -> None:
    rows = [
        {**row, "judge": judge}
        for row, judge in zip(scores("q2", small=0.0, large=1.0), "ab", strict=True)
    ]
    table, report = read_gain_table([*GOLD, *rows])
    assert len(table) == 2
    assert report.rows_unpaired == 2


def test_score_range_scales_scores_and_gains_but_not_votes() -> None:
    gold = [*scores("q0", small=2.0, large=8.0)]
    gains = [{"query": "q1", "model_a": "small", "model_b": "large", "gain": -5.0}]
    table, _ = read_gain_table(gold, gains, score_range=(0.0, 10.0))
    np.testing.assert_allclose(table.gain, [0.6, 0.5])
    np.testing.assert_allclose(table.candidate_score[0], 0.8)
    table, _ = read_gain_table(gold, [vote("q0", "model_a")], score_range=(0.0, 10.0))
    np.testing.assert_array_equal(table.preference().gain, [1.0])


def test_the_worst_score_of_a_range_is_quality_0_and_the_best_1() -> None:
    """On 1 to 5 a score of 1 keeps nothing of the best model's quality, not a quarter."""
    table, _ = read_gain_table([*scores("q0", small=1.0, large=4.0)], score_range=(1.0, 5.0))
    np.testing.assert_allclose(table.candidate_score, [0.75])
    np.testing.assert_allclose(table.baseline_score, [0.0])
    np.testing.assert_allclose(table.gain, [0.75])


def test_tokens_weights_judges_and_domains_follow_their_rows() -> None:
    gold = [
        {**row, "completion_tokens": tokens, "prompt_tokens": 9, "domain": "maths"}
        for row, tokens in zip(scores("q0", small=0.0, large=1.0), (30, 40), strict=True)
    ]
    votes = [
        vote(
            *("q1", "model_a", "small", "large"),
            judge="J",
            weight=2.5,
            completion_tokens_a=5,
            domain="code",
        )
    ]
    table, report = read_gain_table(gold, votes)
    np.testing.assert_array_equal(table.candidate_tokens, [40, np.nan])
    np.testing.assert_array_equal(table.baseline_tokens, [30, 5])
    np.testing.assert_array_equal(table.prompt_tokens, [9, np.nan])
    np.testing.assert_array_equal(table.weight, [1.0, 2.5])
    assert [table.judges[code] for code in table.judge] == ["", "J"]
    assert [table.domains[code] for code in table.domain] == ["maths", "code"]
    assert report.domain_conflicts == 0


def test_unknown_columns_are_ignored_and_reported() -> None:
    _, report = read_gain_table([{**row, "notes": "x", "timestamp": 3} for row in GOLD])
    assert report.files[0].ignored_columns == ("notes",)


def test_a_chat_may_stand_for_the_query() -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]},
    ]
    rows = [{"messages": chat, "model": name, "score": 0.5} for name in ("a", "b")]
    table, _ = read_gain_table(rows)
    assert table.queries == ("system: Be brief.\n\nHi",)


@pytest.mark.parametrize("column", ["query", "messages"])
def test_a_chat_may_be_a_json_text(column: str) -> None:
    chat = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]'
    table, _ = read_gain_table([{column: chat, "model": m, "score": 0.5} for m in "ab"])
    assert table.queries == ("assistant: Yes?\n\nHi",)


@pytest.mark.parametrize("as_frame", [list, pa.Table.from_pylist])
def test_a_query_may_be_a_list_of_messages(as_frame: Any) -> None:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    table, _ = read_gain_table(as_frame([{"query": chat, "model": m, "score": 0} for m in "ab"]))
    assert table.queries == ("system: S\n\nU",)


def test_a_query_that_only_looks_like_a_chat_stays_text() -> None:
    text = '[{"x": 1}] is JSON'
    table, _ = read_gain_table(scores(text, a=0.0, b=1.0))
    assert table.queries == (text,)


FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.Table.from_pylist,
    "generator": iter,
    "interchange": lambda rows: _OnlyInterchange(pa.Table.from_pylist(rows)),
}


class _OnlyInterchange:
    def __init__(self, frame: pa.Table) -> None:
        self.frame = frame

    def __dataframe__(self, *args: Any, **options: Any) -> Any:
        return self.frame.__dataframe__(*args, **options)


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_and_records_read_like_lists_of_mappings(kind: str) -> None:
    rows = [{**row, "domain": "d" if i else None} for i, row in enumerate(GOLD)]
    expected, _ = read_gain_table(rows)
    table, report = read_gain_table(FRAMES[kind](rows))
    np.testing.assert_array_equal(table.gain, expected.gain)
    assert (table.queries, table.models) == (expected.queries, expected.models)
    assert table.domains == expected.domains
    assert report.files[0].file.startswith("<gold ")


def test_a_frame_with_a_column_of_mixed_types_names_the_bad_cell() -> None:
    frame = pd.DataFrame([{**row, "judge": None} for row in GOLD])
    frame["score"] = frame["score"].astype(object)
    frame.loc[2, "score"] = "high"
    with pytest.raises(LabelError, match="row 3: score = 'high'"):
        read_gain_table(frame)


@pytest.mark.parametrize(
    "frame",
    [pl.Series([1, 2]), pa.table([["q"], ["r"]], names=["query", "query"]), {"query": ["q"]}],
)
def test_what_has_no_named_columns_once_is_refused(frame: Any) -> None:
    with pytest.raises(LabelError):
        read_gain_table(frame)


def test_without_arrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="train"):
        read_gain_table(GOLD)


def test_numpy_scalars_are_numbers() -> None:
    rows = [{**row, "score": np.float32(row["score"]), "weight": np.int64(2)} for row in GOLD]
    table, _ = read_gain_table(rows)
    np.testing.assert_array_equal(table.weight, [2.0, 2.0])


def test_the_report_is_plain_json_with_its_totals() -> None:
    _, report = read_gain_table(GOLD)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["rows_read"] == values["rows_used"] == 4
    assert values["files"][0]["form"] == "scores"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"premium": "huge"}, "premium"),
        ({"premium": "large", "cheap": "large"}, "premium"),
        ({"score_range": (1.0, 0.0)}, "score_range"),
        ({"score_range": (0.0, np.inf)}, "score_range"),
        ({"on_bad_row": "ignore"}, "on_bad_row"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        read_gain_table(GOLD, **options)


def test_a_file_is_one_source_and_not_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its path is written; it would agree with itself."""
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GOLD), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"labels\.jsonl is given as `gold` and as `preference`"):
        read_gain_table(path, ["other.jsonl", "labels.jsonl"])
    other = tmp_path / "other.jsonl"
    other.write_bytes(path.read_bytes())
    assert len(read_gain_table(path, other)[0]) == 2 * len(read_gain_table(path)[0])


@pytest.mark.parametrize("labels", [None, 3])
def test_labels_that_are_none_or_no_labels_are_refused(labels: Any) -> None:
    with pytest.raises(OptionError):
        read_gain_table(labels)


@pytest.mark.parametrize(
    ("rows", "why"),
    [([], "it is empty"), (scores("q0", large=1.0), "1 read, 0 bad; a score also needs")],
)
def test_a_source_without_a_usable_row_is_refused(rows: list[Row], why: str) -> None:
    with pytest.raises(LabelError, match=f"no usable gold rows: {why}"):
        read_gain_table(rows, [vote("q0", "tie")])


def test_labels_of_one_model_are_named_as_such() -> None:
    with pytest.raises(LabelError, match="all 2 are about large; a gain needs two models"):
        read_gain_table([*scores("q0", large=1.0), *scores("q1", large=0.0)])
