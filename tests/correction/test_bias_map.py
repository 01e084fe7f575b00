"""The bias map: right on known truth, honest about its uncertainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metarouter.causal import Nuisances
from metarouter.correction.audit import audit_labels
from metarouter.correction.bias_map import BiasMap, estimate_slice, make_bias_map
from metarouter.correction.simultaneous import JointEstimates, adjust_holm
from metarouter.correction.topics import find_topics
from metarouter.correction.units import main_contrast, source_units
from metarouter.errors import DataError, OptionError
from metarouter.features.pipeline import make_pipeline
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing import make_simulation, make_world
from metarouter.types import BoolArray, FloatArray


def _simulated(bias: str, seed: int, *, n: int = 1200, n_gold: int = 120) -> GainTable:
    """Simulated labels with two domains: the sign of the first feature."""
    table = make_simulation(n, 6, n_gold=n_gold, n_test=0, bias=bias, seed=seed).table
    assert table.features is not None
    domain = (table.features[:, 0] > 0).astype(np.int64)
    return replace(table, domains=("minus", "plus"), domain=domain)


def _with_text_features(world: str, *, n_gold: int = 400, seed: int = 0) -> GainTable:
    table = make_world(world, n_queries=2000, n_gold=n_gold, n_test=0, seed=seed).table
    return table.with_features(make_pipeline("surface").fit(table.queries).transform(table.queries))


def _covers(found: BiasMap, truth: dict[str, float]) -> bool:
    """Whether every interval holds its truth; slices not named have that of "queries"."""
    for row in found.rows:
        if row.low is None or row.high is None:
            continue
        if not row.low <= truth.get(row.level, truth["queries"]) <= row.high:
            return False
    return True


def _random_labels(seed: int, n: int) -> tuple[FloatArray, BoolArray, Nuisances, BoolArray]:
    rng = np.random.default_rng(seed)
    nuisances = Nuisances(
        mu0=rng.normal(size=n), mu1=rng.normal(size=n), e=rng.uniform(0.1, 0.9, n)
    )
    return rng.normal(size=n), rng.random(n) < 0.4, nuisances, rng.random(n) < 0.6


def test_a_slice_is_its_formula_with_given_nuisances() -> None:
    """Straight loops over the units give the same value and influence."""
    y, gold, nuisances, member = _random_labels(0, 60)
    inside = [i for i in range(60) if member[i]]
    w1 = {i: 1 / nuisances.e[i] for i in inside if gold[i]}
    w0 = {i: 1 / (1 - nuisances.e[i]) for i in inside if not gold[i]}
    left1 = sum(w * (y[i] - nuisances.mu1[i]) for i, w in w1.items()) / sum(w1.values())
    left0 = sum(w * (y[i] - nuisances.mu0[i]) for i, w in w0.items()) / sum(w0.values())
    plain = sum(nuisances.mu0[i] - nuisances.mu1[i] for i in inside) / len(inside)
    found = estimate_slice(y, gold, nuisances, member)
    assert found.value == pytest.approx(plain + left0 - left1, abs=1e-12)
    for i in range(60):
        expected = 0.0
        if member[i]:
            expected = (nuisances.mu0[i] - nuisances.mu1[i] - plain) / len(inside)
            sign, weights, mean, left = (
                (-1, w1, nuisances.mu1, left1) if gold[i] else (1, w0, nuisances.mu0, left0)
            )
            total = sum(weights.values())
            lost = 1 - sum((w / total) ** 2 for w in weights.values())
            expected += sign * weights[i] / total * (y[i] - mean[i] - left) / lost**0.5
        assert found.influence[i] == pytest.approx(expected, abs=1e-12)


def test_without_features_a_slice_is_welchs_difference_of_means() -> None:
    """Flat nuisances give preference minus gold mean and Welch's standard error."""
    rng = np.random.default_rng(1)
    gold, preference = rng.normal(size=15), rng.normal(2, 3, size=40)
    flat = Nuisances(mu0=np.zeros(55), mu1=np.zeros(55), e=np.full(55, 0.3))
    y, is_gold = np.concatenate([gold, preference]), np.arange(55) < 15
    found = estimate_slice(y, is_gold, flat, np.ones(55, dtype=np.bool_))
    assert found.value == pytest.approx(preference.mean() - gold.mean())
    error = (gold.var(ddof=1) / 15 + preference.var(ddof=1) / 40) ** 0.5
    assert (found.influence**2).sum() == pytest.approx(error**2)
    joint = JointEstimates(
        value=np.array([found.value]),
        influence=found.influence[:, None],
        kind=is_gold.astype(np.int64),
        rng=np.random.default_rng(0),
    )
    parts = gold.var(ddof=1) / 15, preference.var(ddof=1) / 40
    welch = sum(parts) ** 2 / (parts[0] ** 2 / 14 + parts[1] ** 2 / 39)
    assert joint.freedom()[0] == pytest.approx(welch)


