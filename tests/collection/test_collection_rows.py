"""Files of queries and responses: every format, and errors that name the place."""

from __future__ import annotations

import csv
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from metarouter.collection.rows import read_queries, read_responses, write_jsonl
from metarouter.errors import InputError, LabelError
from metarouter.labels import read_gain_table
from metarouter.querying import read_queries as read_unlabelled

ROWS: list[dict[str, Any]] = [
    {"query_id": 7, "query": "What, then?", "domain": "d"},
    {"query": "Line\u2028two"},
]


def _jsonl(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def _written(path: Path) -> Path:
    """The rows of ROWS in the format of the suffix."""
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["query_id", "query", "domain"])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        _jsonl(path, ROWS)
    return path


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.parquet", "q.jsonl.gz"])
def test_queries_are_the_same_in_every_format(name: str, tmp_path: Path) -> None:
    first, second = read_queries(_written(tmp_path / name))
    assert (first.text, first.query_id) == ("What, then?", "7")
    assert str(first.kept["query_id"]) == "7"
    assert first.kept["domain"] == "d"
    assert (second.text, second.query_id) == ("Line\u2028two", None)
    assert second.kept == {"query": "Line\u2028two"}


def test_lines_of_text_are_queries_each_once(tmp_path: Path) -> None:
    path = tmp_path / "q.txt"
    path.write_bytes("one\r\n\r\ntwo\u2028half\none\n".encode())
    assert [query.text for query in read_queries(path)] == ["one", "two\u2028half"]


def test_a_chat_is_sent_as_it_is_and_known_by_its_text(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (query,) = read_queries(_jsonl(tmp_path / "q.jsonl", [{"messages": chat}]))
    assert list(query.messages) == chat
    assert query.text == "system: Be brief.\n\nHi"
    assert query.kept == {"messages": chat}


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
@pytest.mark.parametrize(
    ("row", "sent"),
    [
        ({"query": CHAT}, CHAT),
        ({"query": json.dumps(CHAT)}, CHAT),
        ({"query": json.dumps(CHAT, indent=1)}, CHAT),
        ({"messages": json.dumps(CHAT)}, CHAT),
        ({"query": "aside", "messages": CHAT}, CHAT),
        ({"query": '[{"a": 1}]'}, None),
        ({"query": "[{what is this?}]"}, None),
        ({"query": "[1, 2]"}, None),
    ],
)
def test_a_chat_stands_wherever_labels_have_it_and_is_sent_as_a_chat(
    row: dict[str, Any], sent: list[Any] | None, name: str, tmp_path: Path
) -> None:
    """What only looks like one is a text, for every reader."""
    if name == "q.csv":
        row = {key: v if isinstance(v, str) else json.dumps(v) for key, v in row.items()}
    path = tmp_path / name
    rows = [{**row, "model": model, "score": 0.5} for model in "ab"]
    if name == "q.csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        _jsonl(path, rows)
    (query,) = read_queries(path)
    table, _ = read_gain_table(path)
    assert [query.text] == list(table.queries) == read_unlabelled(path)
    assert list(query.messages) == (sent or [{"role": "user", "content": row["query"]}])
    assert query.kept.get("messages") == sent


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("q.txt", json.dumps(CHAT) + "\nplain", ["system: Be brief.\n\nHi", "plain"]),
        (
            "q.txt",
            "\ufeffone line\u2028of\x0ctext\r\n \r\nother",
            ["one line\u2028of\x0ctext", "other"],
        ),
        ("q.txt.gz", "one\ntwo\n", ["one", "two"]),
        ("q.csv", "\n\nquery;domain\na;b\n", ["a"]),
    ],
)
def test_all_readers_of_queries_find_the_same_ones(
    name: str, content: str, texts: list[str], tmp_path: Path
) -> None:
    """What models are asked and what a router is calibrated on is one text."""
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert [query.text for query in read_queries(tmp_path / name)] == texts
    assert read_unlabelled(tmp_path / name) == texts


