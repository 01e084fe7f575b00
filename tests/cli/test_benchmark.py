"""``metarouter benchmark`` from the folder to JSON and report."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from metarouter.cli import run
from metarouter.errors import DataError

CONTRACT = {
    "dataset", "n", "router", "protocol", "cheap_mean", "premium_mean",
    "apgr", "apgr_low", "apgr_high", "cpt20", "cpt50", "cpt80",
}  # fmt: skip
ROUTERS = ["--routers", "ridge@surface,knn@surface"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(__file__).parents[1] / "benchmark" / "benchmark_folder.py"
    spec = importlib.util.spec_from_file_location("benchmark_folder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_folder(tmp_path_factory.mktemp("benchmarks"))
    return folder


def results(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    assert content["command"] == "benchmark"
    found: list[dict[str, Any]] = content["results"]
    return found


@pytest.mark.parametrize("dataset", ["mmlu", "gsm8k", "mt-bench", "healthbench-hard", "pairs"])
def test_every_pair_gives_the_contracts_fields(data: Path, tmp_path: Path, dataset: str) -> None:
    out = tmp_path / "out.json"
    arguments = ["benchmark", dataset, "--data", str(data), *ROUTERS, "--json", str(out)]
    assert run(arguments) == 0
    rows = results(out)
    assert set(rows[0]) >= CONTRACT
    assert {"random", "oracle"} <= {row["router"] for row in rows}
    assert all(row["protocol"] == "cv" and row["dataset"] == dataset for row in rows)
    assert ("pair" in rows[0]) == (dataset in ("pairs", "healthbench-hard"))


def test_many_models_have_cost_and_quality(data: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    arguments = ["benchmark", "mmlu-pro", "--data", str(data), "--routers", "knn@surface"]
    assert run([*arguments, "--json", str(out), "--report", str(page)]) == 0
    rows = results(out)
    assert set(rows[0]) >= CONTRACT | {"quality_at_cost", "cost_at_quality", "gain_over_hull"}
    assert [row["router"] for row in rows] == ["knn@surface", "random", "hull", "oracle"]
    assert "single models" in page.read_text()


def test_the_report_is_one_page_without_addresses(data: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    arguments = ["benchmark", "mmlu", "--data", str(data), *ROUTERS, "--report", str(page)]
    assert run(arguments) == 0
    text = page.read_text()
    assert text.count("<svg") >= 4  # quality by share and by dollars, wide and narrow
    for needed in ("optimal", "random", "USD per 1,000", "knn@surface", "similarity"):
        assert needed in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_a_report_that_cannot_be_written_is_refused_before_the_fits(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of fitting are not lost to a wrong path: none are spent."""
    out = tmp_path / "out.json"
    arguments = ["benchmark", "gsm8k", "--data", str(data), *ROUTERS, "--json", str(out)]
    assert run([*arguments, "--report", str(tmp_path)]) == 2  # a folder
    assert f"{tmp_path}: cannot be written" in capsys.readouterr().err
    assert not out.exists()


def test_json_is_written_before_a_report_that_fails(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor to whatever stops the report afterwards."""

    def fail(*_: object) -> None:
        raise DataError("no report today")

    monkeypatch.setattr("metarouter.benchmark.view.write_benchmark_report", fail)
    out = tmp_path / "out.json"
    arguments = ["benchmark", "gsm8k", "--data", str(data), *ROUTERS, "--json", str(out)]
    assert run([*arguments, "--report", str(tmp_path / "report.html")]) != 0
    assert results(out)


def test_few_gold_and_one_pair(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = ["benchmark", "pairs", "--data", str(data), "--pair", "big_vs_mini", *ROUTERS]
    few = ["--protocol", "few-gold", "--n-gold", "30", "--splits", "2", "--json", str(out)]
    assert run([*arguments, *few]) == 0
    assert {row["pair"] for row in results(out)} == {"big_vs_mini"}
    assert {row["n_runs"] for row in results(out)} == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mmlu", "--routers", "magic"], "router = 'magic'"),
        (["mmlu", "--routers", "ridge@magic"], "embedder = 'magic'"),
        (["pairs", "--pair", "a_vs_b", *ROUTERS], "--pair = 'a_vs_b'"),
        (["mmlu-pro", "--pair", "a_vs_b", *ROUTERS], "--pair = 'a_vs_b'"),
        (["mmlu-pro", "--splits", "2", *ROUTERS], "--splits = 2"),
        (["mmlu", "--protocol", "few-gold", "--n-gold", "5000", *ROUTERS], "n-gold = 5000"),
    ],
)
def test_bad_options_are_one_line(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["benchmark", *arguments, "--data", str(data)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
