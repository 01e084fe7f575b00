"""Comparing correctors on splits of one data set."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.evaluation.comparison import CompareResult
from metarouter.evaluation.experiment import compare, split_queries
from metarouter.labels.table import GainTable, make_gain_table

N = 120
DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[2] / "../shared/data"))


class NumberFeatures:
    """The number written in a text, and what it was fitted on."""

    def fit(self, texts: Sequence[str]) -> Self:
        self.seen_ = set(texts)
        return self

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The second column tells whether the text was there when it was fitted."""
        return np.asarray(
            [[float(text.split()[-1]), text in self.seen_] for text in texts], dtype=np.float32
        )


@dataclass
class KeepSources:
    """Uses the labels of some sources as they are."""

    gold: bool = True
    preference: bool = True
    diagnostics_: dict[str, Any] = field(default_factory=dict)

    def fit(self, table: GainTable) -> Self:
        features = table.features
        assert features is not None
        assert features[:, 1].all(), "a test query reached a corrector"
        assert len(np.unique(table.query)) == table.n_queries
        return self

    def transform(self, table: GainTable) -> GainTable:
        keep = np.where(table.is_gold, self.gold, self.preference)
        return table.with_gains(table.gain, np.where(keep, 0.0, np.inf))


def gold_only(seed: int) -> KeepSources:
    return KeepSources(preference=False)


def preference_only(seed: int) -> KeepSources:
    return KeepSources(gold=False)


def make_table(n: int = N, *, perverse: bool = True) -> GainTable:
    """Gold gain grows with the number in the query, preference gain falls with it."""
    rng = np.random.default_rng(5)
    x = rng.permutation(n)
    gold = x / n - 0.5 + rng.normal(0, 0.05, n)
    texts = [f"query {value}" for value in x]
    query = np.arange(n)
    return make_gain_table(
        queries=texts,
        query=np.concatenate([query, query]),
        gain=np.concatenate([gold, -gold if perverse else gold]),
        is_gold=np.repeat([True, False], n),
    )


def run(table: GainTable | None = None, **options: Any) -> CompareResult:
    settings: dict[str, Any] = {
        "n_gold": (10, 30),
        "correctors": {"gold_only": gold_only, "preference_only": preference_only},
        "gain_models": ("ridge",),
        "seeds": 3,
        "n_test": 40,
        "embedder": NumberFeatures,
        "jobs": 1,
    }
    return compare(make_table() if table is None else table, **(settings | options))


@given(
    labels=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=10, max_size=40),
    seed=st.integers(0, 99),
    n_gold=st.integers(0, 4),
)
@settings(max_examples=50)
def test_split_sets_are_disjoint_nested_and_of_the_right_source(
    labels: list[tuple[bool, bool]], seed: int, n_gold: int
) -> None:
    has_gold, has_preference = np.asarray(labels).T
    n_test = int(has_gold.sum()) - 5
    if n_test < 1:
        return
    small = split_queries(has_gold, has_preference, n_gold=n_gold, n_test=n_test, seed=seed)
    large = split_queries(has_gold, has_preference, n_gold=n_gold + 1, n_test=n_test, seed=seed)
    used = np.concatenate([small.gold, small.preference, small.test])
    assert len(np.unique(used)) == len(used)
    assert has_gold[small.gold].all()
    assert has_gold[small.test].all()
    assert set(small.preference) == set(np.flatnonzero(has_preference)) - set(small.gold) - set(
        small.test
    )
    assert set(small.gold) < set(large.gold)
    assert np.array_equal(small.test, large.test)


def test_split_says_how_many_gold_queries_there_are() -> None:
    both = np.ones(20, dtype=bool)
    with pytest.raises(DataError, match="need 25 queries with gold labels, there are 20"):
        split_queries(both, both, n_gold=5, n_test=20, seed=0)


def test_a_good_source_beats_a_perverse_one() -> None:
    """Gold learns the ranking, the inverted judge learns its mirror image."""
    result = run()
    gold = result.values("gold_only", 30)
    assert (gold > 0).all()
    assert (result.values("preference_only", 30) < 0).all()


