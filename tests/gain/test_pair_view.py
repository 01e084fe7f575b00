"""A pair's router may learn from battles of other models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from metarouter.errors import DataError, OptionError
from metarouter.gain import PoolGainModel, load_gain_model, make_gain_model, make_table_gain_model
from metarouter.gain.pair_view import PairView, pair_view_state
from metarouter.gain.sw_ranking import SWRanking
from metarouter.labels import GainTable, make_gain_table
from metarouter.labels.battles import keep_models, reorder_models
from metarouter.types import ModelState

X = np.random.default_rng(9).normal(size=(6, 4))


def make_arena(n: int = 900) -> GainTable:
    """Battles of five models; few are between the two that will be routed."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, n)
    second = (first + rng.integers(1, 5, n)) % 5
    candidate, baseline = np.maximum(first, second), np.minimum(first, second)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    lead = 0.7 * (candidate - baseline) * (1.0 + x[:, 0])
    gain = np.where(rng.random(n) < 1.0 / (1.0 + np.exp(-lead)), 1.0, -1.0)
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        models=tuple("abcde"),
        candidate=candidate,
        baseline=baseline,
        gain=gain,
        is_gold=np.zeros(n, dtype=bool),
        features=x,
    )


@pytest.mark.parametrize("name", ["sw_ranking", "knn", "cluster"])
def test_a_pair_is_a_column_of_its_pool(name: str) -> None:
    """Gains and probabilities of the premium model, before and after saving."""
    table = reorder_models(make_arena(), ("b", "a", "c", "e", "d"))
    pool = make_table_gain_model(name).fit(table)
    view = PairView(pool, table.models, "d")
    np.testing.assert_array_equal(view.predict(X).mean, pool.predict(X).mean[:, 3:])
    np.testing.assert_array_equal(view.predict(X).std, pool.predict(X).std[:, 3:])
    np.testing.assert_array_equal(view.win_probability(X), pool.win_probability(X)[:, 3:])
    state = view.state()
    config = json.loads(json.dumps(state.config))
    loaded = load_gain_model(ModelState(kind=state.kind, config=config, arrays=state.arrays))
    np.testing.assert_array_equal(loaded.predict(X).mean, view.predict(X).mean)


def test_battles_of_other_models_make_a_pair_more_certain() -> None:
    """The pool's estimate of the pair has a smaller deviation than the pair's battles alone."""
    table = make_arena()
    pool = make_table_gain_model("sw_ranking", gamma=10.0).fit(reorder_models(table, "bacde"))
    alone = make_table_gain_model("sw_ranking", gamma=10.0).fit(keep_models(table, ["b", "d"]))
    view = PairView(pool, tuple("bacde"), "d")
    assert (view.predict(X).std < 0.9 * alone.predict(X).std).all()


def test_models_of_one_gain_have_no_probabilities() -> None:
    """Their gains can be viewed, and asking for wins says why not."""
    table = make_arena()
    pool = PoolGainModel(lambda: make_gain_model("ridge")).fit(table)
    view = PairView(pool, table.models, "e")
    assert view.predict(X).mean.shape == (6, 1)
    with pytest.raises(OptionError, match="knows gains, not probabilities"):
        view.win_probability(X)


def test_models_of_one_tier_are_no_pair() -> None:
    """Within a tier a ranking tells no query from another, so a router would be constant."""
    pool = SWRanking(num_tiers=2).fit(make_arena())
    together = {"abcde"[i] for i in range(1, 5) if pool.tier_[i] == pool.tier_[0]}
    assert together
    for name in "bcde":
        if name not in together:
            assert PairView(pool, tuple("abcde"), name).predict(X).mean.std() > 0
            continue
        assert pool.predict(X).mean[:, "abcde".index(name) - 1].std() < 1e-12
        with pytest.raises(DataError, match=r"both models into tier 1.*strong_weak_table"):
            PairView(pool, tuple("abcde"), name)


def onboarded(base: ModelState, n_known: int, place: int | None) -> ModelState:
    """A pool with a model between its candidates whose gain is the first feature."""
    mean = np.zeros(n_known + 5)
    mean[n_known + 1] = 1.0
    config = {"base": {"kind": base.kind, "config": base.config}, "keeps_base": True, "size": 1.0}
    return ModelState(
        kind="onboarded",
        config=config if place is None else config | {"place": place},
        arrays={f"base.{name}": array for name, array in base.arrays.items()}
        | {"mean": mean, "factor": 0.1 * np.eye(len(mean))},
    )


@pytest.mark.parametrize("places", [(0,), (2,), (4,), (None,), (1, 0), (0, 5)])
def test_models_of_one_tier_are_no_pair_in_a_pool_with_newcomers(
    places: tuple[int | None, ...],
) -> None:
    """What is refused is what is the same for every query, wherever a new model stands."""
    state = SWRanking(num_tiers=2).fit(make_arena()).state()
    for n_known, place in enumerate(places, start=4):
        state = onboarded(state, n_known, place)
    gains = load_gain_model(state).predict(X).mean
    refused = []
    for column in range(gains.shape[1]):
        is_constant = gains[:, column].std() < 1e-12
        refused.append(is_constant)
        if is_constant:
            with pytest.raises(DataError, match="both models into tier 1"):
                pair_view_state(state, column)
        else:
            view = load_gain_model(pair_view_state(state, column))
            np.testing.assert_array_equal(view.predict(X).mean[:, 0], gains[:, column])
    assert any(refused)
    assert not all(refused)


def test_the_reference_is_no_candidate() -> None:
    """The message lists the candidates."""
    pool = make_table_gain_model("random").fit(make_arena())
    with pytest.raises(OptionError, match="premium = 'a'; allowed: one of b, c, d, e"):
        PairView(pool, tuple("abcde"), "a")
