"""Metrics of a benchmark against straight-line arithmetic and simulation."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarouter.benchmark import Benchmark, load_benchmark
from metarouter.benchmark.results import (
    Scores,
    collected_band,
    compare_routers,
    interval_of,
    join_folds,
    measure_router,
    oracle_scores,
    random_scores,
)
from metarouter.evaluation import (
    apgr,
    apgr_random_std,
    cpt,
    efficiency_gain_curve,
    gap_statistic,
    pgr_curve,
)

DATA = Path(os.environ.get("METAROUTER_DATA", Path(__file__).parents[3] / "shared" / "data"))
on_real_data = pytest.mark.skipif(
    not (DATA / "mmlu").is_dir(), reason=f"real data is not at {DATA}"
)


def toy(n: int = 200, seed: int = 0) -> Benchmark:
    rng = np.random.default_rng(seed)
    quality = np.column_stack([rng.random(n) < 0.5, rng.random(n) < 0.8]).astype(float)
    return Benchmark(
        name="toy",
        prompts=tuple(map(str, range(n))),
        models=("cheap", "premium"),
        quality=quality,
        subject=np.zeros(n, dtype=int),
        subjects=("all",),
    )


def scores(benchmark: Benchmark, noise: float, seed: int) -> Scores:
    """Scores of a router that sees the gain through noise."""
    n = len(benchmark)
    rng = np.random.default_rng(seed)
    return Scores(rows=np.arange(n), score=benchmark.gain + noise * rng.normal(size=n))


def _without_signal(n: int, seed: int) -> tuple[Benchmark, list[Scores]]:
    """Five folds, each scored by what its model knows where there is nothing: its labels' mean."""
    benchmark, rng = toy(n, seed), np.random.default_rng(seed)
    fold = rng.permutation(np.arange(n) % 5)
    folds = [
        Scores(
            rows=np.flatnonzero(fold == k),
            score=benchmark.gain[fold != k].mean() + 1e-3 * rng.normal(size=np.sum(fold == k)),
        )
        for k in range(5)
    ]
    return benchmark, folds


def test_a_router_that_learned_nothing_is_worth_a_random_one() -> None:
    """400 times, 50 questions; one ranking of the scores themselves would rate it below."""
    joined, pooled = [], []
    for seed in range(400):
        benchmark, folds = _without_signal(50, seed)
        together = join_folds(folds)
        one = np.concatenate([fold.score for fold in folds])
        cheap, premium = benchmark.cheap[together.rows], benchmark.premium[together.rows]
        joined.append(apgr(together.score, cheap, premium))
        pooled.append(apgr(one, cheap, premium))
    error = np.std(joined) / 20
    assert abs(np.mean(joined) - 0.5) < 4 * error
    assert np.mean(pooled) < 0.5 - 8 * error


def test_places_within_folds_keep_order_and_ties() -> None:
    """A fold whose scores are all equal is in the middle; no other fold moves a place."""
    flat = Scores(rows=np.arange(4), score=np.full(4, 7.0))
    steep = Scores(rows=np.arange(4, 7), score=np.array([-1e9, 0.0, 1e-9]))
    found = join_folds([flat, steep])
    assert found.rows.tolist() == list(range(7))
    assert found.score[:4].tolist() == [0.5] * 4
    assert found.score[4:].tolist() == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert join_folds([flat, steep], by_place=False).score.tolist() == [7.0] * 4 + [-1e9, 0, 1e-9]
    alone = join_folds([steep])
    assert alone.score.tolist() == found.score[4:].tolist()


def test_a_random_orders_spread_is_exact() -> None:
    """Against 20,000 random orders."""
    benchmark, rng = toy(40), np.random.default_rng(1)
    drawn = [apgr(rng.permutation(40), benchmark.cheap, benchmark.premium) for _ in range(20_000)]
    exact = apgr_random_std(benchmark.cheap, benchmark.premium)
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)
    assert np.std(drawn) == pytest.approx(exact, rel=0.02)


