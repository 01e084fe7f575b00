"""What each protocol holds out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.benchmark import PROTOCOLS, Benchmark, load_benchmark, make_runs
from metarouter.errors import DataError, OptionError


def toy(prompts: list[int], subjects: list[int]) -> Benchmark:
    n = len(prompts)
    names = tuple(str(i) for i in range(max(subjects) + 1))
    return Benchmark(
        name="toy",
        prompts=tuple(f"prompt {i}" for i in prompts),
        models=("cheap", "premium"),
        quality=np.zeros((n, 2)),
        subject=np.array(subjects),
        subjects=names,
    )


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 5)), min_size=12, max_size=40),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("protocol", ["cv", "subject", "few-gold"])
def test_no_prompt_trains_and_tests(protocol: str, rows: list[tuple[int, int]], seed: int) -> None:
    """Whatever copies there are, of one subject or of several."""
    benchmark = toy([prompt for prompt, _ in rows], [*(subject for _, subject in rows[1:]), 5])
    for folds in make_runs(benchmark, protocol, range(seed, seed + 2), n_gold=5):
        for fold in folds:
            train = {benchmark.prompts[i] for i in fold.train}
            assert not train & {benchmark.prompts[i] for i in fold.test}


@pytest.mark.parametrize("protocol", ["cv", "subject", "transfer"])
def test_every_question_is_tested_once(folder: Path, protocol: str) -> None:
    (benchmark,) = load_benchmark("mmlu", folder)
    for folds in make_runs(benchmark, protocol, range(2)):
        tested = np.concatenate([fold.test for fold in folds])
        assert sorted(tested.tolist()) == list(range(len(benchmark)))


def test_subjects_are_held_out_whole(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu", folder)
    for fold in make_runs(benchmark, "subject", range(1))[0]:
        assert not set(benchmark.subject[fold.train]) & set(benchmark.subject[fold.test])


@pytest.mark.parametrize("protocol", ["cv", "subject", "few-gold"])
def test_questions_of_one_stem_are_not_parted(protocol: str) -> None:
    """Other options, another case or other spaces make no new question."""
    stems = [f"Which of these is number {i}?" for i in range(8)]
    options = ("\nA. one\nB. two", "\nA. three\nB. one", "\n(A) two\n(B) one")
    texts = [stem.upper() + end for stem in stems for end in options]
    plain = toy(list(range(len(texts))), [i % 3 for i in range(len(texts))])
    benchmark = replace(plain, prompts=tuple(texts))
    for fold in make_runs(benchmark, protocol, range(1), n_gold=5)[0]:
        assert not set(fold.train // 3) & set(fold.test // 3)


def test_few_gold_trains_on_as_many_as_asked(folder: Path) -> None:
    (benchmark,) = load_benchmark("gsm8k", folder)
    runs = make_runs(benchmark, "few-gold", range(3), n_gold=20)
    assert [len(folds[0].train) for folds in runs] == [20, 20, 20]
    assert all(len(folds[0].test) == 68 for folds in runs)
    assert runs[0][0].train.tolist() != runs[1][0].train.tolist()


def test_transfer_trains_on_nothing_of_the_benchmark(folder: Path) -> None:
    (benchmark,) = load_benchmark("gsm8k", folder)
    ((fold,),) = make_runs(benchmark, "transfer", range(5))
    assert len(fold.train) == 0


def test_a_seed_gives_its_folds_whatever_the_others(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu", folder)
    alone = make_runs(benchmark, "cv", range(3, 4))[0]
    among = make_runs(benchmark, "cv", range(5))[3]
    for a, b in zip(alone, among, strict=True):
        np.testing.assert_array_equal(a.test, b.test)


def test_protocols_that_cannot_be_run_are_refused(folder: Path) -> None:
    (benchmark,) = load_benchmark("gsm8k", folder)
    with pytest.raises(DataError, match="one subject"):
        make_runs(benchmark, "subject", range(1))
    with pytest.raises(OptionError, match="n-gold"):
        make_runs(benchmark, "few-gold", range(1), n_gold=88)
    with pytest.raises(OptionError, match="cv, subject, few-gold, transfer"):
        make_runs(benchmark, "magic", range(1))
    assert PROTOCOLS == ("cv", "subject", "few-gold", "transfer")
