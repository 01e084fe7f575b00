"""A model, or a pair, that the router was not fitted on."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metarouter
from metarouter.errors import DataError, OptionError
from metarouter.evaluation import efficiency_gain_area
from metarouter.fitting import FitOptions, fit_table
from metarouter.gain.population import estimate_gain, make_population
from metarouter.labels.table import make_gain_table
from metarouter.onboarding import onboard
from metarouter.policy.costs import estimate_tokens
from metarouter.records import ModelSpec
from metarouter.router import Router
from metarouter.testing import make_queries

PRICES = {
    name: ModelSpec(name=name, input_usd_per_mtok=price, output_usd_per_mtok=2 * price)
    for name, price in (("small", 0.1), ("middle", 1.0), ("large", 5.0), ("new", 2.0), ("old", 0.2))
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(make_queries(300, np.random.default_rng(0)).texts)


def hardness(texts: list[str]) -> np.ndarray[Any, Any]:
    """A property of a text that surface features can see."""
    length = np.array([float(len(text)) for text in texts])
    return np.asarray((length - length.mean()) / length.std())


@pytest.fixture(scope="module")
def router(texts: list[str]) -> Router:
    """Gains of middle and large over small, both larger on longer queries."""
    rng = np.random.default_rng(1)
    hard = hardness(texts)
    gain = np.column_stack([0.1 + 0.1 * hard, 0.2 + 0.3 * hard]) + 0.1 * rng.normal(size=(300, 2))
    table = make_gain_table(
        queries=texts,
        query=np.repeat(np.arange(300), 2),
        gain=gain.ravel(),
        is_gold=np.ones(600, dtype=bool),
        models=("small", "middle", "large"),
        candidate=np.tile([1, 2], 300),
        baseline=np.zeros(600),
    )
    return fit_table(table, FitOptions(embedder="surface", gain_model="ridge", folds=0))


def labels(texts: list[str], new: Any, old: Any, names: tuple[str, str]) -> list[dict[str, Any]]:
    """Scores of two models."""
    return [
        {"query": text, "model": name, "score": float(score)}
        for text, *scores in zip(texts, new, old, strict=True)
        for name, score in zip(names, scores, strict=True)
    ]


def gain_of(served: Router, texts: list[str], name: str) -> tuple[Any, Any]:
    """Predicted mean and std of one candidate, wherever it stands."""
    gain, place = served.predict_gain(texts), served.models.index(name) - 1
    return gain.mean[:, place], gain.std[:, place]


def test_the_posterior_is_that_of_a_gaussian_model_averaged_over_its_hypotheses() -> None:
    """Against dense Gaussian algebra, one hypothesis at a time, more labels than features."""
    rng = np.random.default_rng(2)
    for k in (4, 30):
        known, own = rng.normal(size=(k, 2)), rng.normal(size=(k, 3))
        gain, weight = rng.normal(size=k), rng.uniform(0.5, 2.0, size=k)
        rows = np.hstack([known, np.ones((k, 1)), own])
        levels = np.array([0.1, 0.4])
        found = estimate_gain(make_population(levels), rows, gain, weight)
        mean, covariance = averaged_by_hand(rows, gain, weight, levels)
        np.testing.assert_allclose(found.mean, mean, atol=1e-9)
        np.testing.assert_allclose(found.covariance, covariance, atol=1e-9)


def averaged_by_hand(rows: Any, gain: Any, weight: Any, levels: Any) -> tuple[Any, Any]:
    """The formulas of the module's docstring, without any of its short cuts."""
    pi = np.array([0.5, 0.5])
    V = sum(np.outer(e - pi, e - pi) for e in (np.zeros(2), np.eye(2)[0], np.eye(2)[1])) / 2
    v_b = ((0.0 - 0.25) ** 2 + (0.1 - 0.25) ** 2 + (0.4 - 0.25) ** 2) / 2
    weight = weight / weight.mean()
    centre = (weight @ gain) / weight.sum()
    variance = (weight @ (gain - centre) ** 2 + 5 * 0.25) / (weight.sum() + 5)
    start = np.concatenate([pi, np.zeros(rows.shape[1] - 2)])
    bell = {s: np.exp(-0.5 * (np.log(s / 0.03) / 2) ** 2) for s in (0.003, 0.01, 0.03, 0.1, 0.3, 1)}
    own = {0.0: 0.1} | {s: 0.9 * value / sum(bell.values()) for s, value in bell.items()}
    log, means, covariances = [], [], []
    for tau, s, share in product((0.1, 0.3, 1.0, 3.0), own, (0.75, 1.0)):
        noise = share * variance
        D = np.zeros((rows.shape[1], rows.shape[1]))
        D[:2, :2] = tau * V
        D[2, 2] = v_b
        D[3:, 3:] = s * noise * np.eye(rows.shape[1] - 3)
        C = rows @ D @ rows.T + np.diag(noise / weight)
        r = gain - rows @ start
        prior = np.log(own[s]) - 0.5 * np.log(tau) ** 2
        log.append(-0.5 * (np.linalg.slogdet(C)[1] + r @ np.linalg.solve(C, r)) + prior)
        means.append(start + D @ rows.T @ np.linalg.solve(C, r))
        covariances.append(D - D @ rows.T @ np.linalg.solve(C, rows @ D))
    share = np.exp(np.array(log) - max(log))
    share[share < 1e-3] = 0.0
    share /= share.sum()
    mean = share @ np.array(means)
    spread = [c + np.outer(m - mean, m - mean) for c, m in zip(covariances, means, strict=True)]
    return mean, np.tensordot(share, np.array(spread), axes=1)


