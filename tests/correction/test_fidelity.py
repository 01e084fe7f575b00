"""What the evidence-weighted correctors learn where the truth is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from metarouter.correction import FittedGain, fidelity, judge, learn_gain, make_corrector
from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.evidence import Evidence, weigh_hypotheses
from metarouter.features.bases import BASES, QueryMap
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.records import GainEstimate
from metarouter.testing import SIMULATED_BIASES, Simulation, make_simulation
from metarouter.types import FloatArray, IntArray

SEEDS = (0, 1, 2)


@cache
def simulate(bias: str, seed: int, n_gold: int = 100) -> Simulation:
    return make_simulation(1_400, 8, n_gold=n_gold, n_test=400, bias=bias, seed=seed)


def predict(simulation: Simulation, gain: FittedGain) -> GainEstimate:
    return gain.predict(simulation.test.row_features())


def root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


@cache
def errors(name: str, bias: str, n_gold: int = 100) -> tuple[float, float]:
    """RMSE of ψ̂ on unseen queries, and the efficiency gain area by ψ; means over seeds."""
    found = []
    for seed in SEEDS:
        simulation = simulate(bias, seed, n_gold)
        estimate = predict(simulation, learn_gain(simulation.table, make_corrector(name)))
        psi, score = simulation.test_psi, estimate.mean[:, 0]
        captured = np.cumsum(psi[np.argsort(-score)]) / len(psi)
        area = float(np.mean(captured - np.arange(1, len(psi) + 1) / len(psi) * psi.mean()))
        found.append((root_mean_square(score - psi), area))
    rmse, area = np.mean(found, axis=0)
    return float(rmse), float(area)


def linear_world(rho: float, n: int = 1_000, n_gold: int = 300, seed: int = 0) -> GainTable:
    """Gold gain = 0.1 + ρ f(x) + noise; the judge says f(x) + noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    f = 0.5 * X[:, 0] - 0.5 * X[:, 1]
    other = 0.4 * X[:, 2] if rho == 0 else 0.0
    is_gold = np.arange(n) < n_gold
    noise = np.where(is_gold, 0.6, 0.3) * rng.normal(size=n)
    gain = np.where(is_gold, 0.1 + rho * f + other, f) + noise
    return make_gain_table(
        queries=[f"q{i}" for i in range(n)], gain=gain, is_gold=is_gold, features=X
    )


