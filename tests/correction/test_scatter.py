"""How noisy a gold label is, as the votes tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats

from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.correction.scatter import _log_likelihood, learn_scatter, relative_noise
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.types import FloatArray, IntArray

ONE_JUDGE = np.zeros(4_000, dtype=np.int64)


def open_and_shut(n: int = 4_000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Features of queries, and the deviation of their votes: twice as large where x₀ > 0."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, rng.normal(size=n) * np.where(X[:, 0] > 0, 2.0, 1.0)


def test_votes_scatter_where_the_answer_is_open() -> None:
    X, deviation = open_and_shut()
    model = learn_scatter(X, deviation, np.ones(len(X)), ONE_JUDGE)
    assert model is not None
    found = model.predict(X)
    assert found.mean() == pytest.approx(1.0)
    ratio = found[X[:, 0] > 0].mean() / found[X[:, 0] < 0].mean()
    assert 1.9 < ratio < 2.6  # 2.24 is that of the line nearest to a step from 1 to 4


def test_a_noisy_or_lenient_judge_makes_no_query_noisy() -> None:
    """One judge sees the queries with x₀ > 0, says more and scatters more, another the rest."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(4_000, 4))
    judge: IntArray = (X[:, 0] > 0).astype(np.int64)
    deviation = rng.normal(size=4_000) * np.array([1.0, 3.0])[judge] + 5.0 * judge
    model = learn_scatter(X, deviation, np.ones(4_000), judge)
    assert model is not None
    assert np.ptp(model.predict(X)) < 0.5


def test_a_vote_of_higher_weight_is_more_precise_and_no_less_open() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(4_000, 4))
    weight = np.where(X[:, 0] > 0, 9.0, 1.0)
    deviation = rng.normal(size=4_000) / np.sqrt(weight)
    model = learn_scatter(X, deviation, weight, ONE_JUDGE)
    assert model is not None
    assert np.ptp(model.predict(X)) < 0.5


def test_the_unit_of_votes_and_weights_does_not_matter() -> None:
    X, deviation = open_and_shut(1_000)
    one = learn_scatter(X, deviation, np.ones(1_000), ONE_JUDGE[:1_000])
    other = learn_scatter(X, -30.0 * deviation, np.full(1_000, 0.2), ONE_JUDGE[:1_000])
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-8)


def test_few_votes_and_votes_without_scatter_tell_nothing() -> None:
    X, deviation = open_and_shut(200)
    judge = ONE_JUDGE[:200]
    assert learn_scatter(X, deviation, np.ones(200), judge) is not None
    assert learn_scatter(X[1:], deviation[1:], np.ones(199), judge[1:]) is None
    assert learn_scatter(X, np.full(200, 0.3), np.ones(200), judge) is None


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_gold_tells_how_far_its_noise_follows_the_votes(strength: float) -> None:
    rng = np.random.default_rng(3)
    scatter = rng.choice([0.6, 1.4], 1_000)
    gain = 0.2 + rng.normal(size=1_000) * np.sqrt(1.0 + strength * (scatter - 1.0))
    v, found = relative_noise(scatter, gain, np.zeros(1_000), np.ones(1_000), 1.0)
    assert found == pytest.approx(strength, abs=0.25)
    assert v.mean() == pytest.approx(1.0)


def test_without_gold_that_tells_none_is_as_likely_as_any() -> None:
    """λ is 0 with even odds beforehand, else 1 or 2; equal scatter tells nothing of it."""
    _, found = relative_noise(np.ones(50), np.arange(50.0), np.zeros(50), np.ones(50), 200.0)
    assert found == pytest.approx(0.75)


def test_no_label_counts_for_more_than_five() -> None:
    scatter = np.array([-3.0, *np.ones(98), 40.0])
    rng = np.random.default_rng(4)
    v, strength = relative_noise(scatter, rng.normal(size=100), np.zeros(100), np.ones(100), 1.0)
    assert strength > 0
    assert v.min() / np.median(v) == pytest.approx(0.2)
    assert v.max() / np.median(v) == pytest.approx(5.0)