def test_area_equals_a_straight_line_computation() -> None:
    result = run(n_gold=(10,), seeds=(7,), correctors={"gold_only": gold_only})
    table = make_table()
    gold = table.gain[:N]
    x = np.asarray([float(text.split()[-1]) for text in table.queries])
    order = np.random.default_rng(7).permutation(N)
    test, train = order[:40], order[40:50]
    slope = np.polyfit(x[train], gold[train], 1)[0]
    ranked = gold[test][np.argsort(-slope * x[test])]
    collected = np.concatenate([[0.0], np.cumsum(ranked)]) / 40
    expected = np.trapezoid(collected, dx=1 / 40) - gold[test].mean() / 2
    assert result.records[0].efficiency_gain_area == pytest.approx(expected, abs=1e-12)
    assert result.records[0].n_preference == 70


def test_ceiling_trains_on_the_hidden_gold_labels() -> None:
    """With all gold labels the number of visible ones does not matter."""
    result = run(correctors={"gold_only": gold_only, "all_gold": preference_only})
    ceiling = result.values("all_gold", 10)
    assert np.array_equal(ceiling, result.values("all_gold", 30))
    assert (ceiling > 0).all()


def test_numbers_do_not_depend_on_jobs() -> None:
    def areas(result: CompareResult) -> list[float]:
        return [record.efficiency_gain_area for record in result.records]

    alone, together = run(jobs=1), run(jobs=2)
    assert areas(alone) == areas(together)
    assert [record.cell for record in alone.records] == alone.config.cells()


class InterruptionError(Exception):
    """Stands for a killed process."""


def test_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log = tmp_path / "study.jsonl"

    def stop_at_five(done: int, total: int) -> None:
        assert total == 12
        if done == 5:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        run(resume=log, progress=stop_at_five)
    with log.open("a") as file:
        file.write('{"study": "torn li')
    steps: list[int] = []
    resumed = run(resume=log, progress=lambda done, total: steps.append(done))
    assert steps == [6, 7, 8, 9, 10, 11, 12]
    assert [r.efficiency_gain_area for r in resumed.records] == [
        r.efficiency_gain_area for r in run().records
    ]
    steps.clear()
    again = run(resume=log, progress=lambda done, total: steps.append(done))
    assert again.as_records() == resumed.as_records()
    assert steps == []


def test_log_of_other_data_is_not_used(tmp_path: Path) -> None:
    log = tmp_path / "study.jsonl"
    run(resume=log, n_gold=(10,))
    other = run(make_table(perverse=False), resume=log, n_gold=(10,))
    assert (other.values("preference_only", 10) > 0).all()
    assert (run(resume=log, n_gold=(10,)).values("preference_only", 10) < 0).all()


def test_log_of_another_callable_of_the_same_name_is_not_used(tmp_path: Path) -> None:
    """A corrector or embedder that changed is fitted again, an unchanged one is not."""
    log = tmp_path / "study.jsonl"
    settings: dict[str, Any] = {"resume": log, "n_gold": (10,), "seeds": 1}

    def steps(**options: Any) -> int:
        done: list[int] = []
        run(**settings, **options, progress=lambda step, _: done.append(step))
        return len(done)

    assert steps(correctors={"mine": gold_only}) == 1
    assert steps(correctors={"mine": gold_only}) == 0
    assert steps(correctors={"mine": preference_only}) == 1
    assert steps(correctors={"mine": lambda seed: KeepSources(preference=False)}) == 1
    assert steps(correctors={"mine": gold_only}, embedder=partial(NumberFeatures)) == 1
    assert steps(correctors={"mine": gold_only}) == 0


