"""The evidence-weighted gain: corrector and gain model in one.

:class:`EvidenceCorrector` learns gold gain from a table of both label sources.
As a corrector it gives each preference row the posterior mean of ψ at its
query; as a gain model it predicts ψ itself, with a posterior standard deviation
that holds the doubt about the judge, the kernel, the noise and the function.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.correction.index import index_functions, learn_index
from metarouter.correction.judge import (
    Judge,
    basis_columns,
    design_rows,
    fit_members,
    judge_families,
    judge_map,
    judge_moments,
    judge_sizes,
    mean_judge,
    no_judge,
    refit,
    sample_step,
    with_judge,
)
from metarouter.correction.scatter import learn_scatter, relative_weight
from metarouter.errors import DataError, NotFittedError, OptionError
from metarouter.evidence import USES, Evidence, Priors, weigh_hypotheses
from metarouter.features.bases import (
    BASES,
    BASIS_PRIORS,
    QueryMap,
    distinct_bases,
    learn_query_map,
)
from metarouter.gain.posterior import Elsewhere, GainPosterior
from metarouter.labels.contestants import judged_by_contestant
from metarouter.labels.noise import label_noise
from metarouter.labels.table import GainTable
from metarouter.linear import Moments, Ridge
from metarouter.types import FloatArray, IntArray

__all__ = ["EvidenceCorrector"]

_SCATTER_ROWS = 10_000  # votes whose scatter is looked at, at most
_INDEX_COMPONENTS = 64  # in which directions, and the scatter of votes, are looked for
_INDEX_ROWS = 10_000  # votes that tell them, at most
_INDEX_QUERIES = 100  # that have votes and no gold, at least
_INDEX_FOLDS = 4
_INDEX_DOUBT = 0.2  # of the gain's variance, that lies along other directions
_TRIAL_STEPS = 6  # enough to tell whether there is anything
_INDEX_CERTAINTY = 3.0  # standard errors of what it adds to f on votes left out
_ROUNDING = 1e-12
_LEAST_VARIANCE = 1e-3  # of a gold label's: no row may stand for more than 1,000
_BASIS = r"index|(linear|rbf[1-9]\d*)(\+(linear|rbf[1-9]\d*))*"
_POOL_DIM = 1_500  # bounds the joint feature length of a pool
_LEAST_JUDGE = 1e-3  # standard deviation of f over that of votes: less is no model
_SOURCED = 20_000  # queries on which it is learned who has gold, about


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
        Kernels of the discrepancy. "index" is the line along directions that the votes
        depend on (:mod:`metarouter.correction.index`); it joins the others for a pair,
        where its model of the votes tells what f does not. f is a mean over the parts of
        the others, each alone and all together (:mod:`metarouter.correction.judge`).
    average : bool, default True
        Average over hypotheses by evidence; False keeps the best alone, which
        with ``uses=("rescale",)`` is Kennedy and O'Hagan's two-fidelity model.
    scatter : bool, default True
        A gold label of a pair counts the less the more votes on such queries scatter
        (:mod:`metarouter.correction.scatter`), as far as gold confirms it; False
        counts all alike.
    priors : Priors
    n_folds : int, default 5
        Folds by query for f where gold queries have preference labels too.
    seed : int, default 0

    Attributes
    ----------
    posterior_ : GainPosterior
    evidence_ : Evidence
    diagnostics_ : dict
        Posterior probability of each use and basis, slope of f, noise of an average gold
        label, and the largest weight that the scatter of votes gives one over the smallest.

    Raises
    ------
    DataError
        When the table has no gold row or no features.
    OptionError
        When a use or a basis is not known, or there are fewer than two folds.

    References
    ----------
    Kennedy and O'Hagan (2000), https://doi.org/10.1093/biomet/87.1.1; Hoeting,
    Madigan, Raftery and Volinsky (1999), https://doi.org/10.1214/ss/1009212519.
    """

    uses: Sequence[str] = USES
    bases: Sequence[str] = (*BASES, "index")
    average: bool = True
    scatter: bool = True
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
        self._check_options()
        table = table.rows(table.weight > 0)
        gold, preference = table.gold(), table.preference()
        if not len(gold):
            raise DataError(
                "this corrector needs gold labels and the table has none; add some, or take "
                "preferences at their word with the corrector none"
            )
        n_candidates = len(table.models) - 1
        bases, query_map = self._learn_map(table, features)
        design = design_rows(query_map, gold)
        columns = [basis_columns(query_map, basis, n_candidates) for basis in bases]
        constants = query_map.dim * np.arange(n_candidates)
        judge, at_gold = self._preference_model(query_map, gold, preference, design, constants)
        basis_sizes = [1.0 + basis.count("+") for basis in bases]
        size, verdict_size, level_error = judge_sizes(query_map, features, judge, n_candidates)
        noise = label_noise(table)
        relative, seeming_gain = self._relative_weight(
            query_map, gold, preference, judge, at_gold, noise
        )
        is_model = len(preference) > 0 and size > _LEAST_JUDGE * preference.gain.std()
        evidence = weigh_hypotheses(
            [design[:, each] for each in columns],
            gold.gain,
            at_gold,
            judge_level=design[:, constants] @ judge.coef[constants],
            weight=gold.weight * relative,
            level=None if table.is_pair else np.zeros(len(gold)),
            judge_size=size * is_model,
            verdict_size=verdict_size,
            level_error=level_error,
            label_variance=noise,
            priors=self.priors.of_judges(_contestants(preference)),
            uses=self.uses,
            basis_priors=[BASIS_PRIORS.get(basis, 1.0) for basis in bases],
            basis_sizes=basis_sizes,
            average=self.average,
        )
        self.evidence_ = evidence
        posterior = evidence.posterior(columns, judge.coef, constants)
        covariance = posterior.covariance * seeming_gain
        _add_doubts(covariance, evidence, judge, bases, query_map)
        self.posterior_ = GainPosterior(
            query_map=query_map,
            mean=posterior.mean.reshape(n_candidates, -1),
            covariance=covariance,
            elsewhere=_elsewhere(table, evidence.discrepancy_variance(basis_sizes)),
        )
        self.diagnostics_ = self._describe(evidence, bases, preference, relative, seeming_gain)
        return self

    def _check_options(self) -> None:
        _check_named("uses", self.uses, "|".join(USES), ", ".join(USES))
        _check_named("bases", self.bases, _BASIS, f"{', '.join(BASES)}, or others of that form")
        if self.n_folds < 2:
            raise OptionError.of("n_folds", self.n_folds, "an integer of at least 2")

    def _learn_map(
        self, table: GainTable, features: NDArray[np.float32]
    ) -> tuple[list[str], QueryMap]:
        """The bases that tell queries apart, and v(x)."""
        d = features.shape[1]
        most = None if table.is_pair else max(_POOL_DIM // (2 * (len(table.models) - 1)), 2)
        width = d if most is None else min(most, d)
        unlabelled = [basis for basis in self.bases if "index" not in basis.split("+")]
        bases = distinct_bases(unlabelled or ["linear"], width)
        query_map = learn_query_map(
            features,
            bases,
            seed=self.seed,
            max_dim=width,
            max_curve=None if most is None else most // 2,
        )
        is_asked = len(unlabelled) < len(self.bases)
        index = _index(query_map, table, self.seed) if is_asked and d > 1 else None
        if index is None:
            return bases, query_map
        query_map = query_map.with_index(index, features[:: sample_step(features)])
        return [*(bases if unlabelled else ()), "index"], query_map

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
        # As it is found in the table given back, whose votes tell it where gold does not.
        noise = label_noise(table.with_gains(gains, variances))
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
        gold: GainTable,
        preference: GainTable,
        design: FloatArray,
        constants: IntArray,
    ) -> tuple[Judge, FloatArray | None]:
        """The preference model f, and f at the gold rows out of fold."""
        if len(preference) < 2 or not preference.gain.std():
            return no_judge(design.shape[1]), None
        narrow, entries = judge_map(query_map, len(constants))
        fold = _folds(gold, preference, self.n_folds, self.seed)
        parts = judge_moments(narrow, preference, fold)
        whole = functools.reduce(Moments.__add__, parts.values())
        members = fit_members(whole, judge_families(narrow, len(constants)), len(entries))
        judge = mean_judge(members).among(entries, design.shape[1])
        at_gold = design @ judge.coef
        for k, part in parts.items():
            rows = fold[gold.query] == k
            if k >= 0 and rows.any() and whole.n - part.n > 1:
                left_out = np.zeros(len(judge.coef))
                left_out[entries] = refit(members, whole - part)
                # A level without the fold's votes would move against them.
                left_out[constants] = judge.coef[constants]
                at_gold[rows] = design[rows] @ left_out
        return judge, at_gold

    def _relative_weight(
        self,
        query_map: QueryMap,
        gold: GainTable,
        preference: GainTable,
        judge: Judge,
        at_gold: FloatArray | None,
        noise: float,
    ) -> tuple[FloatArray, float]:
        """Weight of each gold label of a pair, over its own, as the scatter of votes tells it.

        Votes on queries with gold are left out: noise of both labels would be found in itself.
        """
        if not self.scatter or at_gold is None or not gold.is_pair:
            return np.ones(len(gold)), 1.0
        others = np.flatnonzero(~np.isin(preference.query, gold.query))
        rows = np.random.default_rng(self.seed).permutation(others)[:_SCATTER_ROWS]
        votes = preference.rows(np.sort(rows))
        narrow, judge = with_judge(query_map, judge, 1)
        model = learn_scatter(
            _leading(query_map, votes),
            votes.gain - design_rows(narrow, votes) @ judge.coef,
            votes.weight,
            votes.judge,
        )
        if model is None:
            return np.ones(len(gold)), 1.0
        scatter = model.predict(_leading(query_map, gold))
        return relative_weight(scatter, gold.gain, at_gold, gold.weight, noise)

    def _describe(
        self,
        evidence: Evidence,
        bases: Sequence[str],
        preference: GainTable,
        relative: FloatArray,
        seeming_gain: float,
    ) -> dict[str, Any]:
        return {
            "n_gold": len(relative),
            "n_preference": len(preference),
            "judged_by_contestant": round(_contestants(preference), 4),
            "use_of_preferences": {use: round(evidence.share(use), 4) for use in self.uses},
            "basis": {basis: round(evidence.basis_share(i), 4) for i, basis in enumerate(bases)},
            "preference_slope": evidence.judge_slope(),
            "noise_variance": evidence.noise_variance() * seeming_gain,
            "gold_weight_ratio": round(float(relative.max() / relative.min()), 4),
        }


