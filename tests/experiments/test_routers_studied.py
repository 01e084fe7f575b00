"""Studies of routers: who sees which label, and what the tables say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("threadpoolctl", reason="the studies need the train extra")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts import each other from their own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))


def test_a_training_query_has_gold_or_a_verdict_and_a_test_query_neither() -> None:
    from correction_helps import has_label, training_rows
    from metarouter.evaluation.experiment import split_queries
    from metarouter.labels import make_gain_table

    n = 30
    table = make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        query=np.tile(np.arange(n), 2),
        gain=np.ones(2 * n),
        is_gold=np.arange(2 * n) < n,
    )
    both = np.ones(n, dtype=np.bool_)
    split = split_queries(both, both, n_gold=5, n_test=10, seed=0)
    rows = training_rows(table, split)
    gold, judged = has_label(rows, rows.is_gold), has_label(rows, ~rows.is_gold)
    assert np.flatnonzero(gold).tolist() == sorted(split.gold.tolist())
    assert np.flatnonzero(judged).tolist() == sorted(split.preference.tolist())
    assert not (gold | judged)[split.test].any()


def test_what_correction_adds_is_paired_by_pair_of_models() -> None:
    """Pairs differ by far more than methods do; the difference is the same in each."""
    from correction_helps import METHODS, summarise
    from study import Record

    records = [
        Record(
            world=f"pair {i}", cell="knn", seed=seed, method=method,
            area=i + 0.01 * (method == "auto"), seconds=1.0,
        )
        for i in range(3) for seed in range(2) for method in METHODS
    ]  # fmt: skip
    assert "| 1.00 [1.00, 1.00] |" in summarise(records)
    assert "3 × 2" in summarise(records)


def test_a_learning_curve_is_a_row_of_its_router() -> None:
    from learning_curves import Record, as_markdown

    records: list[Record] = [
        {"router": name, "n_gold": size, "splits": 2, "apgr": 0.5 + size / 1e4,
         "apgr_low": 0.5, "apgr_high": 0.6}
        for size, name in ((300, "ridge"), (100, "ridge"), (100, "knn"))
    ]  # fmt: skip
    lines = as_markdown(records).splitlines()
    assert lines[0] == "| router | 100 labels | 300 labels |"
    assert lines[2] == "| `ridge` | 0.510 [0.500, 0.600] | 0.530 [0.500, 0.600] |"
    assert lines[3] == "| `knn` | 0.510 [0.500, 0.600] |  |"


def test_a_sample_of_a_benchmark_is_always_the_same() -> None:
    from learning_curves import sample
    from metarouter.benchmark import Benchmark

    benchmark = Benchmark(
        name="toy",
        prompts=tuple(map(str, range(50))),
        models=("a", "b"),
        quality=np.arange(100.0).reshape(50, 2),
        subject=np.arange(50),
        subjects=tuple(map(str, range(50))),
    )
    few, more = sample(benchmark, 10), sample(benchmark, 20)
    assert len(set(few.prompts)) == 10
    assert more.prompts[:10] == few.prompts
    assert [f"{int(row[0]) // 2}" for row in few.quality] == list(few.prompts)
    assert [few.subjects[i] for i in few.subject] == list(few.prompts)


def test_probes_of_a_new_model_are_questions_that_neither_trained_nor_test() -> None:
    from metarouter.benchmark import Benchmark
    from onboarding_end_to_end import draw

    benchmark = Benchmark(
        name="toy",
        prompts=tuple(f"question {i // 2}" for i in range(1_000)),
        models=("a", "b"),
        quality=np.zeros((1_000, 2)),
        subject=np.zeros(1_000, dtype=np.int64),
        subjects=("all",),
    )
    split = draw(benchmark, 0, 100, 150)
    parts = [
        {benchmark.prompts[i] for i in part} for part in (split.train, split.probe, split.test)
    ]
    assert [len(part) for part in parts] == [100, 200, 150]
    assert len(set.union(*parts)) == 450


def test_what_probes_add_is_paired_by_new_model() -> None:
    """Models differ by far more than methods do; the difference is the same for each."""
    from onboarding_report import Row, table

    def row(model: int, method: str, k: int, more: float) -> Row:
        return Row(
            world="toy", model=f"model {model}", seed=0, method=method, k=k, area=model + more
        )

    rows = [
        row(model, *cell)
        for model in range(1, 4)
        for cell in (
            ("onboard", 0, 0.0),
            ("onboard", 20, 0.5),
            ("alone", 20, 0.2),
            ("refit", 99, 1),
        )
    ]
    cells = next(line for line in table(rows).splitlines() if line.startswith("| onboard | 20"))
    assert "| 0.30 [0.30, 0.30] | 0.50 [0.50, 0.50] |" in cells
    assert "| 83% |" in cells


def test_a_study_of_onboarding_goes_on_from_its_log(tmp_path: Path) -> None:
    from onboarding_report import Row, append_rows, read_rows

    row = Row(world="toy", model="a", seed=0, method="onboard", k=0, area=1.0, covered=0.9)
    assert read_rows(tmp_path / "log" / "rows.jsonl") == []
    for _ in range(2):
        append_rows(tmp_path / "log" / "rows.jsonl", [row])
    assert read_rows(tmp_path / "log" / "rows.jsonl") == [row, row]


def test_the_gain_of_an_onboarded_model_is_its_own_wherever_it_stands() -> None:
    """A weaker newcomer stands before stronger models, so the last column is not it."""
    import metarouter as mr
    from metarouter.testing import make_world
    from metarouter.testing.worlds import gold_records
    from onboarding_end_to_end import gain_of

    gold = list(gold_records(make_world(n_queries=60, n_gold=60, n_test=0).table))
    router = mr.fit(gold, embedder="surface", gain_model="ridge", folds=0)
    weak = [{**row, "model": "weak", "score": row["score"] - 3.0}
            for row in gold if row["model"] == "cheap"]  # fmt: skip
    grown = mr.onboard(router, [*gold, *weak], model="weak")
    texts = [row["query"] for row in weak]
    assert grown.models == ("cheap", "weak", "premium")
    assert gain_of(grown, "weak", texts).mean() < -2.0
    np.testing.assert_allclose(
        gain_of(grown, "premium", texts), np.ravel(router.predict_gain(texts).mean)
    )