@pytest.mark.parametrize("name", ["half", "half:part=0.5"])
def test_log_of_an_installed_part_that_was_edited_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What a package registers is known by its code, not by its name."""
    info = tmp_path / "half_way-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half-way\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[metarouter.correctors]\nhalf = half_way:Half\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = (
        "class Half:\n"
        "    diagnostics_ = {}\n"
        "    def __init__(self, *, seed, part=1.0): pass\n"
        "    def fit(self, table): return self\n"
        "    def transform(self, table):\n"
        "        return table.with_gains(SIGN * table.gain, table.variance)\n"
    )
    areas = []
    for sign in (1, 1, -1):
        (tmp_path / "half_way.py").write_text(f"SIGN = {sign}\n{code}")
        monkeypatch.delitem(sys.modules, "half_way", raising=False)
        importlib.invalidate_caches()
        log, names = tmp_path / "log.jsonl", [name, "none"]
        found = run(correctors=names, resume=log, n_gold=(10,), seeds=1)
        areas.append(found.values(name, 10)[0])
    assert areas[0] == areas[1] != areas[2]
    fitted = [json.loads(line)["record"]["corrector"] for line in log.read_text().splitlines()]
    assert fitted == [name, "none", name]


def test_foreign_file_is_not_written_to(tmp_path: Path) -> None:
    log = tmp_path / "notes.txt"
    log.write_text("my notes")
    with pytest.raises(OptionError, match="resume"):
        run(resume=log)
    assert log.read_text() == "my notes"


def test_partly_disjoint_sources_use_every_preference_query() -> None:
    """Gold for the first 80 queries, preference for the last 80 of 120."""
    table = make_table()
    keep = np.where(table.is_gold, table.query < 80, table.query >= 40)
    result = run(table.rows(keep), n_gold=(10,), n_test=40)
    counts = {record.n_preference for record in result.records}
    assert result.config.n_queries == 120
    assert all(80 - 50 <= count <= 80 - 10 for count in counts)


def test_gold_labels_of_weight_0_are_no_gold_labels() -> None:
    """They are neither trained on nor tested on."""
    table = make_table()
    first = np.unique(table.query[table.is_gold])[:10]
    weight = np.where(table.is_gold & np.isin(table.query, first), 0.0, 1.0)
    result = run(replace(table, weight=weight))
    assert result.config.n_gold_queries == run(table).config.n_gold_queries - 10
    assert all(np.isfinite(record.efficiency_gain_area) for record in result.records)


def test_default_gold_sizes_are_those_that_fit() -> None:
    assert run(n_gold=None, n_test=60).config.n_gold == (50,)
    with pytest.raises(DataError, match="need 550 queries"):
        run(n_gold=None, n_test=500)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_test": 1}, "n_test"),
        ({"n_gold": ()}, "n_gold"),
        ({"n_gold": (1, 5)}, "n_gold"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": (3, 3)}, "seeds"),
        ({"jobs": 0}, "jobs"),
        ({"correctors": ()}, "correctors"),
    ],
)
def test_option_out_of_range_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        run(**options)


def test_too_few_preference_queries_are_counted() -> None:
    table = make_table()
    keep = table.is_gold | (table.query < 3)
    with pytest.raises(DataError, match="of 3 queries with preference labels"):
        run(table.rows(keep), n_gold=(70,), n_test=49)


def test_unknown_names_fail_before_the_work() -> None:
    with pytest.raises(OptionError, match="gain model"):
        run(gain_models=("rigde",))


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "pairs").is_dir(), reason="../shared/data is absent")
def test_a_real_pair_routes_better_than_random_with_all_gold_labels() -> None:
    """The published figures of this pair put the ceiling well above zero."""
    folder = DATA / "pairs" / "llama-3.1-70b_vs_llama-3.2-1b"
    result = compare(
        folder / "gold.parquet",
        folder / "preference.parquet",
        n_gold=(50,),
        correctors=("all_gold",),
        seeds=2,
        embedder="surface",
        premium="llama-3.1-70b",
        cheap="llama-3.2-1b",
        jobs=1,
    )
    assert result.config.n_queries == 1878
    assert {record.n_preference for record in result.records} == {1878 - 500 - 50}
    assert result.values("all_gold", 50).min() > 0
