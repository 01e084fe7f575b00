"""Frozen values that pass between the parts of metarouter.

A *gain* is always candidate minus baseline quality, positive when the
candidate is better. Identity and storage keys are not part of a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Decision",
    "Estimate",
    "GainEstimate",
    "Message",
    "ModelOption",
    "ModelSpec",
    "PolicyValue",
    "Query",
    "json_value",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation: who said it, and its text."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What a user asks: a text, or a conversation rendered to one."""

    text: str
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A model and its price in USD per million tokens (None when unknown)."""

    name: str
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GainEstimate:
    """Predicted quality gains over the reference model.

    Parameters
    ----------
    mean : array, shape (n_queries,) for a pair or (n_queries, n_candidates)
        ψ̂(x), candidate minus baseline, in gain units.
    std : array of the same shape
        Standard deviation of ψ̂(x) as an estimate of ψ(x): the label noise of
        a single query is not in it.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def interval(self, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Normal interval of the mean at `level` in (0, 1)."""
        from statistics import NormalDist

        z = NormalDist().inv_cdf(0.5 + level / 2)
        return self.mean - z * self.std, self.mean + z * self.std


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its standard error and interval, from `n` units.

    `warnings` are plain sentences about what weakens the number.
    """

    value: float
    std_error: float
    low: float
    high: float
    n: int
    level: float = 0.95
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOption:
    """One model that a decision weighed.

    `gain` is over the reference model (0 for the reference itself), `cost` is
    in the policy's cost unit (USD for token prices, calls for unit costs) and
    `utility` is gain − w · cost.
    """

    model: str
    gain: float
    gain_std: float
    gain_low: float
    gain_high: float
    cost: float
    utility: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Which model answers a query, and why.

    Attributes
    ----------
    model : the chosen model.
    predicted_gain, predicted_gain_std : of the best candidate over the
        reference model (for a pair: premium over cheap).
    threshold : the gain that the best candidate had to exceed.
    cost : expected cost of the chosen model for this query, in the policy's
        unit.
    reason : one plain sentence.
    bound : what decided: "gain", "cost" or "share"; where a gateway serves, also
        "random" (drawn by exploration), "fixed" (by the request or by what it
        follows) or "fallback" (another model stood in).
    logging_propensity : probability with which this model was drawn (1 for a
        deterministic policy).
    options : every model weighed, best utility first.
    """

    model: str
    predicted_gain: float
    predicted_gain_std: float
    threshold: float
    cost: float
    reason: str
    policy_version: str
    bound: str = "gain"
    logging_propensity: float = 1.0
    options: tuple[ModelOption, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyValue:
    """Held-out value of a policy: quality and cost, each with an interval.

    `quality` is the mean gold score of the chosen models when absolute scores
    are known, else the mean gain over the reference model. `saving_share` is
    1 − cost / cost of always the premium model.
    """

    policy: str
    premium_share: float
    quality: Estimate
    cost_per_1k: float
    saving_share: float


def json_value(value: Any) -> Any:
    """A value as JSON has it: NumPy's become Python's, NaN and infinities null.

    Examples
    --------
    >>> json_value({"area": np.float64(0.5), "ends": np.array([0.0, np.inf])})
    {'area': 0.5, 'ends': [0.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_value(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
