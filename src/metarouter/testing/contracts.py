"""What every embedder, corrector and gain model promises, as checks for your own.

Each check is a function of one argument, *make*, that raises an AssertionError
where a promise is broken; what is promised is the sentence below its name. The
suite of metarouter runs them over all that is registered. For your own::

    import pytest
    from metarouter.testing import GAIN_MODEL_CHECKS

    @pytest.mark.parametrize("check", GAIN_MODEL_CHECKS, ids=lambda check: check.__name__)
    def test_my_model(check):
        check(MyModel)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from metarouter.errors import NotFittedError
from metarouter.gain.scoring import load_gain_model
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.records import GainEstimate
from metarouter.types import Corrector, Embedder, FloatArray, GainModel, ModelState, TableGainModel

__all__ = [
    "CORRECTOR_CHECKS",
    "EMBEDDER_CHECKS",
    "GAIN_MODEL_CHECKS",
    "TABLE_GAIN_MODEL_CHECKS",
]

MakeEmbedder = Callable[[], Embedder]
MakeCorrector = Callable[..., Corrector]  # called with seed=
MakeGainModel = Callable[..., GainModel]  # called with seed=
MakeTableGainModel = Callable[..., TableGainModel]  # called with seed=

_TEXTS = (
    "What is the capital of Peru?",
    "",
    " \n\t ",
    "Quelle est la dérivée de x² ? 🙂",
    "如何证明这个定理？",
    "\ud800 a lone surrogate, a \x00 and a \u200b",
    "word " * 50,
)


def vectors_are_finite_float32_of_the_declared_shape(make: MakeEmbedder) -> None:
    """One row of ``dim`` numbers for each text, whatever is in it; none for none."""
    embedder = make()
    _promise(isinstance(embedder, Embedder), "lacks a name, a dim, or embed()")
    _promise(embedder.name == embedder.name.strip() != "", "its name is blank or has blanks around")
    for texts in (_TEXTS, (), ("x" * 100_000,)):
        vectors = embedder.embed(texts)
        _promise(vectors.shape == (len(texts), embedder.dim), f"vectors of shape {vectors.shape}")
        _promise(vectors.dtype == np.float32, f"vectors of {vectors.dtype}")
        _promise(np.isfinite(vectors).all(), "vectors are not finite")


def a_text_has_one_vector(make: MakeEmbedder) -> None:
    """The same in every batch, in every order, and asked again."""
    embedder = make()
    together = embedder.embed(_TEXTS)
    assert_array_equal(embedder.embed(_TEXTS), together)
    assert_allclose(embedder.embed(_TEXTS[::-1])[::-1], together, atol=1e-6)
    assert_allclose(embedder.embed(_TEXTS[3:4])[0], together[3], atol=1e-6)


def threads_may_share_an_embedder(make: MakeEmbedder) -> None:
    """Concurrent calls give what one call after the other gives."""
    embedder = make()
    texts = [f"Text number {i} about topic{i % 7} {'again ' * (i % 5)}" for i in range(40)]
    expected = embedder.embed(texts)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda text: embedder.embed([text])[0], texts))
    assert_allclose(np.stack(rows), expected, atol=1e-6)


def a_corrector_learns_and_tells(make: MakeCorrector) -> None:
    """``fit`` returns the corrector, ``diagnostics_`` are JSON values."""
    corrector = make(seed=0)
    _promise(hasattr(corrector, "fit"), "lacks fit()")
    _promise(corrector.fit(_biased_pair()) is corrector, "fit() must return self")
    _promise(isinstance(corrector, Corrector), "lacks transform(), or diagnostics_ after fit()")
    _promise(
        json.loads(json.dumps(corrector.diagnostics_)) == corrector.diagnostics_,
        "diagnostics_ are not JSON values",
    )


def gold_rows_come_back_untouched(make: MakeCorrector) -> None:
    """The given table stays as it is; all rows come back, or all but the gold ones."""
    table = _biased_pair()
    before = table.gain.copy()
    result = make(seed=0).fit(table).transform(table)
    assert_array_equal(table.gain, before, "the table that was given has changed")
    _check_corrected(result)
    expected = table if result.is_gold.any() else table.preference()
    gold = expected.is_gold
    assert_array_equal(result.is_gold, gold)
    assert_array_equal(result.query, expected.query)
    assert_array_equal(result.gain[gold], expected.gain[gold])
    assert_array_equal(result.variance[gold], expected.variance[gold])


def a_new_table_is_corrected(make: MakeCorrector) -> None:
    """Queries that the corrector never saw, without gold among them."""
    corrector = make(seed=0).fit(_biased_pair())
    new = _biased_pair(seed=5).preference()
    result = corrector.transform(new)
    _promise(len(result) == len(new), "rows are lost")
    _check_corrected(result)


def a_pool_is_corrected(make: MakeCorrector) -> None:
    """Contrasts between any two of three models."""
    table = _biased_pool()
    _check_corrected(make(seed=0).fit(table).transform(table))


def a_seed_gives_the_same_correction(make: MakeCorrector) -> None:
    """Two fits with one seed are equal to the last bit."""
    table = _biased_pair()
    one, other = (make(seed=3).fit(table).transform(table) for _ in range(2))
    assert_array_equal(one.gain, other.gain)
    assert_array_equal(one.variance, other.variance)


def a_gain_model_predicts_finite_gains(make: MakeGainModel) -> None:
    """``fit`` returns the model; float64 of shape (n,), std above 0, also far from the data."""
    model = make(seed=0)
    _promise(isinstance(model, GainModel), "lacks fit(), predict() or state()")
    _promise(model.fit(*_rows()) is model, "fit() must return self")
    _check_estimate(model.predict(10 * _rows(seed=1)[0]), (100,))
    _check_estimate(model.predict(np.zeros((0, 5), dtype=np.float32)), (0,))


def a_row_without_weight_does_not_teach(make: MakeGainModel) -> None:
    """Absurd gains with weight 0 change nothing, nor does a factor of all weights."""
    features, gain = _rows()
    weight = np.where(np.arange(len(gain)) % 4 == 0, 0.0, 1.0)
    kept = weight > 0
    absurd = np.where(kept, gain, 1e6)
    whole = make(seed=0).fit(features, absurd, 4 * weight).predict(features)
    part = make(seed=0).fit(features[kept], gain[kept]).predict(features)
    assert_allclose(whole.mean, part.mean, rtol=1e-6, atol=1e-8)
    assert_allclose(whole.std, part.std, rtol=1e-6)


def a_state_predicts_what_the_model_does(make: MakeGainModel) -> None:
    """JSON values and arrays of numbers, whose scorer can be loaded and does not depend on batches.

    A kind that is not built in needs an entry point in the group
    ``metarouter.gain_scorers``.
    """
    model = make(seed=0).fit(*_rows())
    scorer, x = load_gain_model(_through_json(model.state())), _rows(seed=2)[0]
    here, there = model.predict(x), scorer.predict(x)
    assert_allclose(there.mean, here.mean, atol=1e-9)
    assert_allclose(there.std, here.std, atol=1e-7)
    alone = [scorer.predict(x[i : i + 1]) for i in range(9)]
    assert_allclose([one.mean[0] for one in alone], there.mean[:9], rtol=1e-7, atol=1e-9)
    assert_allclose([one.std[0] for one in alone], there.std[:9], rtol=1e-6)


def a_seed_gives_the_same_gain_model(make: MakeGainModel) -> None:
    """Two fits with one seed are equal to the last bit."""
    features, gain = _rows()
    one, other = (make(seed=3).fit(features, gain).predict(features) for _ in range(2))
    assert_array_equal(one.mean, other.mean)
    assert_array_equal(one.std, other.std)


def a_gain_model_needs_fit(make: MakeGainModel) -> None:
    """``predict`` and ``state`` raise NotFittedError before."""
    _check_not_fitted(lambda: make(seed=0).predict(np.zeros((1, 5))))
    _check_not_fitted(lambda: make(seed=0).state())


def a_table_model_predicts_finite_gains(make: MakeTableGainModel) -> None:
    """A column for each candidate of a pair and of a pool; wins are probabilities."""
    for table in (_votes(2), _votes(3)):
        model = make(seed=0)
        _promise(isinstance(model, TableGainModel), "lacks fit(), predict(), win_probability(), …")
        _promise(model.fit(table) is model, "fit() must return self")
        for x in (50 * _ask(), _ask()[:0]):
            shape = (len(x), len(table.models) - 1)
            _check_estimate(model.predict(x), shape)
            win = model.win_probability(x)
            _promise(win.shape == shape, f"wins of shape {win.shape}")
            _promise(((win >= 0) & (win <= 1)).all(), "a win is a probability")


def a_row_that_does_not_count_does_not_teach(make: MakeTableGainModel) -> None:
    """Absurd gains with weight 0 or infinite variance change nothing."""
    table = _votes(2)
    out = np.arange(len(table)) % 4 == 0
    part = make(seed=0).fit(table.rows(~out)).predict(_ask())
    gain = np.where(out, 1e6, table.gain)
    for absurd in (
        replace(table, gain=gain, weight=np.where(out, 0.0, 1.0)),
        replace(table, gain=gain, variance=np.where(out, np.inf, 0.0)),
    ):
        whole = make(seed=0).fit(absurd).predict(_ask())
        assert_allclose(whole.mean, part.mean, rtol=1e-9)
        assert_allclose(whole.std, part.std, rtol=1e-9)


def a_table_state_predicts_what_the_model_does(make: MakeTableGainModel) -> None:
    """As :func:`a_state_predicts_what_the_model_does`, with the probability of a win."""
    model = make(seed=0).fit(_votes(2))
    scorer: Any = load_gain_model(_through_json(model.state()))
    x = _ask()
    assert_array_equal(scorer.predict(x).mean, model.predict(x).mean)
    assert_array_equal(scorer.predict(x).std, model.predict(x).std)
    assert_array_equal(scorer.win_probability(x), model.win_probability(x))
    alone = [scorer.predict(x[i : i + 1]) for i in range(len(x))]
    assert_allclose([one.mean[0] for one in alone], scorer.predict(x).mean, atol=1e-5)
    assert_allclose([one.std[0] for one in alone], scorer.predict(x).std, rtol=1e-4)


def a_seed_gives_the_same_table_model(make: MakeTableGainModel) -> None:
    """Two fits with one seed are equal to the last bit."""
    one, other = (make(seed=3).fit(_votes(2)).predict(_ask()) for _ in range(2))
    assert_array_equal(one.mean, other.mean)
    assert_array_equal(one.std, other.std)


def a_table_model_needs_fit(make: MakeTableGainModel) -> None:
    """``predict``, ``win_probability`` and ``state`` raise NotFittedError before."""
    model = make(seed=0)
    _check_not_fitted(lambda: model.predict(_ask()))
    _check_not_fitted(lambda: model.win_probability(_ask()))
    _check_not_fitted(model.state)


EMBEDDER_CHECKS: tuple[Callable[[MakeEmbedder], None], ...] = (
    vectors_are_finite_float32_of_the_declared_shape,
    a_text_has_one_vector,
    threads_may_share_an_embedder,
)
"""Each takes a function without arguments that makes the embedder."""

CORRECTOR_CHECKS: tuple[Callable[[MakeCorrector], None], ...] = (
    a_corrector_learns_and_tells,
    gold_rows_come_back_untouched,
    a_new_table_is_corrected,
    a_pool_is_corrected,
    a_seed_gives_the_same_correction,
)
"""Each takes a function of ``seed=`` that makes the unfitted corrector."""

GAIN_MODEL_CHECKS: tuple[Callable[[MakeGainModel], None], ...] = (
    a_gain_model_predicts_finite_gains,
    a_row_without_weight_does_not_teach,
    a_state_predicts_what_the_model_does,
    a_seed_gives_the_same_gain_model,
    a_gain_model_needs_fit,
)
"""Each takes a function of ``seed=`` that makes the unfitted model."""

TABLE_GAIN_MODEL_CHECKS: tuple[Callable[[MakeTableGainModel], None], ...] = (
    a_table_model_predicts_finite_gains,
    a_row_that_does_not_count_does_not_teach,
    a_table_state_predicts_what_the_model_does,
    a_seed_gives_the_same_table_model,
    a_table_model_needs_fit,
)
"""Each takes a function of ``seed=`` that makes the unfitted model."""


def _rows(n: int = 100, seed: int = 0) -> tuple[NDArray[np.float32], FloatArray]:
    """Features (n, 5) and noisy gains that are linear in them."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 5)).astype(np.float32)
    truth = 0.1 + features[:, :2].astype(np.float64) @ np.array([0.24, -0.18])
    return features, truth + 0.3 * rng.normal(size=n)


