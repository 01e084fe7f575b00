"""The preference model f: what the votes say of a query, linear in its map.

A ridge regression of the votes on one basis of the query map, whose penalty is
learned by evidence, with a level for each judge. :mod:`metarouter.correction.fidelity`
takes it as one more direction of the gold gain.
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
    "basis_columns",
    "design_rows",
    "fit_judge",
    "judge_moments",
    "judge_sizes",
    "narrowed",
    "no_judge",
    "sample_step",
    "with_judge",
]

_CHUNK = 32_768
_SIZED = 4_000  # queries over which the size of f is taken, about


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


def narrowed(
    query_map: QueryMap, bases: Sequence[str], n_candidates: int
) -> tuple[QueryMap, IntArray]:
    """The map with the parts of some bases alone, and which entries of u are left."""
    named = {part for basis in bases for part in basis.split("+")}
    parts = tuple(part for part in query_map.parts if part in named)
    inner = np.concatenate([[0], query_map.columns("+".join(parts))])
    entries = inner + query_map.dim * np.arange(n_candidates)[:, None]
    return replace(query_map, parts=parts), entries.ravel()


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """The preference model on one basis: f(x) = u(x)'coef."""

    coef: FloatArray  # (p,)
    at: IntArray  # (r,) entries of u that were estimated
    model: Ridge | None = None
    has_level: bool = False  # of its own, beside the columns
    covariance: FloatArray  # (r, r) of their coefficients; empty until it is asked for
    penalty: float
    score: float  # lower is better

    def with_covariance(self) -> Judge:
        """The same with the covariance of what the votes tell."""
        assert self.model is not None  # noqa: S101 - set by the fit
        first = 0 if self.has_level else 1
        last = first + len(self.at)
        return replace(self, covariance=self.model.covariance()[first:last, first:last])

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
        penalty=0.0,
        score=0.0,
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


def fit_judge(
    moments: Moments,
    columns: IntArray,
    judges: IntArray,
    penalty: Literal["evidence"] | float = "evidence",
) -> Judge:
    """The preference model on some columns, from the sums over the votes."""
    at = np.concatenate([columns, judges])
    is_pair = 0 not in columns  # whose level is entry 0; a pool's bases hold the levels
    problem = moments.spectrum(at, intercept=is_pair)
    model = Ridge(penalty=penalty).fit_spectrum(problem)
    assert model.coef_ is not None  # noqa: S101 - set by the fit
    coef = np.zeros(len(moments.x_sum) - len(judges))
    coef[columns] = model.coef_[: len(columns)]
    if is_pair:
        coef[0] = model.intercept_
    return Judge(
        coef=coef,
        at=np.concatenate([[0], columns]) if is_pair else columns,
        model=model,
        has_level=is_pair,
        covariance=np.zeros((0, 0)),
        penalty=model.penalty_,
        score=float(problem.evidence(np.array([model.penalty_]))[0]),
    )


def with_judge(query_map: QueryMap, judge: Judge, n_candidates: int) -> tuple[QueryMap, Judge]:
    """The map with the parts in which f lives alone, and f there."""
    parts = [p for p in query_map.parts if np.isin(query_map.columns(p), judge.at).any()]
    narrow, entries = narrowed(query_map, parts, n_candidates)
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
