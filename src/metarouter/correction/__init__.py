"""Bias correction of preference labels: one contract, many methods.

``fit(table)`` learns from both label sources; ``transform(table)`` leaves gold
rows as they are and gives preference rows a pseudo-gold gain with its variance.
"""

from metarouter.correction.joint import FittedGain, learn_gain
from metarouter.correction.registry import CORRECTORS, corrector_names, make_corrector

__all__ = ["CORRECTORS", "FittedGain", "corrector_names", "learn_gain", "make_corrector"]