def _biased_pair(n: int = 240, seed: int = 0) -> GainTable:
    """A quarter gold rows; the judge's error is linear in the first feature."""
    features, gain = _rows(n, seed)
    is_gold = np.arange(n) % 4 == 0
    error = np.where(is_gold, 0.0, 0.15 + 0.2 * features[:, 0])
    queries = [f"{seed}: query {i}" for i in range(n)]
    return make_gain_table(queries=queries, gain=gain + error, is_gold=is_gold, features=features)


def _biased_pool(n: int = 300) -> GainTable:
    """Three models, a third gold; the judge flatters the second by 0.3."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 4))
    psi = np.column_stack([np.zeros(n), 0.4 * x[:, 0], 0.5 + 0.4 * x[:, 1]])
    candidate, baseline = np.array([[1, 0], [2, 0], [2, 1]])[rng.integers(3, size=n)].T
    is_gold, at = np.arange(n) % 3 == 0, np.arange(n)
    gain = psi[at, candidate] - psi[at, baseline] + 0.2 * rng.normal(size=n)
    flattered = 0.3 * ((candidate == 1).astype(float) - (baseline == 1))
    return make_gain_table(
        queries=[f"query {i}" for i in at],
        models=("small", "medium", "large"),
        gain=np.where(is_gold, gain, gain + flattered),
        is_gold=is_gold,
        candidate=candidate,
        baseline=baseline,
        features=x,
    )


def _votes(n_models: int, n: int = 200) -> GainTable:
    """Wins and losses between any two models, the later the stronger."""
    rng = np.random.default_rng(n_models)
    candidate = rng.integers(1, n_models, n)
    baseline = rng.integers(0, candidate)
    win = rng.random(n) < 1 / (1 + np.exp(-0.8 * (candidate - baseline)))
    return make_gain_table(
        queries=[f"query {i}" for i in range(n)],
        models=("small", "medium", "large")[:n_models],
        candidate=candidate,
        baseline=baseline,
        gain=np.where(win, 1.0, -1.0),
        is_gold=np.zeros(n, dtype=bool),
        features=rng.normal(size=(n, 5)),
    )


def _ask() -> NDArray[np.float32]:
    """Features (9, 5) of new queries."""
    return np.random.default_rng(7).normal(size=(9, 5)).astype(np.float32)


def _through_json(state: ModelState) -> ModelState:
    """A state as an artifact gives it back."""
    config = json.loads(json.dumps(state.config, allow_nan=False))
    kinds = {name: array.dtype.kind for name, array in state.arrays.items()}
    _promise(set(kinds.values()) <= set("fiub"), f"arrays of numbers only, not {kinds}")
    return ModelState(kind=state.kind, config=config, arrays=state.arrays)


def _promise(kept: Any, otherwise: str) -> None:
    if not kept:
        raise AssertionError(otherwise)


def _check_corrected(table: GainTable) -> None:
    _promise(np.isfinite(table.gain).all(), "a corrected gain is not finite")
    _promise(not np.isnan(table.variance).any(), "a variance is NaN")


def _check_estimate(estimate: GainEstimate, shape: tuple[int, ...]) -> None:
    for name, values in (("mean", estimate.mean), ("std", estimate.std)):
        _promise(values.shape == shape, f"{name} of shape {values.shape}, not {shape}")
        _promise(values.dtype == np.float64, f"{name} of {values.dtype}")
        _promise(np.isfinite(values).all(), f"{name} is not finite")
    _promise((estimate.std > 0).all(), "std must be above 0")


def _check_not_fitted(ask: Callable[[], Any]) -> None:
    try:
        ask()
    except NotFittedError:
        return
    raise AssertionError("asked before fit, it must raise metarouter.errors.NotFittedError")