def test_positive_means_that_the_judge_overrates_the_candidate() -> None:
    table = _simulated("constant", 0)
    whole = make_bias_map(table).rows[0]
    assert whole.bias is not None
    assert whole.bias == pytest.approx(0.15, abs=0.1)  # Δ = gold − preference is −0.15


def test_labels_of_one_query_are_compared_with_each_other() -> None:
    """Pairing takes the variance that both labels of a query share out of the interval."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 1, 200)
    gain = np.concatenate([shared, shared + 0.2]) + rng.normal(0, 0.05, 400)
    table = make_gain_table(
        queries=[f"question {i}" for i in range(200)],
        query=np.tile(np.arange(200), 2),
        gain=gain,
        is_gold=np.arange(400) < 200,
        features=rng.normal(size=(200, 2)),
    )
    whole = make_bias_map(table).rows[0]
    assert whole.bias == pytest.approx(0.2, abs=0.02)
    assert whole.std_error == pytest.approx(0.05 * (2 / 200) ** 0.5, rel=0.2)


def test_a_query_that_both_sources_label_counts_once() -> None:
    """Ten queries overrated by 0.4, seven with gold, and ten fairly judged, one with gold."""
    kinds = [("both", 0.4)] * 7 + [("vote", 0.4)] * 3 + [("both", 0.0)] + [("vote", 0.0)] * 9
    rows = [
        (value if source == "vote" else 0.0, source == "gold", value > 0, len(sources))
        for kind, value in kinds
        for sources in (("vote", "gold") if kind == "both" else ("vote",),)
        for source in sources
    ]
    y, gold, overrated, n_units = (np.array(column) for column in zip(*rows, strict=True))
    nuisances = Nuisances(
        mu0=np.zeros(28),
        mu1=np.zeros(28),
        e=np.where(overrated, 7 / 17, 1 / 11),
        share=np.where(overrated, 10 / 17, 10 / 11),
    )
    every = np.ones(28, dtype=np.bool_)
    weighted = estimate_slice(y, gold, nuisances, every, 1 / n_units)
    assert weighted.value == pytest.approx(0.2, abs=1e-12)
    learned = replace(nuisances, mu0=np.where(overrated, 0.4, 0.0))
    assert estimate_slice(y, gold, learned, every, 1 / n_units).value == pytest.approx(0.2)


def test_the_map_is_over_queries_where_gold_sits_on_one_kind_of_them() -> None:
    """Half the queries are overrated by 0.4, and most gold sits on these."""
    rng = np.random.default_rng(0)
    kind = np.repeat([1.0, -1.0], 1000)
    has_gold = np.flatnonzero(rng.random(2000) < np.where(kind > 0, 0.7, 0.1))
    psi = rng.normal(0, 0.05, 2000)
    votes = psi + 0.4 * (kind > 0) + rng.normal(0, 0.1, 2000)
    table = make_gain_table(
        queries=[f"question {i}" for i in range(2000)],
        query=np.concatenate([np.arange(2000), has_gold]),
        gain=np.concatenate([votes, psi[has_gold]]),
        is_gold=np.arange(2000 + len(has_gold)) >= 2000,
        features=np.column_stack([kind, rng.normal(size=2000)]),
    )
    assert make_bias_map(table).rows[0].bias == pytest.approx(0.2, abs=0.02)
    audit = audit_labels(table)["sensitivity"]["mean_bias"]["estimate"]
    assert audit["value"] == pytest.approx(0.2, abs=0.02)


def test_lengths_are_thirds_of_the_queries() -> None:
    """The longer half of the queries has both labels, and weighs no more for it."""
    rng = np.random.default_rng(0)
    table = make_gain_table(
        queries=["x" * (i + 1) for i in range(90)],
        query=np.concatenate([np.arange(90), np.arange(45, 90)]),
        gain=rng.normal(size=135),
        is_gold=np.arange(135) >= 90,
        features=rng.normal(size=(90, 2)),
    )
    lengths = [row for row in make_bias_map(table).rows if row.dimension == "length"]
    assert [row.n_preference for row in lengths] == [30, 30, 30]


def test_several_labels_of_a_query_count_as_their_weighted_mean() -> None:
    table = make_gain_table(
        queries=["a", "b", "a"],
        query=[0, 0, 1, 2],
        gain=[1.0, 0.0, 0.5, 0.5],
        is_gold=[False, False, True, False],
        weight=[3.0, 1.0, 1.0, 4.0],
        features=np.zeros((3, 1)),
    )
    units = source_units(table)
    assert units.query.tolist() == [0, 1]
    np.testing.assert_allclose(units.gain, [(3 + 2) / 8, 0.5])


def test_bias_scales_with_the_labels() -> None:
    """Labels times three give biases, intervals and errors times three, tests unchanged."""
    table = _simulated("linear", 3, n=600)
    small = make_bias_map(table)
    large = make_bias_map(table.with_gains(3 * table.gain, table.variance))
    assert large.p_value == pytest.approx(small.p_value)
    for one, other in zip(small.rows, large.rows, strict=True):
        for name in ("bias", "low", "high", "std_error"):
            assert getattr(other, name) == pytest.approx(3 * getattr(one, name), rel=1e-6)


def test_the_rows_of_the_table_may_come_in_any_order() -> None:
    """The estimate for all queries does not know the order beyond the folds."""
    table = _simulated("topic", 5)
    order = np.random.default_rng(0).permutation(len(table))
    one, other = make_bias_map(table).rows[0], make_bias_map(table.rows(order)).rows[0]
    assert one.bias is not None
    assert one.std_error is not None
    assert other.bias == pytest.approx(one.bias, abs=0.2 * one.std_error)


def test_a_bias_that_differs_by_topic_is_found() -> None:
    found = make_bias_map(_with_text_features("topic_bias"))
    assert found.p_value is not None
    assert found.p_value < 0.01
    by_name = {test.dimension: test for test in found.tests}
    assert by_name["domain"].p_adjusted < 0.01
    assert by_name["domain"].n_slices == 9


def test_a_bias_that_differs_by_length_is_found() -> None:
    found = make_bias_map(_with_text_features("length_bias"))
    by_name = {test.dimension: test for test in found.tests}
    assert by_name["length"].p_adjusted < 0.01
    short, _, long = [row for row in found.rows if row.dimension == "length"]
    assert short.high is not None
    assert long.low is not None
    assert short.high < long.low


def test_gold_chosen_by_the_query_does_not_pass_for_bias() -> None:
    """Where gold goes to hard queries the plain difference of means is wrong, the map is not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 1))
    is_gold = rng.random(3000) < 1 / (1 + np.exp(2 - 1.2 * x[:, 0]))
    table = make_gain_table(
        queries=[f"question {i}" for i in range(3000)],
        gain=x[:, 0] + rng.normal(0, 0.3, 3000),
        is_gold=is_gold,
        features=x,
    )
    naive = table.gain[~is_gold].mean() - table.gain[is_gold].mean()
    whole = make_bias_map(table).rows[0]
    assert naive < -0.5
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low < 0 < whole.high
    assert whole.high - whole.low < 0.2


