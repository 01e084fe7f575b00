"""What every registered corrector promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from metarouter.correction import CORRECTORS, corrector_names, make_corrector
from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing import CORRECTOR_CHECKS, make_simulation
from metarouter.types import Corrector

META = ("s", "t", "x", "r", "dr")
PUBLISHED = ("published_r", "published_dr")
EVIDENCE = ("auto", "two_fidelity")
# These draw folds, landmarks or trees by the place of a row.
ORDERED = (*META, *PUBLISHED, *EVIDENCE)

every_corrector = pytest.mark.parametrize("name", CORRECTORS)


def make_table(n: int = 240, n_gold: int = 60, seed: int = 0) -> GainTable:
    return make_simulation(n + 1, 4, n_gold=n_gold, n_test=1, bias="linear", seed=seed).table


def make_pool(n: int = 300, seed: int = 0) -> GainTable:
    """Three models; the judge flatters the second by 0.3; contrasts of all pairs."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    psi = np.column_stack([np.zeros(n), 0.4 * X[:, 0], 0.5 + 0.4 * X[:, 1]])
    candidate, baseline = np.array([[1, 0], [2, 0], [2, 1]])[rng.integers(3, size=n)].T
    at, is_gold = np.arange(n), np.arange(n) % 3 == 0
    gain = psi[at, candidate] - psi[at, baseline] + 0.2 * rng.normal(size=n)
    flattered = 0.3 * ((candidate == 1).astype(float) - (baseline == 1))
    return make_gain_table(
        queries=[f"q{i}" for i in at],
        models=("a", "b", "c"),
        gain=np.where(is_gold, gain, gain + flattered),
        is_gold=is_gold,
        candidate=candidate,
        baseline=baseline,
        features=X,
    )


def scaled(table: GainTable, factor: float) -> GainTable:
    return table.with_gains(factor * table.gain, table.variance)


def sources(n_gold: int, n_preference: int) -> GainTable:
    table = make_table()
    gold, plain = np.flatnonzero(table.is_gold), np.flatnonzero(~table.is_gold)
    return table.rows(np.sort(np.concatenate([gold[:n_gold], plain[:n_preference]])))


def corrected(name: str, table: GainTable, **options: Any) -> GainTable:
    return make_corrector(name, **options).fit(table).transform(table)


@cache
def fitted(name: str) -> Corrector:
    return make_corrector(name).fit(make_table())


@every_corrector
@pytest.mark.parametrize("check", CORRECTOR_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, check: Callable[[Any], None]) -> None:
    """What is promised is the sentence of the check."""
    check(partial(make_corrector, name))


@pytest.mark.parametrize("name", [name for name in CORRECTORS if name not in PUBLISHED])
def test_labels_times_three_give_gains_times_three(name: str) -> None:
    table = make_table()
    one, three = corrected(name, table), corrected(name, scaled(table, 3.0))
    np.testing.assert_allclose(three.gain, 3 * one.gain, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(three.variance, 9 * one.variance, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_learners_depend_on_the_unit_of_labels(name: str) -> None:
    """Their shift is cut at 1.2 whatever the unit, the defect that they are kept to show."""
    table = make_table()
    one, ten = corrected(name, table), corrected(name, scaled(table, 10.0))
    assert np.abs(ten.gain - 10 * one.gain).max() > 0.1


@pytest.mark.parametrize("name", [name for name in CORRECTORS if name not in ORDERED])
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    table = make_table()
    at = np.random.default_rng(3).permutation(len(table))
    one, other = corrected(name, table), corrected(name, table.rows(at))
    if name == "preference_only":
        at = np.argsort(other.query)
        np.testing.assert_array_equal(one.gain, other.gain[at])
        return
    np.testing.assert_allclose(other.gain, one.gain[at], atol=1e-12)


@pytest.mark.parametrize("name", EVIDENCE)
def test_the_order_of_rows_hardly_matters_where_it_draws_nothing(name: str) -> None:
    """Features stay in the order of queries, so landmarks are the same."""
    table = make_table()
    at = np.random.default_rng(3).permutation(len(table))
    one, other = corrected(name, table), corrected(name, table.rows(at))
    np.testing.assert_allclose(other.gain, one.gain[at], atol=1e-6)
    np.testing.assert_allclose(other.variance, one.variance[at], atol=1e-6)


@every_corrector
def test_a_table_of_gold_alone_comes_back_as_it_is(name: str) -> None:
    new = make_table(80, seed=5).gold()
    result = fitted(name).transform(new)
    if name == "preference_only":
        assert len(result) == 0
        return
    np.testing.assert_array_equal(result.gain, new.gain)
    np.testing.assert_array_equal(result.variance, new.variance)


@every_corrector
def test_a_pool_of_three_models(name: str) -> None:
    """Correction of all contrasts at once; where there is one, it removes the flattery."""
    table = make_pool()
    result = corrected(name, table)
    assert np.isfinite(result.gain).all()
    if name in ("mean_shift", "auto", "two_fidelity", "t"):
        about = ~table.is_gold & (table.candidate == 1) & (table.baseline == 0)
        psi = 0.4 * table.row_features()[:, 0]
        before = float((table.gain - psi)[about].mean())
        after = float((result.gain - psi)[about].mean())
        assert before > 0.25
        assert abs(after) < 0.15


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CORRECTORS]
    + [(name, {"alignment": "variance"}) for name in ("none", "mean_shift", *META)],
)
def test_rows_of_weight_0_teach_nothing(name: str, options: dict[str, str]) -> None:
    """Absurd gains of both sources without weight leave the other rows as they were corrected."""
    whole = make_table()
    counts = np.arange(len(whole)) >= 40
    absurd = whole.with_gains(np.where(counts, whole.gain, 9.0), whole.variance)
    weighed = replace(absurd, weight=counts.astype(np.float64))
    one = corrected(name, whole.rows(counts), **options)
    other = corrected(name, weighed, **options)
    other = other.rows(other.weight > 0)
    np.testing.assert_allclose(other.gain, one.gain, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.variance, one.variance, rtol=1e-9, atol=1e-12)


