"""Routers decide the same before and after disk, one by one and in batches, in any thread."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarouter.calibration import CalibrationTarget
from metarouter.errors import ArtifactError, InputError, OptionError
from metarouter.fitting import FitOptions, fit_table
from metarouter.labels.queries import hash_queries
from metarouter.labels.table import make_gain_table
from metarouter.loading import load
from metarouter.records import Message, ModelSpec, Query
from metarouter.routellm.win_rates import router_win_rates
from metarouter.router import Router, query_text
from metarouter.testing import World, make_world
from metarouter.types import ModelState


@pytest.fixture(scope="module")
def world() -> World:
    return make_world("topic_bias", n_queries=600, n_gold=150, n_test=200, seed=1)


@pytest.fixture(scope="module")
def router(world: World) -> Router:
    return fit_table(world.table, FitOptions(corrector="gold_only", folds=0))


@pytest.fixture(scope="module")
def saved(router: Router, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "router"
    router.save(folder)
    return folder


def test_saved_and_loaded_routers_decide_alike(router: Router, saved: Path, world: World) -> None:
    """Every field of every decision is the same after disk."""
    again = load(saved)
    queries = list(world.test.queries)
    assert again.route_batch(queries) == router.route_batch(queries)
    assert again.facts == router.facts


def test_the_queries_it_saw_are_kept_as_the_hashes_they_are(
    router: Router, saved: Path, world: World
) -> None:
    """The array of the artifact, sorted, one number a query; reading the facts makes none anew."""
    loaded = load(saved)
    assert loaded.query_hashes is not None
    assert loaded.query_hashes is loaded.query_hashes
    assert np.array_equal(loaded.query_hashes, np.sort(hash_queries(world.table.queries)))
    assert loaded.facts["n_queries"] == world.table.n_queries
    parts = {name: part for name, part in router.artifact.parts.items() if name != "seen"}
    untold = Router.from_artifact(replace(router.artifact, parts=parts))
    assert untold.query_hashes is None


def test_a_batch_decides_as_single_calls_do(router: Router, world: World) -> None:
    """The same model for each query, the same numbers up to float32 rounding."""
    queries = list(world.test.queries)
    batch = router.route_batch(queries)
    for one, many in zip(map(router.route, queries), batch, strict=True):
        assert one.model == many.model
        assert one.predicted_gain == pytest.approx(many.predicted_gain, abs=1e-5)
        assert one.predicted_gain_std == pytest.approx(many.predicted_gain_std, rel=1e-4)
    assert router.route_batch([]) == []


def test_decisions_follow_the_rule(router: Router, world: World) -> None:
    """Premium exactly where the predicted gain exceeds w, under unit costs."""
    queries = list(world.test.queries)
    gain = router.predict_gain(queries)
    assert gain.mean.shape == gain.std.shape == (200,)
    assert (gain.std > 0).all()
    chosen = np.array([decision.model for decision in router.route_batch(queries)])
    np.testing.assert_array_equal(chosen == "premium", gain.mean > router.policy.w)


def test_predictions_follow_the_truth(router: Router, world: World) -> None:
    """Predicted gains correlate with ψ on queries never seen."""
    predicted = router.predict_gain(list(world.test.queries)).mean
    assert np.corrcoef(predicted, world.test_psi)[0, 1] > 0.6


def test_threads_share_a_router(router: Router, world: World) -> None:
    """Eight threads at once decide as one does."""
    queries = list(world.test.queries)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(router.route, queries * 4))
    assert found == [router.route(query) for query in queries] * 4


def test_default_threshold_splits_the_training_prompts_in_half(
    router: Router, world: World
) -> None:
    """Without a target the premium share of the training prompts is one half."""
    chosen = [decision.model for decision in router.route_batch(list(world.table.queries))]
    assert chosen.count("premium") == pytest.approx(300, abs=3)


def test_with_policy_changes_the_threshold_and_the_version_alone(router: Router) -> None:
    """A price above every gain sends all to the cheap model; scores stay."""
    dear = router.with_policy(w=10.0)
    decision, before = dear.route("Solve it."), router.route("Solve it.")
    assert decision.model == "cheap"
    assert decision.predicted_gain == before.predicted_gain
    assert decision.policy_version != before.policy_version
    assert router.with_policy(w=router.policy.w).policy.version == router.policy.version


def test_versions_differ_between_fits_and_repeat_with_the_seed(
    world: World, router: Router
) -> None:
    """The policy version identifies everything a decision depends on."""
    options = FitOptions(corrector="gold_only", folds=0)
    assert fit_table(world.table, options).policy.version == router.policy.version
    other = fit_table(world.table.gold(), replace(options, embedder="surface"))
    assert other.policy.version != router.policy.version


@pytest.mark.parametrize(
    "query",
    [
        "Add 2 and 3.",
        Query(text="Add 2 and 3."),
        Query(text="ignored", messages=(Message(role="user", content="Add 2 and 3."),)),
        [{"role": "user", "content": "Add 2 and 3."}],
        [Message(role="user", content="Add 2 and 3.")],
        [{"role": "user", "content": [{"type": "text", "text": "Add 2 and 3."}]}],
    ],
)
def test_a_query_may_be_a_text_or_a_chat(router: Router, query: Any) -> None:
    """All ways to say the same query give the same decision."""
    assert router.route(query) == router.route("Add 2 and 3.")


@pytest.mark.parametrize(
    "query", [None, 3, b"bytes", [{"content": "no role"}], [3], {"role": "user"}]
)
def test_what_is_no_query_is_refused(query: Any) -> None:
    """The message says what is allowed."""
    with pytest.raises(InputError, match="allowed"):
        query_text(query)


@pytest.mark.parametrize("query", ["\x00", "\ud800", "字" * 5000, "a" * 200_000])
def test_strange_texts_are_routed(router: Router, query: str) -> None:
    """Nothing that a user can type stops a decision."""
    decision = router.route(query)
    assert decision.model in router.models
    assert np.isfinite(decision.predicted_gain)


@pytest.mark.parametrize("query", ["", " \n", [{"role": "user", "content": ""}]])
def test_a_query_without_text_is_refused(router: Router, query: Any) -> None:
    """Alone and in a batch, in one line: there is nothing to predict from."""
    calls: list[Callable[[], object]] = [
        lambda: router.route(query),
        lambda: router.route_batch(["Hi", query]),
        lambda: router.predict_gain(["Hi", query]),
        lambda: router.expected_costs(["Hi", query]),
    ]
    for call in calls:
        with pytest.raises(InputError, match="allowed: a text that is not blank") as refused:
            call()
        assert "\n" not in str(refused.value)


def test_one_text_is_no_batch(router: Router) -> None:
    """A text where a list is wanted is refused, not taken letter by letter."""
    for method in (router.route_batch, router.predict_gain, router.expected_costs):
        with pytest.raises(OptionError, match="queries = 'Hi there'; allowed: a list of queries"):
            method("Hi there")


def test_a_pool_of_three_models_is_routed() -> None:
    """Options list every model, and a model that is always best is chosen."""
    rng = np.random.default_rng(0)
    texts = [f"question {i} about {'law' if i % 2 else 'code'}" for i in range(120)]
    query = np.repeat(np.arange(120), 2)
    candidate = np.tile([1, 2], 120)
    gain = np.where(candidate == 2, 0.5, 0.1) + rng.normal(0, 0.05, 240)
    table = make_gain_table(
        queries=texts,
        query=query,
        candidate=candidate,
        gain=gain,
        is_gold=np.ones(240, dtype=bool),
        models=("small", "middle", "large"),
    )
    options = FitOptions(corrector="gold_only", embedder="surface", folds=0)
    pool = fit_table(table, options).with_policy(w=0.0)
    decision = pool.route("question 7 about law")
    assert decision.model == "large"
    assert {option.model for option in decision.options} == {"small", "middle", "large"}
    assert pool.predict_gain(texts[:5]).mean.shape == (5, 2)


@pytest.mark.parametrize("gain_model", ["ridge", "sw_ranking"])
def test_a_pair_of_a_pool_decides_by_the_pools_gains(gain_model: str, tmp_path: Path) -> None:
    """Battles of three models route two of them: gains, costs and wins are the pool's columns."""
    rng = np.random.default_rng(5)
    candidate = rng.integers(1, 3, 240)
    table = make_gain_table(
        queries=[f"Count to {i}, {'please' if i % 2 else 'now'}." for i in range(240)],
        gain=np.where(rng.random(240) < 0.7, 1.0, -1.0),
        is_gold=np.zeros(240, dtype=bool),
        models=("small", "medium", "large"),
        candidate=candidate,
        baseline=rng.integers(0, candidate),
    )
    prices = {name: ModelSpec(name=name, input_usd_per_mtok=p, output_usd_per_mtok=4.0 * p)
              for name, p in (("small", 0.1), ("medium", 0.5), ("large", 2.0))}  # fmt: skip
    options = FitOptions(
        corrector="none", gain_model=gain_model, embedder="surface", cost="token", prices=prices,
        target=CalibrationTarget(w=0.01), folds=0,
    )  # fmt: skip
    pool = fit_table(table, options)
    pair, queries = pool.for_pair("large"), list(table.queries[:5])
    pair.save(tmp_path)
    for router in (pair, load(tmp_path)):
        assert router.models == ("small", "large")
        gain = router.predict_gain(queries)
        np.testing.assert_array_equal(gain.mean, pool.predict_gain(queries).mean[:, 1])
        np.testing.assert_array_equal(gain.std, pool.predict_gain(queries).std[:, 1])
        expected = pool.expected_costs(queries)[:, [0, 2]]
        np.testing.assert_array_equal(router.expected_costs(queries), expected)
        wins = router_win_rates(router, queries)
        of_pool = router_win_rates(pool, queries, strong="large", weak="small")
        np.testing.assert_allclose(wins, of_pool, atol=1e-12)
    assert pair.policy.version != pool.policy.version
    with pytest.raises(OptionError, match="one of medium, large"):
        pool.for_pair("small")