@pytest.mark.parametrize("rho", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_two_fidelity_recovers_the_slope_of_the_judge(rho: float) -> None:
    """Also of a perverse judge and of one that knows nothing."""
    slopes = [
        make_corrector("two_fidelity").fit(linear_world(rho, seed=seed)).diagnostics_
        for seed in SEEDS
    ]
    mean = np.mean([found["preference_slope"] for found in slopes])
    assert mean == pytest.approx(rho, abs=0.15)


@pytest.mark.parametrize("name", ["auto", "two_fidelity"])
@pytest.mark.parametrize("rho", [-1.0, 0.0, 1.0])
def test_corrected_labels_follow_gold_whatever_the_judge(name: str, rho: float) -> None:
    table = linear_world(rho)
    X = table.row_features().astype(np.float64)
    psi = 0.1 + rho * (0.5 * X[:, 0] - 0.5 * X[:, 1]) + (0.4 * X[:, 2] if rho == 0 else 0.0)
    corrected = make_corrector(name).fit(table).transform(table)
    plain = ~table.is_gold
    assert root_mean_square((corrected.gain - psi)[plain]) < 0.12


def test_an_unbiased_judge_is_trusted_as_gold_grows() -> None:
    few, many = (
        make_corrector("auto").fit(linear_world(1.0, n_gold=n)).diagnostics_ for n in (10, 200)
    )
    used = many["use_of_preferences"]
    assert used["ignore"] < 0.05
    assert used["ignore"] < few["use_of_preferences"]["ignore"]


def test_noise_costs_next_to_nothing() -> None:
    """Over gold alone; whatever the judge is taken for, the gain does not follow it."""
    table = linear_world(0.0)
    X = table.row_features().astype(np.float64)
    predicted = learn_gain(table, make_corrector("auto")).predict(X).mean[:, 0]
    slope = np.linalg.lstsq(np.column_stack([np.ones(len(X)), X]), predicted, rcond=None)[0]
    assert slope[1:3] @ [0.5, -0.5] / 0.5 == pytest.approx(0.0, abs=0.1)  # of the judge's f
    assert slope[3] == pytest.approx(0.4, abs=0.1)
    assert errors("auto", "noise")[0] < 1.06 * errors("gold_only", "noise")[0]


def test_a_judge_of_its_own_answers_is_doubted_more() -> None:
    """The same verdicts count for less when a contestant gave them, the less the more it gave."""
    table = linear_world(1.0, n_gold=20)
    halves = np.arange(len(table)) % 2
    found = []
    for judges in [("someone", "someone"), ("someone", "premium"), ("premium", "cheap")]:
        named = replace(table, judges=judges, judge=halves)
        found.append(make_corrector("auto").fit(named).diagnostics_)
    assert [round(each["judged_by_contestant"], 1) for each in found] == [0.0, 0.5, 1.0]
    ignored = [each["use_of_preferences"]["ignore"] for each in found]
    assert ignored[0] < ignored[1] < ignored[2]


def test_an_unbiased_judge_is_used_nearly_as_fully_as_by_pooling() -> None:
    """Without bias pooling is best; the area of auto is within 2 % of it, far above gold alone."""
    (_, auto), (_, pooled), (_, gold) = (
        errors(name, "none") for name in ("auto", "none", "gold_only")
    )
    assert auto > 0.98 * pooled
    assert auto > gold


@pytest.mark.parametrize("bias", SIMULATED_BIASES)
def test_auto_is_never_clearly_worse_than_gold_alone(bias: str) -> None:
    """The promise that makes it the default, for each kind of judge."""
    (rmse, area), (gold_rmse, gold_area) = errors("auto", bias), errors("gold_only", bias)
    assert rmse < 1.06 * gold_rmse
    assert area > gold_area - 0.0015


@pytest.mark.parametrize("bias", [bias for bias in SIMULATED_BIASES if bias != "none"])
def test_auto_beats_pooling_wherever_the_judge_is_biased(bias: str) -> None:
    assert errors("auto", bias)[0] < errors("none", bias)[0]


def test_gold_chosen_by_the_features_widens_the_rest() -> None:
    """Gold only where the first component is high: intervals there are honest, others wider."""
    inside, ratio, rmse = [], [], []
    for seed in range(8):
        simulation = simulate("topic", seed, 1_000)  # all gold; votes are put in below
        X = simulation.features.astype(np.float64)
        is_gold = (np.random.default_rng(seed).permutation(1_000) < 200) & (X[:, 0] > 0)
        table = make_gain_table(
            queries=simulation.table.queries,
            gain=np.where(is_gold, simulation.gold_gain, simulation.preference_gain),
            is_gold=is_gold,
            features=X,
        )
        estimate = predict(simulation, learn_gain(table, make_corrector("auto")))
        error, std = estimate.mean[:, 0] - simulation.test_psi, estimate.std[:, 0]
        like_gold = simulation.test.row_features()[:, 0] > 0
        inside.append((np.abs(error) < 1.96 * std)[like_gold])
        ratio.append(std[~like_gold].mean() / std[like_gold].mean())
        rmse.append(root_mean_square(error))
    assert np.mean(np.concatenate(inside)) > 0.87
    assert np.mean(ratio) > 1.1
    assert np.mean(rmse) < errors("none", "topic")[0]


def test_rows_of_pseudo_gold_state_their_precision() -> None:
    """Posterior variance is σ² + variance: it covers the error, and is below one label's."""
    ratios = []
    for seed in range(4):
        simulation = simulate("linear", seed)
        table = simulation.table
        corrected = make_corrector("auto").fit(table).transform(table)
        plain = ~table.is_gold
        variance = corrected.variance[plain]
        assert (variance < 0).all()
        noise = float(np.var(table.gain[table.is_gold], ddof=1))
        error = (corrected.gain - simulation.psi)[plain]
        ratios.append(float(np.mean(error**2 / (noise + variance))))
    assert 0.5 < np.mean(ratios) < 1.6


def judge_of_noise(seed: int, shared: float = 0.9) -> tuple[float, float]:
    """Slope and weight of oppose where gold and votes on the same queries share noise alone."""
    rng = np.random.default_rng(seed)
    gold, votes = rng.normal(size=120), rng.normal(size=120)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(120)],
        query=np.tile(np.arange(120), 2),
        gain=np.concatenate([gold, shared * gold + np.hypot(1.0, 0.9 - shared) * votes]),
        is_gold=np.arange(240) < 120,
        features=rng.normal(size=(120, 60)),
    )
    found = make_corrector("auto").fit(table).diagnostics_
    return float(found["preference_slope"]), float(found["use_of_preferences"]["oppose"])


