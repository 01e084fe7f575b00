"""What a threshold is to achieve, and how it is found.

A router's score and its threshold are learned separately: a share or a budget
from queries without labels, a loss limit from gold labels that the router did
not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from metarouter.errors import OptionError
from metarouter.policy.baselines import premium_index
from metarouter.policy.calibrate import (
    Calibration,
    calibrate_budget,
    calibrate_max_loss,
    calibrate_share,
)
from metarouter.router import AnyQuery, Router
from metarouter.types import FloatArray

__all__ = ["CalibrationTarget", "calibrate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTarget:
    """The one thing that a threshold is set by.

    Parameters
    ----------
    premium_share : float in [0, 1], optional
        Share of queries that leave the reference model.
    budget : float of at least 0, optional
        Expected cost of 1,000 queries, in the cost unit.
    max_loss : float above 0, optional
        Largest mean quality loss against always the premium model, held with
        `confidence`.
    w : float, optional
        The price of cost itself.
    confidence : float in (0, 1), default 0.95

    Raises
    ------
    OptionError
        When more than one of the four is given, or a value is out of range.
    """

    premium_share: float | None = None
    budget: float | None = None
    max_loss: float | None = None
    w: float | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        given = self.given
        if len(given) > 1:
            both = " and ".join(f"`{name}`" for name in given)
            raise OptionError(f"{both} were given; allowed: one of them")
        if not 0 < self.confidence < 1:
            raise OptionError.of("confidence", self.confidence, "a probability between 0 and 1")
        if self.premium_share is not None and not 0 <= self.premium_share <= 1:
            allowed = "a share of calls in [0, 1]"
            raise OptionError.of("premium_share", self.premium_share, allowed)
        if self.budget is not None and not 0 <= self.budget < math.inf:
            raise OptionError.of("budget", self.budget, "a cost of 1,000 queries, at least 0")

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the targets that were given."""
        names = (field.name for field in fields(self) if field.name != "confidence")
        return tuple(name for name in names if getattr(self, name) is not None)

    def as_config(self) -> dict[str, float]:
        """The target as JSON values."""
        config = {name: float(getattr(self, name)) for name in self.given}
        return config | ({"confidence": self.confidence} if "max_loss" in config else {})

    def from_queries(self, mean: FloatArray, costs: FloatArray) -> Calibration:
        """The price of cost for a share or a budget.

        Parameters
        ----------
        mean : array, shape (n,) or (n, n_models − 1), predicted gains.
        costs : array, shape (n, n_models)
        """
        if self.budget is not None:
            return calibrate_budget(mean, costs, self.budget)
        share = 0.5 if self.premium_share is None else self.premium_share
        return calibrate_share(mean, costs, share)

    def from_gold(
        self, mean: FloatArray, gold: FloatArray, costs: FloatArray, rng: np.random.Generator
    ) -> Calibration:
        """The price of cost for a loss limit, from predicted and gold gains of one shape.

        No gain is above 1, the length of the score range that the labels were read with.
        """
        if self.max_loss is None:
            raise OptionError("`max_loss` is not given; it is what gold labels calibrate")
        premium = premium_index(costs.mean(axis=0))
        return calibrate_max_loss(
            mean,
            gold,
            costs,
            self.max_loss,
            rng,
            confidence=self.confidence,
            gain_bound=1.0,
            premium=premium,
        )


def calibrate(
    router: Router,
    queries: Sequence[AnyQuery] | None = None,
    *,
    gold: Any = None,
    premium_share: float | None = None,
    budget: float | None = None,
    max_loss: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Router, Calibration]:
    """Give a fitted router another threshold.

    Assumes that the queries it will meet are like the `queries`, or like those
    of `gold`.

    Parameters
    ----------
    router : Router
    queries : sequence of queries
        Unlabelled; for `premium_share` and `budget`.
    gold : label source
        Held-out gold labels, for `max_loss`; queries that the router was fitted
        on are left out.
    premium_share, budget, max_loss, confidence
        See :class:`CalibrationTarget`; exactly one of the first three.
    seed : int, default 0
        Puts the gold labels in random order.

    Returns
    -------
    Router
        With the new threshold; scores are unchanged.
    Calibration
        What the threshold does on such queries.

    Raises
    ------
    OptionError
        When the target is missing, or the data it needs.
    DataError
        When the data cannot support it.

    Examples
    --------
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=40)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> cheaper, found = calibrate(router, list(world.test.queries), premium_share=0.25)
    >>> found.premium_share.value <= 0.25, cheaper.policy.w > router.policy.w
    (True, True)
    """
    target = CalibrationTarget(
        premium_share=premium_share, budget=budget, max_loss=max_loss, confidence=confidence
    )
    if not target.given:
        raise OptionError("no target: give one of `premium_share`, `budget` and `max_loss`")
    if max_loss is None:
        if not queries:
            raise OptionError("no `queries`: `premium_share` and `budget` are calibrated on them")
        found = target.from_queries(
            router.predict_gain(queries).mean, router.expected_costs(queries)
        )
    else:
        found = _from_gold(router, gold, target, np.random.default_rng(seed))
    config = target.as_config() | {"reason": found.reason}
    return router.with_policy(w=found.w, calibration=config), found


def _from_gold(
    router: Router, gold: Any, target: CalibrationTarget, rng: np.random.Generator
) -> Calibration:
    from metarouter.evaluation.heldout import read_unseen

    if gold is None:
        raise OptionError("no `gold`: `max_loss` is calibrated on held-out gold labels")
    held_out, left_out = read_unseen(router, gold)
    mean = router.predict_gain(held_out.queries).mean.reshape(len(held_out.queries), -1)
    gains = held_out.quality[:, 1:] - held_out.quality[:, :1]
    found = target.from_gold(mean, gains, router.expected_costs(held_out.queries), rng)
    return replace(found, reason=f"{found.reason}; {left_out}") if left_out else found
