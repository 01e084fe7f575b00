"""The evidence-weighted gain: corrector and gain model in one.

:class:`EvidenceGain` learns gold gain from a table of both label sources. As a
corrector, :class:`EvidenceCorrector` gives each preference row the posterior
mean of ψ at its query; as a gain model it predicts ψ itself, with the posterior
standard deviation that holds every doubt: about the judge, the kernel, the
noise and the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.correction.bases import BASES, QueryMap, learn_query_map
from metarouter.correction.evidence import USES, Evidence, Posterior, Priors, weigh_hypotheses
from metarouter.errors import DataError, NotFittedError
from metarouter.labels.table import GainTable
from metarouter.linear import Ridge
from metarouter.types import FloatArray, IntArray

__all__ = ["EvidenceCorrector", "GainPosterior"]

_CHUNK = 32_768
_POOL_DIM = 1_500  # bounds the joint feature length of a pool
_POOL_LEVEL = 2.0  # prior s.d. of a model's level over that of its slope
_CHOICE_ROWS = 20_000  # rows on which the basis of the preference model is chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class GainPosterior:
    """ψ_m(x) = v(x)'θ_m for each candidate m, with the posterior of θ.

    `mean` has shape (n_candidates, q), `covariance` (n_candidates·q,)².
    """

    query_map: QueryMap
    mean: FloatArray
    covariance: FloatArray

    def rows(
        self, X: NDArray[Any], candidate: IntArray, baseline: IntArray
    ) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of ψ_candidate − ψ_baseline at rows, each (n,)."""
        mean, variance = np.empty(len(X)), np.empty(len(X))
        values, vectors = np.linalg.eigh(self.covariance)
        keep = values > 1e-9 * max(float(values[-1]), 1e-300)
        factor = vectors[:, keep] * np.sqrt(values[keep])
        for start in range(0, len(X), _CHUNK):
            at = slice(start, start + _CHUNK)
            mapped = self.query_map.transform(X[at])
            u = _contrast_rows(mapped, candidate[at], baseline[at], len(self.mean))
            mean[at] = u @ self.mean.ravel()
            variance[at] = ((u @ factor) ** 2).sum(axis=1)
        return mean, variance


@dataclass
class EvidenceCorrector:
    r"""Pseudo-gold gains from the evidence-weighted gold model.

    Estimates ψ(x) = E[gold gain given x] at the preference rows from gold
    labels, with a model f of the preference labels as one more direction whose
    worth is inferred: nothing, all of it, or any multiple
    (:mod:`metarouter.correction.evidence`). No overlap of the two sources is
    assumed: where there are no gold labels the posterior is wide, and its
    variance says so.

    Parameters
    ----------
    uses : sequence of {"ignore", "trust", "rescale"}
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
        if table.features is None:
            raise DataError("the table has no features: call with_features first")
        gold, preference = table.gold(), table.preference()
        if not len(gold):
            raise DataError("the corrector needs at least one gold label; the table has none")
        n_candidates = len(table.models) - 1
        width = None if table.is_pair else max(_POOL_DIM // (2 * n_candidates), 2)
        query_map = learn_query_map(table.features, self.bases, seed=self.seed, max_dim=width)
        design = _design(query_map, gold)
        columns = [_basis_columns(query_map, basis, n_candidates) for basis in self.bases]
        judge, at_gold, size = self._preference_model(query_map, columns, gold, preference, design)
        evidence = weigh_hypotheses(
            [design[:, each] for each in columns],
            gold.gain,
            at_gold,
            weight=gold.weight,
            level=None if table.is_pair else np.zeros(len(gold)),
            judge_size=size,
            priors=self.priors,
            uses=self.uses,
            average=self.average,
        )
        self.evidence_ = evidence
        self.posterior_ = _split(
            query_map,
            evidence.posterior(columns, judge, 0 if table.is_pair else -1),
            n_candidates,
        )
        self.diagnostics_ = self._describe(evidence, len(gold), len(preference))
        return self

    def transform(self, table: GainTable) -> GainTable:
        """The table with posterior gains and variances on its preference rows."""
        if self.posterior_ is None:
            raise NotFittedError.of(self)
        at = np.flatnonzero(~table.is_gold)
        if not len(at):
            return table
        rows = table.rows(at)
        mean, variance = self.posterior_.rows(rows.row_features(), rows.candidate, rows.baseline)
        gains, variances = table.gain.copy(), table.variance.copy()
        gains[at], variances[at] = mean, variance
        return table.with_gains(gains, variances)

    def _preference_model(
        self,
        query_map: QueryMap,
        columns: Sequence[IntArray],
        gold: GainTable,
        preference: GainTable,
        design: FloatArray,
    ) -> tuple[FloatArray, FloatArray | None, float]:
        """Coefficients of f, f at the gold rows out of fold, and its spread."""
        nothing = np.zeros(design.shape[1])
        if len(preference) < 2 or not preference.gain.std():
            return nothing, None, 0.0
        chosen = _choose_basis(query_map, columns, preference, self.seed)
        judge, spread = _fit_judge(query_map, chosen, preference)
        at_gold = design @ judge
        shared = np.isin(gold.query, preference.query)
        if shared.any():
            fold_of = np.random.default_rng(self.seed).integers(self.n_folds, size=gold.n_queries)
            for fold in range(self.n_folds):
                rows = shared & (fold_of[gold.query] == fold)
                kept = preference.rows(fold_of[preference.query] != fold)
                if rows.any() and len(kept) > 1:
                    at_gold[rows] = design[rows] @ _fit_judge(query_map, chosen, kept)[0]
        return judge, at_gold, spread

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
    return _contrast_rows(mapped, table.candidate, table.baseline, len(table.models) - 1)


def _contrast_rows(
    mapped: FloatArray, candidate: IntArray, baseline: IntArray, n_candidates: int
) -> FloatArray:
    """Rows u with u'θ = v'θ_candidate − v'θ_baseline, θ_reference = 0."""
    if n_candidates == 1:
        return mapped
    n, q = mapped.shape
    scaled = mapped.copy()
    scaled[:, 0] *= _POOL_LEVEL
    u = np.zeros((n, n_candidates, q))
    at = np.arange(n)
    u[at, candidate - 1] += scaled
    below = baseline > 0
    u[at[below], baseline[below] - 1] -= scaled[below]
    return u.reshape(n, n_candidates * q)


