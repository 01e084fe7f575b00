"""The evidence-weighted gain: corrector and gain model in one.

:class:`EvidenceCorrector` learns gold gain from a table of both label sources.
As a corrector it gives each preference row the posterior mean of ψ at its
query; as a gain model it predicts ψ itself, with a posterior standard deviation
that holds the doubt about the judge, the kernel, the noise and the function.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from metarouter.errors import DataError, NotFittedError
from metarouter.evidence import USES, Evidence, Priors, weigh_hypotheses
from metarouter.features.bases import BASES, BASIS_PRIORS, QueryMap, learn_query_map
from metarouter.gain.posterior import GainPosterior, contrast_rows
from metarouter.labels.noise import label_noise
from metarouter.labels.table import GainTable
from metarouter.linear import Moments, Ridge
from metarouter.types import FloatArray, IntArray

__all__ = ["EvidenceCorrector"]

_CHUNK = 32_768
_LEAST_VARIANCE = 1e-3  # of a gold label's: no row may stand for more than 1,000
_JUDGE_BASES = ("linear", "rbf12", "linear+rbf12")  # thousands of labels: the wider ones
_POOL_DIM = 1_500  # bounds the joint feature length of a pool


@dataclass
class EvidenceCorrector:
    r"""Pseudo-gold gains from the evidence-weighted gold model.

    Estimates ψ(x) = E[gold gain given x] at the preference rows from gold
    labels, with a model f of the preference labels as one more direction whose
    worth is inferred: nothing, all of it, or any multiple
    (:mod:`metarouter.evidence`). No overlap of the two sources is
    assumed: where there are no gold labels the posterior is wide, and its
    variance says so.

    Parameters
    ----------
    uses : sequence of {"ignore", "inform", "oppose", "rescale"}
        What the preference model may be worth.
    bases : sequence of str
        Kernels of the discrepancy.
    average : bool, default True
        Average over hypotheses by evidence; False keeps the best alone, which
        with ``uses=("rescale",)`` is Kennedy and O'Hagan's two-fidelity model.
    priors : Priors
    n_folds : int, default 5
        Folds by query for f where gold queries have preference labels too.
    seed : int, default 0

    Attributes
    ----------
    posterior_ : GainPosterior
    evidence_ : Evidence
    diagnostics_ : dict
        Posterior probability of each use and basis, slope of f, noise.

    Raises
    ------
    DataError
        When the table has no gold row or no features.

    References
    ----------
    Kennedy and O'Hagan (2000), https://doi.org/10.1093/biomet/87.1.1; Hoeting,
    Madigan, Raftery and Volinsky (1999), https://doi.org/10.1214/ss/1009212519.
    """

    uses: Sequence[str] = USES
    bases: Sequence[str] = BASES
    average: bool = True
    priors: Priors = field(default_factory=Priors)
    n_folds: int = 5
    seed: int = 0
    posterior_: GainPosterior | None = field(default=None, init=False, repr=False)
    evidence_: Evidence | None = field(default=None, init=False, repr=False)
    diagnostics_: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Learn the posterior of ψ from both label sources."""
        features = table.features
        if features is None:
            raise DataError("the table has no features: call with_features first")
        table = table.rows(table.weight > 0)
        gold, preference = table.gold(), table.preference()
        if not len(gold):
            raise DataError(
                "this corrector needs gold labels and the table has none; add some, or take "
                "preferences at their word with the corrector none"
            )
        n_candidates = len(table.models) - 1
        width = None if table.is_pair else max(_POOL_DIM // (2 * n_candidates), 2)
        query_map = learn_query_map(features, self.bases, seed=self.seed, max_dim=width)
        design = _design(query_map, gold)
        columns = [_basis_columns(query_map, basis, n_candidates) for basis in self.bases]
        judge, at_gold = self._preference_model(query_map, columns, gold, preference, design)
        constants = query_map.dim * np.arange(n_candidates)
        evidence = weigh_hypotheses(
            [design[:, each] for each in columns],
            gold.gain,
            at_gold,
            judge_level=design[:, constants] @ judge.coef[constants],
            weight=gold.weight,
            level=None if table.is_pair else np.zeros(len(gold)),
            judge_size=judge.spread,
            priors=self.priors,
            uses=self.uses,
            basis_priors=[BASIS_PRIORS[basis] for basis in self.bases],
            average=self.average,
        )
        self.evidence_ = evidence
        posterior = evidence.posterior(columns, judge.coef, constants)
        covariance = posterior.covariance
        # The evidence takes f as known; its own error adds ρ² times its variance.
        covariance[np.ix_(judge.at, judge.at)] += evidence.judge_slope_square() * judge.covariance
        self.posterior_ = GainPosterior(
            query_map=query_map,
            mean=posterior.mean.reshape(n_candidates, -1),
            covariance=covariance,
        )
        self.diagnostics_ = self._describe(evidence, len(gold), len(preference))
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The table with posterior gains on its preference rows.

        A posterior mean holds no label noise, so its variance beyond that of a
        gold label is negative: the posterior variance less σ².
        """
        if self.posterior_ is None:
            raise NotFittedError.of(self)
        at = np.flatnonzero(~table.is_gold)
        if not len(at):
            return table
        rows = table.rows(at)
        mean, variance = self.posterior_.contrast(
            rows.row_features(), rows.candidate, rows.baseline
        )
        gains, variances = table.gain.copy(), table.variance.copy()
        gains[at] = mean
        noise = label_noise(table)
        variances[at] = np.maximum(variance, _LEAST_VARIANCE * noise) - noise
        return table.with_gains(gains, variances)

    def gain_posterior(self) -> GainPosterior:
        """The posterior of ψ itself, which serves as the gain model."""
        if self.posterior_ is None:
            raise NotFittedError.of(self)
        return self.posterior_

    def _preference_model(
        self,
        query_map: QueryMap,
        columns: Sequence[IntArray],
        gold: GainTable,
        preference: GainTable,
        design: FloatArray,
    ) -> tuple[_Judge, FloatArray | None]:
        """The preference model f, and f at the gold rows out of fold."""
        if len(preference) < 2 or not preference.gain.std():
            return _no_judge(design.shape[1]), None
        candidates = [
            each
            for basis, each in zip(self.bases, columns, strict=True)
            if basis in _JUDGE_BASES or len(columns) == 1
        ]
        fold = _folds(gold, preference, self.n_folds, self.seed)
        parts = _judge_moments(query_map, preference, fold)
        whole = functools.reduce(Moments.__add__, parts.values())
        judges = np.arange(design.shape[1], len(whole.x_sum))
        fits = [_fit_judge(whole, each, judges) for each in candidates]
        best = int(np.argmin([fit.score for fit in fits]))
        at_gold = design @ fits[best].coef
        for k, part in parts.items():
            rows = fold[gold.query] == k
            if k >= 0 and rows.any() and whole.n - part.n > 1:
                out_of_fold = _fit_judge(whole - part, candidates[best], judges)
                at_gold[rows] = design[rows] @ out_of_fold.coef
        return fits[best], at_gold

    def _describe(self, evidence: Evidence, n_gold: int, n_preference: int) -> dict[str, Any]:
        return {
            "n_gold": n_gold,
            "n_preference": n_preference,
            "use_of_preferences": {use: round(evidence.share(use), 4) for use in self.uses},
            "basis": {
                basis: round(evidence.basis_share(i), 4) for i, basis in enumerate(self.bases)
            },
            "preference_slope": evidence.judge_slope(),
            "noise_variance": evidence.noise_variance(),
        }


def _design(query_map: QueryMap, table: GainTable) -> FloatArray:
    mapped = query_map.transform(table.row_features())
    return contrast_rows(mapped, table.candidate, table.baseline, len(table.models) - 1)


def _basis_columns(query_map: QueryMap, basis: str, n_candidates: int) -> IntArray:
    inner = query_map.columns(basis)
    if n_candidates == 1:
        return inner
    inner = np.concatenate([[0], inner])
    return np.concatenate([inner + m * query_map.dim for m in range(n_candidates)])


def _folds(gold: GainTable, preference: GainTable, n_folds: int, seed: int) -> IntArray:
    """Fold of each query that both sources label, −1 for the others."""
    shared = np.intersect1d(gold.query, preference.query)
    fold = np.full(gold.n_queries, -1)
    fold[np.random.default_rng(seed).permutation(shared)] = np.arange(len(shared)) % n_folds
    return fold


def _judge_moments(
    query_map: QueryMap, preference: GainTable, fold: IntArray
) -> dict[int, Moments]:
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
            X = np.hstack([_design(query_map, part), levels])
            moments = Moments.of(X, part.gain, part.weight)
            found[int(k)] = found[int(k)] + moments if int(k) in found else moments
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """The preference model on one basis: f(x) = u(x)'coef."""

    coef: FloatArray  # (p,)
    at: IntArray  # (r,) entries of u that were estimated
    covariance: FloatArray  # (r, r) of their coefficients
    spread: float  # standard deviation of f over the preference rows
    score: float  # lower is better


def _no_judge(p: int) -> _Judge:
    return _Judge(
        coef=np.zeros(p),
        at=np.zeros(0, dtype=np.int64),
        covariance=np.zeros((0, 0)),
        spread=0.0,
        score=0.0,
    )


def _fit_judge(moments: Moments, columns: IntArray, judges: IntArray) -> _Judge:
    at = np.concatenate([columns, judges])
    is_pair = 0 not in columns  # whose level is entry 0; a pool's bases hold the levels
    problem = moments.spectrum(at, intercept=is_pair)
    model = Ridge().fit_spectrum(problem)
    assert model.coef_ is not None  # noqa: S101 - set by the fit
    coef = np.zeros(len(moments.x_sum) - len(judges))
    coef[columns] = model.coef_[: len(columns)]
    estimated, covariance = columns, model.covariance()[: len(columns) + 1, : len(columns) + 1]
    if is_pair:
        coef[0], estimated = model.intercept_, np.concatenate([[0], columns])
    else:
        covariance = covariance[1:, 1:]
    rotated = problem.basis[: len(columns)].T @ coef[columns]
    return _Judge(
        coef=coef,
        at=estimated,
        covariance=covariance,
        spread=float(np.sqrt((rotated**2 @ problem.values) / moments.n)),
        score=float(problem.evidence(np.array([model.penalty_]))[0]),
    )
