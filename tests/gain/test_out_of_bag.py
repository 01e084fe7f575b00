"""Predictions for training queries that are as wide as those for new ones."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from metarouter.errors import NotFittedError
from metarouter.gain import PoolGainModel, make_gain_model
from metarouter.gain.boosting import BoostingGain
from metarouter.gain.forest import ForestGain
from metarouter.gain.mlp import MLPGain
from metarouter.gain.out_of_bag import HalfSampledGain, out_of_bag, unseen_gains
from metarouter.gain.rows import half_samples
from metarouter.gain.scoring import TreesScorer
from metarouter.labels.table import make_gain_table
from metarouter.types import FloatArray


def make_rows(n: int, seed: int = 0, noise: float = 1.0) -> tuple[NDArray[np.float32], FloatArray]:
    """A gain that depends on one of six features, and noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 6)).astype(np.float32)
    return features, 0.5 * features[:, 0] + noise * rng.normal(size=n)


def test_a_training_query_is_predicted_by_the_bags_that_did_not_see_it() -> None:
    """One query and one bag at a time; 60 queries twice, so that rows of one stay together."""
    features, gain = make_rows(60)
    features, gain = np.vstack([features, features]), np.append(gain, gain + 0.1)
    model = ForestGain(n_bags=6, bag_size=2, seed=3).fit(features, gain)
    bags = TreesScorer(model.state()).bags(features)
    # halves are of groups, which are numbered by the checksum of their features
    number = {row: i for i, row in enumerate(sorted({_key(row) for row in features}))}
    halves = half_samples(60, 6, 20_000, np.random.default_rng(3))
    means, excess = [], []
    for i, row in enumerate(features):
        unseen = [bags[i, b] for b in range(6) if not halves[b, number[_key(row)]]]
        assert len(unseen) == 3
        means.append(np.mean(unseen))
        excess.append(1.5 * np.var(unseen, ddof=1) * (1 / 3 - 1 / 6))
    left = np.sqrt(max(0.0, 1 - np.mean(excess) / np.var(means)))
    drawn = np.mean(means) + left * (np.array(means) - np.mean(means))
    config = model.state().config
    expected = config["gain_centre"] + config["slope"] * (drawn - config["gain_centre"])
    np.testing.assert_allclose(model.predict_unseen(features), expected, rtol=1e-9)


def _key(row: NDArray[np.float32]) -> int:
    return zlib.crc32(row.tobytes())


def test_the_excess_is_that_of_the_mean_of_one_half_of_each_pair() -> None:
    """Against drawn bags: between none for halves that err independently and oppositely."""
    rng = np.random.default_rng(0)
    n, pairs = 40_000, 5
    data, own = rng.normal(size=(n, pairs, 1)), rng.normal(size=(n, pairs, 2))
    bags = np.concatenate([data, -data], axis=2) + own  # half of the variance is opposite
    picked = np.zeros((n, pairs, 2), dtype=bool)
    picked[..., 0] = rng.random((n, pairs)) < 0.5
    picked[..., 1] = ~picked[..., 0]
    mean, excess = out_of_bag(bags.reshape(n, -1), picked.reshape(n, -1))
    beyond = mean.var() - bags.reshape(n, -1).mean(axis=1).var()
    assert excess.mean() == pytest.approx(beyond, rel=0.05)
    whole, none = out_of_bag(bags.reshape(n, -1), np.ones((n, 2 * pairs), dtype=bool))
    np.testing.assert_allclose(whole, bags.mean(axis=(1, 2)), atol=1e-12)
    assert not none.any()


ENSEMBLES = pytest.mark.parametrize(
    "model", [ForestGain(n_bags=20), BoostingGain(), MLPGain(n_members=4, max_epochs=20)], ids=type
)


@ENSEMBLES
def test_a_share_of_training_queries_is_that_of_new_ones(model: HalfSampledGain) -> None:
    """A tenth is asked for on few noisy labels."""
    shares = []
    new = make_rows(2000, seed=99)[0]
    for seed in range(4):
        features, gain = make_rows(120, seed=seed)
        fitted = model.fit(features, gain)  # type: ignore[attr-defined]
        limit = np.quantile(fitted.predict_unseen(features), 0.9)
        shares.append(np.mean(fitted.predict(new).mean > limit))
    # four training sets of 120: the share has a standard error of about 1.7 %
    assert abs(np.mean(shares) - 0.1) < 0.045


@ENSEMBLES
def test_a_query_that_is_new_is_predicted_as_ever(model: HalfSampledGain) -> None:
    fitted = model.fit(*make_rows(60))  # type: ignore[attr-defined]
    new = make_rows(50, seed=1)[0]
    np.testing.assert_allclose(fitted.predict_unseen(new), fitted.predict(new).mean, atol=1e-12)


def test_a_single_query_is_in_every_bag() -> None:
    """There is no other prediction of it, and no error."""
    features = np.ones((3, 2), dtype=np.float32)
    model = ForestGain(n_bags=4).fit(features, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(model.predict_unseen(features), 2.0)


def test_other_models_predict_training_queries_as_any() -> None:
    """To the last bit, so that a price of cost that rests on them does not move."""
    features, gain = make_rows(60)
    ridge = make_gain_model("ridge").fit(features, gain)
    assert (unseen_gains(ridge, features) == ridge.predict(features).mean).all()


@pytest.mark.parametrize("name", ["ridge", "forest"])
def test_a_pool_asks_each_of_its_models(name: str) -> None:
    features, gain = make_rows(80)
    table = make_gain_table(
        queries=[f"query {i}" for i in range(80)],
        query=np.repeat(np.arange(80), 2),
        models=("a", "b", "c"),
        candidate=np.tile([1, 2], 80),
        baseline=np.zeros(160),
        gain=np.column_stack([gain, -2 * gain]).ravel(),
        is_gold=np.ones(160, dtype=bool),
        features=features,
    )
    pool = PoolGainModel(lambda: make_gain_model(name))
    with pytest.raises(NotFittedError):
        pool.predict_unseen(features)
    pool.fit(table)
    found = unseen_gains(pool, features)
    members = [unseen_gains(member, features) for member in pool.members_]
    np.testing.assert_allclose(found, np.column_stack(members), atol=1e-12)
    assert (found == pool.predict(features).mean).all() == (name == "ridge")


def test_an_unfitted_model_says_so() -> None:
    with pytest.raises(NotFittedError):
        ForestGain().predict_unseen(np.zeros((2, 2)))