def test_token_costs_price_a_query_by_its_length(world: World) -> None:
    """A longer prompt costs more, in USD, by the price given."""
    prices = {
        "cheap": ModelSpec(name="cheap", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0),
        "premium": ModelSpec(name="premium", input_usd_per_mtok=10.0, output_usd_per_mtok=20.0),
    }
    options = FitOptions(
        corrector="gold_only", embedder="surface", cost="token", prices=prices, folds=0
    )
    router = fit_table(world.table, options)
    short, long = router.expected_costs(["Hi there.", "Hi there. " * 1000])
    assert router.policy.cost_unit == "USD"
    assert short[1] > short[0] > 0
    assert long[1] - short[1] > 10 * 1000 / 1e6


def test_a_price_that_is_not_known_is_refused(world: World) -> None:
    """A missing rate is never taken as free."""
    prices = {name: ModelSpec(name=name, input_usd_per_mtok=1.0) for name in ("cheap", "premium")}
    options = FitOptions(embedder="surface", cost="token", prices=prices, folds=0)
    with pytest.raises(OptionError, match="output_usd_per_mtok"):
        fit_table(world.table, options)


def test_a_router_without_a_part_is_refused(router: Router) -> None:
    """The message names the part."""
    parts = {name: state for name, state in router.artifact.parts.items() if name != "gain"}
    with pytest.raises(ArtifactError, match="gain"):
        Router.from_artifact(replace(router.artifact, parts=parts))


