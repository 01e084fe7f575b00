"""The decision rule: which model is worth its price for this query."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from metarouter.errors import DataError, OptionError
from metarouter.records import Decision, GainEstimate, ModelOption
from metarouter.types import FloatArray, IntArray

__all__ = ["UtilityPolicy"]

_Z95 = 1.959963984540054  # normal quantile of a 95 % interval


@dataclass(frozen=True, kw_only=True, slots=True)
class UtilityPolicy:
    """Chooses the model whose predicted gain is most above the price of its cost.

    Parameters
    ----------
    models : tuple of str
        ``models[0]`` is the reference model, whose gain is 0 by definition; a
        pair is ``(cheap, premium)``.
    w : float
        Price of cost: gain units that one unit of cost has to buy. 0 looks at
        quality alone. For a pair under unit costs it is the threshold on the
        predicted gain. A negative value also sends queries to the dearer model
        when its predicted gain is slightly negative, which a calibration to a
        large premium share can ask for.
    cost_unit : str, default "calls"
        What the costs are counted in, for the reasons: "calls" or "USD".
    version : str, default ""
        Copied into every decision.

    Notes
    -----
    ``argmax_m ψ̂_m(q) − w·C_m(q)``; equal utilities go to the cheaper model, and
    equal costs to the earlier one. It is Bayes-optimal when ψ̂ is the
    conditional mean of the gain (Zhang et al. 2025,
    https://arxiv.org/abs/2509.25535).

    Examples
    --------
    >>> policy = UtilityPolicy(models=("cheap", "premium"), w=0.1)
    >>> policy.choose(np.array([0.05, 0.1, 0.2]), np.array([0.0, 1.0])).tolist()
    [0, 0, 1]
    >>> policy.decide_one([0.2], [0.05], [0.0, 1.0]).reason
    'predicted gain 0.200 ± 0.050 of premium over cheap is above the threshold 0.100'
    """

    models: tuple[str, ...]
    w: float
    cost_unit: str = "calls"
    version: str = ""

    def __post_init__(self) -> None:
        if len(self.models) < 2 or len(set(self.models)) != len(self.models):
            raise OptionError.of("models", self.models, "at least two different names")
        if not math.isfinite(self.w):
            raise OptionError.of("w", self.w, "a finite number of gain units per unit of cost")

    def choose(self, mean: FloatArray, costs: FloatArray) -> IntArray:
        """Index of the chosen model for each query.

        Parameters
        ----------
        mean : array, shape (n,) for a pair or (n, n_models − 1)
            Predicted gain over the reference model, in gain units.
        costs : array, shape (n, n_models) or (n_models,)
            Expected cost of each model, in cost units.

        Returns
        -------
        int array, shape (n,), indices into `models`

        Raises
        ------
        DataError
            When the shapes do not fit, or a value is not finite.
        """
        gains, costs = gains_and_costs(mean, costs)
        if gains.shape[1] != len(self.models):
            raise DataError(f"gains of {gains.shape[1]} models for {len(self.models)} models")
        return best_model(gains, costs, self.w)

    def decide(self, gain: GainEstimate, costs: FloatArray) -> list[Decision]:
        """One decision with its reasons for each query.

        Parameters
        ----------
        gain : GainEstimate
            Mean and std of shape (n,) for a pair or (n, n_models − 1).
        costs : array, shape (n, n_models) or (n_models,)

        Returns
        -------
        list of Decision

        Raises
        ------
        DataError
            When the shapes do not fit, or a value is not finite.
        """
        mean, full = gains_and_costs(gain.mean, costs)
        std = np.asarray(gain.std, dtype=np.float64).reshape(len(mean), mean.shape[1] - 1)
        rows = zip(mean[:, 1:].tolist(), std.tolist(), full.tolist(), strict=True)
        return [self.decide_one(*row) for row in rows]

    def choose_one(self, mean: Sequence[float], costs: Sequence[float]) -> str:
        """The model that :meth:`decide_one` chooses for one query, whatever the deviations."""
        gains = (0.0, *mean)
        # of equal utilities the cheaper model, of equal costs the earlier one
        places = range(len(self.models))
        place = max(places, key=lambda i: (gains[i] - self.w * costs[i], -costs[i], -i))
        return self.models[place]

    def decide_one(
        self, mean: Sequence[float], std: Sequence[float], costs: Sequence[float]
    ) -> Decision:
        """The decision for one query, on plain numbers: the serving path.

        Parameters
        ----------
        mean, std : sequences of n_models − 1 floats
            Predicted gains over the reference model and their deviations.
        costs : sequence of n_models floats

        Returns
        -------
        Decision
        """
        options = [self._option(self.models[0], 0.0, 0.0, costs[0])]
        options += map(self._option, self.models[1:], mean, std, costs[1:])
        # Stable sorts: utility first, then the cheaper, then the earlier model.
        options.sort(key=attrgetter("cost"))
        options.sort(key=attrgetter("utility"), reverse=True)
        chosen = options[0]
        best = chosen if chosen.model != self.models[0] else options[1]
        held_back = any(option.gain > chosen.gain for option in options)
        return Decision(
            model=chosen.model,
            predicted_gain=best.gain,
            predicted_gain_std=best.gain_std,
            threshold=self.w * (best.cost - costs[0]),
            cost=chosen.cost,
            reason=self._reason(options, best, costs[0]),
            policy_version=self.version,
            bound="cost" if held_back else "gain",
            options=tuple(options),
        )

    def _option(self, model: str, gain: float, std: float, cost: float) -> ModelOption:
        half = _Z95 * std
        return ModelOption(
            model=model,
            gain=gain,
            gain_std=std,
            gain_low=gain - half,
            gain_high=gain + half,
            cost=cost,
            utility=gain - self.w * cost,
        )

    def _reason(
        self, options: Sequence[ModelOption], best: ModelOption, reference_cost: float
    ) -> str:
        chosen, next_one = options[0], options[1]
        side = "is above" if chosen is best else "is not above"
        found = (
            f"predicted gain {best.gain:.3f} ± {best.gain_std:.3f} of {best.model} over "
            f"{self.models[0]} {side} the threshold {_short(self.w * (best.cost - reference_cost))}"
            f"{self._more(best, reference_cost)}"
        )
        if chosen is not best or next_one.model == self.models[0]:
            return found
        return (
            f"{found}; next is {next_one.model} with {next_one.gain:.3f}"
            f"{self._more(next_one, reference_cost)}"
        )

    def _more(self, option: ModelOption, reference_cost: float) -> str:
        """What a model costs beside the reference; calls are not counted in words."""
        if self.cost_unit == "calls":
            return ""
        extra = option.cost - reference_cost
        return f", for {abs(extra):.2g} {self.cost_unit} {'less' if extra < 0 else 'more'}"


def _short(threshold: float) -> str:
    return f"{threshold:.3f}" if abs(threshold) < 1000 else f"{threshold:.3g}"


def gains_and_costs(mean: FloatArray, costs: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gains with the reference's zero in front, and costs of the same shape.

    Parameters
    ----------
    mean : array, shape (n,) or (n, n_models − 1)
    costs : array, shape (n, n_models) or (n_models,)

    Returns
    -------
    gains, costs : arrays, shape (n, n_models)

    Raises
    ------
    DataError
        When the shapes do not fit, or a value is not finite.

    Examples
    --------
    >>> gains, costs = gains_and_costs(np.array([0.3]), np.array([0.0, 1.0]))
    >>> gains.tolist(), costs.tolist()
    ([[0.0, 0.3]], [[0.0, 1.0]])
    """
    mean = np.asarray(mean, dtype=np.float64)
    mean = mean[:, None] if mean.ndim == 1 else mean
    costs = np.asarray(costs, dtype=np.float64)
    shape = (len(mean), mean.shape[1] + 1)
    if costs.shape not in (shape, shape[1:]):
        raise DataError(f"costs of shape {costs.shape}; gains of {shape[1]} models need {shape}")
    if not (np.isfinite(mean).all() and np.isfinite(costs).all()):
        raise DataError("gains or costs hold NaN or infinite values: no model can be chosen")
    return np.hstack([np.zeros((shape[0], 1)), mean]), np.broadcast_to(costs, shape)


def best_model(gains: FloatArray, costs: FloatArray, w: float) -> IntArray:
    """Index of the largest ``gain − w · cost`` in each row; ties to the cheaper."""
    utility = gains - w * costs
    tied = utility == utility.max(axis=1, keepdims=True)
    return np.asarray(np.argmin(np.where(tied, costs, np.inf), axis=1), dtype=np.int64)