def _basis_columns(query_map: QueryMap, basis: str, n_candidates: int) -> IntArray:
    inner = query_map.columns(basis)
    if n_candidates == 1:
        return inner
    inner = np.concatenate([[0], inner])
    return np.concatenate([inner + m * query_map.dim for m in range(n_candidates)])


def _split(query_map: QueryMap, posterior: Posterior, n_candidates: int) -> GainPosterior:
    return GainPosterior(
        query_map=query_map,
        mean=posterior.mean.reshape(n_candidates, -1),
        covariance=posterior.covariance,
    )


def _choose_basis(
    query_map: QueryMap, columns: Sequence[IntArray], preference: GainTable, seed: int
) -> IntArray:
    """Columns of the basis with the best evidence on the preference labels."""
    rng = np.random.default_rng(seed)
    if len(preference) > _CHOICE_ROWS:
        preference = preference.rows(rng.choice(len(preference), _CHOICE_ROWS, replace=False))
    design = _design(query_map, preference)
    scores = []
    for each in columns:
        model = Ridge().fit(design[:, each], preference.gain, preference.weight)
        assert model.spectrum_ is not None  # noqa: S101 - set by fit
        scores.append(float(model.spectrum_.evidence(np.array([model.penalty_]))[0]))
    return columns[int(np.argmin(scores))]


def _fit_judge(
    query_map: QueryMap, columns: IntArray, preference: GainTable
) -> tuple[FloatArray, float]:
    """Ridge of preference gains on one basis, and the spread of its predictions.

    Judges get a level each, so that a lenient one on hard queries does not
    pass for a gain of those queries.
    """
    n_candidates = len(preference.models) - 1
    judges = _judge_levels(preference)
    design = np.empty((len(preference), len(columns) + judges.shape[1]), dtype=np.float32)
    for start in range(0, len(preference), _CHUNK):
        at = slice(start, start + _CHUNK)
        part = preference.rows(np.arange(len(preference))[at])
        design[at, : len(columns)] = _design(query_map, part)[:, columns]
    design[:, len(columns) :] = judges
    model = Ridge().fit(design, preference.gain, preference.weight)
    assert model.coef_ is not None  # noqa: S101 - set by fit
    judge = np.zeros(query_map.dim * n_candidates)
    judge[columns] = model.coef_[: len(columns)]
    if n_candidates == 1:
        judge[0] = model.intercept_
    predicted = design[:, : len(columns)] @ judge[columns]
    return judge, float(predicted.std())


def _judge_levels(preference: GainTable) -> FloatArray:
    present = np.unique(preference.judge)
    if len(present) < 2:
        return np.zeros((len(preference), 0))
    levels = (preference.judge[:, None] == present).astype(np.float64)
    levels -= levels.mean(axis=0)
    return levels
