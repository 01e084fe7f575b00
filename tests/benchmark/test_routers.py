"""Routers by name, and features that a fold's test prompts do not touch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metarouter.benchmark import load_benchmark, make_runs
from metarouter.benchmark.routers import ENSEMBLES, FoldFeatures, parse_router
from metarouter.benchmark.run import RunOptions, run_benchmark, run_benchmarks
from metarouter.benchmark.similarity import measure_similarity
from metarouter.benchmark.transfer import transfer_table
from metarouter.errors import DataError, OptionError
from metarouter.features import make_embedder

TEXTS = [f"Add {i} and {i * i}" for i in range(20)] + [f"Who wrote book {i}?" for i in range(20)]


def test_names_stand_for_gain_model_and_features() -> None:
    spec = parse_router("knn@static", "surface")
    assert (spec.name, spec.gain_model, spec.embedder) == ("knn@static", "knn", "static")
    assert parse_router("knn", "surface").embedder == "surface"
    for name, views in ENSEMBLES.items():
        assert (parse_router(name).gain_model, parse_router(name).embedder) == ("logistic", views)
    with pytest.raises(OptionError, match="router = 'magic'"):
        parse_router("magic")
    for text in ("ridge@magic", "knn@static+magic", "ensemble@static|magic"):
        with pytest.raises(OptionError, match=r"embedder = .*magic"):
            parse_router(text)
    with pytest.raises(OptionError, match="embedder = 'magic'"):
        parse_router("ridge", "magic")


def test_test_prompts_do_not_touch_what_is_learned() -> None:
    one, two = (FoldFeatures(TEXTS, test) for test in (["new"], ["other", "words"]))
    for embedder in ("surface", "hashed|surface"):
        np.testing.assert_array_equal(one.of(embedder)[0], two.of(embedder)[0])


def test_views_are_blocks_side_by_side() -> None:
    features = FoldFeatures(TEXTS, TEXTS[:3])
    train, test, widths = features.of("static|surface")
    assert train.shape == (40, sum(widths))
    np.testing.assert_allclose(test, train[:3], atol=1e-5)


@pytest.mark.parametrize("protocol", ["cv", "few-gold", "transfer", "subject"])
def test_any_router_runs_under_any_protocol(folder: Path, protocol: str) -> None:
    """A gain model, a table gain model, and views; random and oracle are there."""
    (benchmark,) = load_benchmark("mmlu", folder)
    names = ["ridge@surface", "knn@surface", "logistic@hashed|surface"]
    options = RunOptions(
        routers=[parse_router(name) for name in names], protocol=protocol, n_gold=40, n_boot=20
    )
    run = run_benchmark(benchmark, options, folder)
    assert [result.router for result in run.results] == [*names, "random", "oracle"]
    tested = np.concatenate([f.test for f in make_runs(benchmark, protocol, range(1), 40)[0]])
    for found in run.scores.values():
        assert sorted(found[0].rows.tolist()) == sorted(tested.tolist())
        assert np.isfinite(found[0].score).all()
    assert [one.router for one in run.differences] == names[1:]


@pytest.mark.parametrize("protocol", ["cv", "subject"])
def test_a_fold_is_scored_by_what_its_training_rows_teach(folder: Path, protocol: str) -> None:
    """Changing a question's labels changes no score in the fold that tests it."""
    from dataclasses import replace

    (benchmark,) = load_benchmark("mmlu", folder)
    options = RunOptions(routers=[parse_router("ridge@surface")], protocol=protocol, n_boot=20)
    folds = make_runs(benchmark, protocol, range(1))[0]
    quality = benchmark.quality.copy()
    quality[folds[0].test] = 1 - quality[folds[0].test]
    before = run_benchmark(benchmark, options, folder).scores["ridge@surface"][0]
    after = run_benchmark(replace(benchmark, quality=quality), options, folder).scores[
        "ridge@surface"
    ][0]
    inside = np.isin(before.rows, folds[0].test)
    np.testing.assert_array_equal(before.score[inside], after.score[inside])
    assert (before.score[~inside] != after.score[~inside]).any()


def test_folds_of_whole_subjects_are_scored_over_their_models_level(folder: Path) -> None:
    """A gain that all questions have more of moves no score, though every model learns it."""
    from dataclasses import replace

    (benchmark,) = load_benchmark("mmlu", folder)
    options = RunOptions(routers=[parse_router("ridge@surface")], protocol="subject", n_boot=20)
    more = benchmark.quality + np.array([0.0, 0.5])
    before, after = (
        run_benchmark(one, options, folder).scores["ridge@surface"][0].score
        for one in (benchmark, replace(benchmark, quality=more))
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert abs(before.mean()) < 0.1 < benchmark.gain.mean()


def test_transfer_learns_from_no_prompt_of_the_benchmark(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu", folder)
    embedder = make_embedder("static")
    table = transfer_table(benchmark, folder, embedder)
    assert not measure_similarity(table.queries, benchmark.prompts, embedder).contaminated.any()
    assert set(table.domains) == {"gsm8k", "mt-bench", "alpacaeval"}
    votes = table.preference()
    # two verdicts, 0.9 for the premium model and 0.3 for the cheap one, mean P = 0.8
    np.testing.assert_allclose(votes.gain, 0.6)
    assert np.abs(table.gain).max() <= 1


def test_transfer_needs_other_labels_of_the_same_models(folder: Path) -> None:
    with pytest.raises(DataError, match="transfer needs labels of mini and big"):
        transfer_table(load_benchmark("pairs", folder)[0], folder, make_embedder("static"))


def test_pairs_that_share_their_questions_are_scored_as_each_alone(folder: Path) -> None:
    """Features are made once for all pairs; labels and fits are each one's own."""
    benchmarks = load_benchmark("pairs", folder)
    options = RunOptions(routers=[parse_router("ridge@surface")], n_boot=20)
    steps: list[tuple[int, int]] = []
    together = run_benchmarks(benchmarks, options, folder, lambda *step: steps.append(step))
    assert steps == [(i, 10) for i in range(1, 11)]
    for benchmark, run in zip(benchmarks, together, strict=True):
        alone = run_benchmark(benchmark, options, folder)
        assert run.benchmark.pair == benchmark.pair
        assert run.results[0].apgr == alone.results[0].apgr
    assert together[0].results[0].apgr != together[1].results[0].apgr


def test_a_router_named_twice_is_refused(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu", folder)
    with pytest.raises(OptionError, match="each once"):
        run_benchmark(benchmark, RunOptions(routers=[parse_router("ridge")] * 2), folder)
