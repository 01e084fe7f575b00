"""Costs, thresholds and the choice of a model."""

from metarouter.policy.calibrate import (
    Calibration,
    calibrate_budget,
    calibrate_max_loss,
    calibrate_share,
)
from metarouter.policy.costs import (
    CostModel,
    TokenCost,
    TokenPredictor,
    UnitCost,
    estimate_tokens,
    fit_token_predictor,
    load_cost,
)
from metarouter.policy.prices import lookup_price, read_prices
from metarouter.policy.rule import UtilityPolicy

__all__ = [
    "Calibration",
    "CostModel",
    "TokenCost",
    "TokenPredictor",
    "UnitCost",
    "UtilityPolicy",
    "calibrate_budget",
    "calibrate_max_loss",
    "calibrate_share",
    "estimate_tokens",
    "fit_token_predictor",
    "load_cost",
    "lookup_price",
    "read_prices",
]