@pytest.mark.parametrize("state", [ModelState(kind="bandit"), ModelState(kind="utility")])
def test_an_unknown_policy_is_refused(router: Router, state: ModelState) -> None:
    """A kind or a setting that this version does not know is an artifact error."""
    parts = {**router.artifact.parts, "policy": state}
    with pytest.raises(ArtifactError, match="policy"):
        Router.from_artifact(replace(router.artifact, parts=parts))


_FORBIDDEN = (
    "joblib",
    "matplotlib",
    "onnxruntime",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "torch",
)


@pytest.mark.speed
def test_serving_needs_no_training_library(saved: Path) -> None:
    """Loading and routing import none of them, and loading takes under 0.2 s."""
    program = f"""
import json, sys, time
import metarouter as mr
mr.Router
start = time.process_time()
router = mr.load({str(saved)!r})
seconds = time.process_time() - start
router.route("What is 2 times 17?")
router.route_batch(["Hi", "Prove it."])
found = [name for name in {_FORBIDDEN!r} if name in sys.modules]
print(json.dumps({{"found": found, "seconds": seconds}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["found"] == []
    assert result["seconds"] < 0.2


@pytest.mark.speed
def test_a_decision_takes_well_under_two_milliseconds(router: Router, world: World) -> None:
    """A loose bound that only a blunder breaks; `bench decision` gives the figure."""
    queries = list(world.test.queries)
    router.route_batch(queries)
    start = time.process_time()
    for query in queries:
        router.route(query)
    assert (time.process_time() - start) / len(queries) < 0.002
