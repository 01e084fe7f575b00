"""Which gold labels say more than others, as the votes tell it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from metarouter.correction import fidelity
from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.correction.scatter import _log_likelihood, learn_scatter, relative_weight
from metarouter.gain.posterior import GainPosterior
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing import make_simulation
from metarouter.types import FloatArray, IntArray

ONE_JUDGE = np.zeros(4_000, dtype=np.int64)


def open_and_shut(n: int = 4_000, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Features of queries, and the deviation of their votes: twice as large where x₀ > 0."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, rng.normal(size=n) * np.where(X[:, 0] > 0, 2.0, 1.0)


def scatter_of(
    X: FloatArray,
    deviation: FloatArray,
    weight: FloatArray | None = None,
    judge: IntArray = ONE_JUDGE,
) -> FloatArray:
    weight = np.ones(len(X)) if weight is None else weight
    model = learn_scatter(X, deviation, weight, judge[: len(X)])
    assert model is not None
    return model.predict(X)


def weights_of(scatter: FloatArray, gain: FloatArray, **given: FloatArray) -> FloatArray:
    zeros, ones = np.zeros(len(gain)), np.ones(len(gain))
    noise = float(gain.var()) or 1.0
    return relative_weight(
        scatter, gain, given.get("judge", zeros), given.get("weight", ones), noise
    )[0]


def ratio(weights: FloatArray) -> float:
    return float(weights.max() / weights.min())


def test_votes_scatter_where_the_answer_is_open() -> None:
    X, deviation = open_and_shut()
    found = scatter_of(X, deviation)
    assert found.mean() == pytest.approx(1.0, abs=0.01)
    share = found[X[:, 0] > 0].mean() / found[X[:, 0] < 0].mean()
    assert 1.9 < share < 2.6  # 2.24 is that of the line nearest to a step from 1 to 4


def test_a_noisy_judge_makes_no_query_noisy() -> None:
    """One judge sees the queries with x₀ > 0 and scatters more, another sees the rest."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(4_000, 4))
    judge: IntArray = (X[:, 0] > 0).astype(np.int64)
    deviation = rng.normal(size=4_000) * np.array([1.0, 3.0])[judge]
    assert np.ptp(scatter_of(X, deviation, judge=judge)) < 0.5


def test_a_lenient_judge_hides_no_scatter() -> None:
    """Two judges of the same queries, one always 10 above the other."""
    X, deviation = open_and_shut()
    judge: IntArray = np.random.default_rng(2).integers(2, size=4_000)
    alike, apart = (
        scatter_of(X, deviation + shift * (2.0 * judge - 1.0), judge=judge) for shift in (0.0, 5.0)
    )
    assert np.corrcoef(alike, apart)[0, 1] > 0.98
    assert np.ptp(apart) > 0.8 * np.ptp(alike)


def test_judges_of_three_votes_each_tell_scatter_together() -> None:
    """Against a size of their own, the squares of three votes can hardly differ."""
    X, deviation = open_and_shut()
    judge: IntArray = np.repeat(np.arange(1_334), 3)[:4_000]
    one, many = scatter_of(X, deviation), scatter_of(X, deviation, judge=judge)
    is_open = X[:, 0] > 0
    shares = [each[is_open].mean() / each[~is_open].mean() for each in (one, many)]
    assert shares[1] == pytest.approx(shares[0], rel=0.25)
    assert many.mean() == pytest.approx(1.0, abs=0.1)


def test_a_vote_of_higher_weight_is_more_precise_and_no_less_open() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(4_000, 4))
    weight = np.where(X[:, 0] > 0, 9.0, 1.0)
    assert np.ptp(scatter_of(X, rng.normal(size=4_000) / np.sqrt(weight), weight)) < 0.5


def test_one_wild_vote_tells_little() -> None:
    X, deviation = open_and_shut()
    wild = deviation.copy()
    wild[7] = 60.0
    assert np.corrcoef(scatter_of(X, deviation), scatter_of(X, wild))[0, 1] > 0.95


def test_the_unit_of_votes_and_weights_does_not_matter() -> None:
    X, deviation = open_and_shut(1_000)
    other = scatter_of(X, -30.0 * deviation, np.full(1_000, 0.2))
    np.testing.assert_allclose(scatter_of(X, deviation), other, rtol=1e-8)


