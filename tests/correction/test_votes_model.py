"""The preference model: a mean of regressions, on the map it lives in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from metarouter.correction.judge import (
    Member,
    design_rows,
    fit_members,
    judge_families,
    judge_map,
    judge_moments,
    mean_judge,
    refit,
    with_judge,
)
from metarouter.features.bases import BASES, QueryMap, distinct_bases, learn_query_map
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.linear import Moments
from metarouter.types import FloatArray, IntArray

D = 6


def votes(
    n: int = 600, *, curved: float, noise: float, n_candidates: int = 1, judges: int = 1
) -> GainTable:
    """Votes of unequal weight that follow a line and, `curved` times as much, a curve."""
    rng = np.random.default_rng(0)
    X, judge = rng.normal(size=(n, D)), rng.integers(0, judges, n)
    mean = 0.3 * X[:, 0] + 0.3 * curved * np.cos(2.0 * X[:, 1]) + 0.5 * judge
    table = make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=0.2 + mean + noise * rng.normal(size=n),
        is_gold=np.zeros(n, dtype=np.bool_),
        features=X,
        judge=judge,
        judges=tuple(str(k) for k in range(judges)),
        weight=rng.uniform(0.2, 3.0, n),
    )
    if n_candidates == 1:
        return table
    models = ("reference", *(f"candidate {m}" for m in range(n_candidates)))
    return replace(table, models=models, candidate=1 + rng.integers(0, n_candidates, n))


def mapped(table: GainTable) -> tuple[QueryMap, Moments, FloatArray]:
    """The map in which f lives, the sums over the votes, and their rows."""
    n_candidates = len(table.models) - 1
    bases = distinct_bases(BASES, D)
    query_map = learn_query_map(
        table.row_features(), bases, max_curve=None if n_candidates == 1 else 40
    )
    narrow, _ = judge_map(query_map, n_candidates)
    sums = judge_moments(narrow, table, np.full(table.n_queries, -1))[-1]
    return narrow, sums, design_rows(narrow, table)


def fitted(table: GainTable) -> tuple[tuple[Member, ...], QueryMap, Moments]:
    narrow, sums, X = mapped(table)
    families = judge_families(narrow, len(table.models) - 1)
    return fit_members(sums, families, X.shape[1]), narrow, sums


def ridge_by_hand(
    table: GainTable, X: FloatArray, columns: IntArray, penalty: float
) -> tuple[float, FloatArray, FloatArray]:
    """−2 log evidence, coefficients and covariance, with a level for a pair and each judge."""
    present = np.unique(table.judge)
    levels = (table.judge[:, None] == present) * 1.0
    levels = (levels - levels.mean(axis=0))[:, : len(present) if len(present) > 1 else 0]
    rows = np.hstack([X[:, columns], levels])
    n, weight = len(rows), table.weight / table.weight.mean()
    is_pair = len(table.models) == 2
    x_mean, y_mean = (weight @ rows / n, weight @ table.gain / n) if is_pair else (0.0, 0.0)
    Z = (rows - x_mean) * np.sqrt(weight)[:, None]
    y = (table.gain - y_mean) * np.sqrt(weight)
    precision = Z.T @ Z + penalty * np.eye(Z.shape[1])
    slopes = np.linalg.solve(precision, Z.T @ y)
    noise = (y @ y - y @ Z @ slopes) / (n - 1)
    score = (n - 1) * np.log(noise) + np.linalg.slogdet(precision / penalty)[1]
    known, p = noise * np.linalg.inv(precision), len(columns)
    coef, covariance = np.zeros(X.shape[1]), np.zeros((X.shape[1], X.shape[1]))
    coef[columns], covariance[np.ix_(columns, columns)] = slopes[:p], known[:p, :p]
    if is_pair:
        across = -(known @ x_mean)[:p]
        coef[0] = y_mean - x_mean @ slopes
        covariance[0, columns] = covariance[columns, 0] = across
        covariance[0, 0] = noise / n + x_mean @ known @ x_mean
    return float(score), coef, covariance


@pytest.mark.parametrize("n_candidates", [1, 3])
@pytest.mark.parametrize("judges", [1, 3])
def test_f_is_the_mean_of_ridges_by_a_quarter_power_of_their_evidence(
    n_candidates: int, judges: int
) -> None:
    """Line, each kernel, all together; coefficients and covariance as written out."""
    table = votes(curved=0.5, noise=2.0, n_candidates=n_candidates, judges=judges)
    members, narrow, _ = fitted(table)
    X = design_rows(narrow, table)
    assert len(members) == len(narrow.parts) + 1 == 4
    found = [ridge_by_hand(table, X, each.columns, each.model.penalty_) for each in members]
    score = np.array([each[0] for each in found])
    share = np.exp(-0.125 * (score - score.min()))
    share /= share.sum()
    assert share.min() > 0.02  # none is left out
    np.testing.assert_allclose([each.weight for each in members], share, atol=1e-7)
    mean = sum(s * coef for s, (_, coef, _) in zip(share, found, strict=True))
    judge = mean_judge(members)
    np.testing.assert_allclose(judge.coef, mean, atol=1e-8)
    expected = sum(
        s * (covariance + np.outer(coef - mean, coef - mean))
        for s, (_, coef, covariance) in zip(share, found, strict=True)
    )
    np.testing.assert_array_equal(judge.at, np.arange(X.shape[1]))
    np.testing.assert_allclose(judge.covariance, expected, atol=1e-8)


def test_the_families_are_the_line_each_kernel_and_all() -> None:
    narrow, _, X = mapped(votes(curved=0.0, noise=1.0))
    found = [each.tolist() for each in judge_families(narrow, 1)]
    assert narrow.parts == ("linear", "rbf3", "rbf8")
    assert found[0] == [1, 2, 3, 4, 5, 6]
    assert found[1] + found[2] == list(range(7, X.shape[1]))
    assert found[3] == list(range(1, X.shape[1]))


@pytest.mark.parametrize(("curved", "takes_all"), [(0.0, False), (1.0, True)])
def test_many_votes_that_are_clear_choose_one(curved: float, takes_all: bool) -> None:
    """A line where there is a line alone; all together where votes are curved and straight."""
    members, narrow, _ = fitted(votes(3_000, curved=curved, noise=0.1))
    assert [each.weight for each in members] == [1.0]
    last = narrow.dim if takes_all else 1 + D
    np.testing.assert_array_equal(members[0].columns, np.arange(1, last))


def test_votes_that_do_not_tell_keep_all() -> None:
    members, narrow, _ = fitted(votes(curved=0.0, noise=5.0))
    shares = [each.weight for each in members]
    assert len(shares) == len(judge_families(narrow, 1))
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) < 0.5


@pytest.mark.parametrize("n_candidates", [1, 3])
def test_refitted_on_the_same_votes_it_is_the_same(n_candidates: int) -> None:
    table = votes(curved=0.5, noise=1.0, n_candidates=n_candidates, judges=2)
    members, _, sums = fitted(table)
    np.testing.assert_allclose(refit(members, sums), mean_judge(members).coef, atol=1e-9)


@pytest.mark.parametrize("n_candidates", [1, 3])
def test_votes_left_out_are_not_seen(n_candidates: int) -> None:
    """The others with the penalties and weights of all, whatever the votes left out say."""
    table = votes(curved=0.5, noise=1.0, n_candidates=n_candidates)
    members, narrow, sums = fitted(table)
    X, out = design_rows(narrow, table), np.arange(len(table)) < 100
    left = Moments.of(X[out], table.gain[out], table.weight[out])
    rest = table.rows(np.flatnonzero(~out))
    by_hand = [
        each.weight * ridge_by_hand(rest, X[~out], each.columns, each.model.penalty_)[1]
        for each in members
    ]
    np.testing.assert_allclose(refit(members, sums - left), sum(by_hand), atol=1e-8)


def test_a_lenient_judge_of_some_queries_makes_no_gain_of_them() -> None:
    """Each judge has a level in every regression."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, D))
    judge = (X[:, 0] + 0.5 * rng.normal(size=600) > 0).astype(np.int64)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(600)],
        gain=0.3 * X[:, 1] + judge + 0.3 * rng.normal(size=600),
        is_gold=np.zeros(600, dtype=np.bool_),
        features=X,
        judge=judge,
        judges=("strict", "lenient"),
    )
    members, narrow, sums = fitted(table)
    for coef in (mean_judge(members).coef, refit(members, sums)):
        f = narrow.transform(X) @ coef
        assert abs(np.corrcoef(f, X[:, 0])[0, 1]) < 0.1
        assert np.corrcoef(f, X[:, 1])[0, 1] > 0.9


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


