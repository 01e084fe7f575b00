"""Neighbours and clusters equal straight-line least squares, and choose their size by evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metarouter.errors import OptionError
from metarouter.gain.cluster import ClusterGain
from metarouter.gain.kmeans import assign, k_means
from metarouter.gain.local import RowIndex, gains_of_all
from metarouter.gain.logistic import LogisticGain
from metarouter.gain.neighbours import NeighbourGain
from metarouter.gain.reference import AlwaysGain, RandomGain
from metarouter.gain.table_model import gain_scale, prepare_table
from metarouter.labels import GainTable, make_gain_table
from metarouter.types import FloatArray, IntArray


def make_pool(n: int = 240, per_query: int = 2, seed: int = 0) -> GainTable:
    """Contrasts between any two of four models, several for each query."""
    rng = np.random.default_rng(seed)
    rows = n * per_query
    baseline = rng.integers(0, 3, rows)
    candidate = rng.integers(baseline + 1, 4)
    x = rng.normal(size=(n, 4))
    query = np.repeat(np.arange(n), per_query)
    level = np.array([0.0, 0.2, 0.4, 0.8])
    lift = (x[query, 0] > 0) * 0.3 * (candidate - baseline)
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        query=query,
        models=("a", "b", "c", "d"),
        candidate=candidate,
        baseline=baseline,
        gain=level[candidate] - level[baseline] + lift + 0.2 * rng.normal(size=rows),
        weight=rng.choice([0.5, 1.0, 3.0], rows),
        is_gold=np.ones(rows, dtype=bool),
        features=x,
    )


def least_squares(
    table: GainTable, rows: IntArray, centre: FloatArray, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """Gains over the first model from some rows, and their covariance over σ²."""
    m = len(table.models)
    x = np.eye(m)[table.candidate[rows]] - np.eye(m)[table.baseline[rows]]
    x, w = x[:, 1:], table.weight[rows]
    precision = (x * w[:, None]).T @ x + penalty * np.eye(m - 1)
    right = x.T @ (w * table.gain[rows]) + penalty * centre
    return np.asarray(np.linalg.solve(precision, right)), np.asarray(np.linalg.inv(precision))


def overall(table: GainTable) -> FloatArray:
    return least_squares(table, np.arange(len(table)), np.zeros(len(table.models) - 1), 1e-9)[0]


def test_neighbours_equal_least_squares_on_the_rows_of_the_nearest_queries() -> None:
    """Gains and standard deviations, for contrasts between any two models of a pool."""
    table = make_pool()
    model = NeighbourGain(k=25).fit(table)
    x = np.asarray(table.features, dtype=np.float64)
    for query in np.random.default_rng(1).normal(size=(5, 4)):
        similarity = x @ query / np.linalg.norm(x, axis=1)
        near = np.argsort(-similarity)[:25]
        rows = np.flatnonzero(np.isin(table.query, near))
        mean, covariance = least_squares(table, rows, overall(table), model.penalty_)
        estimate = model.predict(query[None])
        np.testing.assert_allclose(estimate.mean[0], mean, atol=1e-6)
        std = np.sqrt(model.noise_variance_ * np.diag(covariance))
        np.testing.assert_allclose(estimate.std[0], std, rtol=1e-6)


def test_clusters_equal_least_squares_on_the_rows_of_a_cluster() -> None:
    """The cluster of a query is the one whose centre is nearest."""
    table = make_pool()
    model = ClusterGain(n_clusters=5).fit(table)
    centres = model.state().arrays["centres"].astype(np.float64)
    unit = np.asarray(table.features, dtype=np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    label = ((unit[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    for i in range(8):
        rows = np.flatnonzero(label[table.query] == label[i])
        mean, covariance = least_squares(table, rows, overall(table), model.penalty_)
        estimate = model.predict(unit[i : i + 1])
        np.testing.assert_allclose(estimate.mean[0], mean, atol=1e-6)
        std = np.sqrt(model.noise_variance_ * np.diag(covariance))
        np.testing.assert_allclose(estimate.std[0], std, rtol=1e-6)


def test_gains_of_all_rows_equal_least_squares() -> None:
    """The mean that groups are shrunk to uses every contrast."""
    table = make_pool()
    np.testing.assert_allclose(
        gains_of_all(RowIndex.of(prepare_table(table))), overall(table), atol=1e-6
    )


def leave_one_out(table: GainTable, k: int, penalty: float) -> float:
    """Weighted squared error of each query's rows, predicted from the k nearest others."""
    unit = np.asarray(table.features, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    error, centre = 0.0, overall(table)
    for i in range(table.n_queries):
        similarity = unit @ unit[i]
        similarity[i] = -np.inf
        near = np.argsort(-similarity)[:k]
        rows = np.flatnonzero(np.isin(table.query, near))
        mean = np.append(0.0, least_squares(table, rows, centre, penalty)[0])
        for row in np.flatnonzero(table.query == i):
            residual = table.gain[row] - mean[table.candidate[row]] + mean[table.baseline[row]]
            error += table.weight[row] * residual**2
    return error


def test_the_number_of_neighbours_is_the_best_by_leaving_queries_out() -> None:
    """No other number or penalty that is tried has a smaller error on left-out queries."""
    table = make_pool(90)
    model = NeighbourGain().fit(table)
    errors = {
        (k, penalty): leave_one_out(table, k, penalty)
        for k in (5, 10, 20, 40, 80)
        for penalty in (1.0, 4.0, 16.0, 64.0)
    }
    assert (model.k_, model.penalty_) == min(errors, key=errors.__getitem__)
    largest = float(np.abs(table.gain).max())
    mean = table.weight.mean()  # such a row shows noise of σ² / mean, and σ² is wanted
    expected = mean * (min(errors.values()) / mean + largest**2) / (len(table) + 1.0)
    assert model.noise_variance_ == pytest.approx(expected, rel=1e-6)


def kinds(n: int, n_kinds: int, seed: int = 0, noise: float = 0.5) -> GainTable:
    """Well-separated kinds of prompts with gains that alternate between 1 and −1."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, n_kinds, n)
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        gain=np.where(kind % 2 == 0, 1.0, -1.0) + noise * rng.normal(size=n),
        is_gold=np.ones(n, dtype=bool),
        features=np.eye(n_kinds)[kind] + 0.05 * rng.normal(size=(n, n_kinds)),
    )


def test_as_many_clusters_are_used_as_there_are_kinds() -> None:
    """Sixteen kinds need about sixteen clusters; two would mix them."""
    assert 8 <= ClusterGain().fit(kinds(800, 16)).n_clusters_ <= 64


def test_pure_noise_is_averaged_over() -> None:
    """Where prompts tell nothing, predictions stay near the mean of all."""
    rng = np.random.default_rng(0)
    table = kinds(600, 4)
    noise = make_gain_table(
        queries=table.queries,
        gain=rng.normal(0.3, 1.0, 600),
        is_gold=[True] * 600,
        features=np.asarray(table.features),
    )
    for model in (NeighbourGain(), ClusterGain()):
        mean = model.fit(noise).predict(np.asarray(table.features)).mean
        assert np.abs(mean - noise.gain.mean()).mean() < 0.12


@pytest.mark.parametrize("model", [NeighbourGain(k=0), ClusterGain(n_clusters=0)])
def test_sizes_below_one_are_refused(model: Any) -> None:
    """The message says what is allowed."""
    with pytest.raises(OptionError, match="= 0; allowed: 1 or more"):
        model.fit(kinds(20, 2))


def test_intervals_of_neighbours_cover_the_truth() -> None:
    """Where kinds are pure, 95 % intervals hold the true gain in about 95 of 100 samples."""
    hits = []
    for seed in range(120):
        low, high = NeighbourGain(k=40).fit(kinds(400, 4, seed=seed)).predict(np.eye(4)).interval()
        truth = np.array([1.0, -1.0, 1.0, -1.0])[:, None]
        hits.append(((low < truth) & (truth < high)).mean())
    assert 0.88 < np.mean(hits) <= 1.0


@pytest.mark.parametrize("weights", [(4.0,), (0.25,), (1.0, 9.0)], ids=str)
@pytest.mark.parametrize(
    "model", [NeighbourGain(k=60), ClusterGain(n_clusters=3), LogisticGain()], ids=repr
)
def test_the_stated_error_does_not_depend_on_what_weights_are_counted_in(
    model: NeighbourGain | ClusterGain | LogisticGain, weights: tuple[float, ...]
) -> None:
    """Labels of variance 0.3 / weight, up to a factor: over 20 tables std is the error made."""
    stated, made = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weight, x = rng.choice(weights, 200), rng.normal(size=(200, 3))
        table = make_gain_table(
            queries=[str(i) for i in range(200)],
            gain=0.2 + np.sqrt(0.3 * np.mean(weights) / weight) * rng.normal(size=200),
            is_gold=[True] * 200,
            weight=weight,
            features=x,
        )
        found = model.fit(table).predict(rng.normal(size=(100, 3)))
        stated.append(np.mean(found.std**2))
        made.append(np.mean((found.mean - 0.2) ** 2))
    assert 0.7 < np.sqrt(np.mean(made) / np.mean(stated)) < 1.4


def test_k_means_finds_separate_groups() -> None:
    """Four far groups get a centre each, and every point its group's."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, 400)
    points = (20 * np.eye(4)[group] + rng.normal(size=(400, 4))).astype(np.float32)
    label = assign(points, k_means(points, 4, rng))
    for g in range(4):
        assert len(set(label[group == g].tolist())) == 1
    assert len(set(label.tolist())) == 4


def test_k_means_centres_are_the_means_of_their_points() -> None:
    """At rest every centre is the mean of what is assigned to it."""
    rng = np.random.default_rng(1)
    group = rng.integers(0, 3, 300)
    points = (9 * np.eye(3)[group] + rng.normal(size=(300, 3))).astype(np.float32)
    centres = k_means(points, 3, rng)
    label = assign(points, centres)
    means = [points[label == i].mean(axis=0) for i in range(3)]
    np.testing.assert_allclose(centres, means, atol=1e-4)


def test_k_means_survives_points_that_are_all_equal() -> None:
    """Asking for more centres than there are distinct points gives finite centres."""
    points = np.ones((10, 2), dtype=np.float32)
    np.testing.assert_array_equal(k_means(points, 3, np.random.default_rng(0)), np.ones((3, 2)))


def test_random_draws_are_uniform_and_know_nothing() -> None:
    """Draws fill [0, 1] evenly, differ by seed, and ignore the labels."""
    table, x = kinds(500, 4), np.random.default_rng(5).normal(size=(4_000, 4))
    draw = RandomGain(seed=1).fit(table).win_probability(x)[:, 0]
    counts, _ = np.histogram(draw, bins=10, range=(0, 1))
    assert np.abs(counts / 400 - 1.0).max() < 0.2
    other = RandomGain(seed=2).fit(table).win_probability(x)[:, 0]
    assert abs(np.corrcoef(draw, other)[0, 1]) < 0.06
    assert abs(np.corrcoef(draw, x[:, 0])[0, 1]) < 0.06
    turned = make_gain_table(
        queries=table.queries,
        gain=-table.gain,
        is_gold=[True] * 500,
        features=np.asarray(table.features),
    )
    np.testing.assert_array_equal(RandomGain(seed=1).fit(turned).win_probability(x)[:, 0], draw)


@pytest.mark.parametrize(("choice", "win"), [("premium", 1.0), ("cheap", 0.0)])
def test_always_means_always(choice: Any, win: float) -> None:
    """The last model of a pool always wins, or always the reference."""
    model = AlwaysGain(choice).fit(make_pool())
    answer = model.win_probability(np.zeros((2, 4)))
    np.testing.assert_array_equal(answer, [[0.0, 0.0, win]] * 2)


def test_the_scale_is_the_largest_gain_that_a_label_states() -> None:
    """Corrected rows do not set it unless there are no others."""
    table = make_gain_table(
        queries=list("abc"),
        gain=[0.5, -0.7, 3.0],
        is_gold=[True, True, False],
        variance=[0.0, 0.0, 0.2],
    )
    assert gain_scale(table) == 0.7
    assert gain_scale(table.preference()) == 3.0
    assert gain_scale(make_gain_table(queries=["a"], gain=[0.0], is_gold=[True])) == 1.0


def test_pseudo_gold_gains_keep_their_size() -> None:
    """A corrected gain beyond the scale is a win of more than probability 1, not cut off."""
    table = make_gain_table(
        queries=list("ab"),
        gain=[1.0, 1.5],
        is_gold=[True, False],
        variance=[0.0, 0.5],
        features=np.eye(2),
    )
    np.testing.assert_allclose(prepare_table(table).win, [1.0, 1.25])