def test_votes_of_gold_queries_do_not_vouch_for_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noise that gold and votes on one query share counts as little as noise that they do not."""
    seeds = range(24)
    slope, opposed = np.mean([judge_of_noise(seed) for seed in seeds], axis=0)
    apart = np.mean([judge_of_noise(seed, shared=0.0)[0] for seed in seeds])
    monkeypatch.setattr(fidelity, "_folds", lambda gold, *_: np.full(gold.n_queries, -1))
    counted = np.mean([judge_of_noise(seed)[0] for seed in seeds])
    assert slope == pytest.approx(apart, abs=0.15)
    assert abs(slope) < 0.2 * counted  # with the votes of gold queries in f
    assert opposed < 0.3


def test_levels_of_models_do_not_move_the_slope() -> None:
    """A pool in which every model is better by a constant, by both sources: the same use."""
    shares = []
    for level in (0.0, 0.6):
        rng = np.random.default_rng(0)
        n, x = 500, rng.normal(size=(500, 6)) / np.sqrt(6)
        psi = np.column_stack([np.zeros(n), x @ rng.normal(size=(6, 2)) * 0.5])
        candidate, levels = rng.integers(1, 3, n), np.array([0.0, level, level])
        gain = (psi + levels)[np.arange(n), candidate] + 0.3 * rng.normal(size=n)
        table = make_gain_table(
            queries=[f"q{i}" for i in range(n)],
            gain=gain,
            is_gold=np.arange(n) < 60,
            models=("m0", "m1", "m2"),
            candidate=candidate,
            baseline=np.zeros(n, dtype=np.int64),
            features=x,
        )
        found = make_corrector("auto").fit(table).diagnostics_
        shares.append([found["use_of_preferences"]["inform"], found["preference_slope"]])
    np.testing.assert_allclose(shares[0], shares[1], atol=0.15)
    assert min(share for share, _ in shares) > 0.3


def test_a_few_equal_gold_labels_are_not_certainty() -> None:
    """Ten ties, or one label: the interval is of the size of what labels vary by."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    votes = x[:, 0] + rng.normal(size=200)
    for n_gold, value in ((10, 0.0), (10, 1.0), (1, 0.5)):
        table = make_gain_table(
            queries=[f"q{i}" for i in range(200)],
            gain=np.where(np.arange(200) < n_gold, value, votes),
            is_gold=np.arange(200) < n_gold,
            features=x,
        )
        std = learn_gain(table, make_corrector("auto")).predict(x).std
        assert np.median(std) > 0.1 * np.std(votes)


