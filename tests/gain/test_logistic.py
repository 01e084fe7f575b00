"""Logistic gains against a straight-line fit, and what both answers' scores are worth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from metarouter.errors import DataError, OptionError
from metarouter.gain.logistic import LogisticGain
from metarouter.gain.logistic_rows import LogisticRows, fit_logistic, sigmoid
from metarouter.labels import GainTable, make_gain_table
from metarouter.types import FloatArray


def make_answers(n: int, d: int = 4, seed: int = 0) -> tuple[GainTable, FloatArray]:
    """Right answers of two models, log-odds linear in the features, and the true gain."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    slopes = np.array([[1.0, 0.2], [0.0, -0.8], *[[0.0, 0.0]] * (d - 2)])
    p = sigmoid(x @ slopes + np.array([0.0, 1.0]))
    right = (rng.random((n, 2)) < p).astype(float)
    table = make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        gain=right[:, 1] - right[:, 0],
        is_gold=np.ones(n, dtype=bool),
        candidate_score=right[:, 1],
        baseline_score=right[:, 0],
        features=x,
    )
    return table, p[:, 1] - p[:, 0]


def straight_line(
    z: FloatArray, rows: LogisticRows, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Level and slope by a general optimiser on the loss as it is written."""
    q, k = z.shape[1], rows.n_columns

    def loss(theta: FloatArray) -> float:
        level, slope = theta[:k], theta[k:].reshape(q, k)
        total = penalty / 2 * float((slope**2).sum())
        f = np.column_stack([level + z @ slope, np.zeros(len(z))])
        for i in range(len(rows.query)):
            logit = f[rows.query[i], rows.plus[i]] - f[rows.query[i], rows.minus[i]]
            total += rows.weight[i] * (np.logaddexp(0, logit) - rows.outcome[i] * logit)
        # the prior of half a success and half a failure
        return total + float((np.logaddexp(0, level) - 0.5 * level).sum())

    found = minimize(loss, np.zeros(k * (q + 1)), tol=1e-10).x
    return found[:k], found[k:].reshape(q, k)


@pytest.mark.parametrize("is_comparison", [False, True])
def test_the_fit_minimises_the_stated_loss(is_comparison: bool) -> None:
    """Success of each of two models, or comparisons among three."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(30, 3)) / np.sqrt(3)
    query = np.repeat(np.arange(30), 2)
    plus = np.tile([0, 1], 30)
    rows = LogisticRows(
        query=query,
        plus=plus,
        minus=np.where(plus == 1, rng.integers(-1, 1, 60), -1) * is_comparison
        - (not is_comparison),
        outcome=rng.random(60),
        weight=rng.uniform(0.5, 2.0, 60),
        n_columns=2,
    )
    for penalty, fit in zip((0.5, 4.0), fit_logistic(z, rows, np.array([0.5, 4.0])), strict=True):
        level, slope = straight_line(z, rows, penalty)
        np.testing.assert_allclose(fit.slope, slope, atol=5e-3)
        np.testing.assert_allclose(fit.level, level, atol=5e-3)


def test_a_rough_fit_is_near_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(size=(300, 10)) / np.sqrt(10)
    rows = LogisticRows(
        query=np.arange(300),
        plus=np.zeros(300, dtype=int),
        minus=np.full(300, -1),
        outcome=(rng.random(300) < sigmoid(3 * z[:, 0])).astype(float),
        weight=np.ones(300),
        n_columns=1,
    )
    exact, rough = (
        fit_logistic(z, rows, np.array([2.0]), rough=each)[0].logits(z) for each in (False, True)
    )
    np.testing.assert_allclose(rough, exact, atol=0.05)


def test_both_scores_recover_the_gain() -> None:
    """Predictions approach the true difference of success probabilities."""
    table, truth = make_answers(4_000)
    assert table.features is not None
    predicted = LogisticGain().fit(table).predict(table.features)
    assert np.corrcoef(predicted.mean[:, 0], truth)[0, 1] > 0.97
    assert np.abs(predicted.mean[:, 0] - truth).mean() < 0.05


def test_both_scores_teach_what_their_difference_hides() -> None:
    """The premium model pays where queries are neither easy nor hopeless: no line in x."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2_000, 1))
    p = sigmoid(3 * x + np.array([-1.5, 1.5]))
    right = (rng.random(p.shape) < p).astype(float)
    table = make_gain_table(
        queries=[str(i) for i in range(2_000)],
        gain=right[:, 1] - right[:, 0],
        is_gold=np.ones(2_000, dtype=bool),
        candidate_score=right[:, 1],
        baseline_score=right[:, 0],
        features=x,
    )
    nothing = np.full(2_000, np.nan)
    without = replace(table, candidate_score=nothing, baseline_score=nothing)
    truth = p[:, 1] - p[:, 0]
    errors = [
        float(((LogisticGain().fit(each).predict(x).mean[:, 0] - truth) ** 2).mean())
        for each in (table, without)
    ]
    assert errors[0] < 0.05 * errors[1]


def test_corrected_gains_are_no_scores() -> None:
    """A gain that is not the difference of its scores is learned as a comparison."""
    table, _ = make_answers(200)
    moved = replace(table, gain=table.gain + 0.1)
    assert LogisticGain().fit(moved).state().config["is_scored"] is False
    assert LogisticGain().fit(table).state().config["is_scored"] is True


def test_the_reference_answer_counts_once_in_a_pool() -> None:
    """A pool whose candidates all copy one model predicts what the pair predicts."""
    table, _ = make_answers(300)
    n = len(table)
    pool = make_gain_table(
        queries=table.queries,
        query=np.tile(np.arange(n), 3),
        models=("cheap", "a", "b", "c"),
        candidate=np.repeat([1, 2, 3], n),
        baseline=np.zeros(3 * n),
        gain=np.tile(table.gain, 3),
        is_gold=np.ones(3 * n, dtype=bool),
        candidate_score=np.tile(table.candidate_score, 3),
        baseline_score=np.tile(table.baseline_score, 3),
        features=table.features,
    )
    assert table.features is not None
    pair = LogisticGain(penalties=(4.0,)).fit(table).predict(table.features).mean
    many = LogisticGain(penalties=(4.0,)).fit(pool).predict(table.features).mean
    np.testing.assert_allclose(many, np.repeat(pair, 3, axis=1), atol=2e-3)


def test_views_are_averaged_with_the_joint_regression() -> None:
    """Half the regression on all columns, half the mean of those on each view."""
    table, _ = make_answers(400)
    x = table.features
    assert x is not None

    def alone(columns: slice, scale: FloatArray) -> FloatArray:
        part = table.with_features((x[:, columns] / scale).astype(np.float32))
        assert part.features is not None
        return LogisticGain(penalties=(4.0,)).fit(part).predict(part.features).mean

    size = [float(np.sqrt((x[:, s].std(axis=0) ** 2).sum())) for s in (slice(0, 1), slice(1, 4))]
    joint = alone(slice(0, 4), np.array([size[0], *[size[1]] * 3]))
    views = [alone(s, np.ones(1)) for s in (slice(0, 1), slice(1, 4))]
    together = LogisticGain(views=(1, 3), penalties=(4.0,)).fit(table).predict(x).mean
    np.testing.assert_allclose(together, (joint + sum(views) / 2) / 2, atol=2e-3)


def test_the_size_of_a_view_does_not_matter() -> None:
    table, _ = make_answers(300)
    x = table.features
    assert x is not None
    big = x * np.array([1.0, 1.0, 1000.0, 1000.0], dtype=np.float32)
    one = LogisticGain(views=(2, 2)).fit(table).predict(x).mean
    two = LogisticGain(views=(2, 2)).fit(table.with_features(big)).predict(big).mean
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_noise_features_are_penalised_more() -> None:
    """Labels that the features do not explain ask for a larger penalty."""
    table, _ = make_answers(2_000)
    rng = np.random.default_rng(0)
    noise = table.with_features(rng.normal(size=(2_000, 60)).astype(np.float32))
    assert LogisticGain().fit(noise).penalty_ > LogisticGain().fit(table).penalty_


def test_whole_domains_are_left_out_where_there_are_enough() -> None:
    """Features that only tell domains apart are worth nothing on others: more penalty."""
    rng = np.random.default_rng(3)
    domain = np.arange(1_000) % 20
    level = rng.normal(size=20)
    x = np.eye(20)[domain] + 0.01 * rng.normal(size=(1_000, 20))
    gain = np.where(rng.random(1_000) < sigmoid(2 * level[domain]), 1.0, -1.0)
    table = make_gain_table(
        queries=[str(i) for i in range(1_000)],
        gain=gain,
        is_gold=np.ones(1_000, dtype=bool),
        features=x,
        domain=domain,
        domains=[str(i) for i in range(20)],
    )
    within = LogisticGain(by_domain=False).fit(table).penalty_
    across = LogisticGain().fit(table).penalty_
    assert across > within


def test_impossible_settings_are_refused() -> None:
    table, _ = make_answers(30)
    with pytest.raises(DataError, match="widths must add up"):
        LogisticGain(views=(1, 2)).fit(table)
    for wrong in (LogisticGain(n_folds=1), LogisticGain(penalties=(0.0,))):
        with pytest.raises(OptionError, match="n_folds, penalties"):
            wrong.fit(table)
