"""A query's strengths equal a plain logistic regression on all weighted battles."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from metarouter.errors import DataError, OptionError
from metarouter.gain.battle_sums import BattleCells, TierBattles, cut_normal_weight
from metarouter.gain.sw_ranking import GAMMAS, Normaliser, SWRanking
from metarouter.gain.tiers import optimal_tiers
from metarouter.labels import GainTable, make_gain_table
from metarouter.types import BoolArray, FloatArray


def make_arena(n: int = 400, n_models: int = 5, seed: int = 0) -> GainTable:
    """Votes with ties between models whose strengths depend on the prompt."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, n_models, n)
    b = (a + rng.integers(1, n_models, n)) % n_models
    candidate, baseline = np.maximum(a, b), np.minimum(a, b)
    x = rng.normal(size=(n, 8)) + 0.6
    odds = 0.5 * (candidate - baseline) * (1.0 + 0.8 * x[:, 0])
    won = rng.random(n) < 1.0 / (1.0 + np.exp(-odds))
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        models=[f"model {i}" for i in range(n_models)],
        candidate=candidate,
        baseline=baseline,
        gain=np.where(rng.random(n) < 0.2, 0.0, np.where(won, 1.0, -1.0)),
        weight=rng.choice([0.5, 1.0, 2.0], n),
        is_gold=np.zeros(n, dtype=bool),
        features=x,
    )


def cosine(a: FloatArray, b: FloatArray) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def battle_weights(table: GainTable, query: FloatArray, gamma: float, kind: str) -> FloatArray:
    """γ^(similarity / normaliser − 1) times the weight, battle by battle."""
    x = np.asarray(table.features, dtype=np.float64)
    similarity = np.array([cosine(query, row) for row in x])
    if kind == "query":
        norm = np.full(len(x), similarity.max())
    else:
        norm = np.array(
            [max(cosine(row, x[j]) for j in range(len(x)) if j != i) for i, row in enumerate(x)]
        )
    return np.asarray(gamma ** (similarity / norm - 1.0) * table.weight)


def logistic(
    x: FloatArray, y: FloatArray, w: FloatArray, centre: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Penalised logistic regression and its sandwich, by plain Newton steps on all rows."""
    beta, eye = centre.copy(), penalty * np.eye(x.shape[1])
    for _ in range(60):
        p = 1.0 / (1.0 + np.exp(-x @ beta))
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + eye
        gradient = x.T @ (w * (y - p)) - penalty * (beta - centre)
        beta = beta + np.linalg.solve(hessian, gradient)
    middle = (x * ((w * (y - p)) ** 2)[:, None]).T @ x + eye
    inverse = np.linalg.inv(hessian)
    return beta, inverse @ middle @ inverse


@pytest.mark.parametrize("normaliser", ["query", "battle"])
@pytest.mark.parametrize("gamma", [3.0, 10.0, 1000.0])
def test_a_query_equals_a_logistic_regression_on_all_battles(
    normaliser: Normaliser, gamma: float
) -> None:
    """Gains and standard deviations agree to 1e-6 with the straight line."""
    table = make_arena(150)
    model = SWRanking(gamma=gamma, normaliser=normaliser, penalty=0.7).fit(table)
    queries = np.random.default_rng(1).normal(size=(4, 8)) + 0.6
    estimate = model.predict(queries)
    eye = np.eye(5)
    x = eye[model.tier_[table.candidate]] - eye[model.tier_[table.baseline]]
    for i, query in enumerate(queries.astype(np.float32).astype(np.float64)):
        w = battle_weights(table, query, gamma, normaliser)
        beta, covariance = logistic(x, 0.5 + 0.5 * table.gain, w, model.strength_, 0.7)
        for m in range(1, 5):
            c = eye[model.tier_[m]] - eye[model.tier_[0]]
            p = 1.0 / (1.0 + math.exp(-c @ beta))
            assert estimate.mean[i, m - 1] == pytest.approx(2 * p - 1, abs=1e-6)
            std = 2 * p * (1 - p) * math.sqrt(c @ covariance @ c)
            assert estimate.std[i, m - 1] == pytest.approx(std, rel=1e-4)


def test_strengths_over_all_queries_are_those_of_equal_weights() -> None:
    """Without regard to prompts it is Bradley-Terry with a prior of 0.01 battles."""
    table = make_arena()
    model = SWRanking(gamma=10.0).fit(table)
    x = np.eye(5)[model.tier_[table.candidate]] - np.eye(5)[model.tier_[table.baseline]]
    beta, _ = logistic(x, 0.5 + 0.5 * table.gain, table.weight, np.zeros(5), 0.01)
    np.testing.assert_allclose(model.strength_, beta, atol=1e-8)


def test_the_factor_of_the_weights_does_not_matter_without_a_pull() -> None:
    """RouteLLM's 10 · 10^(sim / max) gives the same win probability as ours."""
    table = make_arena(300)
    query = np.random.default_rng(2).normal(size=(1, 8)) + 0.6
    model = SWRanking(gamma=10.0, penalty=1e-9).fit(table)
    w = 100.0 * battle_weights(table, query[0].astype(np.float32).astype(float), 10.0, "query")
    x = np.eye(5)[model.tier_[table.candidate]] - np.eye(5)[model.tier_[table.baseline]]
    beta, _ = logistic(x, 0.5 + 0.5 * table.gain, w, np.zeros(5), 1e-9)
    elo = 400.0 * beta / math.log(10.0) + 1000.0
    strong, weak = elo[model.tier_[4]], elo[model.tier_[0]]
    published = 1.0 - 1.0 / (1.0 + 10.0 ** ((strong - weak) / 400.0))
    assert model.win_probability(query)[0, 3] == pytest.approx(published, abs=1e-6)


def test_battles_of_one_prompt_and_pair_are_one_draw() -> None:
    """Two votes on a prompt weigh as two, and are no more certain than one vote twice as heavy."""
    table = make_arena(300)
    query = np.random.default_rng(2).normal(size=(5, 8)) + 0.6
    doubled = table.rows(np.concatenate([np.arange(300), np.arange(300)]))
    heavy = replace(table, weight=2.0 * table.weight)
    one, other = (SWRanking(gamma=10.0).fit(t).predict(query) for t in (doubled, heavy))
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-9)
    np.testing.assert_allclose(one.std, other.std, rtol=1e-9)