def test_one_pass_gives_what_the_single_metrics_give() -> None:
    benchmark = toy()
    score = scores(benchmark, 1.0, 0).score
    found = gap_statistic(score, benchmark.cheap, benchmark.premium, (0.2, 0.8))(np.ones((1, 200)))
    expected = [
        apgr(score, benchmark.cheap, benchmark.premium),
        *(cpt(score, benchmark.cheap, benchmark.premium, x) for x in (0.2, 0.8)),
    ]
    np.testing.assert_allclose(found[0], expected)


def test_efficiency_gain_and_performance_gap_say_the_same() -> None:
    """EG(c) = (PGR(c) − c) · mean gain, at every share."""
    benchmark = toy()
    score = scores(benchmark, 1.0, 0).score
    pgr = pgr_curve(score, benchmark.cheap, benchmark.premium)
    gained = efficiency_gain_curve(score, benchmark.gain)
    np.testing.assert_allclose(
        gained.value, (pgr.value - pgr.share) * benchmark.gain.mean(), atol=1e-12
    )


def test_a_repetition_counts_its_own_questions_and_repetitions_are_averaged() -> None:
    benchmark = toy()
    parts = [np.arange(100), np.arange(50, 200)]
    runs = [Scores(rows=rows, score=np.sin(rows)) for rows in parts]
    result = measure_router(benchmark, "router", runs, n_boot=20)
    single = [apgr(np.sin(r), benchmark.cheap[r], benchmark.premium[r]) for r in parts]
    np.testing.assert_allclose(result.per_run, single)
    assert result.apgr.value == pytest.approx(np.mean(single))


def test_more_noise_is_a_lower_value_between_random_and_oracle() -> None:
    benchmark = toy(1000)
    runs = [scores(benchmark, 1.0, 0)]
    good = measure_router(benchmark, "good", runs, n_boot=200)
    poor = measure_router(benchmark, "poor", [scores(benchmark, 6.0, 1)], n_boot=200)
    oracle = measure_router(benchmark, "oracle", oracle_scores(benchmark, runs), n_boot=200)
    assert 0.5 < poor.apgr.value < good.apgr.value < oracle.apgr.value
    assert good.apgr.low < good.apgr.value < good.apgr.high
    assert good.saving["saving50"] == pytest.approx(0.5 / good.cpt50.value)
    (difference,) = compare_routers([good, poor], "good")
    assert difference.apgr.value == pytest.approx(poor.apgr.value - good.apgr.value)
    assert difference.apgr.high < 0
    assert difference.p_value < 0.01


def test_a_router_does_not_differ_from_itself() -> None:
    benchmark = toy()
    runs = [scores(benchmark, 2.0, 0)]
    same = [measure_router(benchmark, name, runs, n_boot=50) for name in ("a", "b")]
    (difference,) = compare_routers(same, "a")
    assert difference.apgr.value == difference.apgr.low == difference.apgr.high == 0
    assert difference.p_value == 1


def test_no_difference_is_beyond_doubt() -> None:
    """A large one has a least p-value; one that is the same in all resamples has none."""
    benchmark = toy()
    one = measure_router(benchmark, "a", [scores(benchmark, 2.0, 0)], n_boot=50)
    apgr = replace(one.apgr, value=one.apgr.value - 0.2)
    noise = 1e-4 * np.random.default_rng(0).normal(size=one.replicates.shape)
    for moved, p_value in ((noise, 1e-16), (0.0 * noise, np.nan)):
        other = replace(one, router="b", apgr=apgr, replicates=one.replicates - 0.2 + moved)
        (difference,) = compare_routers([one, other], "a")
        assert difference.apgr.value == pytest.approx(-0.2)
        assert difference.p_value == pytest.approx(p_value, nan_ok=True)


def test_an_undefined_difference_has_no_p_value() -> None:
    """Where the premium model is no better, APGR is undefined, and so is what follows."""
    benchmark = toy()
    level = replace(benchmark, quality=np.ones((200, 2)))
    runs = [scores(benchmark, 1.0, 0)], [scores(benchmark, 2.0, 1)]
    results = [
        measure_router(level, name, r, n_boot=20) for name, r in zip("ab", runs, strict=True)
    ]
    (difference,) = compare_routers(results, "a")
    assert np.isnan(difference.apgr.value)
    assert np.isnan(difference.p_value)