def test_each_judge_is_held_against_all_gold() -> None:
    table = _simulated("none", 1, n=1500, n_gold=300)
    judge = np.where(table.is_gold, 0, 1 + np.arange(len(table)) % 2)
    shifted = table.gain + 0.5 * (judge == 2)
    table = replace(table, judges=("", "fair", "partial"), judge=judge)
    found = make_bias_map(table.with_gains(shifted, table.variance))
    fair, partial = [row for row in found.rows if row.dimension == "judge"]
    assert (fair.level, partial.level) == ("fair", "partial")
    assert fair.low is not None
    assert fair.high is not None
    assert partial.low is not None
    assert fair.low < 0 < fair.high
    assert partial.low > 0.3
    assert fair.n_gold == partial.n_gold == 300
    assert {test.dimension for test in found.tests} >= {"judge"}


def test_slices_with_few_labels_are_named_but_not_told() -> None:
    """Nine gold labels in a domain are too few; the other rows and tests do without it."""
    table = _simulated("constant", 0)
    domain = np.zeros(len(table), dtype=np.int64)
    domain[np.flatnonzero(table.is_gold)[:9]] = 1
    domain[np.flatnonzero(~table.is_gold)[:50]] = 1
    found = make_bias_map(replace(table, domains=("many", "few"), domain=domain))
    few = next(row for row in found.rows if row.level == "few")
    assert (few.n_gold, few.n_preference) == (9, 50)
    assert (few.bias, few.low, few.high, few.std_error) == (None, None, None, None)
    assert "domain" not in {test.dimension for test in found.tests}


