"""What a threshold may be set by, and what a loss limit is counted against."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metarouter.calibration import CalibrationTarget
from metarouter.errors import OptionError
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence = 1.0; allowed"),
        ({"confidence": 0.0, "premium_share": 0.5}, "confidence = 0.0; allowed"),
        ({"confidence": 95.0, "max_loss": 0.1}, "confidence = 95.0; allowed"),
        ({"confidence": math.nan}, "confidence = nan; allowed"),
        ({"premium_share": -0.1}, "premium_share = -0.1; allowed"),
        ({"premium_share": 1.2}, "premium_share = 1.2; allowed"),
        ({"budget": -1.0}, "budget = -1.0; allowed"),
        ({"budget": math.inf}, "budget = inf; allowed"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, float], message: str) -> None:
    """Before anything is fitted, whether or not the value would have been used."""
    with pytest.raises(OptionError, match=f"^{message}"):
        CalibrationTarget(**options)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    """No premium call, premium calls alone, and no money are targets."""
    assert CalibrationTarget(premium_share=0.0).given == ("premium_share",)
    assert CalibrationTarget(premium_share=1.0).given == ("premium_share",)
    assert CalibrationTarget(budget=0.0).given == ("budget",)
