"""What a fit tells of its two label sources: bias map, overlap, sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from metarouter.causal import (
    Nuisances,
    OverlapReport,
    Propensity,
    compare_strength,
    estimate_functional,
    estimate_sensitivity,
    fit_nuisances,
    stratified_folds,
)
from metarouter.causal.sensitivity import Functional
from metarouter.correction.bias_map import make_bias_map
from metarouter.correction.units import (
    SourceUnits,
    main_contrast,
    paired_table,
    source_units,
)
from metarouter.errors import DataError
from metarouter.gain.extras import import_train, one_thread
from metarouter.labels.noise import MIN_LABELS
from metarouter.labels.table import GainTable
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = ["AUDITED", "audit_labels"]

AUDITED = ("bias_map", "overlap", "sensitivity")
"""What an audit tells of."""

_FOLDS = 5  # no more than the fewest labels that are looked at
_MAX_PLAIN = 5_000  # every covariate that is left out costs another fit
_COMPONENTS = 16
_LEADING = 4
_MAX_DOMAINS = 12
_MAX_KINDS = 100  # domains that overlap is looked at in, of the largest
# An AUC that random gold does not reach; a convention, like those of causal.overlap.
_OTHER_KIND_AUC = 0.65

Choose = Callable[[IntArray], IntArray]


def audit_labels(
    table: GainTable, *, choose: Choose | None = None, seed: int = 0
) -> dict[str, Any]:
    """Tell where the sources disagree, whether they meet, and what could hide in between.

    Parameters
    ----------
    table : GainTable with features
    choose : callable, optional
        Takes query indices and gives 1 where the router calls the premium
        model, else 0; for queries with gold by a router that did not see them.
        None leaves the routing value out.
    seed : int, default 0

    Returns
    -------
    dict of plain JSON values
        ``bias_map`` as :meth:`BiasMap.to_dict`; ``overlap`` as a flat
        :class:`OverlapReport`, given features, or domains too where these tell the
        sources apart more surely; ``sensitivity`` with ``mean_bias`` and
        ``routing_value``, each a :class:`Sensitivity`. Where the labels cannot
        tell, a sentence that begins with "cannot be told" stands instead.

    Notes
    -----
    ``mean_bias`` is E[preference gain − gold gain] over the labelled queries.
    Domains count, for overlap and as covariates of sensitivity, where every query has one.
    ``routing_value`` is E[(c − E c) ψ], the gold gain of the router's choices c
    above as many premium calls at random. Both are about one pair of models and,
    beyond speed, about at most 5,000 queries without gold.

    Examples
    --------
    >>> from metarouter.testing import make_simulation
    >>> found = audit_labels(make_simulation(500, 3, n_gold=5, n_test=0).table)
    >>> found["overlap"]
    'cannot be told: 5 queries with gold and 495 with preference labels, at least 10 of each needed'
    """
    import_train("sklearn.cluster", "an audit of labels")  # one_thread limits what is loaded
    contrast = main_contrast(table)
    if contrast is None:
        return dict.fromkeys(AUDITED, "cannot be told: there are no labels")
    rng = np.random.default_rng(seed)
    with one_thread():
        pair, queries = paired_table(table, contrast, rng, _MAX_PLAIN)
        if not source_units(pair).has_both():
            return dict.fromkeys(AUDITED, _refusal(pair))
        study = _Study.of(pair, rng)
        choice = None if choose is None else choose(queries)
        return {
            "bias_map": make_bias_map(table, n_folds=_FOLDS, seed=seed).to_dict(),
            "overlap": _overlap(study),
            "sensitivity": {
                "mean_bias": _mean_bias(study),
                "routing_value": _routing_value(study, choice),
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Study:
    """Units with out-of-fold nuisances: `full`, and without each group of covariates.

    `domains` are indicators, shape (n, k), with no column where they tell nothing.
    """

    units: SourceUnits
    domains: FloatArray
    folds: IntArray
    full: Nuisances
    without: Mapping[str, Nuisances]

    @classmethod
    def of(cls, pair: GainTable, rng: np.random.Generator) -> _Study:
        units = source_units(pair)
        folds = stratified_folds(units.is_gold, _FOLDS, rng, units.query)
        X, groups = _covariates(pair, units)

        def fit(kept: list[int]) -> Nuisances:
            return fit_nuisances(X[:, kept], units.gain, units.is_gold, folds, share=units.share)

        every = list(range(X.shape[1]))
        return cls(
            units=units,
            domains=_domain_columns(pair, units, _MAX_KINDS),
            folds=folds,
            full=fit(every),
            without={
                name: fit([j for j in every if j not in set(columns)])
                for name, columns in groups.items()
            },
        )

    def around_mean_gain(self) -> _Study:
        """The same with gold gains less their mean ψ."""
        gain, is_gold = self.units.gain, self.units.is_gold
        level = estimate_functional(
            gain, is_gold, self.full, coef_control=0.0, share=self.units.share
        ).value

        def less(nuisances: Nuisances) -> Nuisances:
            return replace(nuisances, mu1=nuisances.mu1 - level)

        return replace(
            self,
            units=replace(self.units, gain=gain - level * is_gold),
            full=less(self.full),
            without={name: less(short) for name, short in self.without.items()},
        )

    def sensitivity(
        self, coef_treated: FloatArray | float, coef_control: FloatArray | float
    ) -> dict[str, Any] | str:
        """Sensitivity of E[a₁ ψ + a₀ η], with each group as a benchmark."""

        def estimate(nuisances: Nuisances) -> Functional:
            return estimate_functional(
                self.units.gain,
                self.units.is_gold,
                nuisances,
                coef_treated=coef_treated,
                coef_control=coef_control,
                groups=self.units.query,
                share=self.units.share,
            )

        full = estimate(self.full)
        try:
            benchmarks = [
                compare_strength(name, full, estimate(short))
                for name, short in self.without.items()
            ]
            found = estimate_sensitivity(full, benchmarks=benchmarks)
        except DataError:  # too little overlap for the variance of the weights
            return _without_bound(full.estimate(), int(self.units.is_gold.sum()))
        return asdict(found) | {"benchmarks": [asdict(strength) for strength in benchmarks]}


def _covariates(pair: GainTable, units: SourceUnits) -> tuple[FloatArray, dict[str, list[int]]]:
    """Leading components, log length and domains, and the columns of each group."""
    components = units.features[:, :_COMPONENTS]
    length = np.log1p([len(pair.queries[i]) for i in units.query])
    domains = _domain_columns(pair, units, _MAX_DOMAINS)
    d = components.shape[1]
    groups = {
        "the leading components": list(range(min(_LEADING, d))),
        "length": [d],
        "domain": list(range(d + 1, d + 1 + domains.shape[1])),
    }
    X = np.column_stack([components, length, domains])
    return X, {name: columns for name, columns in groups.items() if columns}


def _refusal(pair: GainTable) -> str:
    n_gold, n_preference = (len(np.unique(rows.query)) for rows in (pair.gold(), pair.preference()))
    return (
        f"cannot be told: {n_gold:,} queries with gold and {n_preference:,} with preference "
        f"labels, at least {MIN_LABELS} of each needed"
    )


def _without_bound(estimate: Estimate, n_gold: int) -> str:
    return (
        f"cannot be told: with {n_gold:,} gold labels the sources overlap too little to say what "
        "a hidden reason for the choice of gold queries could do; without one, the estimate is "
        f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
    )


def _domain_columns(pair: GainTable, units: SourceUnits, most: int) -> FloatArray:
    """Indicators of the largest domains but one, shape (n, at most `most`).

    No column where a query has no domain: names that one file alone gives tell the files
    apart, and no kinds of queries.
    """
    domain = pair.domain[units.query]
    if (domain < 0).any():
        return np.zeros((len(domain), 0))
    names, count = np.unique(domain, return_counts=True)
    largest = names[np.argsort(-count, kind="stable")]
    kept = largest[: min(most, len(names) - 1)]
    return np.asarray(domain[:, None] == kept, dtype=np.float64)


def _overlap(study: _Study) -> dict[str, Any]:
    """The overlap of the sources given all features, flat.

    Or given domains too, where they tell the sources apart more surely: many that tell
    nothing would hide what a few features do.
    """
    features, is_gold = study.units.features, study.units.is_gold
    given = [features]
    if study.domains.shape[1]:
        given.append(np.column_stack([features, study.domains]))
    reports = [Propensity().estimate(X, is_gold, study.folds).overlap for X in given]
    report = max(reports, key=lambda each: each.auc.low)
    found = asdict(report)
    del found["quantiles"]
    return found | {"warnings": _overlap_warnings(report)}


def _overlap_warnings(report: OverlapReport) -> list[str]:
    """The report's sentences in the words of labels, and one on gold that was not random."""
    found = [
        text.replace("source 1", "gold").replace("source 0", "preference")
        for text in report.warnings
    ]
    if report.auc.low > _OTHER_KIND_AUC:
        found.append(
            f"Gold labels sit on other kinds of queries than preference labels (AUC "
            f"{report.auc.value:.2f}): where gold is rare, what is said of the bias leans on few "
            "labels."
        )
    return found


def _mean_bias(study: _Study) -> dict[str, Any] | str:
    """Sensitivity of E[preference gain − gold gain]."""
    return study.sensitivity(-1.0, 1.0)


def _routing_value(study: _Study, choice: IntArray | None) -> dict[str, Any] | str:
    """Sensitivity of the gold gain of the choices above random ones."""
    if choice is None:
        return "cannot be told: it needs two models and predictions for gold queries left out"
    chosen = choice[study.units.query].astype(np.float64)
    if np.ptp(chosen) == 0:
        return "cannot be told: the router sends every query to the same model"
    # The value is that of ψ − E ψ too, whose errors hold those of the estimated share E c.
    share = np.average(chosen, weights=study.units.share)
    return study.around_mean_gain().sensitivity(chosen - share, 0.0)
