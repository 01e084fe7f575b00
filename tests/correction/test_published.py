"""The published recipe against a straight-line version of its description."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from metarouter.correction import make_corrector
from metarouter.labels.table import GainTable
from metarouter.testing import make_simulation
from metarouter.types import FloatArray


def nuisance() -> RandomForestRegressor:
    return RandomForestRegressor(
        n_estimators=100, max_depth=20, max_features="sqrt", random_state=42
    )


def recipe(table: GainTable, learner: str) -> FloatArray:
    """Pseudo-gold gains of the preference rows, step by step."""
    X = table.row_features().astype(np.float64)
    T = table.is_gold.astype(np.float64)
    gold, pref = table.gain[table.is_gold], table.gain[~table.is_gold]
    # Forests break ties by rounding errors, so that even the order of products matters.
    Y = np.where(table.is_gold, table.gain, table.gain * (np.std(gold) / np.std(pref)))
    final = RandomForestRegressor(
        n_estimators=200,
        max_depth=30,
        min_samples_split=5,
        min_samples_leaf=2,
        max_features="sqrt",
        random_state=42,
    )
    if learner == "r":
        m = nuisance().fit(X, Y).predict(X)
        e = np.clip(nuisance().fit(X, T).predict(X), 0.1, 0.9)
        keep = np.abs(T - e) > 0.05
        z, weight = (Y - m) / (T - e), (T - e) ** 2
        final.fit(X[keep], z[keep], sample_weight=weight[keep])
    else:
        XT = np.column_stack([X, T])
        forest = nuisance().fit(XT, Y)
        treated, control = XT.copy(), XT.copy()
        treated[:, -1], control[:, -1] = 1.0, 0.0
        mu1, mu0 = forest.predict(treated), forest.predict(control)
        e = np.clip(nuisance().fit(X, T).predict(X), 0.05, 0.95)
        keep = e * (1 - e) > 0.05
        z = (T - e) / (e * (1 - e)) * (Y - np.where(T == 1, mu1, mu0)) + mu1 - mu0
        final.fit(X[keep], z[keep])
    shift = np.clip(final.predict(X[T == 0]), -1.2, 1.2)
    return np.asarray(Y[T == 0] + shift, dtype=np.float64)


@pytest.mark.parametrize("learner", ["r", "dr"])
def test_equals_the_recipe_to_the_last_bit(learner: str) -> None:
    table = make_simulation(260, 5, n_gold=40, n_test=10, bias="linear", seed=3).table
    result = make_corrector(f"published_{learner}").fit(table).transform(table)
    np.testing.assert_allclose(result.gain[~table.is_gold], recipe(table, learner), rtol=1e-12)


def test_the_seed_of_the_recipe_is_fixed() -> None:
    table = make_simulation(160, 5, n_gold=40, n_test=10, bias="linear", seed=3).table
    one, other = (
        make_corrector("published_r", seed=seed).fit(table).transform(table).gain for seed in (0, 9)
    )
    np.testing.assert_array_equal(one, other)


def test_dr_leaves_out_nearly_all_rows_with_a_small_propensity() -> None:
    """With few gold labels most rows sit at the floor, where the mask drops them."""
    table = make_simulation(1_010, 5, n_gold=20, n_test=10, bias="linear", seed=0).table
    corrector = make_corrector("published_dr").fit(table)
    assert corrector.diagnostics_["rows_in_final_stage"] < len(table) / 4