@every_corrector
def test_no_preference_rows(name: str) -> None:
    """Gold alone is enough for those that can do without the judge; others say what lacks."""
    table = sources(60, 0)
    if name in ("preference_only", "mean_shift", *META, *PUBLISHED):
        with pytest.raises(DataError, match=r"preference|both sources|none"):
            make_corrector(name).fit(table)
        return
    np.testing.assert_array_equal(corrected(name, table).gain, table.gain)


@every_corrector
def test_no_gold_rows(name: str) -> None:
    table = sources(0, 100)
    if name in ("none", "preference_only"):
        np.testing.assert_array_equal(corrected(name, table).gain, table.gain)
        return
    with pytest.raises(DataError, match=r"gold|both sources|none"):
        make_corrector(name).fit(table)


@pytest.mark.parametrize("n_gold", [1, 3])
@every_corrector
def test_a_few_gold_labels(name: str, n_gold: int) -> None:
    """Finite gains within reach of the labels, or an error that names the number."""
    table = sources(n_gold, 100)
    if name in META:
        with pytest.raises(DataError, match=f"{n_gold} gold"):
            make_corrector(name).fit(table)
        return
    result = corrected(name, table)
    assert np.abs(result.gain).max() <= np.abs(table.gain).max() + np.ptp(table.gain) + 1.2


@pytest.mark.parametrize("name", [*META, *PUBLISHED, *EVIDENCE])
def test_features_are_needed_where_the_shift_depends_on_the_query(name: str) -> None:
    plain = make_gain_table(
        queries=[str(i) for i in range(40)],
        gain=np.linspace(-1, 1, 40),
        is_gold=np.arange(40) % 2 == 0,
    )
    with pytest.raises(DataError, match="with_features"):
        make_corrector(name).fit(plain)


@pytest.mark.parametrize("name", ["mean_shift", *META, *PUBLISHED, *EVIDENCE])
def test_transform_needs_fit(name: str) -> None:
    with pytest.raises(NotFittedError):
        make_corrector(name).transform(make_table())


@every_corrector
def test_constant_labels_stay_constant(name: str) -> None:
    """Both sources say 0.5 of every query: so do the corrected labels.

    The priors of the evidence-weighted model draw the level to 0 by one label's weight, and by
    some more where a free slope takes a part of it (two_fidelity).
    """
    table = make_table()
    constant = table.with_gains(np.full(len(table), 0.5), table.variance)
    labels = 1.35 if name == "two_fidelity" else 1.2
    tolerance = labels * 0.5 / 60 if name in EVIDENCE else 1e-6
    np.testing.assert_allclose(corrected(name, constant).gain, 0.5, atol=tolerance)


def test_names() -> None:
    assert corrector_names()[: len(CORRECTORS)] == CORRECTORS
    with pytest.raises(OptionError, match="two_fidelity"):
        make_corrector("meta")