def test_a_pool_is_mapped_on_the_pair_that_both_sources_know() -> None:
    table = make_gain_table(
        queries=list("abcdef"),
        models=("m0", "m1", "m2"),
        candidate=[1, 1, 1, 2, 2, 2],
        baseline=[0, 0, 0, 0, 1, 1],
        gain=np.zeros(6),
        is_gold=[True, True, True, True, True, False],
    )
    assert main_contrast(table) == (2, 1)


def test_too_few_labels_are_refused() -> None:
    with pytest.raises(DataError, match="9 queries with gold"):
        make_bias_map(_simulated("none", 0, n_gold=9))


def test_a_level_outside_its_range_is_refused() -> None:
    with pytest.raises(OptionError, match="level"):
        make_bias_map(_simulated("none", 0), level=1.0)


def test_a_higher_level_gives_wider_intervals() -> None:
    table = _simulated("none", 0)
    narrow, wide = (make_bias_map(table, level=level).rows[0] for level in (0.8, 0.99))
    assert narrow.high is not None
    assert wide.high is not None
    assert wide.high > narrow.high


def test_queries_that_are_all_alike_have_no_topics() -> None:
    assert find_topics(np.zeros((50, 3)), ["a word"] * 50, 4) == []


def test_topics_part_the_queries_and_are_named_by_their_words() -> None:
    texts = ["prove the theorem by induction now"] * 30 + ["bake fresh bread with yeast now"] * 30
    features = np.repeat([[0.0, 1.0], [4.0, 0.0]], 30, axis=0)
    topics = dict(find_topics(features, texts, 2))
    assert sum(member.astype(int) for member in topics.values()).tolist() == [1] * 60  # type: ignore[union-attr]
    words = {word for name in topics for word in name.split(", ")}
    assert words <= {
        "prove",
        "the",
        "theorem",
        "induction",
        "bake",
        "fresh",
        "bread",
        "with",
        "yeast",
    }
    assert all(name.count(", ") == 2 for name in topics)


def test_holm_multiplies_by_how_many_are_left() -> None:
    assert adjust_holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])


def test_simultaneous_intervals_are_those_of_independent_normals() -> None:
    """For k independent estimates of many units, the critical value is Šidák's."""
    rng = np.random.default_rng(0)
    n, k = 20_000, 5
    influence = np.zeros((n, k))
    influence[np.arange(n), np.arange(n) % k] = rng.normal(size=n)
    joint = JointEstimates(
        value=np.zeros(k), influence=influence, kind=np.zeros(n, dtype=np.int64), rng=rng
    )
    assert (joint.half_widths(0.95) / joint.std_error).mean() == pytest.approx(2.569, abs=0.04)


