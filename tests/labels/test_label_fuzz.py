"""Arbitrary and mutated files: read or refused, never a traceback, no row lost.

``experiments/fuzz_readers.py`` does the same with thousands of files.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metarouter.errors import InputError
from metarouter.labels import ReadReport, read_gain_table

ROWS = [
    {"query": f"What is {i} × {i}?", "model_a": "a", "model_b": "b", "winner": winner, "weight": 1}
    for i, winner in enumerate(["model_a", "model_b", "tie", "both_bad", "a"])
]


def _csv() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


JSONL = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS).encode()
VALID = {
    "labels.jsonl": JSONL,
    "labels.json": json.dumps(ROWS).encode(),
    "labels.csv": _csv(),
    "labels.parquet": _parquet(),
    "labels.jsonl.gz": gzip.compress(JSONL),
    "labels.csv.zst": zstandard.compress(_csv()),
}
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
# A place in the file, as a share of its length, how many bytes go, and what comes instead.
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 30),
        st.one_of(st.binary(max_size=8), st.text().map(str.encode)),
    ),
    min_size=1,
    max_size=3,
)
SHORT = st.text(max_size=5)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SHORT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3),
    max_leaves=4,
)


def read(path: Path, data: bytes, on_bad_row: Any) -> ReadReport | None:
    """The report, or None where the file was refused."""
    path.write_bytes(data)
    try:
        return read_gain_table(path, on_bad_row=on_bad_row)[1]
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return None


def check_account(report: ReadReport | None) -> None:
    if report is None:
        return
    fates = ("used", "skipped", "merged", "unpaired", "other_models")
    for file in report.files:
        assert file.rows_read == sum(getattr(file, f"rows_{fate}") for fate in fates)
        assert file.rows_skipped == sum(bad.count for bad in file.bad_rows)


@pytest.mark.parametrize("name", VALID)
def test_the_files_are_valid_before_they_are_mutated(tmp_path: Path, name: str) -> None:
    report = read(tmp_path / name, VALID[name], "error")
    assert report is not None
    assert report.rows_used == len(ROWS)


@pytest.mark.parametrize("name", VALID)
@given(data=st.binary(max_size=200))
@FEW
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, data: bytes) -> None:
    for on_bad_row in ("error", "skip"):
        check_account(read(tmp_path / name, data, on_bad_row))


@pytest.mark.parametrize("name", VALID)
@given(edits=EDITS)
@FEW
def test_any_edit_of_a_valid_file_is_read_or_refused(
    tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]]
) -> None:
    data = VALID[name]
    for share, length, new in edits:
        place = round(share * len(data))
        data = data[:place] + new + data[place + length :]
    check_account(read(tmp_path / name, data, "skip"))


@given(field=st.sampled_from([*ROWS[0], "messages", "p_a", "query_id"]), value=JSON_VALUES)
@FEW
def test_any_value_in_a_record_leaves_the_other_rows_alone(field: str, value: Any) -> None:
    _, report = read_gain_table(preference=[*ROWS, {**ROWS[0], field: value}], on_bad_row="skip")
    check_account(report)
    assert report.rows_used >= len(ROWS)


@given(text=st.text(), lines=st.integers(1, 4))
@FEW
def test_any_text_survives_every_text_format(tmp_path: Path, text: str, lines: int) -> None:
    query = f"q {text}"
    rows = [{**ROWS[0], "query": query}] * lines
    first = tmp_path / "labels.jsonl"
    first.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    second = tmp_path / "labels.csv"
    with second.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for path in (first, second):
        table, report = read_gain_table(preference=path)
        assert table.queries == (query,)
        assert report.rows_used == lines