@pytest.mark.parametrize("n_gold", [1, 10])
@pytest.mark.parametrize("votes_vary", [True, False])
def test_equal_gold_labels_teach_other_gain_models_their_level(
    n_gold: int, votes_vary: bool
) -> None:
    """What gold does not tell of its noise is found alike before and after the correction."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    table = make_gain_table(
        queries=[f"q{i}" for i in range(200)],
        gain=np.where(np.arange(200) < n_gold, 0.3, 0.3 + votes_vary * rng.normal(size=200)),
        is_gold=np.arange(200) < n_gold,
        features=x,
    )
    for name in ("auto", "two_fidelity"):
        estimate = learn_gain(table, make_corrector(name), gain_model="ridge").predict(x)
        assert 0.0 < estimate.mean.mean() < 0.4
        assert (estimate.std > 0).all()


def test_learn_gain_uses_the_posterior_or_fits_what_is_asked_for() -> None:
    simulation = simulate("linear", 0)
    corrector = make_corrector("auto").fit(simulation.table)
    own = predict(simulation, learn_gain(simulation.table, make_corrector("auto")))
    posterior = corrector.gain_posterior().predict(simulation.test.row_features())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(own.mean, posterior.mean)
    ridge = predict(
        simulation, learn_gain(simulation.table, make_corrector("auto"), gain_model="ridge")
    )
    # Ridge on the corrected rows says nearly the same: linear features carry most of it.
    assert np.corrcoef(ridge.mean[:, 0], own.mean[:, 0])[0, 1] > 0.95


@pytest.mark.parametrize("name", ["auto", "two_fidelity"])
def test_the_unit_of_the_weights_does_not_move_the_gain_model_that_follows(name: str) -> None:
    """Of weights only ratios matter, whoever learns from the corrected rows."""
    table, new = linear_world(0.5, n=400, n_gold=60), np.eye(5, dtype=np.float32)
    table = replace(table, weight=np.random.default_rng(3).uniform(0.5, 2.0, 400))
    once, many = (
        learn_gain(
            replace(table, weight=unit * table.weight), make_corrector(name), gain_model="ridge"
        ).predict(new)
        for unit in (1.0, 100.0)
    )
    np.testing.assert_allclose(many.mean, once.mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(many.std, once.std, rtol=1e-6)


@pytest.mark.parametrize("bases", [["linear"], ["rbf2", "rbf3"], ["linear", "rbf3"], list(BASES)])
def test_the_votes_model_takes_the_bases_that_there_are(bases: list[str]) -> None:
    """A judge that is curved is followed where a curved basis is among them, and only there."""
    table, truth = curved_judge(d=3)
    gain = learn_gain(table, EvidenceCorrector(bases=bases, uses=["inform"]))
    agreement = np.corrcoef(gain.predict(table.row_features()[:500]).mean[:, 0], truth[:500])[0, 1]
    if bases == ["linear"]:
        assert agreement < 0.4
    else:
        assert agreement > 0.95


def curved_judge(d: int, n: int = 3_000) -> tuple[GainTable, FloatArray]:
    """60 gold labels and votes of a judge who is right about a gain that is no line."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) * 2.0 ** -np.arange(d)
    truth = np.cos(1.5 * X[:, 0])
    table = make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=truth + 0.3 * rng.normal(size=n),
        is_gold=np.arange(n) < 60,
        features=X,
    )
    return table, truth


@pytest.mark.parametrize("is_pool", [False, True])
def test_the_votes_model_is_at_the_entries_of_its_parts(is_pool: bool) -> None:
    """Fitted over the entries of some parts, it predicts what it does when fitted over all."""
    table, _ = curved_judge(d=12, n=1_200)
    if is_pool:
        candidate = 1 + np.arange(len(table)) % 2
        table = replace(
            table, models=("cheap", "middle", "premium"), candidate=candidate.astype(np.int64)
        )
    narrow = learn_gain(table, EvidenceCorrector()).predict(table.row_features()[:50])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "judge_map", whole)
        patch.setattr(judge, "judge_map", whole)
        patch.setattr(fidelity, "judge_families", families_in_whole)
        full = learn_gain(table, EvidenceCorrector()).predict(table.row_features()[:50])
    np.testing.assert_allclose(narrow.mean, full.mean, atol=1e-9)
    np.testing.assert_allclose(narrow.std, full.std, atol=1e-9)
    assert narrow.mean.std() > 0.1


judge_map, judge_families = judge.judge_map, judge.judge_families


def whole(query_map: QueryMap, n_candidates: int) -> tuple[QueryMap, IntArray]:
    """Nothing left out."""
    return query_map, np.arange(query_map.dim * n_candidates)


def families_in_whole(query_map: QueryMap, n_candidates: int) -> list[IntArray]:
    """What the regressions take, among all entries."""
    narrow, entries = judge_map(query_map, n_candidates)
    assert len(entries) < query_map.dim * n_candidates
    return [entries[each] for each in judge_families(narrow, n_candidates)]


