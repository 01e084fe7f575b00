"""A pool of models: direct fits, contrasts, and their joint solution."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from metarouter.errors import DataError, NotFittedError
from metarouter.gain import PoolGainModel, load_gain_model, make_gain_model
from metarouter.gain.forest import ForestGain
from metarouter.gain.gp import GaussianProcessGain
from metarouter.gain.mlp import MLPGain
from metarouter.gain.ridge import RidgeGain
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, GainModel, ModelState


class FixedRidge:
    """Ridge through the origin of stated penalty and noise: a linear Gaussian model."""

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        x = np.asarray(features, dtype=np.float64)
        w = np.ones(len(x)) if weight is None else weight
        precision = x.T @ (w[:, None] * x) + self.penalty * np.eye(x.shape[1])
        self.coef = np.linalg.solve(precision, x.T @ (w * gain))
        self.root = np.linalg.cholesky(np.linalg.inv(precision))
        return self

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        return load_gain_model(self.state()).predict(features)

    def state(self) -> ModelState:
        factor = np.vstack([np.zeros(len(self.coef)), self.root])
        arrays = {"coef": self.coef, "intercept": np.array(0.0), "factor": factor}
        return ModelState(kind="linear", arrays=arrays)


def make_pool(n: int = 300, seed: int = 0, **columns: Any) -> tuple[GainTable, FloatArray]:
    """Contrasts of four models with linear gains, and the coefficients (3, d)."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    coef = rng.normal(size=(3, 4))
    psi = np.column_stack([np.zeros(n), features @ coef.T])
    pairs = np.array([(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2)])[rng.integers(6, size=n)]
    candidate, baseline = pairs.T
    rows = np.arange(n)
    gain = psi[rows, candidate] - psi[rows, baseline] + 0.3 * rng.normal(size=n)
    table = make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        models=("small", "medium", "large", "huge"),
        gain=gain,
        candidate=candidate,
        baseline=baseline,
        is_gold=np.ones(n, dtype=bool),
        features=features,
        **columns,
    )
    return table, coef


def test_a_pair_is_one_direct_fit() -> None:
    """With one candidate the pool predicts what its member does."""
    rng = np.random.default_rng(0)
    features, gain = rng.normal(size=(50, 3)), rng.normal(size=50)
    table = make_gain_table(
        queries=[str(i) for i in range(50)],
        gain=gain,
        is_gold=[True] * 50,
        features=features,
    )
    pool = PoolGainModel(lambda: FixedRidge(2.0)).fit(table)
    alone = FixedRidge(2.0).fit(table.row_features(), gain).predict(table.row_features())
    estimate = pool.predict(table.row_features())
    assert pool.n_rounds_ == 1
    np.testing.assert_allclose(estimate.mean, alone.mean[:, None])
    np.testing.assert_allclose(estimate.std, alone.std[:, None])


def test_contrasts_reach_the_joint_solution() -> None:
    """Passing over the candidates ends where all coefficients are solved for at once."""
    weight = np.random.default_rng(5).uniform(0.5, 2.0, size=300)
    table, _ = make_pool(weight=weight)
    pool = PoolGainModel(lambda: FixedRidge(3.0), max_rounds=500, tolerance=1e-10).fit(table)
    x = table.row_features().astype(np.float64)
    design = np.zeros((300, 12))
    for i in range(300):
        for model, sign in ((table.candidate[i], 1.0), (table.baseline[i], -1.0)):
            if model > 0:
                design[i, 4 * (model - 1) : 4 * model] = sign * x[i]
    normal = design.T @ (weight[:, None] * design) + 3.0 * np.eye(12)
    joint = np.linalg.solve(normal, design.T @ (weight * table.gain)).reshape(3, 4)
    new = np.random.default_rng(6).normal(size=(20, 4))
    np.testing.assert_allclose(pool.predict(new).mean, new @ joint.T, atol=1e-8)


def test_contrasts_teach_what_direct_rows_cannot() -> None:
    """Gains over the reference are recovered from rows between candidates too."""
    table, coef = make_pool(900)
    estimate = PoolGainModel(lambda: make_gain_model("ridge")).fit(table)
    new = np.random.default_rng(6).normal(size=(100, 4)).astype(np.float32)
    np.testing.assert_allclose(estimate.predict(new).mean, new @ coef.T, atol=0.15)