def test_the_unit_of_the_weights_is_not_certainty(router: Router, texts: list[str]) -> None:
    """Three annotators each are no more queries than one each: only ratios of weights count."""
    gold = labels(texts[:40], 0.5 + 0.1 * hardness(texts)[:40], np.full(40, 0.4), ("new", "small"))
    once, many = (
        onboard(router, [row | {"weight": weight} for row in gold], model="new")
        for weight in (1.0, 100.0)
    )
    for part, expected in zip(gain_of(many, texts, "new"), gain_of(once, texts, "new"),
                              strict=True):  # fmt: skip
        np.testing.assert_allclose(part, expected, rtol=1e-6)
    facts = [served.artifact.config["onboarded"][0]["mean_gain_std"] for served in (once, many)]
    assert facts[1] == pytest.approx(facts[0])


def test_labels_of_one_query_count_as_one_label() -> None:
    """Of whatever weight: three with a third of it each tell what one does."""
    rng = np.random.default_rng(5)
    known, own = rng.normal(size=(20, 2)), rng.normal(size=(20, 3))
    rows = np.hstack([known, np.ones((20, 1)), own])
    gain, weight = rng.normal(size=20), rng.uniform(0.5, 2.0, 20)
    population = make_population(np.array([0.1, 0.4]))
    once = estimate_gain(population, rows, gain, weight)
    each = np.repeat(np.arange(20), np.where(np.arange(20) < 5, 3, 1))
    many = estimate_gain(population, rows[each], gain[each], 7.0 * weight[each], each)
    assert once.noise_variance == pytest.approx(many.noise_variance)
    np.testing.assert_allclose(many.mean, once.mean, atol=1e-9)
    np.testing.assert_allclose(many.covariance, once.covariance, atol=1e-9)


def test_without_labels_the_prior_is_the_mean_of_the_known_models_and_wide(
    router: Router, texts: list[str]
) -> None:
    """The stated deviation is at least the distance between the known models."""
    served = onboard(router, model="new")
    known = router.predict_gain(texts).mean
    for name, expected in zip(("middle", "large"), known.T, strict=True):
        np.testing.assert_allclose(gain_of(served, texts, name)[0], expected, atol=1e-12)
    mean, std = gain_of(served, texts, "new")
    np.testing.assert_allclose(mean, known.mean(axis=1), atol=1e-12)
    assert (std > np.abs(known[:, 0] - known[:, 1]) / 2).all()


def test_models_stay_in_the_order_of_their_gains(router: Router, texts: list[str]) -> None:
    """Of equally dear models the last is the premium one, which a weaker newcomer is not."""
    assert onboard(router, model="new").models == ("small", "middle", "new", "large")
    level = np.full(100, 0.5)
    weak = labels(texts[:100], level - 0.3, level, ("new", "small"))
    strong = labels(texts[:100], level + 0.5, level, ("new", "small"))
    assert onboard(router, weak, model="new").models == ("small", "new", "middle", "large")
    served = onboard(router, strong, model="new")
    assert served.models == ("small", "middle", "large", "new")
    again = onboard(served, labels(texts[:50], level[:50], level[:50], ("same", "small")),
                    model="same")  # fmt: skip
    np.testing.assert_allclose(gain_of(again, texts, "new"), gain_of(served, texts, "new"))