def test_which_side_of_a_battle_a_model_is_on_does_not_matter() -> None:
    """Roles and gain turned round say the same, also beside a vote that is not turned."""
    table = make_arena(300)
    query = np.random.default_rng(2).normal(size=(5, 8)) + 0.6
    doubled = table.rows(np.concatenate([np.arange(300), np.arange(300)]))
    turned = np.arange(600) >= 300
    mixed = replace(
        doubled,
        candidate=np.where(turned, doubled.baseline, doubled.candidate),
        baseline=np.where(turned, doubled.candidate, doubled.baseline),
        gain=np.where(turned, -doubled.gain, doubled.gain),
    )
    one, other = (SWRanking(gamma=10.0).fit(t).predict(query) for t in (doubled, mixed))
    np.testing.assert_allclose(other.mean, one.mean, atol=1e-9)
    np.testing.assert_allclose(other.std, one.std, rtol=1e-9)


def test_gamma_decides_how_local_the_ranking_is() -> None:
    """A large γ follows the prompts, γ near 1 gives all queries one ranking."""
    table = make_arena(2_000)
    queries = np.random.default_rng(3).normal(size=(50, 8)) + 0.6
    spread = [
        float(SWRanking(gamma=gamma).fit(table).predict(queries).mean[:, 3].std())
        for gamma in (1.001, 10.0, 1e4)
    ]
    assert spread[0] < 1e-3 < spread[1] < spread[2]


def test_follows_the_kind_of_prompt() -> None:
    """The strong model's lead is larger where it truly is."""
    model = SWRanking(gamma=100.0).fit(make_arena(4_000))
    lead = np.full((2, 8), 0.6)
    lead[:, 0] = [2.5, -1.5]
    easy, hard = model.predict(lead).mean[:, 3]
    assert easy - hard > 0.2


def test_models_share_tiers_when_there_are_more_of_them() -> None:
    """Tiers are cut from the overall ratings, and a model keeps its place within its tier."""
    table = make_arena(3_000, n_models=8)
    tiered, flat = (
        SWRanking(gamma=10.0, num_tiers=3, within_tiers=within) for within in (True, False)
    )
    query = np.full((1, 8), 0.6)
    mean = tiered.fit(table).predict(query).mean[0]
    assert tiered.strength_.shape == (3,)
    assert len(set(mean.round(9))) == 7
    shared = flat.fit(table).predict(query).mean[0]
    np.testing.assert_array_equal(flat.tier_, tiered.tier_)
    same = flat.tier_[1:] == flat.tier_[0]
    np.testing.assert_allclose(shared[same], 0.0, atol=1e-12)
    for t in set(flat.tier_[1:].tolist()):
        assert np.ptp(shared[flat.tier_[1:] == t]) == 0.0
    assert sorted(set(tiered.tier_.tolist())) == [0, 1, 2]
    assert tiered.tier_[7] == 0