def test_few_votes_and_votes_without_scatter_tell_nothing() -> None:
    X, deviation = open_and_shut(200)
    judge, ones = ONE_JUDGE[:200], np.ones(200)
    assert learn_scatter(X, deviation, ones, judge) is not None
    assert learn_scatter(X[1:], deviation[1:], ones[1:], judge[1:]) is None
    assert learn_scatter(X, np.zeros(200), ones, judge) is None


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_gold_tells_how_far_its_noise_follows_the_votes(strength: float) -> None:
    rng = np.random.default_rng(3)
    scatter = rng.choice([0.6, 1.4], 2_000)
    variance = 1.0 + strength * (scatter - 1.0)
    found = weights_of(scatter, 0.2 + rng.normal(size=2_000) * np.sqrt(variance))
    assert ratio(found) == pytest.approx(np.sqrt(variance.max() / variance.min()), rel=0.1)
    assert found.mean() == pytest.approx(1.0)


def test_without_gold_that_tells_none_is_as_likely_as_any() -> None:
    """λ is 0 with even odds beforehand, else 1 or 2, so 0.75 on average."""
    scatter = np.array([0.6, 1.4])
    found = weights_of(scatter, np.array([0.0, 1.0]))
    assert ratio(found) == pytest.approx(np.sqrt(1.3 / 0.7))


@pytest.mark.parametrize("gain", [0.0, 0.7])
def test_gold_labels_that_are_all_equal_tell_nothing(gain: float) -> None:
    found, seeming_gain = relative_weight(
        np.linspace(0.0, 2.0, 50), np.full(50, gain), np.zeros(50), np.ones(50), 1.0
    )
    assert (found == 1.0).all()
    assert seeming_gain == 1.0


def test_rare_gains_seldom_pass_for_quiet_queries() -> None:
    """Of labels that are mostly 0 a few ±1 fall anywhere; a normal likelihood would be too sure."""
    rng = np.random.default_rng(6)
    scatter = np.tile([0.5, 1.5], 25)
    found = np.array(
        [
            ratio(weights_of(scatter, rng.choice([-1.0, 0.0, 1.0], 50, p=[0.025, 0.95, 0.025])))
            for _ in range(200)
        ]
    )
    assert np.mean(found > np.sqrt(1.6 / 0.4)) < 0.15  # a strength of 1.2
    assert np.mean(found > np.sqrt(1.8 / 0.2)) < 0.1  # of 1.6


def test_no_label_counts_for_more_than_five_times_another() -> None:
    scatter = np.array([-3.0, *np.ones(98), 40.0])
    found = weights_of(scatter, np.random.default_rng(4).normal(size=100))
    assert ratio(found) == pytest.approx(5.0)


def test_a_gold_label_of_weight_nine_is_thrice_as_precise() -> None:
    rng = np.random.default_rng(7)
    weight = rng.choice([1.0, 9.0], 1_000)
    scatter = np.where(weight > 1.0, 0.5, 1.5)
    found = weights_of(scatter, rng.normal(size=1_000) / np.sqrt(weight), weight=weight)
    assert ratio(found) < 1.1
    assert np.average(found, weights=weight) == pytest.approx(1.0)


def test_gold_counts_as_much_as_before_all_together() -> None:
    """So that the prior of the signal, which is over the noise of an average label, stays."""
    rng = np.random.default_rng(11)
    weight = rng.choice([1.0, 9.0], 1_000)
    scatter = np.where(weight > 1.0, 0.5, 1.5)
    found = weights_of(scatter, rng.normal(size=1_000) * np.sqrt(scatter / weight), weight=weight)
    assert ratio(found) > 1.4
    assert np.average(found, weights=weight) == pytest.approx(1.0)


def test_what_the_weights_gain_is_told_and_is_no_loss() -> None:
    rng = np.random.default_rng(12)
    scatter = np.repeat([0.4, 1.6], 500)
    gain = rng.normal(size=1_000) * np.sqrt(scatter)
    zeros, ones = np.zeros(1_000), np.ones(1_000)
    found, seeming_gain = relative_weight(scatter, gain, zeros, ones, 1.0)
    assert seeming_gain == pytest.approx((gain**2).mean() / (found * gain**2).mean(), rel=0.01)
    few = np.array([2.0, -2.0, 0.1, -0.1])  # loud where votes are quiet
    assert relative_weight(scatter[[0, 1, -2, -1]], few, zeros[:4], ones[:4], 1.0)[1] == 1.0


