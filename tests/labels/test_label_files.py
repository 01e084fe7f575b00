"""Files of every format, encoding and compression."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from metarouter.errors import LabelError
from metarouter.labels import ReadReport, read_gain_table

Row = dict[str, Any]

ROWS: list[Row] = [
    {"query": text, "model": model, "score": float(i % 2 == (model == "small"))}
    for i, text in enumerate(["Grüße", 'say "a,b"\nnow', "日本語; ok"])
    for model in ("large", "small")
]


def jsonl(rows: list[Row] = ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table_text(rows: list[Row] = ROWS, delimiter: str = ",") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parquet(rows: list[Row] = ROWS) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def check_rows(path: Path) -> ReadReport:
    table, report = read_gain_table(path)
    assert table.queries == tuple(dict.fromkeys(row["query"] for row in ROWS))
    expected = [
        large["score"] - small["score"] for large, small in zip(ROWS[::2], ROWS[1::2], strict=True)
    ]
    sign = 1 if table.models == ("small", "large") else -1
    np.testing.assert_array_equal(sign * table.gain, expected)
    assert report.rows_read == report.rows_used == len(ROWS)
    return report


PLAIN = {
    "labels.jsonl": jsonl(),
    "labels.ndjson": "\n\n" + jsonl().replace("\n", "\n \n"),
    "labels.json": json.dumps(ROWS, indent=2),
    "array.jsonl": json.dumps(ROWS),
    "lines.json": jsonl(),
    "labels.csv": table_text(),
    "semicolons.csv": table_text(delimiter=";"),
    "blank.csv": "\n \n" + table_text(),
    "labels.tsv": table_text(delimiter="\t"),
    "tabs.csv": table_text(delimiter="\t"),
    "labels": jsonl(),
    "labels.txt": table_text(),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_formats_are_detected_in_every_marked_encoding(
    tmp_path: Path, name: str, encoding: str
) -> None:
    path = tmp_path / name
    path.write_bytes(PLAIN[name].encode(encoding))
    check_rows(path)


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.csv", "labels.json", "labels.parquet"])
@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("has_suffix", [True, False])
def test_compression_is_found_by_its_first_bytes(
    tmp_path: Path, name: str, compress: Any, has_suffix: bool
) -> None:
    data = parquet() if name.endswith("parquet") else PLAIN[name].encode()
    suffix = {gzip.compress: ".gz", zstandard.compress: ".zst"}[compress] if has_suffix else ""
    path = tmp_path / (name + suffix)
    path.write_bytes(compress(data))
    check_rows(path)


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_compressed_files_put_end_to_end_are_read_to_the_end(tmp_path: Path, compress: Any) -> None:
    half = len(ROWS) // 2 + 1
    path = tmp_path / "labels.jsonl"
    path.write_bytes(compress(jsonl(ROWS[:half]).encode()) + compress(jsonl(ROWS[half:]).encode()))
    check_rows(path)


@pytest.mark.parametrize("name", ["labels.parquet", "labels.pq", "labels"])
def test_parquet_is_found_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(parquet())
    check_rows(path)


def test_parquet_names_may_be_dictionaries_and_chats_nested(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": row["query"]}] for row in ROWS]
    table = pa.table(
        {
            "messages": chats,
            "model": pa.array([row["model"] for row in ROWS]).dictionary_encode(),
            "score": pa.array([int(row["score"]) for row in ROWS], pa.int8()),
        }
    )
    path = tmp_path / "labels.parquet"
    pq.write_table(table, path)
    check_rows(path)


def test_several_files_make_one_source(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.csv"
    first.write_text(jsonl(ROWS[:3]), encoding="utf-8")
    second.write_text(table_text(ROWS[3:]), encoding="utf-8", newline="")
    table, report = read_gain_table([first, str(second)])
    assert table.n_queries == 3
    assert [file.rows_used for file in report.files] == [3, 3]


def test_cells_may_be_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    rows = [{"query": "x" * (limit + 1), "model": m, "score": 0.5} for m in "ab"]
    path = tmp_path / "labels.csv"
    path.write_text(table_text(rows), encoding="utf-8", newline="")
    assert read_gain_table(path)[1].rows_used == 2
    assert csv.field_size_limit() == limit


def test_numbers_in_csv_may_have_blanks_around_them(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("query,model,score\nq, large , 1.5e0 \nq,small,1\n", encoding="utf-8")
    table, _ = read_gain_table(path)
    assert table.models == ("small", "large")
    np.testing.assert_array_equal(table.gain, [0.5])


DAMAGED = {
    "labels.jsonl.gz": gzip.compress(jsonl().encode())[:-9],
    "checksum.jsonl.gz": gzip.compress(jsonl().encode())[:-8] + b"\0" * 8,
    "labels.jsonl.zst": zstandard.compress(jsonl().encode())[:-3],
    "labels.parquet": parquet()[:200],
    "text.parquet": jsonl().encode(),
    "labels.json": json.dumps(ROWS).encode()[:-20],
    "utf16.csv": table_text().encode("utf-16")[:-1],
    "twice.csv": b"query,model,model,score\n",
    "columns.csv": b"prompt,answer\nq,a\n",
    "empty.csv": b"",
    "empty.jsonl": b"",
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_a_damaged_file_is_refused_by_name_on_one_line(
    tmp_path: Path, name: str, on_bad_row: Any
) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(LabelError) as caught:
        read_gain_table(path, on_bad_row=on_bad_row)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="No such file"):
        read_gain_table(tmp_path / "none.csv")
    with pytest.raises(LabelError, match="directory"):
        read_gain_table(tmp_path)