def _domain_truth(bias: str, seed: int, n: int) -> dict[str, float]:
    """Mean preference − gold of the queries of :func:`_simulated`, in all and by domain."""
    world = make_simulation(n, 6, n_gold=120, n_test=0, bias=bias, seed=seed)
    plus = world.features[:, 0] > 0
    return {
        "queries": -float(world.delta.mean()),
        "plus": -float(world.delta[plus].mean()),
        "minus": -float(world.delta[~plus].mean()),
    }


def _study(bias: str, n_runs: int) -> tuple[float, float]:
    """Joint coverage of all rows, and the share of maps that deny a bias the same everywhere."""
    covered, rejected = [], []
    for seed in range(n_runs):
        found = make_bias_map(_simulated(bias, seed, n=800), seed=seed)
        covered.append(_covers(found, {"queries": 0.15 if bias == "constant" else 0.0}))
        rejected.append(found.p_value is not None and found.p_value < 0.05)
    return float(np.mean(covered)), float(np.mean(rejected))


def test_all_intervals_hold_at_once_and_the_test_keeps_its_size() -> None:
    """100 runs under a constant bias, within three binomial standard errors."""
    covered, rejected = _study("constant", 100)
    assert covered >= 0.95 - 3 * 0.022
    assert rejected <= 0.05 + 3 * 0.022


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["none", "constant"])
def test_coverage_and_size_over_a_thousand_runs(bias: str) -> None:
    """95 % joint coverage and 5 % size, within three binomial standard errors."""
    covered, rejected = _study(bias, 1000)
    assert covered == pytest.approx(0.95, abs=3 * 0.0069)
    assert rejected <= 0.05 + 3 * 0.0069


def _coverage_of_domains(bias: str, n_runs: int) -> float:
    covered = []
    for seed in range(n_runs):
        truth = _domain_truth(bias, seed, 800)
        found = make_bias_map(_simulated(bias, seed, n=800), seed=seed)
        known = tuple(row for row in found.rows if row.level in truth)
        covered.append(_covers(replace(found, rows=known), truth))
    return float(np.mean(covered))


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["linear", "topic", "nonlinear"])
def test_coverage_of_biases_that_differ_over_a_thousand_runs(bias: str) -> None:
    """Intervals of all queries and both domains hold at once where the bias is not constant."""
    assert _coverage_of_domains(bias, 1000) >= 0.95 - 3 * 0.0069


def _rare_gains(n_gold: int, n_apart: int) -> GainTable:
    """Gold labels of which a few find the answers apart, and votes that often do."""
    rng = np.random.default_rng(0)
    n = 900
    is_gold = np.arange(n) < n_gold
    gold = (np.arange(n) < n_apart).astype(np.float64)
    return make_gain_table(
        queries=[f"query number {i} {'word ' * int(rng.integers(1, 9))}" for i in range(n)],
        gain=np.where(is_gold, gold, rng.choice([-1.0, 0.0, 1.0], n)),
        is_gold=is_gold,
        features=rng.normal(size=(n, 3)).astype(np.float32),
    )


def test_labels_that_are_nearly_all_equal_tell_little() -> None:
    """Thirty gains of 0 but for one do not show how far their mean may be off."""
    found = make_bias_map(_rare_gains(n_gold=30, n_apart=1))
    assert {row.bias for row in found.rows} == {None}
    assert found.p_value is None
    often = make_bias_map(_rare_gains(n_gold=100, n_apart=50)).rows
    assert all(row.bias is not None for row in often if row.n_gold >= 20)


def test_a_hundred_equal_labels_tell_their_mean() -> None:
    whole = make_bias_map(_rare_gains(n_gold=100, n_apart=0)).rows[0]
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low < 0 < whole.high
