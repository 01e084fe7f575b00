"""The preference model f: what the votes say of a query, linear in its map.

Ridge regressions of the votes on the line alone, on each kernel alone and on all of
them together, with a level for each judge and a penalty learned by evidence. f is their
mean, weighted by a power of their evidence: one that the votes clearly favour is taken
alone, and where they do not tell, the mean foretells votes on other real prompts better
than the likeliest does. :mod:`metarouter.correction.fidelity` takes f as one more direction
of the gold gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from metarouter.features.bases import QueryMap
from metarouter.gain.posterior import contrast_rows
from metarouter.labels.table import GainTable
from metarouter.linear import Moments, Ridge
from metarouter.types import FloatArray, IntArray

__all__ = [
    "Judge",
    "Member",
    "basis_columns",
    "design_rows",
    "fit_judge",
    "judge_families",
    "judge_map",
    "judge_moments",
    "judge_sizes",
    "no_judge",
    "refit_judge",
    "sample_step",
    "with_judge",
]

_CHUNK = 32_768
_SIZED = 4_000  # queries over which the size of f is taken, about
_FUNCTIONS = 64  # of each kernel that f takes: more foretell votes hardly better
_POWER = 0.25  # of the evidence: with all of it, votes on other queries are foretold worse
_LEAST_SHARE = 0.02


def design_rows(query_map: QueryMap, table: GainTable) -> FloatArray:
    """The rows u(x) of a table: the map of each query, at its contrast of models."""
    mapped = query_map.transform(table.row_features())
    return contrast_rows(mapped, table.candidate, table.baseline, len(table.models) - 1)


def basis_columns(query_map: QueryMap, basis: str, n_candidates: int) -> IntArray:
    """Entries of u that a basis occupies; in a pool with the levels of all candidates."""
    inner = query_map.columns(basis)
    if n_candidates == 1:
        return inner
    inner = np.concatenate([[0], inner])
    return np.concatenate([inner + m * query_map.dim for m in range(n_candidates)])


def judge_map(query_map: QueryMap, n_candidates: int) -> tuple[QueryMap, IntArray]:
    """The map in which f lives, and which entries of u these are."""
    parts = tuple(part for part in query_map.parts if part != "index")
    narrow = replace(query_map, parts=parts).leading(_most_functions(query_map, n_candidates))
    inner = [query_map.columns(part)[: len(narrow.columns(part))] for part in parts]
    entries = np.concatenate([[0], *inner]) + query_map.dim * np.arange(n_candidates)[:, None]
    return narrow, entries.ravel()


def _most_functions(query_map: QueryMap, n_candidates: int) -> int:
    """Of each kernel; in a pool all kernels together get as many as one has."""
    widths = [len(offset) for offset in query_map.offset.values()]
    if n_candidates == 1 or not widths:
        return _FUNCTIONS
    return min(_FUNCTIONS, max(max(widths) // len(widths), 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One regression that f is a mean of."""

    columns: IntArray  # entries of u, without the level of a pair
    penalty: float
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """The preference model: f(x) = u(x)'coef."""

    coef: FloatArray  # (p,)
    at: IntArray  # (r,) entries of u that were estimated
    covariance: FloatArray  # (r, r) of their coefficients, with how the members differ
    members: tuple[Member, ...] = ()

    def among(self, entries: IntArray, p: int) -> Judge:
        """The same where the entries of u are some of p."""
        coef = np.zeros(p)
        coef[entries] = self.coef
        return replace(self, coef=coef, at=entries[self.at])


def no_judge(p: int) -> Judge:
    """Where there are no votes, or all say the same."""
    return Judge(
        coef=np.zeros(p),
        at=np.zeros(0, dtype=np.int64),
        covariance=np.zeros((0, 0)),
    )


def judge_moments(query_map: QueryMap, preference: GainTable, fold: IntArray) -> dict[int, Moments]:
    """Sums over the preference rows of each fold, with a level for each judge.

    Judges get a level each, so that a lenient one on hard queries does not
    pass for a gain of those queries.
    """
    present = np.unique(preference.judge)
    present = present if len(present) > 1 else present[:0]
    share = (preference.judge[:, None] == present).mean(axis=0)
    found: dict[int, Moments] = {}
    for k in np.unique(fold[preference.query]):
        rows = np.flatnonzero(fold[preference.query] == k)
        for start in range(0, len(rows), _CHUNK):
            part = preference.rows(rows[start : start + _CHUNK])
            levels = (part.judge[:, None] == present) - share
            X = np.hstack([design_rows(query_map, part), levels])
            moments = Moments.of(X, part.gain, part.weight)
            found[int(k)] = found[int(k)] + moments if int(k) in found else moments
    return found


