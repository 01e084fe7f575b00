"""Gain models: query features to a quality gain with uncertainty."""

from metarouter.gain.pool import PoolGainModel
from metarouter.gain.registry import (
    GAIN_MODELS,
    TABLE_GAIN_MODELS,
    TEXT_GAIN_MODELS,
    gain_model_names,
    make_gain_model,
    make_pool_model,
    make_table_gain_model,
)
from metarouter.gain.scoring import GainScorer, WinScorer, load_gain_model
from metarouter.gain.weights import row_weights
from metarouter.labels.noise import label_noise

__all__ = [
    "GAIN_MODELS",
    "TABLE_GAIN_MODELS",
    "TEXT_GAIN_MODELS",
    "GainScorer",
    "PoolGainModel",
    "WinScorer",
    "gain_model_names",
    "label_noise",
    "load_gain_model",
    "make_gain_model",
    "make_pool_model",
    "make_table_gain_model",
    "row_weights",
]