def _contestants(preference: GainTable) -> float:
    """Share of the verdicts, by weight, that a model gave on its own answer."""
    if not len(preference):
        return 0.0
    return float(np.average(judged_by_contestant(preference), weights=preference.weight))


def _check_named(option: str, given: Sequence[str], form: str, allowed: str) -> None:
    wrong = [name for name in given if re.fullmatch(form, name) is None]
    if wrong or not len(given):
        raise OptionError.of(option, wrong[0] if wrong else given, allowed)


def _add_doubts(
    covariance: FloatArray,
    evidence: Evidence,
    judge: Judge,
    bases: Sequence[str],
    query_map: QueryMap,
) -> None:
    """Add to the covariance of θ what the hypotheses take as known: f, and the index."""
    # Uses but rescale hold f's error in δ already, where gold shrinks it as if f's kernel
    # were right: without this term intervals are too narrow where a judge is trusted.
    covariance[np.ix_(judge.at, judge.at)] += evidence.judge_slope_square() * judge.covariance
    if "index" in bases and "linear" in query_map.parts:
        # Gold shrinks what lies along other directions as if these were known.
        along = query_map.columns("linear")
        of_index = evidence.discrepancy_variance([float(b == "index") for b in bases])
        covariance[along, along] += _INDEX_DOUBT * of_index