@pytest.mark.parametrize("n_candidates", [1, 3])
def test_among_all_entries_and_back_f_is_the_same(n_candidates: int) -> None:
    table = votes(curved=0.5, noise=1.0, n_candidates=n_candidates)
    bases = distinct_bases(BASES, D)
    whole = learn_query_map(table.row_features(), bases, max_curve=40)
    narrow, entries = judge_map(whole, n_candidates)
    sums = judge_moments(narrow, table, np.full(table.n_queries, -1))[-1]
    families = judge_families(narrow, n_candidates)
    judge = mean_judge(fit_members(sums, families, len(entries)))
    placed = judge.among(entries, n_candidates * whole.dim)
    np.testing.assert_allclose(
        design_rows(whole, table) @ placed.coef, design_rows(narrow, table) @ judge.coef, atol=1e-12
    )
    _, back = with_judge(whole, placed, n_candidates)
    np.testing.assert_array_equal(back.coef, judge.coef)
    np.testing.assert_array_equal(back.at, judge.at)


def test_one_part_is_one_family() -> None:
    X = np.random.default_rng(0).normal(size=(100, 3))
    narrow, _ = judge_map(learn_query_map(X, ["linear"]), 1)
    assert [each.tolist() for each in judge_families(narrow, 1)] == [[1, 2, 3]]