def test_gains_that_the_votes_explain_are_no_noise() -> None:
    rng = np.random.default_rng(8)
    scatter = rng.choice([0.5, 1.5], 1_000)
    judge = rng.normal(size=1_000) * scatter
    found = weights_of(scatter, 0.5 * judge + 0.1 * rng.normal(size=1_000), judge=judge)
    assert ratio(found) < 1.1


def test_the_likelihood_is_that_of_normal_labels_with_unknown_noise() -> None:
    """Coefficients and σ² integrated out, the first under a flat prior."""
    rng = np.random.default_rng(5)
    gain, design = rng.normal(size=6), np.stack([np.ones(6), rng.normal(size=6)], axis=1)
    noise = 0.7

    def by_integration(precision: FloatArray) -> float:
        root = np.sqrt(precision)
        X, y = design * root[:, None], gain * root
        gram, coef = X.T @ X, np.linalg.lstsq(X, y, rcond=None)[0]

        def joint(variance: float) -> float:
            sizes = np.sqrt(variance / precision)
            likelihood = np.prod(stats.norm.pdf(gain - design @ coef, scale=sizes))
            volume = 2.0 * np.pi * variance / np.sqrt(np.linalg.det(gram))
            return float(likelihood * volume * stats.invgamma.pdf(variance, 0.5, scale=noise / 2))

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