def _elsewhere(table: GainTable, variance: float) -> Elsewhere | None:
    """Where gold labels are rarer than on average, by a regression of who has one on features."""
    features = table.features
    assert features is not None  # noqa: S101 - fit has checked it
    has_gold = np.zeros(table.n_queries)
    has_gold[table.query[table.is_gold]] = 1.0
    labelled = np.unique(table.query)
    labelled = labelled[:: max(len(labelled) // _SOURCED, 1)]
    share = float(has_gold[labelled].mean())
    if not 0 < share < 1:
        return None
    model = Ridge().fit(features[labelled].astype(np.float64), has_gold[labelled])
    assert model.coef_ is not None  # noqa: S101 - set by the fit
    weights = np.concatenate([[share - model.intercept_], -model.coef_]) / share
    return Elsewhere(weights=weights, variance=variance)


def _leading(query_map: QueryMap, table: GainTable) -> FloatArray:
    return query_map.components(table.row_features(), _INDEX_COMPONENTS)


def _folds(gold: GainTable, preference: GainTable, n_folds: int, seed: int) -> IntArray:
    """Fold of each query that both sources label, −1 for the others."""
    shared = np.intersect1d(gold.query, preference.query)
    fold = np.full(gold.n_queries, -1)
    fold[np.random.default_rng(seed).permutation(shared)] = np.arange(len(shared)) % n_folds
    return fold


def _index(query_map: QueryMap, table: GainTable, seed: int) -> FloatArray | None:
    """Functions of the components that a pair's votes depend on, if the votes tell any.

    They do where a model of a few such functions knows something of votes on other
    queries that f does not. Else the functions would be any. Votes on queries with gold
    are left out: what is wrong with both labels would be taken for a direction.
    """
    gold_queries = np.unique(table.query[table.is_gold])
    is_other = ~table.is_gold & ~np.isin(table.query, gold_queries)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(is_other))[:_INDEX_ROWS]
    votes = table.rows(np.sort(rows))
    queries, place = np.unique(votes.query, return_inverse=True)
    if not table.is_pair or len(queries) < _INDEX_QUERIES or not votes.gain.std():
        return None
    fold = (rng.permutation(len(queries)) % _INDEX_FOLDS)[place]
    sums = np.bincount(votes.judge, votes.gain * votes.weight)
    level = sums / np.maximum(np.bincount(votes.judge, votes.weight), 1e-300)
    votes = votes.with_gains(votes.gain - level[votes.judge], votes.variance)
    X = _leading(query_map, votes)
    own = np.zeros(len(votes))
    for k in range(_INDEX_FOLDS):
        rest = fold != k
        trial = learn_index(
            X[rest], votes.gain[rest], votes.weight[rest], steps=_TRIAL_STEPS, seed=seed
        )
        if trial is None:
            return None
        own[~rest] = trial.predict(X[~rest])
    plain = _plain_votes(query_map, votes, fold)
    if not _adds(votes, plain, own) > _INDEX_CERTAINTY:
        return None
    model = learn_index(X, votes.gain, votes.weight, seed=seed)
    if model is None:
        return None
    functions = index_functions(
        _share_of(model.slopes, X, 1.0 - _INDEX_DOUBT)
        + _share_of(np.eye(X.shape[1]), X, _INDEX_DOUBT)
    )
    found = np.zeros((query_map.rotation.shape[1], functions.shape[1]))
    found[: len(functions)] = functions
    return found


def _share_of(metric: FloatArray, X: FloatArray, share: float) -> FloatArray:
    """The metric, so that E[x'Mx] is `share`."""
    size = float(np.einsum("ij,jk,ik->", X, metric, X)) / len(X)
    return metric * (share / size if size > 0 else 0.0)


def _adds(votes: GainTable, plain: FloatArray, own: FloatArray) -> float:
    """What `own` says of the votes beyond `plain`: its slope beside it, in standard errors.

    Votes on one query are one observation.
    """
    root = np.sqrt(votes.weight)
    others = np.column_stack([np.ones(len(plain)), plain]) * root[:, None]
    both = np.column_stack([own, votes.gain]) * root[:, None]
    left, told = (both - others @ np.linalg.lstsq(others, both, rcond=None)[0]).T
    size = float(left @ left)
    if size <= _ROUNDING * float(both[:, 0] @ both[:, 0]):
        return 0.0
    slope = float(left @ told) / size
    error = float(np.linalg.norm(np.bincount(votes.query, left * (told - slope * left)))) / size
    return slope / error if error > 0 else 0.0


def _plain_votes(query_map: QueryMap, votes: GainTable, fold: IntArray) -> FloatArray:
    """What f says of a pair's votes out of fold."""
    narrow, entries = judge_map(query_map, 1)
    X = design_rows(narrow, votes)
    parts = [
        Moments.of(X[fold == k], votes.gain[fold == k], votes.weight[fold == k])
        for k in range(_INDEX_FOLDS)
    ]
    whole = functools.reduce(Moments.__add__, parts)
    members = fit_members(whole, judge_families(narrow, 1), len(entries))
    found = np.zeros(len(votes))
    for k, part in enumerate(parts):
        found[fold == k] = X[fold == k] @ refit(members, whole - part)
    return found
