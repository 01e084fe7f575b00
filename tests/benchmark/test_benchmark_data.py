"""Benchmarks from their files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_folder import CHEAP, PREMIUM

from metarouter.benchmark import load_benchmark
from metarouter.benchmark.costs import call_cost, read_price_rows
from metarouter.errors import DataError, InputError, OptionError


def _other_model(table: pa.Table) -> pa.Table:
    names = ["other", *table["model"].to_pylist()[1:]]
    return table.set_column(1, "model", pa.array(names))


@pytest.mark.parametrize("name", ["mmlu", "gsm8k", "mt-bench"])
def test_contaminated_questions_are_left_out(folder: Path, name: str) -> None:
    (benchmark,) = load_benchmark(name, folder)
    assert benchmark.n_contaminated == 2
    assert len(benchmark) == (38 if name == "mt-bench" else 88)
    assert benchmark.models == (CHEAP, PREMIUM)


def test_quality_and_gain_are_those_of_the_rows(folder: Path) -> None:
    """By plain loops over the file."""
    (benchmark,) = load_benchmark("mmlu", folder)
    rows = [
        r
        for r in pq.read_table(folder / "mmlu" / "mmlu.parquet").to_pylist()
        if not r["contaminated"]
    ]
    assert benchmark.prompts == tuple(r["prompt"] for r in rows)
    expected = [float(r[PREMIUM]) - float(r[CHEAP]) for r in rows]
    np.testing.assert_array_equal(benchmark.gain, expected)
    assert [benchmark.subjects[i] for i in benchmark.subject] == [r["subject"] for r in rows]
    cheap, premium = benchmark.reported_means
    assert cheap == pytest.approx(100 * np.mean([r[CHEAP] for r in rows]))
    assert premium == pytest.approx(100 * np.mean([r[PREMIUM] for r in rows]))


def test_mt_bench_routes_on_the_first_turn_and_scores_both(folder: Path) -> None:
    (benchmark,) = load_benchmark("mt-bench", folder)
    row = pq.read_table(folder / "mt-bench" / "scores.parquet").to_pylist()[2]
    assert benchmark.prompts[0] == row["prompt_turn1"]
    assert benchmark.premium[0] == (row[f"{PREMIUM}_1"] + row[f"{PREMIUM}_2"]) / 2
    assert not benchmark.is_accuracy


def test_a_pool_keeps_questions_that_every_model_answered(folder: Path) -> None:
    """Models come by ascending accuracy, with what each call cost."""
    (benchmark,) = load_benchmark("mmlu-pro", folder)
    assert benchmark.models == ("tiny", "small", "large")
    assert len(benchmark) == 119
    assert benchmark.cost is not None
    # 400 characters in and out are 100 tokens each, at 1 and 5 USD a million
    np.testing.assert_allclose(benchmark.cost, [[2e-4, 2e-4, 1e-3]] * 119)


def test_a_pool_becomes_a_table_of_all_candidates(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu-pro", folder)
    table = benchmark.table(np.array([3, 7]))
    assert table.candidate.tolist() == [1, 2, 1, 2]
    np.testing.assert_array_equal(
        table.gain.reshape(2, 2), benchmark.quality[[3, 7], 1:] - benchmark.quality[[3, 7], :1]
    )
    assert table.queries == (benchmark.prompts[3], benchmark.prompts[7])


def test_health_conversations_pair_the_arms_that_both_answered(folder: Path) -> None:
    pairs = load_benchmark("healthbench-hard", folder)
    assert [len(pair) for pair in pairs] == [49, 49, 50]
    assert pairs[2].prompts[1] == "assistant: Go on\n\nCase 1"


def test_each_pair_of_models_is_a_benchmark(folder: Path) -> None:
    pairs = load_benchmark("pairs", folder)
    assert [pair.pair for pair in pairs] == ["big_vs_mini", "big_vs_nano"]
    rows = pq.read_table(folder / "pairs" / "big_vs_mini" / "gold.parquet").to_pylist()
    scores = {(r["query"], r["model"]): r["score"] for r in rows}
    for prompt, cheap, premium in zip(
        pairs[0].prompts, pairs[0].cheap, pairs[0].premium, strict=True
    ):
        assert (scores[prompt, "mini"], scores[prompt, "big"]) == (cheap, premium)


def test_equal_prompts_are_of_one_group(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu", folder)
    group = benchmark.prompt_group
    assert group[2] == group[3]
    assert len(np.unique(group)) == len(set(benchmark.prompts))


def test_prices_of_rows_that_name_several_models(folder: Path) -> None:
    prices = read_price_rows(folder)
    assert prices["small"].input_usd_per_mtok == prices["tiny"].input_usd_per_mtok == 1.0
    assert call_cost(prices, "tiny", [4_000_000], [0]).tolist() == [1.0]


def test_what_is_missing_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mmlu\.parquet does not exist"):
        load_benchmark("mmlu", tmp_path)
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "mmlu.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        load_benchmark("mmlu", tmp_path)
    with pytest.raises(InputError, match="holds no folder"):
        load_benchmark("pairs", tmp_path)
    with pytest.raises(OptionError, match="benchmark = 'go'"):
        load_benchmark("go", folder)


def _rewritten(
    folder: Path, target: Path, file: str, change: Callable[[pa.Table], pa.Table]
) -> Path:
    """A copy of the folder with one file changed."""
    copy = Path(shutil.copytree(folder, target / "data"))
    pq.write_table(change(pq.read_table(copy / file)), copy / file)
    return copy


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("mmlu-pro", "mmlu-pro/questions.parquet", lambda t: t.slice(0, 119), "question_id = 119"),
        ("mmlu-pro", "mmlu-pro/questions.parquet", lambda t: t.slice(0, 0), "question_id = 0"),
        ("mmlu-pro", "mmlu-pro/results.parquet", lambda t: t.take([0, 3]), "no question was"),
        ("pairs", "pairs/big_vs_mini/gold.parquet", lambda t: t.slice(1), "1 of 60 questions lack"),
        ("mt-bench", "mt-bench/judgements.parquet", _other_model, "model = 'other'"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_one_line(
    folder: Path,
    tmp_path: Path,
    name: str,
    file: str,
    change: Callable[[pa.Table], pa.Table],
    message: str,
) -> None:
    """The message says what is missing, not where the program stopped."""
    with pytest.raises(DataError, match=message) as caught:
        load_benchmark(name, _rewritten(folder, tmp_path, file, change))
    assert "\n" not in str(caught.value)