def exact_match(seed: int, n: int = 1_600, n_gold: int = 200) -> tuple[GainTable, FloatArray]:
    """Gold gains of −1, 0 and 1: where x₀ is small both models are right or both are wrong."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    differ, wins = 1.0 / (1.0 + np.exp(-3.0 * X[:, 0])), 0.5 + 0.3 * np.tanh(X[:, 1])
    drawn = np.where(rng.random(n) < wins, 1.0, -1.0) * (rng.random(n) < differ)
    psi = differ * (2.0 * wins - 1.0)
    votes = psi + 0.3 * np.sqrt(0.1 + differ) * rng.normal(size=n) + 0.15 * np.tanh(X[:, 2])
    is_gold = np.arange(n) < n_gold
    gain = np.where(is_gold, drawn, votes)
    names = [str(i) for i in range(n)]
    return make_gain_table(queries=names, gain=gain, is_gold=is_gold, features=X), psi


def posterior(table: GainTable, **options: bool) -> GainPosterior:
    return EvidenceCorrector(**options).fit(table).gain_posterior()  # type: ignore[arg-type]


def errors(tables: list[tuple[GainTable, FloatArray]], *, scatter: bool) -> tuple[float, float]:
    """Root mean square of ψ̂ − ψ, and the share of ψ that 95 % intervals hold."""
    found = []
    for table, psi in tables:
        assert table.features is not None
        estimate = posterior(table, scatter=scatter).predict(table.features)
        off = estimate.mean.ravel() - psi
        held = np.abs(off) < 1.96 * estimate.std.ravel()
        found.append((np.sqrt(np.mean(off**2)), held.mean()))
    rmse, coverage = np.mean(found, axis=0)
    return float(rmse), float(coverage)


def with_psi(table: GainTable) -> tuple[GainTable, FloatArray]:
    assert table.features is not None
    return table, 0.3 * table.features[:, 1].astype(np.float64)


def test_quiet_gold_labels_count_for_more() -> None:
    tables = [with_psi(world(seed)) for seed in range(6)]
    assert errors(tables, scatter=True)[0] < 0.9 * errors(tables, scatter=False)[0]


def test_where_gold_is_noisy_all_over_little_is_lost() -> None:
    tables = [with_psi(world(seed, follows=False)) for seed in range(6)]
    assert errors(tables, scatter=True)[0] < 1.03 * errors(tables, scatter=False)[0]


def test_intervals_hold_as_often_where_gains_vanish_with_the_noise() -> None:
    tables = [exact_match(seed) for seed in range(10)]
    rmse, coverage = errors(tables, scatter=True)
    equal_rmse, equal_coverage = errors(tables, scatter=False)
    assert rmse < 1.05 * equal_rmse
    assert coverage > equal_coverage - 0.02


def weight_ratio(table: GainTable) -> float:
    return float(EvidenceCorrector().fit(table).diagnostics_["gold_weight_ratio"])


def test_weights_come_of_votes_less_their_model_and_of_gold_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Verdicts that differ by five times their noise, and gold labels of different weight."""
    rng = np.random.default_rng(9)
    X = rng.normal(size=(2_000, 6))
    is_gold = np.arange(2_000) < 100
    table = make_gain_table(
        queries=[str(i) for i in range(2_000)],
        gain=np.where(is_gold, 0.0, 2.5 * X[:, 0]) + 0.5 * rng.normal(size=2_000),
        is_gold=is_gold,
        weight=rng.uniform(0.5, 2.0, 2_000),
        features=X,
    )
    seen: dict[str, tuple[FloatArray, ...]] = {}

    def learn(*given: FloatArray) -> object:
        seen["votes"] = given
        return learn_scatter(*given)  # type: ignore[arg-type]

    def weigh(*given: FloatArray) -> object:
        seen["gold"] = given
        return relative_weight(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(fidelity, "learn_scatter", learn)
    monkeypatch.setattr(fidelity, "relative_weight", weigh)
    posterior(table)
    assert seen["votes"][1].std() == pytest.approx(0.5, rel=0.05)
    _, gain, judge, weight, _ = seen["gold"]
    np.testing.assert_array_equal(gain, table.gain[is_gold])
    np.testing.assert_array_equal(weight, table.weight[is_gold])
    assert np.corrcoef(judge, X[is_gold, 0])[0, 1] > 0.99


def test_stated_variances_grow_by_what_the_weights_seem_to_gain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All but the doubts about f and about where gold is rare."""
    table = world(0, follows=False)
    monkeypatch.setattr(fidelity, "_add_doubts", lambda *_: None)
    monkeypatch.setattr(fidelity, "_elsewhere", lambda *_: None)
    found = []
    for seeming_gain in (1.0, 4.0):
        monkeypatch.setattr(
            fidelity, "relative_weight", lambda h, *_, by=seeming_gain: (np.ones(len(h)), by)
        )
        found.append(posterior(table).predict(table.row_features()))
    np.testing.assert_array_equal(found[0].mean, found[1].mean)
    np.testing.assert_allclose(found[1].std, 2.0 * found[0].std, rtol=1e-9)


def test_the_units_of_gold_and_votes_do_not_move_the_weights() -> None:
    table = world(0)
    scaled = table.with_gains(np.where(table.is_gold, 1000.0, 0.1) * table.gain, table.variance)
    assert weight_ratio(scaled) == pytest.approx(weight_ratio(table), rel=1e-3)


def test_votes_on_gold_queries_are_not_looked_at() -> None:
    """Noise that both labels of a query share would be found in itself."""
    table = world(0, n_gold=600)
    gold = np.flatnonzero(table.is_gold)
    query, gain = table.query[gold], table.gain[gold]
    joined = make_gain_table(
        queries=table.queries,
        query=np.concatenate([query, query]),
        gain=np.concatenate([gain, gain]),
        is_gold=np.repeat([True, False], len(gold)),
        features=table.features,
    )
    assert weight_ratio(joined) == 1.0


def test_gold_of_a_pool_counts_alike() -> None:
    rng = np.random.default_rng(10)
    X = rng.normal(size=(900, 4))
    candidate: IntArray = np.arange(900) % 2 + 1
    table = make_gain_table(
        queries=[str(i) for i in range(900)],
        models=("a", "b", "c"),
        candidate=candidate,
        gain=rng.normal(size=900) * np.where(X[:, 0] > 0, 1.6, 0.2),
        is_gold=np.arange(900) < 150,
        features=X,
    )
    one, other = (posterior(table, scatter=each).predict(X) for each in (True, False))
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.std, other.std)


def test_many_votes_are_sampled_alike_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "_SCATTER_ROWS", 500)
    seen: list[FloatArray] = []

    def spy(X: FloatArray, deviation: FloatArray, *others: FloatArray) -> object:
        seen.append(deviation)
        return learn_scatter(X, deviation, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(fidelity, "learn_scatter", spy)
    table = world(0)
    first, second = (posterior(table).predict(table.row_features()).mean for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert len(seen[0]) == 500


def test_without_preferences_gold_counts_alike() -> None:
    table = make_simulation(300, 3, n_gold=80, n_test=0).table.gold()
    assert weight_ratio(table) == 1.0
