"""Files shared out to training and test, each query on one side in all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarouter.cli import run
from metarouter.collection.rows import read_keyed, read_objects
from metarouter.collection.split import query_groups, split_files
from metarouter.errors import DataError, InputError, OptionError
from metarouter.labels import read_gain_table

Capture = pytest.CaptureFixture[str]


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Gold of 40 queries with a query_id, and votes on these and 160 more without one."""
    gold = [
        {"query_id": f"q{i}", "query": f"Größe {i}?", "model": model, "score": float(model == "b")}
        for i in range(40)
        for model in "ab"
    ]
    votes = [
        {"query": f"Größe {i}?", "model_a": "a", "model_b": "b", "winner": "model_b"}
        for i in range(200)
    ]
    return _jsonl(tmp_path / "gold.jsonl", gold), _jsonl(tmp_path / "votes.jsonl", votes)


def _split(files: tuple[Path, ...], folder: Path, share: float = 0.25, seed: int = 0) -> Any:
    return split_files(files, folder, share=share, rng=np.random.default_rng(seed))


def test_no_query_is_on_both_sides_and_no_row_is_lost(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Gold and votes of one query meet by text here, as they do in the fit."""
    records = _split(files, tmp_path / "s")
    assert [(Path(r["file"]).parent.name, r["rows"], r["queries"]) for r in records] == [
        ("train", 60, 30), ("train", 150, 150), ("test", 20, 10), ("test", 50, 50),
    ]  # fmt: skip
    sides = [
        {row["query"] for f in files for _, row in read_objects(tmp_path / "s" / side / f.name)}
        for side in ("train", "test")
    ]
    assert not sides[0] & sides[1]
    for file in files:
        parts = [read_objects(tmp_path / "s" / side / file.name) for side in ("train", "test")]
        assert sorted(json.dumps(row) for part in parts for _, row in part) == sorted(
            json.dumps(row) for _, row in read_objects(file)
        )


def test_the_seed_decides_what_is_drawn(files: tuple[Path, Path], tmp_path: Path) -> None:
    texts = []
    for i, seed in enumerate((0, 0, 1)):
        _split(files, tmp_path / str(i), seed=seed)
        texts.append((tmp_path / str(i) / "test" / "gold.jsonl").read_text("utf-8"))
    assert texts[0] == texts[1] != texts[2]


def test_a_chain_of_ids_and_texts_is_one_query(tmp_path: Path) -> None:
    """Rows 0 and 3 share nothing, but each shares something with what stands between them."""
    rows: list[dict[str, Any]] = [
        {"query_id": 1, "query": "a"},
        {"query_id": 2, "query": "b"},
        {"query_id": 1, "query": "b"},
        {"query": "b"},
        {"query": "c"},
    ]
    queries = [query for query, _ in read_keyed(_jsonl(tmp_path / "q.jsonl", rows))]
    assert query_groups(queries) == [0, 0, 0, 0, 1]


def test_a_chat_in_a_table_is_the_query_that_labels_read_from_it(tmp_path: Path) -> None:
    """It is one query with its text elsewhere, space around it aside."""
    path = tmp_path / "gold.csv"
    cells = [
        f'"[{{""role"":""user"",""content"":""q {i}""}}]",{m},1' for i in range(8) for m in "ab"
    ]
    path.write_text("\n".join(["messages,model,score", *cells]), encoding="utf-8")
    votes = [
        {"query": f"q {i}\n", "model_a": "a", "model_b": "b", "winner": "tie"} for i in range(8)
    ]
    _split((path, _jsonl(tmp_path / "votes.jsonl", votes)), tmp_path / "s", share=0.5)
    sides = []
    for side in ("train", "test"):
        table, report = read_gain_table(
            gold=tmp_path / "s" / side / "gold.csv",
            preference=tmp_path / "s" / side / "votes.jsonl",
        )
        assert report.rows_skipped == 0
        sides.append({text.strip() for text in table.queries})
    assert [len(side) for side in sides] == [4, 4]
    assert not sides[0] & sides[1]


def test_a_table_stays_a_table_whose_numbers_are_read(tmp_path: Path) -> None:
    """JSON with numbers as text would be refused by the fit."""
    path = tmp_path / "gold.tsv"
    lines = [f"q {i}\t{m}\t{s}\t" for i in range(8) for m, s in (("a", 0.25), ("b", 1))]
    path.write_text("\n".join(["query\tmodel\tscore\tdomain", *lines]), encoding="utf-8")
    _split((path,), tmp_path / "s", share=0.5)
    table, report = read_gain_table(tmp_path / "s" / "test" / "gold.csv", premium="b", cheap="a")
    assert (table.gain.tolist(), report.rows_skipped) == ([0.75] * 4, 0)


def test_parquet_stays_parquet_with_its_columns_and_types(tmp_path: Path) -> None:
    """Also where no row has a value, and beside a file of another form."""
    path = tmp_path / "gold.parquet"
    table = pa.table(
        {
            "query": [f"Größe {i // 2}?" for i in range(40)],
            "model": ["a", "b"] * 20,
            "score": pa.array([i % 2 for i in range(40)], pa.float32()),
            "timestamp": pa.array(range(40), pa.timestamp("us", tz="UTC")),
            "domain": pa.nulls(40, pa.string()),
        }
    )
    pq.write_table(table, path)
    votes = _jsonl(tmp_path / "votes.jsonl", [{"query": f"Größe {i}?"} for i in range(20)])
    _split((path, votes), tmp_path / "s", share=0.5)
    train, test = (pq.read_table(tmp_path / "s" / side / path.name) for side in ("train", "test"))
    assert train.schema == test.schema == table.schema
    assert sorted(pa.concat_tables([train, test]).to_pylist(), key=str) == sorted(
        table.to_pylist(), key=str
    )
    assert len(test) == 20
    tested = {row["query"] for _, row in read_objects(tmp_path / "s" / "test" / votes.name)}
    assert set(test["query"].to_pylist()) == tested


def _packed(text: str, name: str) -> bytes:
    kind = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd"}.get(Path(name).suffix)
    content = text.encode()
    return content if kind is None else pa.compress(content, kind, asbytes=True)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("gold.ndjson", "gold.jsonl"),
        ("gold.NDJSON.gz", "gold.jsonl"),
        ("gold.jsonl.gzip", "gold.jsonl"),
        ("gold.v2.jsonl.zst", "gold.v2.jsonl"),
        ("gold", "gold.jsonl"),
        ("gold.csv", "gold.csv"),
        ("gold.csv.zst", "gold.csv"),
        ("gold.pq", "gold.parquet"),
        ("gold.parquet.zst", "gold.parquet"),
    ],
)
def test_what_fit_reads_is_split_to_what_fit_reads(name: str, written: str, tmp_path: Path) -> None:
    """Compressed or not, semicolons or commas, under a name that says what it is."""
    path = tmp_path / name
    rows = [
        {"query": f"q {i}, then?", "model": m, "score": s}
        for i in range(8)
        for m, s in (("a", 0.25), ("b", 1.0))
    ]
    if written.endswith(".parquet"):
        whole = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), whole)
        content = whole.getvalue().to_pybytes()
        path.write_bytes(pa.compress(content, "zstd", asbytes=True) if "zst" in name else content)
    elif ".csv" in name:
        lines = ["query;model;score", *(";".join(map(str, row.values())) for row in rows)]
        path.write_bytes(_packed("\n".join(lines), name))
    else:
        path.write_bytes(_packed("".join(json.dumps(row) + "\n" for row in rows), name))
    assert len(read_gain_table(path, premium="b", cheap="a")[0].queries) == 8
    records = _split((path,), tmp_path / "s", share=0.5)
    assert [Path(record["file"]).name for record in records] == [written] * 2
    queries: list[str] = []
    for side in ("train", "test"):
        table, report = read_gain_table(tmp_path / "s" / side / written, premium="b", cheap="a")
        assert (table.gain.tolist(), report.rows_skipped) == ([0.75] * 4, 0)
        queries += table.queries
    assert sorted(queries) == sorted({str(row["query"]) for row in rows})


@pytest.mark.parametrize("name", ["q.txt", "q.TXT", "q.txt.gz", "q.txt.zst"])
def test_lines_of_text_are_split_however_they_are_packed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(_packed("".join(f"line {i}\n" for i in range(8)), name))
    _split((path,), tmp_path / "s", share=0.5)
    sides = [
        [row["query"] for _, row in read_objects(tmp_path / "s" / side / "q.jsonl")]
        for side in ("train", "test")
    ]
    assert sorted(sides[0] + sides[1]) == [f"line {i}" for i in range(8)]


@pytest.mark.parametrize("name", ["q.jsonl.gz", "q.jsonl.zst", "q.parquet", "q.txt.gz"])
def test_a_packed_file_that_is_cut_off_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(_packed('{"query": "a"}\n' * 500, name)[:-20])
    with pytest.raises(InputError, match=r"cannot be read|not a Parquet file") as caught:
        read_keyed(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"gold.{suffix}"
    rows = {"query": [str(i) for i in range(8)], "score": ["1"] * 8}
    if suffix == "parquet":
        pq.write_table(pa.table(rows), path)
    elif suffix == "csv":
        path.write_text("query,score\n" + "".join(f"{i},1\n" for i in range(8)), "utf-8")
    else:
        _jsonl(path, [{"query": str(i), "score": "1"} for i in range(8)])
    _split((path,), tmp_path / "s", share=0.5)
    old = (tmp_path / "s" / "train" / path.name).read_bytes()
    (tmp_path / "s" / "train" / f"{path.name}.partial").mkdir()  # stands where it is written
    with pytest.raises(InputError, match="cannot be written"):
        _split((path,), tmp_path / "s", share=0.5, seed=1)
    assert (tmp_path / "s" / "train" / path.name).read_bytes() == old


def test_what_cannot_be_shared_out_is_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    one = _jsonl(tmp_path / "one.jsonl", [{"query": "a"}])
    with pytest.raises(DataError, match="1 queries are too few"):
        _split((one,), tmp_path / "s")
    with pytest.raises(OptionError, match=r"^held_out = 1\.5; allowed"):
        _split(files, tmp_path / "s", share=1.5)
    with pytest.raises(OptionError, match=re.escape("two files would be written as gold.jsonl")):
        _split((files[0], files[0]), tmp_path / "s")
    _split(files, tmp_path / "s")
    with pytest.raises(OptionError, match=r"^out = "):
        _split((tmp_path / "s" / "train" / "gold.jsonl",), tmp_path / "s")


def test_the_command_says_what_is_where(
    files: tuple[Path, Path], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "s"
    assert run(["labels", "split", *map(str, files), "--out", str(out), "--held-out", "0.25"]) == 0
    assert f"{out / 'test' / 'gold.jsonl'}: 20 rows of 10 queries" in capsys.readouterr().out
    assert run(["labels", "split", str(files[0]), "--out", str(out), "--held-out", "0"]) == 2
    assert "--held-out = 0.0" in capsys.readouterr().err
