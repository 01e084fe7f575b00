"""The posterior of the gain functions, and whether its intervals tell the truth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from metarouter.correction import learn_gain, make_corrector
from metarouter.errors import DataError
from metarouter.features import make_pipeline
from metarouter.features.bases import learn_query_map
from metarouter.gain import load_gain_model
from metarouter.gain.posterior import Elsewhere, GainPosterior, PosteriorScorer, contrast_rows
from metarouter.labels.table import make_gain_table
from metarouter.testing import SIMULATED_BIASES, WORLDS, make_simulation, make_world
from metarouter.types import FloatArray, ModelState

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 6))


def make_posterior(n_candidates: int) -> GainPosterior:
    query_map = learn_query_map(X, ["linear", "rbf5"])
    p = n_candidates * query_map.dim
    root = RNG.normal(size=(p, p)) / np.sqrt(p)
    mean = RNG.normal(size=(n_candidates, query_map.dim))
    return GainPosterior(query_map=query_map, mean=mean, covariance=root @ root.T)


def through_a_file(state: ModelState) -> ModelState:
    arrays = {key: np.frombuffer(a.tobytes()).reshape(a.shape) for key, a in state.arrays.items()}
    return ModelState(kind=state.kind, config=json.loads(json.dumps(state.config)), arrays=arrays)


def design(posterior: GainPosterior, candidate: int, baseline: int) -> FloatArray:
    """v(x) in the block of the candidate, −v(x) in that of the baseline; levels count twice."""
    v = posterior.query_map.transform(X)
    v[:, 0] *= 2.0
    blocks = [np.zeros_like(v) for _ in range(len(posterior.mean) + 1)]
    blocks[candidate] = v
    blocks[baseline] = -v if baseline else blocks[baseline]
    return np.hstack(blocks[1:])


@pytest.mark.parametrize("n_candidates", [1, 3])
def test_round_trip_predicts_the_same(n_candidates: int) -> None:
    posterior = make_posterior(n_candidates)
    here = posterior.predict(X)
    loaded = load_gain_model(through_a_file(posterior.state()))
    there = loaded.predict(X)
    assert here.mean.shape == here.std.shape == (80, n_candidates)
    np.testing.assert_array_equal(there.mean, here.mean)
    np.testing.assert_array_equal(there.std, here.std)
    assert isinstance(loaded, PosteriorScorer)
    np.testing.assert_array_equal(loaded.predict_mean(X), here.mean)
    many = np.resize(X, (9_000, X.shape[1]))  # more than are scored at once
    np.testing.assert_array_equal(posterior.predict_mean(many), posterior.predict(many).mean)


def test_a_pair_is_predicted_by_its_mean_and_covariance() -> None:
    posterior = make_posterior(1)
    v = posterior.query_map.transform(X)
    estimate = posterior.predict(X.astype(np.float32))
    expected = np.sqrt(np.einsum("ij,jk,ik->i", v, posterior.covariance, v))
    np.testing.assert_allclose(estimate.mean[:, 0], v @ posterior.mean[0], atol=1e-5)
    np.testing.assert_allclose(estimate.std[:, 0], expected, rtol=1e-4)


@pytest.mark.parametrize(("candidate", "baseline"), [(1, 0), (3, 0), (2, 1), (3, 2)])
def test_a_contrast_of_a_pool_is_that_of_the_joint_posterior(candidate: int, baseline: int) -> None:
    posterior = make_posterior(3)
    u = design(posterior, candidate, baseline)
    mean, variance = posterior.contrast(X, np.full(80, candidate), np.full(80, baseline))
    np.testing.assert_allclose(mean, u @ posterior.mean.ravel(), atol=1e-9)
    expected = np.einsum("ij,jk,ik->i", u, posterior.covariance, u)
    np.testing.assert_allclose(variance, expected, rtol=1e-5)


def test_contrasts_add_up_along_a_chain() -> None:
    """ψ of c over a is that of c over b plus that of b over a; the rows of u say so exactly."""
    v = make_posterior(3).query_map.transform(X)
    ab, bc, ac = (
        contrast_rows(v, np.full(80, candidate), np.full(80, baseline), 3)
        for candidate, baseline in ((1, 0), (3, 1), (3, 0))
    )
    np.testing.assert_allclose(ab + bc, ac, atol=1e-12)


def test_gains_over_the_reference_are_its_contrasts() -> None:
    posterior = make_posterior(3)
    estimate = posterior.predict(X)
    for m in (1, 2, 3):
        mean, variance = posterior.contrast(X, np.full(80, m), np.zeros(80, dtype=np.int64))
        np.testing.assert_allclose(estimate.mean[:, m - 1], mean, atol=1e-9)
        np.testing.assert_allclose(estimate.std[:, m - 1] ** 2, variance, rtol=1e-5)


@pytest.mark.parametrize("n_candidates", [1, 3])
def test_doubt_where_gold_is_rare_widens_and_moves_nothing(n_candidates: int) -> None:
    """The variance grows by τ²·h², h the missing share cut to [0, 1], before and after a file."""
    plain = make_posterior(n_candidates)
    weights = np.array([0.4, 0.8, -0.3, 0.0, 0.0, 0.5, 0.0])
    doubted = replace(plain, elsewhere=Elsewhere(weights=weights, variance=2.5))
    missing = np.array([min(max(0.4 + row @ weights[1:], 0.0), 1.0) for row in X])
    assert (missing == 0).any()
    assert (missing == 1).any()
    base, found = plain.predict(X), doubted.predict(X)
    np.testing.assert_array_equal(found.mean, base.mean)
    np.testing.assert_allclose(found.std**2, base.std**2 + 2.5 * missing[:, None] ** 2)
    there = load_gain_model(through_a_file(doubted.state())).predict(X)
    np.testing.assert_array_equal(there.std, found.std)


def test_gold_at_random_is_missing_nowhere() -> None:
    made = make_simulation(1_400, 8, n_gold=100, n_test=400, bias="topic", seed=3)
    posterior = learn_gain(made.table, make_corrector("auto"))
    assert isinstance(posterior, GainPosterior)
    plain = replace(posterior, elsewhere=None).predict(made.test.row_features())
    found = posterior.predict(made.test.row_features())
    np.testing.assert_allclose(found.std, plain.std, rtol=0.03)


@pytest.mark.parametrize("value", [0.1, 1.0])
def test_features_that_never_vary_are_served_the_deviation_of_the_posterior(value: float) -> None:
    """Their rounding is no signal: scaled up it was a deviation of 3e8 in single precision."""
    flat = np.full((230, 6), value, dtype=np.float32)
    gain = np.random.default_rng(1).normal(0.2, 0.3, 230)
    table = make_gain_table(
        queries=[f"query {i}" for i in range(230)], gain=gain, is_gold=np.arange(230) < 30
    ).with_features(flat)
    model = learn_gain(table, make_corrector("auto"))
    assert isinstance(model, GainPosterior)
    mean, variance = replace(model, elsewhere=None).contrast(
        flat[:1], np.ones(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    )
    served = model.predict(flat[:1])
    assert served.mean[0, 0] == pytest.approx(mean[0])
    assert served.std[0, 0] == pytest.approx(np.sqrt(variance[0]), rel=1e-3)
    assert served.std[0, 0] < 0.1


def test_no_rows_and_wrong_widths() -> None:
    posterior = make_posterior(1)
    assert posterior.predict(np.zeros((0, 6))).mean.shape == (0, 1)
    with pytest.raises(DataError, match="6"):
        posterior.predict(np.zeros((2, 5)))


def covered(world: str, seed: int) -> FloatArray:
    """Whether the 95 % interval of each unseen query holds its true gain."""
    made = make_world(world, n_queries=900, n_gold=150, n_test=300, seed=seed)
    pipeline = make_pipeline("static+surface", n_components=24).fit(made.table.queries)
    table = made.table.with_features(pipeline.transform(made.table.queries))
    gain = learn_gain(table, make_corrector("auto"))
    estimate = gain.predict(pipeline.transform(made.test.queries))
    error = np.abs(estimate.mean[:, 0] - made.test_psi)
    return np.asarray(error < 1.96 * estimate.std[:, 0], dtype=np.float64)


@pytest.mark.parametrize("world", WORLDS)
def test_intervals_are_honest_in_every_world(world: str) -> None:
    """At least 85 % of 95 % intervals, though features cannot hold all of the gain."""
    assert np.mean([covered(world, seed) for seed in range(6)]) > 0.85


@pytest.mark.parametrize("bias", SIMULATED_BIASES)
def test_intervals_are_honest_where_features_hold_the_gain(bias: str) -> None:
    """92 % and more; the queries of one seed share a fit, so it takes a few."""
    inside = []
    for seed in range(8):
        made = make_simulation(1_400, 8, n_gold=100, n_test=400, bias=bias, seed=seed)
        estimate = learn_gain(made.table, make_corrector("auto")).predict(made.test.row_features())
        error = np.abs(estimate.mean[:, 0] - made.test_psi)
        inside.append(error < 1.96 * estimate.std[:, 0])
    assert np.mean(inside) > 0.92


def test_an_error_of_the_preference_model_widens_the_interval() -> None:
    """A judge that is trusted is known from its votes alone: fewer votes, wider intervals."""
    widths = []
    for n in (700, 3_000):
        made = make_simulation(n + 10, 20, n_gold=300, n_test=10, bias="none", seed=1)
        estimate = learn_gain(made.table, make_corrector("auto")).predict(made.test.row_features())
        widths.append(float(estimate.std.mean()))
    assert widths[1] < 0.8 * widths[0]
