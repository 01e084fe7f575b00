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
    "fit_members",
    "judge_families",
    "judge_map",
    "judge_moments",
    "judge_sizes",
    "mean_judge",
    "no_judge",
    "refit",
    "sample_step",
    "with_judge",
]

_CHUNK = 32_768
_SIZED = 4_000  # queries over which the size of f is taken, about
_FUNCTIONS = 64  # of each kernel that f takes: more foretell votes hardly better
_POWER = 0.25  # of the evidence: with all of it, votes on other queries are foretold worse
_LEAST_SHARE = 0.02  # regressions of less are not worth their time


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
    model: Ridge
    coef: FloatArray  # of all entries of u
    weight: float

    @property
    def at(self) -> IntArray:
        """Entries of u that were estimated."""
        return np.concatenate([[0], self.columns]) if _has_level(self.columns) else self.columns

    def covariance(self) -> FloatArray:
        """Of the coefficients at these entries."""
        # The model's first is its intercept, which in a pool is none.
        first = 0 if _has_level(self.columns) else 1
        own = slice(first, first + len(self.at))
        return self.model.covariance()[own, own]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """The preference model: f(x) = u(x)'coef."""

    coef: FloatArray  # (p,)
    at: IntArray  # (r,) entries of u that were estimated
    covariance: FloatArray  # (r, r) of their coefficients, with how the members differ

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


def fit_members(
    moments: Moments, families: Sequence[IntArray], n_entries: int
) -> tuple[Member, ...]:
    """The regressions that f is a mean of, from the sums over the votes.

    Parameters
    ----------
    moments : Moments
        Over `n_entries` of u, then the levels of judges.
    families : int arrays
        Entries of u that each regression may take. One without entry 0, which is the
        level of a pair, has a level beside them.
    """
    fits, scores = [], []
    for columns in families:
        at = _with_judges(moments, columns, n_entries)
        problem = moments.spectrum(at, intercept=_has_level(columns))
        model = Ridge().fit_spectrum(problem)
        assert model.coef_ is not None  # noqa: S101 - set by the fit
        coef = _placed(columns, model.coef_, model.intercept_, n_entries)
        fits.append(Member(columns=columns, model=model, coef=coef, weight=0.0))
        scores.append(float(problem.evidence(np.array([model.penalty_]))[0]))
    shares = _shares(np.array(scores))
    return tuple(
        replace(fit, weight=float(share)) for fit, share in zip(fits, shares, strict=True) if share
    )


def mean_judge(members: Sequence[Member]) -> Judge:
    """Mean of some regressions; its covariance is theirs, and how they differ."""
    at = np.unique(np.concatenate([each.at for each in members]))
    weights = np.array([each.weight for each in members])
    mean: FloatArray = weights @ np.stack([each.coef for each in members])
    covariance = np.zeros((len(at), len(at)))
    for each in members:
        own = np.searchsorted(at, each.at)
        covariance[np.ix_(own, own)] += each.weight * each.covariance()
        apart = (each.coef - mean)[at]
        covariance += each.weight * np.outer(apart, apart)
    return Judge(coef=mean, at=at, covariance=covariance)


def refit(members: Sequence[Member], moments: Moments) -> FloatArray:
    """Coefficients of f from other sums, with the same penalties and weights.

    Learned anew without some votes, both would move against what these say.
    """
    coef = np.zeros(len(members[0].coef))
    for each in members:
        at = _with_judges(moments, each.columns, len(coef))
        own = moments.ridge(at, each.model.penalty_, intercept=_has_level(each.columns))
        coef += each.weight * _placed(each.columns, *own, len(coef))
    return coef


def judge_families(query_map: QueryMap, n_candidates: int) -> list[IntArray]:
    """Entries of u of the line alone, each kernel alone, and all together."""
    alone = [basis_columns(query_map, part, n_candidates) for part in query_map.parts]
    if len(alone) == 1:
        return alone
    return [*alone, basis_columns(query_map, "+".join(query_map.parts), n_candidates)]


def _has_level(columns: IntArray) -> bool:
    """Of its own, beside the columns: those of a pool hold the levels."""
    return 0 not in columns


def _with_judges(moments: Moments, columns: IntArray, n_entries: int) -> IntArray:
    return np.concatenate([columns, np.arange(n_entries, len(moments.x_sum))])


def _placed(columns: IntArray, values: FloatArray, level: float, n_entries: int) -> FloatArray:
    """Coefficients of all entries of u, without the levels of judges."""
    coef = np.zeros(n_entries)
    coef[columns] = values[: len(columns)]
    if _has_level(columns):
        coef[0] = level
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