@pytest.mark.parametrize("d", [1, 2])
def test_a_pool_is_followed_in_few_features(d: int) -> None:
    """How many features there are bounds no curve."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, d))
    candidate = 1 + np.arange(900) % 2
    truth = np.where(candidate == 1, np.cos(2 * X[:, 0]), np.sin(2 * X[:, 0]))
    table = make_gain_table(
        queries=[f"q{i}" for i in range(900)],
        gain=truth + 0.2 * rng.normal(size=900),
        is_gold=np.ones(900, dtype=np.bool_),
        features=X,
        models=("cheap", "middle", "premium"),
        candidate=candidate,
    )
    predicted = learn_gain(table, make_corrector("auto")).predict(X).mean
    assert np.corrcoef(predicted[:, 0], np.cos(2 * X[:, 0]))[0, 1] > 0.95
    assert np.corrcoef(predicted[:, 1], np.sin(2 * X[:, 0]))[0, 1] > 0.95


def shares(table: GainTable, **options: object) -> dict[str, float]:
    """Posterior probability of each basis."""
    found: dict[str, float] = EvidenceCorrector(**options).fit(table).diagnostics_["basis"]  # type: ignore[arg-type]
    return found


@cache
def two_directions(bias: str) -> Simulation:
    """Gold looks at one of 30 directions, the judge at that one and at another."""
    return make_simulation(4_000, 30, n_gold=100, n_test=500, bias=bias, seed=3)


@pytest.mark.parametrize("bias", ["linear", "topic", "nonlinear"])
def test_a_few_gold_labels_go_far_where_the_votes_tell_which_directions_matter(bias: str) -> None:
    """The index takes 3 % and more off the error, on average over the seeds."""
    error: dict[tuple[str, ...], list[float]] = {BASES: [], (*BASES, "index"): []}
    for seed in range(6):
        made = make_simulation(4_000, 30, n_gold=100, n_test=500, bias=bias, seed=seed)
        for bases, found in error.items():
            corrector = EvidenceCorrector(bases=bases)
            gain = predict(made, learn_gain(made.table, corrector)).mean[:, 0]
            found.append(root_mean_square(gain - made.test_psi))
            assert "index" not in bases or corrector.diagnostics_["basis"]["index"] > 0.15
    assert np.mean(error[*BASES, "index"]) < 0.97 * np.mean(error[BASES])


def test_votes_that_know_no_direction_make_no_hypothesis_of_their_own() -> None:
    """The posterior is the one without it, to the last bit."""
    simulation = two_directions("noise")
    assert "index" not in shares(simulation.table)
    X = simulation.test.row_features()
    one, other = (
        learn_gain(simulation.table, EvidenceCorrector(bases=bases)).predict(X).mean
        for bases in (BASES, (*BASES, "index"))
    )
    np.testing.assert_array_equal(one, other)


def test_directions_need_the_votes_of_a_pair_and_enough_of_them() -> None:
    simulation = two_directions("nonlinear")
    table = simulation.table
    few = table.rows(np.concatenate([np.flatnonzero(table.is_gold), np.arange(150)]))
    pool = replace(
        table,
        models=("cheap", "middle", "premium"),
        candidate=1 + np.arange(len(table), dtype=np.int64) % 2,
    )
    gold_alone = table.gold()
    for rows in (few, pool, gold_alone):
        assert "index" not in shares(rows)
        assert set(shares(rows, bases=["index"])) == {"linear"}
    assert set(shares(table, bases=["index"])) == {"index"}


def test_votes_on_gold_queries_tell_no_direction() -> None:
    """What is wrong with both labels of an answer would be taken for one."""
    simulation = two_directions("nonlinear")
    n = len(simulation.psi)
    twice = make_gain_table(
        queries=simulation.table.queries,
        query=np.tile(np.arange(n), 2),
        gain=np.concatenate([simulation.gold_gain, simulation.preference_gain]),
        is_gold=np.arange(2 * n) < n,
        features=simulation.features,
    )
    assert "index" not in shares(twice)
    assert "index" in shares(twice.rows((np.arange(2 * n) >= n) | (np.arange(2 * n) < 100)))


@pytest.mark.parametrize("n", [11_000, 41_000])
def test_directions_are_found_however_many_votes_there_are(n: int) -> None:
    simulation = make_simulation(n + 600, 30, n_gold=100, n_test=500, bias="nonlinear", seed=0)
    assert "index" in shares(simulation.table)


def test_many_votes_on_few_queries_tell_no_direction() -> None:
    """Those of one query are one observation: any function of it fits them."""
    rng = np.random.default_rng(0)
    query = np.concatenate([np.arange(60), 60 + np.arange(3_000) % 60])
    table = make_gain_table(
        queries=[f"q{i}" for i in range(120)],
        query=query,
        gain=rng.normal(size=120)[query] + 0.3 * rng.normal(size=len(query)),
        is_gold=query < 60,
        features=rng.normal(size=(120, 8)),
    )
    assert "index" not in shares(table)


def test_directions_follow_gold_when_premium_and_cheap_are_swapped() -> None:
    """The gains turn round, and nothing else."""
    simulation = two_directions("linear")
    table, X = simulation.table, simulation.test.row_features()
    turned = table.with_gains(-table.gain, table.variance)
    one, other = (learn_gain(each, EvidenceCorrector()).predict(X) for each in (table, turned))
    np.testing.assert_allclose(other.mean, -one.mean, atol=1e-6)
    np.testing.assert_allclose(other.std, one.std, rtol=1e-5)


def test_directions_are_served_as_they_were_learned() -> None:
    """Through arrays, as an artifact keeps them."""
    simulation = two_directions("linear")
    X = simulation.test.row_features()
    posterior = EvidenceCorrector().fit(simulation.table).gain_posterior()
    assert "index" in posterior.query_map.parts
    restored = QueryMap.restore(posterior.query_map.state())
    np.testing.assert_array_equal(restored.transform(X), posterior.query_map.transform(X))


def asked(table: GainTable, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the corrector tells the evidence of the sizes of the judge."""
    told: dict[str, float] = {}

    def spy(*args: Any, **options: Any) -> Evidence:
        told.update({name: options[name] for name in ("judge_size", "verdict_size", "level_error")})
        return weigh_hypotheses(*args, **options)

    monkeypatch.setattr("metarouter.correction.fidelity.weigh_hypotheses", spy)
    make_corrector("auto").fit(table)
    return told


