"""Causal estimators on arrays; knows nothing of language models.

The estimand is the effect of a binary source t on an outcome y at x,
Δ(x) = E[y | t=1, x] − E[y | t=0, x]. Folds and cross-fitting
(:mod:`~metarouter.causal.crossfit`), the propensity
(:mod:`~metarouter.causal.propensity`) and the formulas
(:mod:`~metarouter.causal.pseudo_outcomes`) are separate parts that the learners
(:mod:`~metarouter.causal.learners`) put together;
:mod:`~metarouter.causal.sensitivity` asks what an unobserved cause could change.
"""

from metarouter.causal.crossfit import cross_fit, repeat_median, stratified_folds
from metarouter.causal.learners import (
    DRLearner,
    LearnerDiagnostics,
    RLearner,
    SLearner,
    TLearner,
    XLearner,
)
from metarouter.causal.overlap import OverlapReport
from metarouter.causal.propensity import Propensity, PropensityFit
from metarouter.causal.pseudo_outcomes import (
    PseudoOutcome,
    dr_pseudo_outcome,
    r_pseudo_outcome,
    x_pseudo_outcome,
)
from metarouter.causal.sensitivity import (
    CovariateStrength,
    Nuisances,
    Sensitivity,
    compare_strength,
    estimate_functional,
    estimate_sensitivity,
    fit_nuisances,
)

__all__ = [
    "CovariateStrength",
    "DRLearner",
    "LearnerDiagnostics",
    "Nuisances",
    "OverlapReport",
    "Propensity",
    "PropensityFit",
    "PseudoOutcome",
    "RLearner",
    "SLearner",
    "Sensitivity",
    "TLearner",
    "XLearner",
    "compare_strength",
    "cross_fit",
    "dr_pseudo_outcome",
    "estimate_functional",
    "estimate_sensitivity",
    "fit_nuisances",
    "r_pseudo_outcome",
    "repeat_median",
    "stratified_folds",
    "x_pseudo_outcome",
]