def fit_judge(moments: Moments, families: Sequence[IntArray], n_entries: int) -> Judge:
    """The preference model from the sums over the votes.

    Parameters
    ----------
    moments : Moments
        Over `n_entries` of u, then the levels of judges.
    families : int arrays
        Entries of u that each regression may take. Where none takes entry 0, that of a
        pair's level, each has a level.
    """
    fits = [_regression(moments, each, n_entries) for each in families]
    shares = _shares(np.array([score for _, score in fits]))
    at = np.unique(np.concatenate([_estimated(each) for each in families]))
    coefs = [_coef(model, each, n_entries) for (model, _), each in zip(fits, families, strict=True)]
    mean = shares @ np.stack(coefs)
    covariance = np.zeros((len(at), len(at)))
    for share, coef, (model, _), columns in zip(shares, coefs, fits, families, strict=True):
        if share:
            own = np.searchsorted(at, _estimated(columns))
            first = 0 if _has_level(columns) else 1
            known = model.covariance()[first : first + len(own), first : first + len(own)]
            covariance[np.ix_(own, own)] += share * known
            covariance += share * np.outer((coef - mean)[at], (coef - mean)[at])
    members = (
        Member(columns=columns, penalty=model.penalty_, weight=float(share))
        for (model, _), columns, share in zip(fits, families, shares, strict=True)
        if share
    )
    return Judge(coef=mean, at=at, covariance=covariance, members=tuple(members))


def refit_judge(judge: Judge, moments: Moments) -> FloatArray:
    """Coefficients of the same regressions, as much penalised and weighted, from other sums."""
    coef = np.zeros(len(judge.coef))
    for each in judge.members:
        model, _ = _regression(moments, each.columns, len(coef), each.penalty)
        coef += each.weight * _coef(model, each.columns, len(coef))
    return coef


def judge_families(query_map: QueryMap, n_candidates: int) -> list[IntArray]:
    """Entries of u of the line alone, each kernel alone, and all together."""
    alone = [basis_columns(query_map, part, n_candidates) for part in query_map.parts]
    if len(alone) == 1:
        return alone
    return [*alone, basis_columns(query_map, "+".join(query_map.parts), n_candidates)]


def _regression(
    moments: Moments,
    columns: IntArray,
    n_entries: int,
    penalty: Literal["evidence"] | float = "evidence",
) -> tuple[Ridge, float]:
    """Ridge on some entries of u and the levels of judges, and −2 log evidence."""
    levels = np.arange(n_entries, len(moments.x_sum))
    problem = moments.spectrum(np.concatenate([columns, levels]), intercept=_has_level(columns))
    model = Ridge(penalty=penalty).fit_spectrum(problem)
    return model, float(problem.evidence(np.array([model.penalty_]))[0])


def _has_level(columns: IntArray) -> bool:
    """Of its own, beside the columns: those of a pool hold the levels."""
    return 0 not in columns


def _estimated(columns: IntArray) -> IntArray:
    return np.concatenate([[0], columns]) if _has_level(columns) else columns


def _coef(model: Ridge, columns: IntArray, n_entries: int) -> FloatArray:
    assert model.coef_ is not None  # noqa: S101 - set by the fit
    coef = np.zeros(n_entries)
    coef[columns] = model.coef_[: len(columns)]
    if _has_level(columns):
        coef[0] = model.intercept_
    return coef


def _shares(scores: FloatArray) -> FloatArray:
    """Weights of regressions with these −2 log evidences, that sum to one."""
    weight = np.exp(-0.5 * _POWER * (scores - scores.min()))
    weight[weight < _LEAST_SHARE * weight.sum()] = 0.0
    result: FloatArray = weight / weight.sum()
    return result


def with_judge(query_map: QueryMap, judge: Judge, n_candidates: int) -> tuple[QueryMap, Judge]:
    """The map in which f lives, and f there."""
    narrow, entries = judge_map(query_map, n_candidates)
    judge = replace(judge, coef=judge.coef[entries], at=np.searchsorted(entries, judge.at))
    return narrow, judge


def judge_sizes(
    query_map: QueryMap, features: NDArray[np.float32], judge: Judge, n_candidates: int
) -> tuple[float, float, float]:
    """Standard deviations over queries of f and of the judge's mean verdict, and of f's level.

    For a pool, of the mean of its candidates' variances, and no level.
    """
    if not len(judge.at):
        return 0.0, 0.0, 0.0
    query_map, judge = with_judge(query_map, judge, n_candidates)
    mapped = query_map.transform(features[:: sample_step(features)])
    by_candidate = judge.coef.reshape(n_candidates, -1)
    size = float((mapped @ by_candidate.T).var(axis=0).mean())
    unlearned = level = 0.0
    for m in range(n_candidates):
        own = (judge.at >= m * query_map.dim) & (judge.at < (m + 1) * query_map.dim)
        known = mapped[:, judge.at[own] - m * query_map.dim]
        covariance = judge.covariance[np.ix_(own, own)]
        mean = known.mean(axis=0)
        spread = known.T @ known / len(mapped) - np.outer(mean, mean)
        unlearned += float(np.vdot(covariance, spread)) / n_candidates
        level = float(mean @ covariance @ mean) if n_candidates == 1 else 0.0
    return float(np.sqrt(size)), float(np.sqrt(size + unlearned)), float(np.sqrt(level))


def sample_step(features: NDArray[np.float32]) -> int:
    """Every how many queries make up the sample over which sizes are taken."""
    return max(len(features) // _SIZED, 1)