def test_in_a_pool_verdicts_vary_by_candidate_and_no_level_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The levels of a pool are in its bases."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 3)).astype(np.float32)
    candidate = 1 + np.arange(900) % 2
    g = np.where(candidate == 1, X[:, 0], 2 * X[:, 1])  # of variance 1 and 4
    table = make_gain_table(
        queries=[f"q{i}" for i in range(900)],
        gain=g + rng.normal(size=900),
        is_gold=np.arange(900) < 60,
        features=X,
        models=("cheap", "middle", "premium"),
        candidate=candidate,
    )
    told = asked(table, monkeypatch)
    assert told["level_error"] == 0.0
    assert told["judge_size"] < told["verdict_size"]
    assert told["verdict_size"] ** 2 == pytest.approx(2.5, rel=0.2)


@pytest.mark.parametrize("n", [150, 2_000])
def test_what_the_votes_do_not_tell_of_the_judge_counts_as_its_verdicts(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts 0.3 + x, of variance 1, seen through noise of variance 4: f tells part of it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n + 20, 3)).astype(np.float32)
    g = 0.3 + X[:, 0]
    is_gold = np.arange(n + 20) < 20
    table = make_gain_table(
        queries=[f"q{i}" for i in range(n + 20)],
        gain=np.where(is_gold, 1.0, 2.0) * rng.normal(size=n + 20) + g,
        is_gold=is_gold,
        features=X,
    )
    told = asked(table, monkeypatch)
    assert told["judge_size"] < told["verdict_size"]
    assert told["verdict_size"] ** 2 == pytest.approx(
        float(g.var()), rel=0.35 if n < 1_000 else 0.1
    )
    assert told["level_error"] == pytest.approx(2.0 / np.sqrt(n), rel=0.25)