@pytest.mark.parametrize(
    "row",
    [
        {"query": None},
        {"query": 3},
        {"query": [1, 2]},
        {"query": {"role": "user", "content": "Hi"}},
        {"query": " \n"},
        {"query": []},
        {"query": [{"role": "user", "content": " "}]},
        {"query": '[{"role": "user", "content": ""}]'},
        {"messages": "hi"},
        {"messages": "null"},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"query": "good", "messages": [3]},
        {"query": "good", "messages": [{"role": "user", "content": " "}]},
        {"query": None, "messages": []},
        {"query": "good", "messages": '[{"role": "user", "content": "\\ud800"}]'},
    ],
)
def test_a_query_that_labels_refuse_is_refused_in_the_same_words(
    row: dict[str, Any], tmp_path: Path
) -> None:
    path = _jsonl(tmp_path / "q.jsonl", [{**row, "model": m, "score": 0.5} for m in "ab"])
    with pytest.raises(LabelError) as of_labels:
        read_gain_table(path)
    with pytest.raises(LabelError) as of_collection:
        read_queries(path)
    assert str(of_collection.value) == str(of_labels.value)
    with pytest.raises(InputError):
        read_unlabelled(path)
    assert f"{path}: row 1: {'messages' if 'messages' in row else 'query'} = " in str(
        of_collection.value
    )


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (
            [{"query": "a"}, {"text": "b", "id": 1}],
            "q.jsonl: row 2: query = None; allowed: a field query or messages; there are: id, text",
        ),
        ([{"query": "  "}], "row 1: query = '  '"),
        ([{"query": 3}], "row 1: query = 3"),
        ([{"messages": "hi"}], "row 1: messages = 'hi'; allowed: a list of {role, content}"),
        ([{"messages": [{"role": "user", "content": ""}]}], "row 1: messages"),
        ([{"query": "a", "query_id": 1.5}], "row 1: query_id = 1.5"),
        ([{"query": "a", "query_id": 1}, {"query": "b", "query_id": "1"}], "row 2: query_id"),
        ([["a"]], "row 1; allowed: one JSON object a row"),
        ([], "holds no query"),
    ],
)
def test_bad_queries_are_named_by_file_row_and_field(
    rows: list[Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        read_queries(_jsonl(tmp_path / "q.jsonl", rows))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("q.jsonl", b'{"query": "a"}\n{"query": \n', "row 2"),
        ("q.jsonl", b"\xff\xfe{}", "not UTF-8"),
        ("q.jsonl", b'{"query": "a"}\n{"query": "\\ud800"}', "row 2; allowed: valid Unicode"),
        ("q.json", b"[1, 2", "allowed: JSON"),
        ("q.csv", b"query,domain\na\n", "row 1; allowed: as many cells as the header"),
        ("q.csv", b'query\n"a\n', "not CSV"),
        ("q.parquet", b"PAR1 nothing", "not a Parquet file"),
        ("q.jsonl.gz", b"\x1f\x8bplain", "cannot be read"),
        ("q.jsonl.gz", b"plain", "row 1; allowed: JSON"),
    ],
)
def test_damaged_files_are_told_in_one_line(
    name: str, content: bytes, named: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_queries(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.txt", "none.parquet"):
        with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
            read_queries(tmp_path / name)


def test_responses_need_all_their_fields_and_one_row_each(tmp_path: Path) -> None:
    row = {"query": "q", "model": "m", "response": ""}
    (response,) = read_responses(_jsonl(tmp_path / "r.jsonl", [row]))
    assert (response.model, response.text) == ("m", "")  # silence is a response
    for bad, named in (
        ({"query": "q", "model": "m"}, "row 1: response = None"),
        ({"query": "q", "response": "x"}, "row 1: model = None"),
    ):
        with pytest.raises(LabelError, match=named):
            read_responses(_jsonl(tmp_path / "r.jsonl", [bad]))
    with pytest.raises(LabelError, match="row 2: model = 'm'; allowed: one response"):
        read_responses(_jsonl(tmp_path / "r.jsonl", [row, row]))


@pytest.mark.parametrize(
    ("given", "read"), [(12, 12), ("12", 12), (12.0, 12), (math.nan, None), (None, None), (0, 0)]
)
def test_the_length_of_a_response_is_read_where_it_stands(
    given: Any, read: int | None, tmp_path: Path
) -> None:
    """CSV has texts, a data frame with gaps has fractions and NaN."""
    row = {"query": "q", "model": "m", "response": "x", "completion_tokens": given}
    (response,) = read_responses(_jsonl(tmp_path / "r.jsonl", [row]))
    assert response.completion_tokens == read


@pytest.mark.parametrize("given", [-1, 1.5, True, "many", [3], 10**400])
def test_a_length_that_is_no_count_is_told(given: Any, tmp_path: Path) -> None:
    row = {"query": "q", "model": "m", "response": "x", "completion_tokens": given}
    with pytest.raises(LabelError, match=r"row 1: completion_tokens = .*; allowed: a count"):
        read_responses(_jsonl(tmp_path / "r.jsonl", [row]))


def test_a_file_takes_the_old_ones_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.jsonl"
    assert write_jsonl(path, [{"a": "ü"}]) == 1

    def failing() -> Any:
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, failing())
    assert path.read_text("utf-8") == '{"a": "ü"}\n'
    with pytest.raises(InputError, match="cannot be written"):
        write_jsonl(tmp_path, [{}])
