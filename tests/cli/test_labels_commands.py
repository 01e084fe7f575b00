"""``metarouter labels battles`` and ``labels tiers``, from dump to ratings."""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from metarouter.cli import run
from metarouter.errors import LabelError
from metarouter.labels.dumps import read_dump


def arena_rows(n: int = 60) -> list[dict[str, Any]]:
    """Rows with the columns of the arena set: `strong` wins two of three."""
    return [
        {
            "id": i,
            "model_a": "strong" if i % 2 else "weak",
            "model_b": "weak" if i % 2 else "strong",
            "prompt": json.dumps([f"Prompt number {i} of a small arena", "and more"]),
            "winner_model_a": int((i % 2 == 1) == (i % 3 > 0)),
            "winner_model_b": int((i % 2 == 1) != (i % 3 > 0)),
            "winner_tie": 0,
        }
        for i in range(n)
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_dump_becomes_votes_and_votes_become_tiers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands in turn, with their machine output."""
    dump, votes = write_csv(tmp_path / "arena.csv", arena_rows()), tmp_path / "votes.jsonl"
    assert run(["labels", "battles", str(dump), "--out", str(votes), "--json", "-"]) == 0
    (count,) = json.loads(capsys.readouterr().out)["results"]
    assert (count["rows"], count["used"], count["short"]) == (60, 60, 0)
    assert json.loads(votes.read_text().splitlines()[0])["query"].startswith("Prompt number 0")
    assert run(["labels", "tiers", str(votes), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    assert [row["model"] for row in found] == ["strong", "weak"]
    assert [row["tier"] for row in found] == [0, 1]
    # two wins of three are odds of 2: 400 log10(2) = 120.4 points apart
    assert found[0]["elo"] - found[1]["elo"] == pytest.approx(120.4, abs=0.5)
    assert [row["labels"] for row in found] == [60, 60]


def test_tiers_are_printed_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People get one line a model, the best first."""
    dump, votes = write_csv(tmp_path / "arena.csv", arena_rows()), tmp_path / "votes.jsonl"
    run(["labels", "battles", str(dump), "--out", str(votes)])
    assert "60 of 60 battles" in capsys.readouterr().out
    assert run(["labels", "tiers", str(votes), "--num-tiers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["tier", "model"]
    assert lines[1].split()[:2] == ["0", "strong"]


def test_a_row_that_is_no_battle_ends_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and one line."""
    dump = tmp_path / "broken.jsonl"
    dump.write_text(json.dumps(arena_rows(1)[0]) + "\n" + json.dumps({"model_a": "x"}) + "\n")
    assert run(["labels", "battles", str(dump), "--out", str(tmp_path / "v.jsonl")]) == 2
    assert "broken.jsonl: row 2" in capsys.readouterr().err


ROWS = [{"prompt": "Ünïcode and, commas", "winner": "tie"}, {"prompt": "b", "winner": "model_a"}]


def write_as(suffix: str, folder: Path) -> Path:
    path = folder / f"dump{suffix}"
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif suffix == ".csv":
        write_csv(path, ROWS)
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json", ".jsonl"])
def test_dumps_of_every_format_give_the_same_rows(suffix: str, tmp_path: Path) -> None:
    """All columns with their names, whatever the format."""
    assert list(read_dump(write_as(suffix, tmp_path))) == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_dump(suffix: str, tmp_path: Path) -> None:
    path = write_as(suffix, tmp_path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert list(read_dump(path)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dump.pkl", "x", "allowed: files ending in .parquet"),
        ("dump.parquet", "not parquet", "damaged Parquet file"),
        ("dump.jsonl", '{"a": 1}\nnonsense\n', "row 2: not JSON"),
        ("dump.jsonl", "[1]\n", "one JSON object a row"),
        ("dump.json", '{"a": 1}', "one JSON array"),
        pytest.param("dump.json", "[" * 100_000, "not JSON", id="brackets"),
        pytest.param("dump.jsonl", "[" * 100_000, "row 1: not JSON", id="line of brackets"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_files_that_are_no_dumps_are_refused(
    name: str, content: str | None, message: str, tmp_path: Path
) -> None:
    """Pickle is never opened; damage is told with its place."""
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(LabelError, match=message):
        list(read_dump(tmp_path / name))


def test_half_a_surrogate_pair_does_not_cost_the_file(tmp_path: Path) -> None:
    """Arena dumps hold some in their JSON; all battles are written."""
    rows = [{"prompt": r'["Half a smile \ud83d is what?"]', "winner": "tie"}, arena_rows(1)[0]]
    names = {"model_a": "x \ud800", "model_b": "y"}
    dump, votes = tmp_path / "arena.jsonl", tmp_path / "votes.jsonl"
    dump.write_text("".join(json.dumps(names | row) + "\n" for row in rows))
    assert run(["labels", "battles", str(dump), "--out", str(votes)]) == 0
    written = [json.loads(line) for line in votes.read_text("utf-8").splitlines()]
    assert [row["model_a"] for row in written] == ["x ?", rows[1]["model_a"]]
