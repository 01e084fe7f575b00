"""Routing among many models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarouter.benchmark import load_benchmark
from metarouter.benchmark.nway import METRICS, NwayResult, NwayRun, run_nway
from metarouter.benchmark.routers import parse_router
from metarouter.errors import DataError


@pytest.fixture(scope="module")
def run(folder: Path) -> NwayRun:
    (benchmark,) = load_benchmark("mmlu-pro", folder)
    names = ("logistic@static", "knn@static")
    return run_nway(benchmark, [parse_router(name) for name in names])


def named(run: NwayRun, router: str) -> NwayResult:
    return next(one for one in run.results if one.router == router)


def test_the_baselines_are_there_and_every_metric(run: NwayRun) -> None:
    names = [one.router for one in run.results]
    assert names == ["logistic@static", "knn@static", "random", "hull", "oracle"]
    assert all(set(one.metrics) == set(METRICS) for one in run.results)
    assert run.benchmark.models[run.best] == "large"
    assert run.benchmark.models[run.cheapest] == "small"  # as cheap as tiny, and better


def test_a_coin_toss_has_the_values_of_a_random_router(run: NwayRun) -> None:
    metrics = named(run, "random").metrics
    assert metrics["apgr"].value == pytest.approx(0.5)
    assert metrics["cpt50"].value == pytest.approx(0.5)
    assert metrics["cost_ratio"].value == pytest.approx(1.0)
    assert metrics["quality_gain"].value == pytest.approx(0.0)


def test_the_hull_is_not_above_itself_and_the_oracle_is(run: NwayRun) -> None:
    assert named(run, "hull").metrics["gain_over_hull"].value == pytest.approx(0.0, abs=1e-12)
    oracle = named(run, "oracle").metrics
    assert oracle["gain_over_hull"].low > 0
    assert oracle["cost_ratio"].value < 1
    assert oracle["quality_gain"].value > 0


def test_a_frontier_rises_in_cost_and_quality(run: NwayRun) -> None:
    for one in run.results:
        assert (np.diff(one.cost) >= 0).all()
        assert (np.diff(one.quality) > 0).all()


def test_the_dearest_choice_of_the_oracle_is_the_share_any_model_gets_right(run: NwayRun) -> None:
    any_right = run.benchmark.quality.max(axis=1).mean()
    assert named(run, "oracle").quality[-1] == pytest.approx(any_right)


def test_targets_state_how_often_they_are_reached(run: NwayRun) -> None:
    """The oracle reaches the best model's quality always; its cost has a closed interval."""
    oracle = named(run, "oracle")
    assert oracle.reached["cost_ratio"] == 1.0
    assert np.isfinite(oracle.metrics["cost_ratio"].high)
    for one in run.results:
        missed = 1.0 - one.reached["cost_at_quality"]
        assert np.isinf(one.metrics["cost_at_quality"].high) == (missed > 0.025)


def test_a_pool_without_costs_is_refused(folder: Path) -> None:
    (benchmark,) = load_benchmark("mmlu-pro", folder)
    with pytest.raises(DataError, match="no costs"):
        run_nway(replace(benchmark, cost=None), [parse_router("ridge@static")])
    with pytest.raises(DataError, match="try cv or subject"):
        run_nway(benchmark, [parse_router("ridge@static")], "transfer")