@pytest.mark.parametrize(
    ("named", "lead", "expected"),
    [
        ("middle", -0.3, ("small", "new", "large", "middle")),
        ("middle", 0.14, ("small", "new", "large", "middle")),
        ("middle", 0.5, ("small", "large", "new", "middle")),
        ("large", 0.5, ("small", "middle", "new", "large")),
        (None, 0.5, ("small", "middle", "large", "new")),
    ],
)
def test_a_premium_model_that_was_named_stays_the_last(
    texts: list[str], named: str | None, lead: float, expected: tuple[str, ...]
) -> None:
    """Gains need not ascend then: the others stand in the order of theirs before it."""
    rng = np.random.default_rng(3)
    score = np.column_stack([0.3 + gain + 0.02 * rng.normal(size=300) for gain in (0, 0.1, 0.2)])
    records = [
        {"query": text, "model": name, "score": value}
        for text, row in zip(texts, score, strict=True)
        for name, value in zip(("small", "middle", "large"), row.tolist(), strict=True)
    ]
    fitted = metarouter.fit(records, premium=named, gain_model="ridge", embedder="surface", folds=0)
    assert fitted.models[-1] == (named or "large")
    level = np.full(100, 0.5)
    probes = labels(texts[:100], level + lead, level, ("new", "small"))
    assert onboard(fitted, probes, model="new").models == expected


def test_a_model_that_is_like_another_starts_from_it(router: Router, texts: list[str]) -> None:
    """`like` moves the prior mean to one candidate."""
    served = onboard(router, model="new", like="large")
    large, new = (gain_of(served, texts, name)[0] for name in ("large", "new"))
    np.testing.assert_allclose(new, large, atol=1e-12)


def test_a_model_may_be_like_the_reference(router: Router, texts: list[str]) -> None:
    """A second cheap model: no gain over the first, as cheap a call, and as unsure as any."""
    served = onboard(router, model="new", like="small")
    mean, std = gain_of(served, texts, "new")
    np.testing.assert_allclose(mean, 0.0, atol=1e-12)
    assert (std > 0).all()
    costs = served.expected_costs(texts[:1])[0]
    assert costs[served.models.index("new")] == costs[served.models.index("small")]


def test_few_labels_find_a_model_that_is_worse_on_hard_queries(
    router: Router, texts: list[str]
) -> None:
    """50 labels turn the ranking round, and the interval of the level holds the truth."""
    truth = 0.1 - 0.3 * hardness(texts)
    rng = np.random.default_rng(3)
    probes = [texts[i] for i in range(50)]
    new = 0.4 + truth[:50] + 0.1 * rng.normal(size=50)
    served = onboard(router, labels(probes, new, np.full(50, 0.4), ("new", "small")), model="new")
    prior = onboard(router, model="new")
    areas = [
        efficiency_gain_area(gain_of(each, texts[50:], "new")[0], truth[50:])
        for each in (prior, served)
    ]
    assert areas[0] < 0 < areas[1]
    fact = served.artifact.config["onboarded"][0]
    assert abs(fact["mean_gain"] - truth[:50].mean()) < 3 * fact["mean_gain_std"]
    assert fact["n_labels"] == 50


def test_more_labels_narrow_the_stated_uncertainty(router: Router, texts: list[str]) -> None:
    """Mean deviation falls from 0 to 20 to 200 labels."""
    widths = []
    for k in (0, 20, 200):
        gold = labels(texts[:k], 0.5 + 0.1 * hardness(texts[:k] or texts)[:k], np.full(k, 0.4),
                      ("new", "small"))  # fmt: skip
        served = onboard(router, gold or None, model="new")
        widths.append(float(gain_of(served, texts, "new")[1].mean()))
    assert widths[0] > widths[1] > widths[2]


def test_a_label_against_another_known_model_counts_that_models_gain(
    router: Router, texts: list[str]
) -> None:
    """New as good as large on every query: its gain over small is near large's."""
    same = np.full(100, 0.5)
    served = onboard(router, labels(texts[:100], same, same, ("new", "large")), model="new")
    large, new = (gain_of(served, texts, name)[0] for name in ("large", "new"))
    assert np.abs(new - large).mean() < 0.1 * np.abs(large).mean()


