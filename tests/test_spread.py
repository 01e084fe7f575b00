"""How much more widely a fit predicts its own queries than others, and the share that follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.calibration import CalibrationTarget
from metarouter.errors import DataError
from metarouter.fitting import FitOptions, fit_table
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.policy.calibrate import calibrate_share
from metarouter.records import GainEstimate
from metarouter.router import Router
from metarouter.spread import draw_in, spread_ratio
from metarouter.testing import make_world

_EMBEDDER = "hashed:2048+surface"  # as the default, in a third of the time


class _Given:
    """A pipeline with the feature of a text at hand; says what it was fitted on."""

    def __init__(self, value: Callable[[str], Sequence[float]]) -> None:
        self.value = value
        self.texts: list[str] = []

    def fit(self, texts: Sequence[str]) -> Any:
        self.texts = list(texts)
        return self

    def transform(self, texts: Sequence[str]) -> Any:
        return np.array([self.value(text) for text in texts], dtype=np.float32)


class _Stub:
    """Says of a query what its features are, and of one that it knew `wide` times that."""

    def __init__(self, wide: Sequence[float]) -> None:
        self.wide = np.array(wide)
        self.asked: list[float] = []

    def learn(self, table: GainTable) -> Any:
        assert table.features is not None
        self.known = {tuple(row) for row in table.features.tolist()}
        return self

    def predict(self, features: Any) -> GainEstimate:
        self.asked += features[:, 0].tolist()
        knew = np.array([tuple(row) in self.known for row in features.tolist()])
        mean = features.astype(np.float64) * np.where(knew[:, None], self.wide, 1.0)
        return GainEstimate(mean=mean, std=np.ones(mean.shape))


def _table(texts: Sequence[str], **columns: Any) -> GainTable:
    n = len(texts)
    columns = {"gain": np.zeros(n), "is_gold": np.ones(n, dtype=bool), **columns}
    return make_gain_table(queries=texts, **columns)


def _ratio(table: GainTable, stage: Any, model: _Stub) -> Any:
    return spread_ratio(table, lambda: stage, model.learn)


def test_the_ratio_is_that_of_two_halves_less_what_a_whole_does_better() -> None:
    """Straight from the formula, of whichever half the pipeline was fitted on."""
    texts = [f"query {i}" for i in range(101)]
    x = dict(zip(texts, np.random.default_rng(3).normal(size=101).astype(np.float32), strict=True))
    stage = _Given(lambda text: [x[text]])
    found = _ratio(_table(texts), stage, _Stub([2.0]))
    own = np.array([x[text] for text in stage.texts], dtype=np.float64)
    new = np.array([x[text] for text in texts if text not in stage.texts], dtype=np.float64)
    expected = 1 - (1 - new.std() / (2 * own.std())) * (len(own) / 101) ** 0.75
    assert len(own) in {50, 51}
    assert found.tolist() == pytest.approx([expected])
    assert found[0] < 0.8


def test_each_gain_of_a_pool_has_its_own_ratio_and_none_is_above_1() -> None:
    """The second model's predictions are wider for queries it knew, the third's narrower."""
    texts = [f"query {i}" for i in range(80)]
    values = np.random.default_rng(0).permutation(80)
    stage = _Given(lambda text: [values[int(text[6:])], values[int(text[6:])]])
    table = _table(texts, models=("a", "b", "c"), candidate=np.tile([1, 2], 40))
    first, second = _ratio(table, stage, _Stub([3.0, 0.3]))
    assert 0.4 < first < 0.75
    assert second == 1.0


def test_queries_of_one_text_are_on_one_side() -> None:
    """Else a query would be new to a fit that has seen its text."""
    texts = [f"query {i % 50}" for i in range(150)]
    ids = [str(i) for i in range(150)]
    stage, model = _Given(lambda text: [float(text[6:])]), _Stub([1.0])
    _ratio(_table(texts, query_ids=ids), stage, model)
    seen = [float(text[6:]) for text in stage.texts]
    assert len(seen) == 75
    new = set(model.asked) - set(seen)
    assert len(new) == 25
    assert sorted(model.asked) == sorted(3 * list(map(float, range(50))))


def test_gold_and_plain_queries_are_halved_apart_and_at_most_500_of_each_are_used() -> None:
    """A fit to 200,000 prompts is not followed by one to half of them, nor by one without gold."""
    texts = [f"query {i}" for i in range(2500)]
    gold = np.arange(2500) < 60
    stage = _Given(lambda text: [float(text[6:])])
    _ratio(_table(texts, is_gold=gold), stage, _Stub([1.0]))
    number = np.array([int(text[6:]) for text in stage.texts])
    assert (number < 60).sum() == 30
    assert (number >= 60).sum() == 250


def test_nothing_is_drawn_in_where_a_half_says_nothing() -> None:
    """Of a constant gain, of fewer than 40 texts, or where a half holds too few labels."""
    texts = [f"query {i}" for i in range(60)]
    stage = _Given(lambda text: [0.7])
    assert _ratio(_table(texts), stage, _Stub([3.0])).tolist() == [1.0]
    stage = _Given(lambda text: [float(text[6:])])
    assert _ratio(_table(texts[:39]), stage, _Stub([3.0])).tolist() == [1.0]
    assert _ratio(_table(texts), stage, _Stub([3.0]))[0] < 1

    def fail(table: GainTable) -> Any:
        raise DataError("too few labels")

    assert spread_ratio(_table(texts), lambda: stage, fail).tolist() == [1.0]  # type: ignore[arg-type, return-value]


@given(
    st.lists(st.sampled_from([-0.5, 0.0, 0.1, 0.3, 0.8, 1.0]), min_size=1, max_size=30),
    st.floats(0.05, 1.0),
)
def test_drawn_in_gains_keep_their_order_and_their_ties(values: list[float], ratio: float) -> None:
    gains = np.sort(np.array(values))[:, None]
    drawn = draw_in(gains, gains, np.array([ratio]))
    assert (np.diff(drawn, axis=0) >= -1e-12).all()
    assert (drawn[1:] == drawn[:-1])[(gains[1:] == gains[:-1])].all()
    np.testing.assert_allclose(draw_in(gains, gains, np.array([1.0])), gains, atol=1e-12)


def test_a_normal_gain_is_drawn_in_by_the_ratio_and_one_in_clumps_stays_in_them() -> None:
    """Of a tenth at 1 and the rest at 0 there is nothing in between to be drawn to."""
    normal = np.random.default_rng(0).normal(0.2, 0.1, size=(20_000, 1))
    drawn = draw_in(normal, normal, np.array([0.8]))
    for share in (0.1, 0.25, 0.4, 0.5, 0.75):
        expected = 1 - NormalDist().cdf(0.8 * NormalDist().inv_cdf(1 - share))
        assert (normal > np.quantile(drawn, 1 - share)).mean() == pytest.approx(expected, abs=0.01)
    clumps = np.repeat([0.0, 1.0], [900, 100])[:, None]
    assert draw_in(clumps, clumps, np.array([0.8])).tolist() == clumps.tolist()


def _fitted(table: GainTable, seed: int = 0, **asked: float) -> Router:
    target = CalibrationTarget(**asked)
    return fit_table(table, FitOptions(embedder=_EMBEDDER, folds=0, seed=seed, target=target))


def test_new_prompts_get_the_share_that_was_asked_for() -> None:
    """Else a third of a tenth is missing; 10 worlds of 100 prompts, 1,000 new ones each."""
    got, plain = [], []
    for seed in range(10):
        world = make_world(n_queries=100, n_gold=100, n_test=1000, seed=seed)
        router = _fitted(world.table, seed, premium_share=0.1)
        new = router.predict_gain(list(world.test.queries)).mean.ravel()
        own = router.predict_gain(list(world.texts)).mean.ravel()
        got.append((new > router.policy.w).mean())
        plain.append((new > calibrate_share(own, np.array([0.0, 1.0]), 0.1).w).mean())
    assert np.mean(plain) < 0.07
    assert np.mean(got) == pytest.approx(0.1, abs=0.015)


def test_none_and_all_are_none_and_all_of_the_training_prompts() -> None:
    """A threshold beyond every gain is not drawn in among them."""
    world = make_world(n_queries=100, n_gold=100, n_test=0)
    texts = list(world.texts)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"premium_share": 0.0}, "cheap"),
        ({"budget": 0.0}, "cheap"),
        ({"premium_share": 1.0}, "premium"),
    ]
    for target, model in cases:
        router = _fitted(world.table, **target)
        assert {decision.model for decision in router.route_batch(texts)} == {model}


def test_a_share_and_the_same_budget_set_the_same_threshold() -> None:
    """Calls cost 0 and 1, and w is positive."""
    world = make_world(n_queries=100, n_gold=100, n_test=0)
    share = _fitted(world.table, premium_share=0.1).policy.w
    budget = _fitted(world.table, budget=100.0).policy.w
    own = _fitted(world.table, w=0.0).predict_gain(list(world.texts)).mean.reshape(-1, 1)
    drawn_in = draw_in(own, own, _ratio_of(world.table))
    between = np.sort(drawn_in.ravel())[-11:-9]
    assert between[0] <= share <= between[1]
    assert between[0] <= budget <= between[1]


def _ratio_of(table: GainTable) -> Any:
    options = FitOptions(embedder=_EMBEDDER)
    return spread_ratio(table, options.make_features, options.learn)


def test_equal_gains_give_a_threshold_as_before() -> None:
    """Labels that are all equal: every prompt is predicted alike, and none is above its price."""
    texts = list(make_world(n_queries=60, n_gold=60, n_test=0).texts)
    router = _fitted(_table(texts, gain=np.full(60, 0.25)), premium_share=0.4)
    assert {decision.model for decision in router.route_batch(texts)} == {"cheap"}
    assert router.policy.w == pytest.approx(router.predict_gain(texts[:1]).mean.item())