def test_resamples_that_miss_the_target_are_the_upper_end_of_its_interval() -> None:
    """A tenth of the resamples misses: the 95 % interval is open above, the 80 % one closed."""
    costs = np.append(np.arange(1.0, 91.0), np.full(10, np.nan))
    wide = interval_of(45.0, costs, np.array([45.0]), 10, is_target=True)
    assert (wide.low, wide.high) == (3.0, np.inf)
    assert wide.warnings == ("reached in 90.0% of the resamples",)
    narrow = interval_of(45.0, costs, np.array([45.0]), 10, level=0.8, is_target=True)
    assert (narrow.low, narrow.high) == (10.0, 90.0)
    never = interval_of(np.nan, np.full(5, np.nan), np.array([np.nan]), 10, is_target=True)
    assert (never.low, never.high) == (np.inf, np.inf)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Over samples of questions from one population, at 90 %."""
    whole = toy(100_000, seed=9)
    truth_score = whole.gain + np.random.default_rng(3).normal(size=100_000)
    truth = apgr(truth_score, whole.cheap, whole.premium)
    rng, held = np.random.default_rng(4), 0
    for _ in range(150):
        rows = rng.integers(100_000, size=300)
        sample = Benchmark(
            name="sample",
            prompts=("x",) * 300,
            models=whole.models,
            quality=whole.quality[rows],
            subject=np.zeros(300, dtype=int),
            subjects=("all",),
        )
        run = Scores(rows=np.arange(300), score=truth_score[rows])
        found = measure_router(sample, "router", [run], n_boot=200, level=0.9).apgr
        held += found.low <= truth <= found.high
    assert 0.82 <= held / 150 <= 0.97  # 90 % ± three standard errors


def test_random_has_the_exact_values_and_the_interval_of_one_order() -> None:
    benchmark = toy()
    result = measure_router(benchmark, "random", random_scores([scores(benchmark, 1.0, 0)]))
    std = apgr_random_std(benchmark.cheap, benchmark.premium)
    assert (result.apgr.value, result.cpt50.value) == (0.5, 0.5)
    assert result.apgr.high - result.apgr.low == pytest.approx(2 * 1.96 * std, rel=1e-3)


def test_the_band_starts_at_nothing_and_ends_at_the_mean_gain() -> None:
    benchmark = toy()
    band = collected_band(
        benchmark, benchmark.gain, [scores(benchmark, 1.0, 0)], np.linspace(0, 1, 11), n_boot=50
    )
    assert band.value[0] == 0
    assert band.value[-1] == pytest.approx(benchmark.gain.mean())
    assert (band.low <= band.value).all()
    assert (band.value <= band.high).all()


@pytest.mark.data
@on_real_data
@pytest.mark.parametrize(
    ("name", "n", "cheap", "premium", "oracle", "random_std"),
    [
        ("gsm8k", 1_307, 63.7337, 85.7689, 1.121, 0.020),
        ("mmlu", 14_037, 68.0915, 80.5870, 1.285, 0.009),
        ("mt-bench", 72, 8.2812, 9.2118, 0.964, 0.068),
    ],
)
def test_published_benchmarks_have_their_published_numbers(
    name: str, n: int, cheap: float, premium: float, oracle: float, random_std: float
) -> None:
    """Counts and means without contaminated rows, the optimum, and random's spread."""
    (benchmark,) = load_benchmark(name, DATA)
    assert len(benchmark) == n
    assert benchmark.reported_means[0] == pytest.approx(cheap, abs=1e-4)
    assert benchmark.reported_means[1] == pytest.approx(premium, abs=1e-4)
    best = apgr(benchmark.gain, benchmark.cheap, benchmark.premium)
    assert best == pytest.approx(oracle, abs=5e-4)
    spread = apgr_random_std(benchmark.cheap, benchmark.premium)
    assert spread == pytest.approx(random_std, abs=5e-4)