def test_a_pair_that_is_new_as_a_whole_is_served_alone(router: Router, texts: list[str]) -> None:
    """The known router's gains rank the queries of two models that it never saw."""
    served = onboard(router, model="new", baseline="old")
    assert served.models == ("old", "new")
    assert served.artifact.metrics == {}
    ranked = served.predict_gain(texts).mean
    assert np.corrcoef(ranked, hardness(texts))[0, 1] > 0.9


def test_it_is_saved_loaded_and_onboarded_again(
    router: Router, texts: list[str], tmp_path: Path
) -> None:
    """The artifact holds all; a second new model builds on the first."""
    twice = onboard(onboard(router, model="new"), model="old", like="new")
    twice.save(tmp_path / "twice")
    loaded = metarouter.load(tmp_path / "twice")
    assert loaded.models == ("small", "middle", "new", "old", "large")
    assert loaded.route(texts[0]) == twice.route(texts[0])
    assert [fact["model"] for fact in loaded.artifact.config["onboarded"]] == ["new", "old"]


def test_token_prices_are_those_of_the_new_model(texts: list[str]) -> None:
    """USD of the new model: its price, and the mean length of its answers."""
    table = make_gain_table(
        queries=texts, gain=hardness(texts), is_gold=np.ones(300, dtype=bool),
        models=("small", "large"),
    )  # fmt: skip
    options = FitOptions(
        embedder="surface", gain_model="ridge", folds=0, cost="token", prices=PRICES
    )
    priced = fit_table(table, options)
    gold = [
        {**row, "completion_tokens": 100.0}
        for row in labels(texts[:20], np.ones(20), np.zeros(20), ("new", "small"))
    ]
    served = onboard(priced, gold, model="new", prices=PRICES)
    costs = served.expected_costs(texts[:5])
    costs = costs[:, [served.models.index(name) for name in ("small", "large", "new")]]
    np.testing.assert_allclose(costs[:, :2], priced.expected_costs(texts[:5]))
    prompt_tokens = np.array([estimate_tokens(text) for text in texts[:5]])
    np.testing.assert_allclose(costs[:, 2], (2.0 * prompt_tokens + 4.0 * 100) / 1e6)
    pair = onboard(priced, model="new", baseline="old", prices=PRICES)
    assert pair.expected_costs(texts[:5]).shape == (5, 2)


@pytest.mark.parametrize("gain_model", ["gp", "forest", "sw_ranking", "knn", "cluster", "random"])
def test_any_gain_model_can_be_the_base(texts: list[str], gain_model: str) -> None:
    """Finite gains and deviations, with labels and without."""
    table = make_gain_table(
        queries=texts, gain=np.sign(hardness(texts)), is_gold=np.ones(300, dtype=bool),
        models=("small", "large"),
    )  # fmt: skip
    options = FitOptions(embedder="surface", corrector="none", gain_model=gain_model, folds=0)
    base = fit_table(table, options)
    gold = labels(texts[:20], np.ones(20), np.zeros(20), ("new", "small"))
    for served in (onboard(base, model="new"), onboard(base, gold, model="new")):
        gain = served.predict_gain(texts[:50])
        assert gain.mean.shape == gain.std.shape == (50, 2)
        assert np.isfinite(gain.mean).all()
        assert (gain.std[:, 1] > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "large"}, "model = 'large'; allowed: a name that the router does not know"),
        ({"model": "new", "baseline": "new"}, "baseline = 'new'; allowed: another name"),
        ({"model": "new", "like": "smal"}, "like = 'smal'; allowed: one of small, middle, large"),
    ],
)
def test_names_are_checked(router: Router, options: dict[str, str], message: str) -> None:
    """Before any label is read."""
    with pytest.raises(OptionError, match=message):
        onboard(router, **options)


def test_labels_that_do_not_name_the_model_are_refused(router: Router, texts: list[str]) -> None:
    """A file about other models says nothing of this one."""
    gold = labels(texts[:5], np.ones(5), np.zeros(5), ("large", "small"))
    with pytest.raises(DataError, match="no label compares new with small or middle or large"):
        onboard(router, gold, model="new")
