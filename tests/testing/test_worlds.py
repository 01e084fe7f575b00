"""Worlds have the truths that they state."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from metarouter.errors import OptionError
from metarouter.testing import WORLDS, OracleNuisances, World, WorldOptions, make_world
from metarouter.testing.worlds import gold_records, systematic_sample


def _world(name: str, seed: int = 3, **options: int) -> World:
    return make_world(name, **({"n_queries": 2000, "n_gold": 200} | options), seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_every_world_has_the_stated_sizes_and_delta_is_psi_minus_eta(name: str) -> None:
    """Sizes are exact and ψ − η = Δ in every named world."""
    world = _world(name)
    assert int(world.table.is_gold.sum()) == 200
    assert len(world.table) == 2000
    assert len(world.test) == 500
    assert world.test.is_gold.all()
    assert not set(world.test.query_ids) & set(world.table.query_ids)
    assert not set(world.test.queries) & set(world.table.queries)
    np.testing.assert_allclose(world.psi - world.eta, world.delta, atol=1e-12)
    assert np.abs(world.table.gain).max() <= 1


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_labels_are_unbiased_for_their_own_truth(name: str) -> None:
    """Mean label noise is zero within four standard errors, for gold and for preference."""
    world = _world(name, n_queries=8000)
    for label, truth in ((world.gold_gain, world.psi), (world.preference_gain, world.eta)):
        noise = label - truth
        assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(len(noise))


def test_bias_formulas() -> None:
    """η follows the documented formula of each bias."""
    psi = _world("null_bias").psi
    np.testing.assert_array_equal(_world("null_bias").eta, np.clip(psi, -0.95, 0.95))
    np.testing.assert_allclose(_world("constant_bias").eta, np.clip(psi + 0.3, -0.95, 0.95))
    np.testing.assert_allclose(_world("perverse_judge").eta, -0.8 * psi)
    np.testing.assert_array_equal(_world("noise_judge").eta, 0 * psi)
    long = _world("length_bias")
    assert np.corrcoef(long.delta, long.length)[0, 1] < -0.9
    topic = _world("topic_bias")
    within = [np.ptp(topic.delta[topic.domain == t]) for t in range(len(topic.topics))]
    assert np.ptp(topic.delta) > 0.5
    assert np.median(within) < 1e-9


@pytest.mark.parametrize("name", ["random_gold", "covariate_gold", "weak_overlap"])
def test_annotation_propensity_is_the_inclusion_probability(name: str) -> None:
    """e(q) sums to the number of gold labels, and predicts who gets one."""
    world = _world(name, n_queries=20_000, n_gold=2000)
    e = world.annotation_propensity
    assert e.sum() == pytest.approx(2000, abs=0.5)
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 1.0)):
        cell = (e > low) & (e <= high)
        if cell.sum() > 200:
            error = np.sqrt((e[cell] * (1 - e[cell])).sum()) / cell.sum()
            assert abs(world.has_gold[cell].mean() - e[cell].mean()) < 4 * error + 1e-3


def test_overlap_is_weaker_where_it_says_so() -> None:
    """The effective number of gold labels falls from random over covariate to weak overlap."""
    effective = [
        1 / np.mean(1 / np.maximum(_world(name).annotation_propensity, 1e-9))
        for name in ("random_gold", "covariate_gold", "weak_overlap")
    ]
    assert effective[0] > effective[1] > 10 * effective[2]


def test_systematic_sample_includes_each_unit_with_its_probability() -> None:
    """Sample size is fixed and inclusion frequencies match over many draws."""
    rng = np.random.default_rng(0)
    probability = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.95, 0.05])
    draws = np.array([systematic_sample(probability, rng) for _ in range(4000)])
    assert (draws.sum(axis=1) == 3).all()
    np.testing.assert_allclose(draws.mean(axis=0), probability, atol=0.04)


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    """Worlds are a function of their arguments."""
    one, two, other = _world("random_gold"), _world("random_gold"), _world("random_gold", seed=4)
    assert one.texts == two.texts
    np.testing.assert_array_equal(one.table.gain, two.table.gain)
    assert one.texts != other.texts


def test_heavy_noise_is_noisier() -> None:
    """A small concentration gives labels of larger variance."""
    loud = _world("heavy_noise")
    calm = _world("random_gold")
    assert (loud.gold_gain - loud.psi).var() > 2 * (calm.gold_gain - calm.psi).var()


def test_both_labels_on_some_queries() -> None:
    """`n_both` gold queries carry a preference label as well."""
    world = _world("random_gold", n_both=50)
    shared = set(world.table.gold().query) & set(world.table.preference().query)
    assert len(shared) == 50


def test_words_and_length_predict_the_gain() -> None:
    """A linear model of topic, difficulty and length explains most of ψ."""
    world = _world("random_gold")
    design = np.column_stack(
        [np.eye(len(world.topics))[world.domain], world.difficulty, world.length]
    )
    coefficients = np.linalg.lstsq(design, world.psi, rcond=None)[0]
    residual = world.psi - design @ coefficients
    assert 1 - residual.var() / world.psi.var() > 0.6


def test_oracle_nuisances_align_with_the_rows() -> None:
    """Nuisances are given at table rows and combine as documented."""
    world = _world("covariate_gold", n_both=20)
    oracle = world.nuisances()
    assert isinstance(oracle, OracleNuisances)
    rows = world.table.query
    np.testing.assert_array_equal(oracle.shift, world.psi[rows] - world.eta[rows])
    e = world.annotation_propensity[rows]
    np.testing.assert_allclose(oracle.outcome, e * world.psi[rows] + (1 - e) * world.eta[rows])


def test_write_gives_the_public_forms(tmp_path: Path) -> None:
    """Files hold scores and votes whose gains are those of the table."""
    world = _world("topic_bias", n_queries=60, n_gold=20, n_test=5)
    paths = world.write(tmp_path / "new")
    gold = [json.loads(line) for line in paths.gold.read_text("utf-8").splitlines()]
    assert len(gold) == 40
    assert {"query_id", "query", "model", "score", "domain"} <= gold[0].keys()
    gains = np.array([a["score"] - b["score"] for a, b in zip(gold[::2], gold[1::2], strict=True)])
    np.testing.assert_allclose(gains, world.table.gold().gain, atol=2e-6)
    votes = [json.loads(line) for line in paths.preference.read_text("utf-8").splitlines()]
    np.testing.assert_allclose(
        [2 * vote["p_a"] - 1 for vote in votes], world.table.preference().gain, atol=2e-6
    )
    assert len(paths.test.read_text("utf-8").splitlines()) == 10


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_gold": 0}, "n_gold"),
        ({"n_gold": 3000}, "n_gold"),
        ({"n_preference": 1900}, "n_preference"),
        ({"n_both": 201}, "n_both"),
        ({"n_test": -1}, "n_test"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, int], named: str) -> None:
    """The message names the option."""
    with pytest.raises(OptionError, match=named):
        _world("random_gold", **options)


def test_unknown_world_lists_the_known_ones() -> None:
    """The message lists the names."""
    with pytest.raises(OptionError, match="perverse_judge"):
        make_world("flat_earth")


def test_a_world_of_your_own() -> None:
    """Options replace a name."""
    world = make_world(WorldOptions(bias="constant", bias_size=0.1), n_queries=50, n_gold=5)
    assert world.name == "custom"
    assert np.median(world.delta) == pytest.approx(-0.1)


def test_gold_records_are_those_of_the_gold_rows() -> None:
    """Preference rows, which have no scores, give no record."""
    table = make_world("random_gold", n_queries=60, n_gold=20, n_both=5, n_test=0).table
    records = list(gold_records(table))
    gold = np.flatnonzero(table.is_gold)
    assert len(records) == 2 * len(gold) < 2 * len(table)
    assert all(np.isfinite(one["score"]) for one in records)
    expected = {table.query_ids[i] for i in table.query[gold]}
    assert {one["query_id"] for one in records} == expected
