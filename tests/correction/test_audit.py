"""What a fit tells of its label sources: when it warns, and when it cannot tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metarouter.correction.audit import AUDITED, audit_labels
from metarouter.features.pipeline import make_pipeline
from metarouter.fitting import FitOptions, fit_table
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing import World, make_simulation, make_world
from metarouter.types import BoolArray, IntArray


def _with_features(table: GainTable) -> GainTable:
    return table.with_features(
        make_pipeline("hashed+surface").fit(table.queries).transform(table.queries)
    )


@pytest.fixture(scope="module")
def world() -> World:
    return make_world("constant_bias", n_queries=1000, n_gold=150, n_test=0)


@pytest.fixture(scope="module")
def features(world: World) -> Any:
    return make_pipeline("hashed+surface").fit(world.texts).transform(world.texts)


def _gold_by_topic(world: World, features: Any) -> GainTable:
    """Gold labels of two topics and hardly any others."""
    chance = np.where(world.domain < 2, 1.0, 0.02)
    rng = np.random.default_rng(0)
    is_gold = np.zeros(len(chance), dtype=np.bool_)
    is_gold[rng.choice(len(chance), 150, replace=False, p=chance / chance.sum())] = True
    return make_gain_table(
        queries=world.texts,
        gain=np.where(is_gold, world.gold_gain, world.preference_gain),
        is_gold=is_gold,
        features=features,
    )


def test_random_gold_raises_no_warning(world: World, features: Any) -> None:
    found = audit_labels(world.table.with_features(features))
    assert found["overlap"]["warnings"] == []
    assert (found["overlap"]["n_treated"], found["overlap"]["n_control"]) == (150, 850)


def test_gold_chosen_by_topic_raises_a_warning(world: World, features: Any) -> None:
    found = audit_labels(_gold_by_topic(world, features))
    assert any("other kinds of queries" in text for text in found["overlap"]["warnings"])


def _of_kinds(
    names_domains: Callable[[BoolArray], BoolArray] = np.ones_like,
    by: str = "none",
    n: int = 1200,
) -> GainTable:
    """150 gold labels, drawn at random, in a third of forty domains, or by a feature.

    Features and domains know nothing of each other.
    """
    rng = np.random.default_rng(3)
    domain, X = rng.integers(40, size=n), rng.normal(size=(n, 16))
    chance = {
        "none": np.ones(n),
        "domain": np.where(domain < 13, 1.0, 0.02),
        "feature": 1.0 / (1.0 + np.exp(-3.0 * X[:, 0])) ** 2,
    }[by]
    is_gold = np.zeros(n, dtype=np.bool_)
    is_gold[rng.choice(n, 150, replace=False, p=chance / chance.sum())] = True
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        gain=rng.normal(size=n),
        is_gold=is_gold,
        domains=[f"domain {i}" for i in range(40)],
        domain=np.where(names_domains(is_gold), domain, -1),
        features=X,
    )


def test_gold_of_few_domains_is_warned_of_though_the_features_do_not_tell() -> None:
    found = audit_labels(_of_kinds(by="domain"))["overlap"]
    assert found["auc"]["low"] > 0.75
    assert any("other kinds of queries" in text for text in found["warnings"])


def test_random_gold_of_many_domains_raises_no_warning() -> None:
    assert audit_labels(_of_kinds())["overlap"]["warnings"] == []


def test_domains_that_tell_nothing_hide_no_feature_that_does() -> None:
    found = audit_labels(_of_kinds(by="feature"))["overlap"]
    assert any("other kinds of queries" in text for text in found["warnings"])


def test_domains_that_one_file_names_alone_are_no_kinds_of_queries() -> None:
    audit = audit_labels(_of_kinds(np.logical_not))
    assert audit["overlap"]["warnings"] == []
    benchmarks = audit["sensitivity"]["mean_bias"]["benchmarks"]
    assert "domain" not in [strength["name"] for strength in benchmarks]


def test_weak_overlap_is_warned_of_in_the_words_of_labels() -> None:
    table = make_world("weak_overlap", n_queries=1000, n_gold=150, n_test=0).table
    warnings = " ".join(audit_labels(_with_features(table))["overlap"]["warnings"])
    assert "rows of gold weigh no more than" in warnings
    assert "source" not in warnings.replace("sources", "")


def test_mean_bias_is_preference_minus_gold(world: World, features: Any) -> None:
    found = audit_labels(world.table.with_features(features))["sensitivity"]["mean_bias"]
    assert found["ci_low"] < found["estimate"]["low"] < -world.delta.mean()
    assert -world.delta.mean() < found["estimate"]["high"] < found["ci_high"]
    assert [strength["name"] for strength in found["benchmarks"]] == [
        "the leading components",
        "length",
        "domain",
    ]


def test_too_little_overlap_for_a_bound_leaves_the_estimate() -> None:
    """Ten gold labels may say the bias, and nothing of what a hidden reason could do to it."""
    table = make_simulation(400, 12, n_gold=10, n_test=0, bias="constant", seed=10).table
    found = audit_labels(table)["sensitivity"]["mean_bias"]
    assert found.startswith("cannot be told: with 10 gold labels the sources overlap too little")
    low, high = map(float, found.rsplit("[", 1)[1].rstrip("]").split(", "))
    assert low < 0.15 < high


def test_routing_value_is_the_gain_of_the_choices_above_random_ones(
    world: World, features: Any
) -> None:
    choice = (world.psi > np.median(world.psi)).astype(np.int64)
    truth = float(((choice - choice.mean()) * world.psi).mean())

    def choose(queries: IntArray) -> IntArray:
        chosen: IntArray = choice[queries]
        return chosen

    audit = audit_labels(world.table.with_features(features), choose=choose)
    found = audit["sensitivity"]["routing_value"]
    assert found["estimate"]["low"] < truth < found["estimate"]["high"]
    assert 0 < found["robustness_value_a"] < found["robustness_value"] < 1


def test_routing_value_does_not_depend_on_the_level_of_the_gain(
    world: World, features: Any
) -> None:
    """Nor does its error: a constant gain is collected by random choices just as well."""
    table = world.table.with_features(features)
    higher = table.with_gains(table.gain + 3.0 * table.is_gold, table.variance)

    def choose(queries: IntArray) -> IntArray:
        return np.asarray(features[queries, 0] > np.median(features[:, 0]), dtype=np.int64)

    plain, moved = (
        audit_labels(one, choose=choose)["sensitivity"]["routing_value"]["estimate"]
        for one in (table, higher)
    )
    assert moved["value"] == pytest.approx(plain["value"], abs=1e-9)
    assert moved["std_error"] == pytest.approx(plain["std_error"], rel=1e-6)


def test_choices_that_are_all_the_same_have_no_routing_value(world: World, features: Any) -> None:
    table = world.table.with_features(features)
    audit = audit_labels(table, choose=lambda queries: np.ones(len(queries), dtype=np.int64))
    assert "same model" in audit["sensitivity"]["routing_value"]


@pytest.mark.parametrize("n_gold", [0, 9])
def test_few_labels_are_said_to_be_too_few(n_gold: int) -> None:
    table = make_simulation(300, 3, n_gold=max(n_gold, 1), n_test=0).table
    table = table if n_gold else table.preference()
    found = audit_labels(table)
    assert set(found) == set(AUDITED)
    assert all(f"cannot be told: {n_gold} queries with gold" in text for text in found.values())


def test_an_audit_is_plain_json(world: World, features: Any) -> None:
    found = audit_labels(world.table.with_features(features))
    plain = json.loads(json.dumps(found, allow_nan=False))
    assert plain["overlap"]["low"] == found["overlap"]["low"]


def test_a_fitted_router_tells_of_its_labels() -> None:
    table = make_world("topic_bias", n_queries=400, n_gold=80, n_test=0).table
    options = FitOptions(embedder="surface", corrector="mean_shift", gain_model="ridge", folds=2)
    facts = fit_table(table, options).facts
    assert facts["bias_map"]["rows"][0]["dimension"] == "all"
    assert facts["overlap"]["n_treated"] == 80
    assert "estimate" in facts["sensitivity"]["routing_value"]


def test_a_router_without_folds_says_that_it_did_not_look() -> None:
    table = make_world(n_queries=100, n_gold=50, n_test=0).table
    options = replace(FitOptions(embedder="surface", corrector="none"), folds=0)
    facts = fit_table(table, options).facts
    assert facts["bias_map"] == "cannot be told: fitted with folds=0"
