"""Rows of a pool are written alike in whatever table they come."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.correction import make_corrector
from metarouter.correction.contrasts import contrast_inputs, level_size, row_inputs
from metarouter.labels.table import GainTable, make_gain_table


def pool(n: int, scale: float, seed: int) -> GainTable:
    """Three models; features about `scale` long, gains that differ by model."""
    rng = np.random.default_rng(seed)
    features = scale * rng.normal(size=(n, 3)) * rng.uniform(0.1, 2.0, size=(n, 1))
    candidate = rng.integers(1, 3, n)
    is_gold = rng.random(n) < 0.5
    return make_gain_table(
        queries=[f"{seed}-{i}" for i in range(n)],
        gain=0.5 * candidate * is_gold + 0.1 * rng.normal(size=n),
        is_gold=is_gold,
        models=("m0", "m1", "m2"),
        candidate=candidate,
        baseline=np.zeros(n, dtype=np.int64),
        features=features,
    )


FITTED, OTHER = pool(200, 1.0, seed=0), pool(60, 0.2, seed=1)


@pytest.mark.parametrize("inputs", [contrast_inputs, row_inputs])
def test_a_row_has_the_same_inputs_alone_and_among_others(inputs: object) -> None:
    """The column of a model's own level does not depend on the other rows."""
    assert callable(inputs)
    size = level_size(FITTED)
    at = np.arange(0, len(OTHER), 7)
    np.testing.assert_array_equal(inputs(OTHER.rows(at), size), inputs(OTHER, size)[at])


def test_contrasts_are_the_outer_product_of_models_and_features() -> None:
    """+1 for the candidate, nothing for the reference, times (size, x), row by row."""
    size = np.sqrt(np.mean([row @ row for row in FITTED.row_features().astype(float)]))
    assert level_size(FITTED) == pytest.approx(size)
    expected = np.zeros((len(FITTED), 8))
    for i, (model, x) in enumerate(zip(FITTED.candidate, FITTED.row_features(), strict=True)):
        expected[i, 4 * (model - 1) : 4 * model] = [size, *x]
    np.testing.assert_allclose(contrast_inputs(FITTED, size), expected, rtol=1e-6)


def test_a_large_pool_takes_no_more_than_6_kb_a_row() -> None:
    """Many models and features: 1,500 numbers of 4 bytes, so 55,000 rows fit in 330 MB."""
    rng = np.random.default_rng(0)
    models = tuple(f"m{i}" for i in range(30))
    table = make_gain_table(
        queries=[f"q{i}" for i in range(50)],
        gain=rng.normal(size=50),
        is_gold=np.ones(50, dtype=bool),
        models=models,
        candidate=rng.integers(1, 30, 50),
        baseline=np.zeros(50, dtype=np.int64),
        features=rng.normal(size=(50, 300)),
    )
    assert contrast_inputs(table, level_size(table)).nbytes <= 6_000 * len(table)


@pytest.mark.parametrize("name", ["dr", "published_r"])
def test_a_new_row_is_corrected_alone_as_among_others(name: str) -> None:
    """A corrector writes rows of another table as it wrote those it was fitted to."""
    corrector = make_corrector(name).fit(FITTED)
    whole = corrector.transform(OTHER)
    alone = [corrector.transform(OTHER.rows(np.array([i]))).gain[0] for i in range(len(OTHER))]
    np.testing.assert_allclose(alone, whole.gain, atol=1e-9)


@pytest.mark.parametrize("name", ["dr", "published_r"])
def test_the_level_of_a_model_holds_in_a_table_of_small_features(name: str) -> None:
    """Votes without bias of features near 0 keep the shift that the models' levels have."""
    corrector = make_corrector(name).fit(FITTED)
    few = corrector.transform(OTHER.preference())
    shift = few.gain - OTHER.preference().gain
    by_model = [float(shift[few.candidate == m].mean()) for m in (1, 2)]
    np.testing.assert_allclose(by_model, [0.5, 1.0], atol=0.15)