def test_a_dense_table_gives_each_model_its_own_tier() -> None:
    """Where every model answered every prompt, models of one rating are told apart by prompt."""
    rng = np.random.default_rng(0)
    n, m = 400, 12
    kind = rng.integers(0, 2, n)
    p = np.full((n, m), 0.5)
    p[:, 0] = 0.2
    p[kind == 0, 1:6], p[kind == 1, 6:] = 0.9, 0.9  # two halves of equal rating, opposite skills
    score = (rng.random((n, m)) < p).astype(float)
    table = make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        models=[f"model {i}" for i in range(m)],
        query=np.repeat(np.arange(n), m - 1),
        candidate=np.tile(np.arange(1, m), n),
        baseline=np.zeros(n * (m - 1)),
        gain=(score[:, 1:] - score[:, :1]).ravel(),
        is_gold=np.ones(n * (m - 1), dtype=bool),
        features=np.eye(2)[kind] + 0.1 * rng.normal(size=(n, 2)),
    )
    model = SWRanking().fit(table)
    assert len(model.strength_) == 12
    first = model.predict(np.eye(2)).mean
    assert first[0, :5].min() > first[0, 5:].max()
    assert first[1, :5].max() < first[1, 5:].min()


def test_sparse_battles_of_many_models_share_ten_tiers() -> None:
    """Forty models with a few battles each learn from each other's."""
    table = make_arena(250, n_models=40)
    assert len(SWRanking().fit(table).strength_) == 10
    assert len(SWRanking(num_tiers=40, gamma=10.0).fit(table).strength_) == 40


def test_battles_within_a_tier_say_nothing_of_tiers() -> None:
    """Other outcomes inside a tier leave the strengths of the tiers as they are."""
    table = make_arena(3_000, n_models=8)
    model = SWRanking(gamma=10.0, num_tiers=3, within_tiers=False).fit(table)
    inside = model.tier_[table.candidate] == model.tier_[table.baseline]
    assert 0 < inside.sum() < len(table)
    turned = replace(table, gain=np.where(inside, table.gain * 0.98, table.gain))
    again = SWRanking(gamma=10.0, num_tiers=3, within_tiers=False).fit(turned)
    np.testing.assert_array_equal(again.tier_, model.tier_)
    np.testing.assert_allclose(again.strength_, model.strength_, atol=1e-12)


def test_a_query_like_no_prompt_gets_the_overall_ranking() -> None:
    """Where all similarities are 0 all battles weigh the same."""
    table = make_arena(500)
    features = np.hstack([np.asarray(table.features), np.zeros((500, 1))])
    model = SWRanking(gamma=10.0, penalty=1e6).fit(table.with_features(features.astype(np.float32)))
    far = np.zeros((1, 9))
    far[0, 8] = 1.0
    p = 1.0 / (1.0 + np.exp(-(model.strength_[model.tier_[1:]] - model.strength_[model.tier_[0]])))
    np.testing.assert_allclose(model.win_probability(far)[0], p, atol=1e-3)


def test_the_order_of_the_battles_does_not_matter() -> None:
    """Rows in another order give the same predictions."""
    table = make_arena()
    query = np.random.default_rng(0).normal(size=(5, 8))
    order = np.random.default_rng(1).permutation(len(table))
    one, other = (SWRanking(gamma=10.0).fit(t).predict(query) for t in (table, table.rows(order)))
    np.testing.assert_allclose(other.mean, one.mean, atol=1e-9)
    np.testing.assert_allclose(other.std, one.std, rtol=1e-9)


