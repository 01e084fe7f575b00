"""Rows that cannot be used: named with their place, or counted with their reason."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarouter.errors import LabelError
from metarouter.labels import ReadReport, read_gain_table

Row = dict[str, Any]

SCORES: list[Row] = [
    {"query": f"q{i}", "model": model, "score": 0.5} for i in range(3) for model in "ab"
]
VOTES: list[Row] = [
    {"query": f"q{i}", "model_a": "a", "model_b": "b", "winner": "model_a"} for i in range(3)
]
GAINS: list[Row] = [
    {"query": f"q{i}", "model_a": "a", "model_b": "b", "gain": 0.5} for i in range(3)
]
NAN, INF = float("nan"), float("inf")

BAD: list[tuple[list[Row], Row, str, str]] = [
    (SCORES, {"score": NAN}, "score", "not finite"),
    (SCORES, {"score": -INF}, "score", "not finite"),
    (SCORES, {"score": 1e300}, "score", "not finite"),
    (SCORES, {"score": 10**400}, "score", "not finite"),
    (SCORES, {"score": None}, "score", "missing"),
    (SCORES, {"score": "0.5"}, "score", "not a number"),
    (SCORES, {"score": True}, "score", "not a number"),
    (SCORES, {"score": [0.5]}, "score", "not a number"),
    (SCORES, {"model": None}, "model", "missing"),
    (SCORES, {"model": " "}, "model", "missing"),
    (SCORES, {"model": 4}, "model", "not a text"),
    (SCORES, {"query": None}, "query", "missing"),
    (SCORES, {"query": ""}, "query", "empty text"),
    (SCORES, {"query": " \t\n\u00a0"}, "query", "empty text"),
    (SCORES, {"query": 3}, "query", "not a text"),
    (SCORES, {"query": "\ud800"}, "query", "not valid UTF-8"),
    (SCORES, {"query": [{"content": "no role"}]}, "query", "not a text"),
    (SCORES, {"messages": "no chat"}, "messages", "not a chat"),
    (SCORES, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "not a chat"),
    (SCORES, {"messages": []}, "messages", "empty text"),
    (SCORES, {"weight": -1.0}, "weight", "negative"),
    (SCORES, {"weight": NAN}, "weight", "not finite"),
    (SCORES, {"prompt_tokens": INF}, "prompt_tokens", "not finite"),
    (SCORES, {"completion_tokens": -1}, "completion_tokens", "negative"),
    (SCORES, {"judge": 1.5}, "judge", "not a text"),
    (VOTES, {"winner": "model_c"}, "winner", "unknown winner"),
    (VOTES, {"winner": 1}, "winner", "not a text"),
    (VOTES, {"winner": None}, "winner", "missing"),
    (VOTES, {"p_a": 1.5}, "p_a", "outside [0, 1]"),
    (VOTES, {"p_a": -0.1}, "p_a", "outside [0, 1]"),
    (VOTES, {"p_a": NAN}, "p_a", "not finite"),
    (VOTES, {"p_a": 0.1}, "winner", "contradicts p_a"),
    (VOTES, {"model_b": "a"}, "model_b", "the same model twice"),
    (VOTES, {"model_a": None}, "model_a", "missing"),
    (VOTES, {"completion_tokens_b": "9"}, "completion_tokens_b", "not a number"),
    (GAINS, {"gain": INF}, "gain", "not finite"),
    (GAINS, {"gain": None}, "gain", "missing"),
    (GAINS, {"model_b": "a"}, "model_b", "the same model twice"),
]
IN_FILES = [case for case in BAD if "\\ud800" not in json.dumps(case[1])]


def with_bad_row(rows: list[Row], change: Row) -> list[Row]:
    """The rows with the second one changed."""
    return [rows[0], {**rows[1], **change}, *rows[2:]]


def is_accounted_for(report: ReadReport) -> bool:
    fates = ("used", "skipped", "merged", "unpaired", "other_models")
    return report.rows_read == sum(int(getattr(report, f"rows_{fate}")) for fate in fates)


@pytest.mark.parametrize(("rows", "change", "field", "reason"), BAD)
def test_a_bad_record_is_refused_with_its_place_field_and_reason(
    rows: list[Row], change: Row, field: str, reason: str
) -> None:
    with pytest.raises(LabelError) as caught:
        read_gain_table(with_bad_row(rows, change))
    message = str(caught.value)
    assert message.startswith(f"<gold records>: row 2: {field} = ")
    assert reason in message
    assert "allowed: " in message


@pytest.mark.parametrize(("rows", "change", "field", "reason"), BAD)
def test_a_bad_record_is_skipped_and_counted_by_field_and_reason(
    rows: list[Row], change: Row, field: str, reason: str
) -> None:
    _, report = read_gain_table(with_bad_row(rows, change), on_bad_row="skip")
    (bad,) = report.files[0].bad_rows
    assert (bad.field, bad.count) == (field, 1)
    assert reason in bad.reason
    assert "row 2" in bad.examples[0]
    assert is_accounted_for(report)


@pytest.mark.parametrize(("rows", "change", "field", "reason"), IN_FILES)
def test_a_bad_line_of_json_is_refused_like_a_record(
    tmp_path: Path, rows: list[Row], change: Row, field: str, reason: str
) -> None:
    path = tmp_path / "labels.jsonl"
    lines = [json.dumps(row) for row in with_bad_row(rows, change)]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(LabelError) as caught:
        read_gain_table(path)
    assert str(caught.value).startswith(f"{path}: row 2: {field} = ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("field", "cell", "reason"),
    [
        ("score", "", "missing"),
        ("score", "high", "not a number"),
        ("score", "1_0", "not a number"),
        ("score", "nan", "not finite"),
        ("score", "1e999", "not finite"),
        ("model", " ", "missing"),
        ("query", "  ", "empty text"),
        ("weight", "-2", "negative"),
    ],
)
def test_a_bad_csv_cell_is_refused_with_its_row_below_the_header(
    tmp_path: Path, field: str, cell: str, reason: str
) -> None:
    path = tmp_path / "labels.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["query", "model", "score", "weight"])
        writer.writeheader()
        writer.writerows({"weight": 1, **row} for row in with_bad_row(SCORES, {field: cell}))
    with pytest.raises(LabelError, match="row 2") as caught:
        read_gain_table(path)
    assert f"row 2: {field} = " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([True] * 6), "not a number"),
        (pa.array(["0.5"] * 6), "not a number"),
        (pa.array([0.5, None, 0.5, 0.5, 0.5, 0.5]), "missing"),
        (pa.array([0.5, NAN, 0.5, 0.5, 0.5, 0.5]), "not finite"),
        (pa.nulls(6), "missing"),
        (pa.array([0.5] * 5 + [1e60]), "not finite"),
    ],
)
def test_bad_parquet_columns_are_refused(tmp_path: Path, column: pa.Array, reason: str) -> None:
    path = tmp_path / "labels.parquet"
    table = pa.Table.from_pylist(SCORES)
    pq.write_table(table.set_column(2, "score", column), path)
    with pytest.raises(LabelError, match=reason):
        read_gain_table(path)


def test_parquet_texts_that_are_not_utf8_make_their_row_bad(tmp_path: Path) -> None:
    texts = pa.array([b"q0", b"q0", b"\xff", b"q1", b"q2", b"q2"]).view(pa.string())
    table = pa.Table.from_pylist(SCORES).set_column(0, "query", texts)
    path = tmp_path / "labels.parquet"
    pq.write_table(table, path)
    with pytest.raises(LabelError, match="row 3: query"):
        read_gain_table(path)
    _, report = read_gain_table(path, on_bad_row="skip")
    assert (report.rows_used, report.rows_skipped, report.rows_unpaired) == (4, 1, 1)


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.json"])
def test_bytes_of_another_encoding_make_their_row_bad(tmp_path: Path, name: str) -> None:
    rows = with_bad_row(VOTES, {"query": "Grüße"})
    if name.endswith("csv"):
        header = ",".join(rows[0])
        text = "\n".join([header, *(",".join(row.values()) for row in rows)])
    elif name.endswith("jsonl"):
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False)
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LabelError, match=r"row 2: query = .*UTF-8"):
        read_gain_table(path)
    table, report = read_gain_table(path, on_bad_row="skip")
    assert table.queries == ("q0", "q2")
    assert report.rows_skipped == 1


@pytest.mark.parametrize(
    "line",
    ["{", "not json", "3", '["query"]', "null", '"text"', "[" * 100_000, '{"a":' * 100_000, "\x00"],
)
def test_a_line_that_is_no_json_object_makes_its_row_bad(tmp_path: Path, line: str) -> None:
    path = tmp_path / "labels.jsonl"
    lines = [json.dumps(row) for row in VOTES]
    path.write_text("\n".join([lines[0], line, *lines[1:]]), encoding="utf-8")
    with pytest.raises(LabelError, match="row 2"):
        read_gain_table(path)
    _, report = read_gain_table(path, on_bad_row="skip")
    assert (report.rows_read, report.rows_used, report.rows_skipped) == (4, 3, 1)


@pytest.mark.parametrize("line", ["q9,a", "q9,a,0.5,more", '"q9"x,a,0.5', '"q9,a,0.5'])
def test_a_csv_row_of_another_width_or_with_open_quotes_is_bad(tmp_path: Path, line: str) -> None:
    path = tmp_path / "labels.csv"
    good = "query,model,score\nq0,a,0.5\nq0,b,0.5\n"
    path.write_text(good + line + "\n", encoding="utf-8")
    with pytest.raises(LabelError, match="row 3"):
        read_gain_table(path)
    _, report = read_gain_table(path, on_bad_row="skip")
    assert (report.rows_read, report.rows_used, report.rows_skipped) == (3, 2, 1)


def test_records_that_are_no_mappings_are_bad_rows() -> None:
    _, report = read_gain_table([*VOTES, 3, ("a", "b")], on_bad_row="skip")
    assert report.rows_skipped == 2


def test_the_first_bad_row_is_the_one_that_is_named() -> None:
    rows = [*VOTES, {**VOTES[0], "winner": "x"}, {**VOTES[0], "query": ""}]
    with pytest.raises(LabelError, match="row 4: winner"):
        read_gain_table(rows)


def test_a_row_with_two_faults_counts_once() -> None:
    row = {**VOTES[0], "winner": "x", "query": "", "weight": -1}
    _, report = read_gain_table([*VOTES, row], on_bad_row="skip")
    assert report.rows_skipped == 1


def test_bad_rows_are_all_counted_and_a_few_shown() -> None:
    _, report = read_gain_table([*VOTES, *[{**VOTES[0], "winner": "x"}] * 50], on_bad_row="skip")
    (bad,) = report.files[0].bad_rows
    assert bad.count == report.rows_skipped == 50
    assert len(bad.examples) == 3


def test_rows_keep_their_numbers_across_batches(tmp_path: Path) -> None:
    n = 70_000
    path = tmp_path / "labels.jsonl"
    good = json.dumps(VOTES[0])
    path.write_text("\n".join([good] * n + [json.dumps({**VOTES[0], "winner": "x"})]))
    with pytest.raises(LabelError, match=f"row {n + 1}: winner"):
        read_gain_table(path)


def test_one_query_id_with_two_texts_makes_the_later_row_bad() -> None:
    rows = [{**row, "query_id": "one"} for row in VOTES[:2]]
    with pytest.raises(LabelError, match="row 2: query_id = 'one'"):
        read_gain_table(rows)
    table, report = read_gain_table(rows, on_bad_row="skip")
    assert table.queries == ("q0",)
    assert report.rows_skipped == 1


def test_query_ids_clash_across_sources_too() -> None:
    gold = [{**row, "query_id": "one"} for row in SCORES[:2]]
    with pytest.raises(LabelError, match="<preference records>: row 1: query_id"):
        read_gain_table(gold, [{**VOTES[1], "query_id": "one"}])


def test_scores_and_gains_outside_the_declared_range_are_bad() -> None:
    with pytest.raises(LabelError, match=r"row 2: score = 1.5; allowed: a number in \[0, 1\]"):
        read_gain_table(with_bad_row(SCORES, {"score": 1.5}), score_range=(0.0, 1.0))
    with pytest.raises(LabelError, match=r"row 2: gain = -1.5; allowed: a number in \[-1, 1\]"):
        read_gain_table(with_bad_row(GAINS, {"gain": -1.5}), score_range=(0.0, 1.0))


def test_a_column_of_another_name_is_told_apart_from_a_missing_value() -> None:
    """Whoever calls the score a rating reads which columns there are, not that row 1 is bad."""
    rows = [{"query": "q", "model": model, "rating": 4} for model in "ab"]
    with pytest.raises(LabelError, match=r"no form of labels .*model, query, rating.*score"):
        read_gain_table(rows)
