"""What a threshold may be set by, and what a loss limit is counted against."""

from __future__ import annotations

import numpy as np

from metarouter.calibration import CalibrationTarget
from metarouter.policy.costs import UnitCost


def test_a_loss_in_a_pool_is_counted_against_the_last_model() -> None:
    """A router that prefers the middle model loses 0.4 to the large one: not certified."""
    costs = UnitCost.for_pool(3).costs(np.zeros((400, 1)))
    gold = np.tile([0.1, 0.5], (400, 1))
    target = CalibrationTarget(max_loss=0.2)
    middle = target.from_gold(gold[:, ::-1], gold, costs, np.random.default_rng(0))
    assert not middle.certified
    large = target.from_gold(gold, gold, costs, np.random.default_rng(0))
    assert large.certified