def test_std_is_exact_for_gains_that_do_not_depend_on_the_query() -> None:
    """With an intercept alone it is the root of the joint inverse information."""
    table, _ = make_pool(120)
    table = table.with_features(np.ones((120, 1), dtype=np.float32))
    pool = PoolGainModel(lambda: FixedRidge(0.0)).fit(table)
    design = np.zeros((120, 4))
    design[np.arange(120), table.candidate] += 1
    design[np.arange(120), table.baseline] -= 1
    expected = np.sqrt(np.diag(np.linalg.inv(design[:, 1:].T @ design[:, 1:])))
    np.testing.assert_allclose(pool.predict(np.ones((1, 1))).std[0], expected)
    assert (pool.std_factor_ > 1).all()


def test_variance_lowers_the_weight_of_a_row() -> None:
    """Rows of infinite variance are left out, whatever they say."""
    table, _ = make_pool()
    out = np.arange(300) % 3 == 0
    spoilt = table.with_gains(np.where(out, 1e6, table.gain), np.where(out, np.inf, table.variance))
    new = np.random.default_rng(6).normal(size=(20, 4))
    pools = [PoolGainModel(lambda: FixedRidge(3.0)).fit(t) for t in (spoilt, table.rows(~out))]
    np.testing.assert_allclose(pools[0].predict(new).mean, pools[1].predict(new).mean)


def test_a_candidate_without_labels_is_named() -> None:
    """The error says which model lacks labels, also when its rows have no weight."""
    table, _ = make_pool()
    some = table.rows((table.candidate != 2) & (table.baseline != 2))
    with pytest.raises(DataError, match="no usable label for large;"):
        PoolGainModel(lambda: FixedRidge(1.0)).fit(some)
    unweighted = table.with_gains(
        table.gain, np.where((table.candidate == 2) | (table.baseline == 2), np.inf, 0.0)
    )
    with pytest.raises(DataError, match="no usable label for large;"):
        PoolGainModel(lambda: FixedRidge(1.0)).fit(unweighted)


def test_candidates_out_of_reach_of_the_reference_are_named() -> None:
    """Two models compared with each other alone have no level."""
    table, _ = make_pool()
    keep = ((table.candidate == 1) & (table.baseline == 0)) | (
        (table.candidate == 3) & (table.baseline == 2)
    )
    with pytest.raises(DataError, match="links large, huge to the reference model small"):
        PoolGainModel(lambda: FixedRidge(1.0)).fit(table.rows(keep))


def test_a_chain_to_the_reference_is_enough() -> None:
    """A model compared with another candidate only is still placed."""
    table, coef = make_pool(900)
    keep = table.baseline == table.candidate - 1
    pool = PoolGainModel(lambda: FixedRidge(0.1), max_rounds=200).fit(table.rows(keep))
    new = np.random.default_rng(6).normal(size=(100, 4)).astype(np.float32)
    assert np.sqrt(np.mean((pool.predict(new).mean - new @ coef.T) ** 2)) < 0.15


@pytest.mark.parametrize(
    "make",
    [
        RidgeGain,
        GaussianProcessGain,
        lambda: ForestGain(n_bags=2),
        lambda: MLPGain(n_members=2, max_epochs=3),
    ],
    ids=["linear", "gp", "trees", "mlp"],
)
def test_state_round_trip_of_a_pool(make: Callable[[], GainModel]) -> None:
    """The pool's state holds its members, whatever their kind."""
    table, _ = make_pool(90)
    pool = PoolGainModel(make, max_rounds=2).fit(table)
    state = pool.state()
    config = json.loads(json.dumps(state.config))
    scorer = load_gain_model(ModelState(kind="pool", config=config, arrays=state.arrays))
    new = np.random.default_rng(6).normal(size=(20, 4)).astype(np.float32)
    here, there = pool.predict(new), scorer.predict(new)
    assert here.mean.shape == here.std.shape == (20, 3)
    np.testing.assert_allclose(there.mean, here.mean, atol=1e-9)
    np.testing.assert_allclose(there.std, here.std, atol=1e-9)


def test_asking_a_pool_before_fit_is_an_error() -> None:
    """Predict and state need fit first."""
    pool = PoolGainModel(lambda: FixedRidge(1.0))
    with pytest.raises(NotFittedError, match="PoolGainModel"):
        pool.predict(np.zeros((1, 2)))
    with pytest.raises(NotFittedError, match="PoolGainModel"):
        pool.state()
