"""Metrics, intervals, experiments and the report."""

from metarouter.evaluation.curves import (
    Curve,
    collected_gain_curve,
    efficiency_gain_curve,
    pgr_curve,
    quality_curve,
)
from metarouter.evaluation.intervals import (
    Band,
    PairedTest,
    bootstrap_interval,
    corrected_resampled_ttest,
    mean_interval,
    ratio_of_means,
    simultaneous_band,
)
from metarouter.evaluation.metrics import (
    apgr,
    apgr_grid,
    apgr_random_std,
    cost_saving_ratio,
    cpt,
    efficiency_gain_area,
    gap_statistic,
)
from metarouter.evaluation.quality import (
    GainCalibration,
    calibration_of_gain,
    policy_values,
)
from metarouter.evaluation.regret import RegretCurve, regret_curve

__all__ = [
    "Band",
    "Curve",
    "GainCalibration",
    "PairedTest",
    "RegretCurve",
    "apgr",
    "apgr_grid",
    "apgr_random_std",
    "bootstrap_interval",
    "calibration_of_gain",
    "collected_gain_curve",
    "corrected_resampled_ttest",
    "cost_saving_ratio",
    "cpt",
    "efficiency_gain_area",
    "efficiency_gain_curve",
    "gap_statistic",
    "mean_interval",
    "pgr_curve",
    "policy_values",
    "quality_curve",
    "ratio_of_means",
    "regret_curve",
    "simultaneous_band",
]
