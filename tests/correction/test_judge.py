"""The preference model: a mean of regressions, on the map it lives in."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.correction.judge import (
    Judge,
    design_rows,
    fit_judge,
    judge_families,
    judge_map,
    refit_judge,
)
from metarouter.features.bases import BASES, QueryMap, learn_query_map
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.linear import Moments, Ridge
from metarouter.types import FloatArray


def votes(n: int = 600, d: int = 6, seed: int = 0, *, curved: float, noise: float) -> GainTable:
    """Votes that follow a line and, `curved` times as much, a curve."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    mean = 0.3 * X[:, 0] + 0.3 * curved * np.cos(2.0 * X[:, 1])
    return make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=0.2 + mean + noise * rng.normal(size=n),
        is_gold=np.zeros(n, dtype=np.bool_),
        features=X,
    )


def fitted(table: GainTable) -> tuple[Judge, QueryMap, FloatArray]:
    """f, the map in which it lives, and its rows."""
    narrow, entries = judge_map(learn_query_map(table.row_features(), BASES), 1)
    X = design_rows(narrow, table)
    moments = Moments.of(X, table.gain, table.weight)
    return fit_judge(moments, judge_families(narrow, 1), len(entries)), narrow, X


def test_f_is_the_mean_of_ridges_by_a_quarter_power_of_their_evidence() -> None:
    """Coefficients and covariance as a loop over scores and ridges has them."""
    table = votes(curved=0.5, noise=1.5)
    judge, narrow, X = fitted(table)
    families = judge_families(narrow, 1)
    models = [Ridge().fit(X[:, each], table.gain) for each in families]
    scores = [m.spectrum_.evidence(np.array([m.penalty_]))[0] for m in models if m.spectrum_]
    share = np.exp(-0.125 * (np.array(scores) - min(scores)))
    share /= share.sum()
    assert share.min() > 0.02  # none is left out
    predicted = np.stack([m.predict(X[:, c]) for m, c in zip(models, families, strict=True)])
    mean = share @ predicted
    np.testing.assert_allclose(X @ judge.coef, mean, atol=1e-8)
    within = np.zeros(len(X))
    for weight, model, columns in zip(share, models, families, strict=True):
        own = np.column_stack([np.ones(len(X)), X[:, columns]])
        within += weight * np.einsum("ij,jk,ik->i", own, model.covariance(), own)
    between = share @ (predicted - mean) ** 2
    at = X[:, judge.at]
    found = np.einsum("ij,jk,ik->i", at, judge.covariance, at)
    np.testing.assert_allclose(found, within + between, rtol=1e-6)


@pytest.mark.parametrize(("curved", "clear"), [(0.0, 0), (1.0, -1)])
def test_many_votes_that_are_clear_choose_one(curved: float, clear: int) -> None:
    """A line where there is a line alone; all together where votes are curved and straight."""
    table = votes(3_000, curved=curved, noise=0.1)
    judge, narrow, _ = fitted(table)
    wanted = judge_families(narrow, 1)[clear]
    assert [each.weight for each in judge.members] == [1.0]
    np.testing.assert_array_equal(judge.members[0].columns, wanted)


def test_votes_that_do_not_tell_keep_all() -> None:
    judge, narrow, _ = fitted(votes(curved=0.0, noise=5.0))
    shares = [each.weight for each in judge.members]
    assert len(shares) == len(judge_families(narrow, 1))
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) < 0.5


def moments(table: GainTable, narrow: QueryMap) -> Moments:
    return Moments.of(design_rows(narrow, table), table.gain, table.weight)


def test_refitted_on_the_same_votes_it_is_the_same() -> None:
    table = votes(curved=0.5, noise=1.0)
    judge, narrow, _ = fitted(table)
    np.testing.assert_allclose(refit_judge(judge, moments(table, narrow)), judge.coef, atol=1e-12)


def test_votes_left_out_are_not_seen() -> None:
    """As if fitted on the others with the same penalties and weights."""
    table = votes(curved=0.5, noise=1.0)
    judge, narrow, _ = fitted(table)
    loud = table.with_gains(np.where(np.arange(600) < 100, 1e3, table.gain), table.variance)
    rest = refit_judge(judge, moments(table.rows(np.arange(100, 600)), narrow))
    left = refit_judge(judge, moments(loud, narrow) - moments(loud.rows(np.arange(100)), narrow))
    np.testing.assert_allclose(left, rest, atol=1e-4)


@pytest.mark.parametrize("n_candidates", [1, 2, 5])
def test_the_map_of_f_is_some_entries_of_the_whole(n_candidates: int) -> None:
    """The leading functions of each kernel; in a pool as many of all as one kernel has."""
    X = np.random.default_rng(0).normal(size=(400, 30))
    whole = learn_query_map(X, BASES, max_curve=None if n_candidates == 1 else 40)
    narrow, entries = judge_map(whole, n_candidates)
    assert len(entries) == n_candidates * narrow.dim
    inner = entries[: narrow.dim]
    np.testing.assert_array_equal(whole.transform(X)[:, inner], narrow.transform(X))
    np.testing.assert_array_equal(entries[-narrow.dim :], inner + (n_candidates - 1) * whole.dim)
    kernels = [len(narrow.columns(part)) for part in ("rbf3", "rbf8", "rbf20")]
    assert kernels == ([64, 64, 64] if n_candidates == 1 else [13, 13, 13])
    assert len(narrow.columns("linear")) == 30


def test_one_part_is_one_family() -> None:
    X = np.random.default_rng(0).normal(size=(100, 3))
    narrow, _ = judge_map(learn_query_map(X, ["linear"]), 1)
    assert [each.tolist() for each in judge_families(narrow, 1)] == [[1, 2, 3]]