def test_the_standard_deviation_is_that_over_repeated_samples() -> None:
    """Over 150 samples of battles the stated variance is the observed one."""
    query = np.full((1, 8), 0.6)
    estimates = [
        SWRanking(gamma=10.0).fit(make_arena(400, seed=s)).predict(query) for s in range(150)
    ]
    observed = np.var([e.mean[0, 3] for e in estimates], ddof=1)
    stated = np.mean([e.std[0, 3] ** 2 for e in estimates])
    # the variance of 150 draws has a relative standard error of 12 %
    assert stated == pytest.approx(observed, rel=0.4)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 1.0},
        {"gamma": math.nan},
        {"normaliser": "prompt"},
        {"penalty": 0.0},
        {"cells": -1},
        {"cells": 4, "normaliser": "battle"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_outside_their_range_are_refused(options: dict[str, float]) -> None:
    """The message names the option and what is allowed."""
    with pytest.raises(OptionError, match=f"{next(iter(options))} = .*allowed"):
        SWRanking(**options).fit(make_arena(20))  # type: ignore[arg-type]


def test_one_tier_cannot_rank() -> None:
    """With all models in one tier there is nothing to learn."""
    with pytest.raises(DataError, match="within one of 1 tiers"):
        SWRanking(num_tiers=1).fit(make_arena(60))


def test_ten_tiers_of_ten_models_or_fewer_are_the_models() -> None:
    """Then tiers change nothing but the numbering."""
    rating = np.array([3.0, 1.0, 2.0])
    assert optimal_tiers(rating, 10).tolist() == [0, 2, 1]


def left_out_errors(table: GainTable, model: SWRanking, gamma: float) -> FloatArray:
    """Weighted squared error on each prompt's battle, fitted without that prompt."""
    eye, errors = np.eye(5), []
    x = eye[model.tier_[table.candidate]] - eye[model.tier_[table.baseline]]
    y, features = 0.5 + 0.5 * table.gain, np.asarray(table.features, dtype=np.float64)
    for i in range(len(table)):
        rest = np.arange(len(table)) != i
        w = battle_weights(replace_rows(table, rest), features[i], gamma, "query")
        beta, _ = logistic(x[rest], y[rest], w, model.strength_, 1.0)
        p = 1.0 / (1.0 + math.exp(-x[i] @ beta))
        errors.append(table.weight[i] * (y[i] - p) ** 2)
    return np.array(errors)


def replace_rows(table: GainTable, keep: BoolArray) -> GainTable:
    """Some rows of a table that has one row for each query, with their features."""
    return replace(table.rows(keep), features=np.asarray(table.features)[keep])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gamma_is_the_smallest_about_as_good_as_the_best(seed: int) -> None:
    """Within a standard error of the least error on prompts that were left out."""
    table = make_arena(70, seed=seed)
    model = SWRanking().fit(table)
    errors = [left_out_errors(table, model, gamma) for gamma in GAMMAS]
    best = min(errors, key=lambda e: float(e.sum()))
    good = [
        gamma
        for gamma, e in zip(GAMMAS, errors, strict=True)
        if (e - best).mean() <= (e - best).std() / math.sqrt(len(e))
    ]
    assert model.gamma_ == good[0]


def test_more_battles_allow_a_more_local_ranking() -> None:
    """Where rankings differ by kind of prompt, γ grows with what there is to see it by."""
    kinds = np.repeat(np.eye(8), 250, axis=0) + 0.1 * np.random.default_rng(0).normal(
        size=(2000, 8)
    )
    table = make_gain_table(
        queries=[f"query {i}" for i in range(2000)],
        gain=np.repeat([1.0, -1.0] * 4, 250),
        is_gold=[False] * 2000,
        features=kinds,
    )
    assert SWRanking().fit(table).gamma_ >= 100.0
    noise = replace(table, gain=np.random.default_rng(1).choice([-1.0, 1.0], 2000))
    assert SWRanking().fit(noise).gamma_ == 10.0


def test_cells_that_are_all_near_equal_a_scan() -> None:
    """With so few cells that each is looked into, nothing is approximated."""
    table = make_arena(500)
    query = np.random.default_rng(4).normal(size=(20, 8)) + 0.6
    scan = SWRanking(gamma=50.0, cells=0).fit(table).predict(query)
    cells = SWRanking(gamma=50.0, cells=8).fit(table).predict(query)
    np.testing.assert_allclose(cells.mean, scan.mean, atol=1e-6)
    np.testing.assert_allclose(cells.std, scan.std, rtol=1e-5)


def test_far_cells_stand_for_their_battles() -> None:
    """With one cell in ten looked into, what is lost is less than the sampling error.

    Prompts without any clusters, as here, are the hardest case.
    """
    table = make_arena(6_000)
    query = np.random.default_rng(4).normal(size=(100, 8)) + 0.6
    scan = SWRanking(gamma=10.0, cells=0).fit(table).predict(query)
    cells = SWRanking(gamma=10.0, cells=80).fit(table).predict(query)
    assert np.sqrt(((cells.mean - scan.mean) ** 2).mean()) < 0.75 * scan.std.mean()
    assert np.corrcoef(cells.mean[:, 3], scan.mean[:, 3])[0, 1] > 0.98
    np.testing.assert_allclose(cells.std, scan.std, rtol=0.2)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_cells_state_the_uncertainty_of_a_scan(gamma: float) -> None:
    """However local the ranking is, prompts without clusters being the hardest case."""
    table = make_arena(6_000)
    query = np.random.default_rng(4).normal(size=(100, 8)) + 0.6
    scan = SWRanking(gamma=gamma, cells=0).fit(table).predict(query)
    cells = SWRanking(gamma=gamma, cells=80).fit(table).predict(query)
    assert (cells.std / scan.std).mean() == pytest.approx(1.0, abs=0.1)


def test_queries_that_point_away_from_every_prompt_are_as_uncertain_as_by_a_scan() -> None:
    """No battle is like them: the overall ranking, and the width of what pulls to it."""
    table = make_arena(2_000)
    features = np.asarray(table.features) + 3.0
    table = table.with_features(features.astype(np.float32))
    scan, cells = (SWRanking(gamma=100.0, cells=n).fit(table) for n in (0, 80))
    far, wide = cells.predict(-features[:20]), scan.predict(-features[:20])
    np.testing.assert_allclose(far.mean, wide.mean, atol=1e-3)
    np.testing.assert_allclose(far.std, wide.std, rtol=1e-3)
    assert (far.std > 5.0 * cells.predict(features[:20]).std).all()


@pytest.mark.parametrize("rate", [0.5, 5.0, 50.0, 5e3])
def test_the_weight_of_a_cell_is_that_of_normal_similarities_below_the_largest(rate: float) -> None:
    """Against a sum over a fine grid of similarities."""
    sigma, gap = 0.1, np.array([-0.05, 0.0, 0.02, 0.1, 0.3, 0.5])
    deeper = np.linspace(0.0, 3.0, 3_000_001)  # below the norm
    density = np.exp(-0.5 * ((deeper - gap[:, None]) / sigma) ** 2)
    expected = (density * np.exp(-rate * deeper)).sum(axis=1) / density.sum(axis=1)
    found = cut_normal_weight(rate, gap, sigma**2)
    np.testing.assert_allclose(found, expected, rtol=0.03)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_no_cell_weighs_more_than_its_battles(gamma: float) -> None:
    """Weights are at most 1, for queries among the prompts and for those like none of them."""
    table = make_arena(2_000)
    features = np.hstack([np.asarray(table.features) + 3.0, np.zeros((2_000, 1))])
    table = table.with_features(features.astype(np.float32))
    model = SWRanking(gamma=gamma, cells=80).fit(table)
    queries = np.vstack([features[:20], -features[:20], np.eye(9)[8:]])
    arrays = model.state().arrays
    eye = np.eye(len(model.strength_))
    battles = TierBattles(
        points=arrays["points"],
        query=arrays["query"].astype(np.int64),
        pair=arrays["pair"].astype(np.int64),
        win=arrays["win"],
        weight=arrays["weight"],
        n_tiers=len(eye),
    )
    cells = BattleCells(battles, arrays["cell_size"], math.log(gamma))
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    wins, second = cells(unit.astype(np.float32))
    assert (wins <= battles.total_wins() * (1 + 1e-6) + 1e-9).all()
    assert np.isfinite(second).all()
    estimate = model.predict(queries)
    assert np.isfinite(estimate.mean).all()
    assert (estimate.std > 0).all()


def test_many_queries_at_once_equal_one_by_one() -> None:
    """By a scan and by cells, for more queries than are taken at a time."""
    table = make_arena(400)
    queries = np.random.default_rng(5).normal(size=(300, 8)) + 0.6
    for cells in (0, 40):
        model = SWRanking(gamma=50.0, cells=cells).fit(table)
        together = model.predict(queries)
        alone = [model.predict(queries[i : i + 1]) for i in range(0, 300, 30)]
        np.testing.assert_allclose(together.mean[::30], [e.mean[0] for e in alone], atol=1e-6)
        np.testing.assert_allclose(together.std[::30], [e.std[0] for e in alone], rtol=1e-5)
        assert model.predict(queries[:0]).mean.shape == (0, 4)


def test_a_query_equal_to_a_lonely_prompt_weighs_it_alone() -> None:
    """A battle far more similar than its prompt is to any other has a huge but finite weight."""
    table = make_arena(60)
    features = np.zeros((60, 60), dtype=np.float32)
    features[:, 0] = 0.33  # similarity of any two prompts 0.1
    features[np.arange(60), np.arange(60)] += 1.0
    model = SWRanking(gamma=1_000.0, normaliser="battle").fit(table.with_features(features))
    estimate = model.predict(features[30:32])
    assert np.isfinite(estimate.mean).all()
    assert np.isfinite(estimate.std).all()


def test_large_sets_of_battles_are_put_into_cells() -> None:
    """From 20,000 prompts on a query is not compared with each of them."""
    table = make_arena(20_000, n_models=2)
    assert len(SWRanking(gamma=10.0).fit(table).state().arrays["cell_size"]) == 282
    assert "cell_size" not in SWRanking(gamma=10.0, cells=0).fit(table).state().arrays