def test_the_likelihood_is_that_of_normal_labels_with_unknown_noise() -> None:
    rng = np.random.default_rng(5)
    gain, design = rng.normal(size=6), np.stack([np.ones(6), rng.normal(size=6)], axis=1)
    noise = 0.7

    def by_integration(precision: FloatArray) -> float:
        root = np.sqrt(precision)
        coef = np.linalg.lstsq(design * root[:, None], gain * root, rcond=None)[0]
        residual = gain - design @ coef

        def joint(variance: float) -> float:
            sizes = np.sqrt(variance / precision)
            likelihood = np.prod(stats.norm.pdf(residual, scale=sizes))
            return float(likelihood * stats.invgamma.pdf(variance, 0.5, scale=noise / 2))

        return float(np.log(integrate.quad(joint, 0.0, np.inf)[0]))

    one, other = np.ones(6), np.array([0.3, 2.0, 1.0, 4.0, 0.5, 1.0])
    found = [_log_likelihood(design, gain, each, noise) for each in (one, other)]
    expected = [by_integration(each) for each in (one, other)]
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], abs=1e-6)


def world(seed: int, *, follows: bool = True, n: int = 2_000, n_gold: int = 100) -> GainTable:
    """Gold and votes of queries that differ in x₁; where x₀ > 0 both (or votes alone) are loud."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    is_gold = np.arange(n) < n_gold
    loud = np.where(X[:, 0] > 0, 1.6, 0.2)
    size = np.where(is_gold & (not follows), 1.0, loud)
    gain = 0.3 * X[:, 1] * is_gold + size * rng.normal(size=n)
    return make_gain_table(
        queries=[str(i) for i in range(n)], gain=gain, is_gold=is_gold, features=X
    )


def error(table: GainTable, corrector: EvidenceCorrector) -> float:
    """Root mean square of ψ̂ − ψ over queries."""
    features = table.features
    assert features is not None
    found = corrector.fit(table).gain_posterior().predict(features).mean.ravel()
    return float(np.sqrt(np.mean((found - 0.3 * features[:, 1]) ** 2)))


def mean_errors(tables: list[GainTable]) -> tuple[float, float]:
    """Of gold labels weighed by the scatter of votes, and of equal ones."""
    found = [
        [error(table, EvidenceCorrector(scatter=each)) for each in (True, False)]
        for table in tables
    ]
    weighed, equal = np.mean(found, axis=0)
    return float(weighed), float(equal)


def test_quiet_gold_labels_count_for_more() -> None:
    weighed, equal = mean_errors([world(seed) for seed in range(6)])
    assert weighed < 0.8 * equal


def test_where_gold_is_noisy_all_over_little_is_lost() -> None:
    tables = [world(seed, follows=False) for seed in range(6)]
    assert EvidenceCorrector().fit(tables[0]).diagnostics_["noise_follows_votes"] < 0.1
    weighed, equal = mean_errors(tables)
    assert weighed < 1.03 * equal


def test_the_unit_of_gold_does_not_move_the_weights() -> None:
    table = world(0)
    scaled = table.with_gains(np.where(table.is_gold, 1000.0, 1.0) * table.gain, table.variance)
    found = [EvidenceCorrector().fit(each).diagnostics_ for each in (table, scaled)]
    assert found[0]["noise_follows_votes"] == pytest.approx(found[1]["noise_follows_votes"])


def test_votes_on_gold_queries_are_not_looked_at() -> None:
    """Noise that both labels of a query share would be found in itself."""
    table = world(0, n_gold=600)
    gold = np.flatnonzero(table.is_gold)
    rows = table.rows(gold)
    echoes = replace(rows, is_gold=np.zeros(len(gold), dtype=np.bool_))
    joined = make_gain_table(
        queries=table.queries,
        query=np.concatenate([rows.query, echoes.query]),
        gain=np.concatenate([rows.gain, echoes.gain]),
        is_gold=np.repeat([True, False], len(gold)),
        features=table.features,
    )
    assert EvidenceCorrector().fit(joined).diagnostics_["noise_follows_votes"] == 0.0
