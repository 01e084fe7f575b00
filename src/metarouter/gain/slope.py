"""Ensembles set right by the labels their members did not see: :func:`with_slope`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metarouter.gain.out_of_bag import out_of_bag
from metarouter.gain.rows import TrainingRows
from metarouter.gain.scoring import MLPScorer, TreesScorer
from metarouter.types import BoolArray, FloatArray, IntArray, ModelState

__all__ = ["Slope", "held_out_slope", "with_slope"]

_LARGEST = 5_000  # rows are plenty to estimate one slope
_FEWEST = 20  # queries below which a slope says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Slope:
    """Factor on an ensemble's departures from the mean gain, with its error."""

    value: float = 1.0
    std_error: float = 0.0


def with_slope(
    state: ModelState, scorer: TreesScorer | MLPScorer, rows: TrainingRows, halves: BoolArray
) -> ModelState:
    """The state of an ensemble with its slope estimated on held-out rows.

    Leaves, early stopping and penalties pull predictions towards the mean
    gain; fitting noise spreads them too far. Fits on other data share either
    fault, so the variance between bags does not show it; the labels that a
    bag did not see do.

    Parameters
    ----------
    state : ModelState of kind "trees" or "mlp".
    scorer : the scorer of `state`.
    rows : TrainingRows that it was fitted on.
    halves : bool array, shape (n_bags, n_groups); what each bag was fitted on.
    """
    part = np.arange(0, len(rows.target), max(1, len(rows.target) // _LARGEST))
    held_out = ~halves[:, rows.group[part]].T  # (rows, bags)
    seen = held_out.any(axis=1)
    part, held_out = part[seen], held_out[seen]
    if len(np.unique(rows.group[part])) < _FEWEST:
        return state
    bags = (scorer.bags(rows.features[part]) - rows.centre) / rows.scale
    unseen, _ = out_of_bag(bags, held_out)
    slope = held_out_slope(unseen, rows.target[part], rows.weight[part], rows.group[part])
    return replace(
        state, config=state.config | {"slope": slope.value, "slope_std": slope.std_error}
    )


def held_out_slope(
    predicted: FloatArray, target: FloatArray, weight: FloatArray, group: IntArray
) -> Slope:
    """Slope of held-out labels on predictions, drawn towards 1 as it is uncertain.

    Parameters
    ----------
    predicted, target, weight : arrays, shape (n,)
    group : int array, shape (n,); rows of one query, which err together.

    Notes
    -----
    With b̂ the weighted least-squares slope and s its standard error clustered
    by group, the positive-part rule ``b = 1 + (1 − s²/(b̂ − 1)²)₊ (b̂ − 1)``
    leaves a slope alone that may as well be 1. Both are kept within [0, 3].

    References
    ----------
    Cox (1958), Two further applications of a model for binary regression
    (calibration slope). https://doi.org/10.1093/biomet/45.3-4.562
    James & Stein (1961), Estimation with quadratic loss.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 50)
    >>> round(held_out_slope(x, 1.5 * x, np.ones(50), np.arange(50)).value, 6)
    1.5
    """
    x = predicted - np.average(predicted, weights=weight)
    y = target - np.average(target, weights=weight)
    moment = float((weight * x * x).sum())
    if moment <= 1e-9 * float((weight * y * y).sum()):
        return Slope()
    excess = float((weight * x * y).sum()) / moment - 1.0
    score = np.bincount(group, weights=weight * x * (y - (1.0 + excess) * x))
    variance = float((score**2).sum()) / moment**2
    trust = max(0.0, 1.0 - variance / excess**2) if excess else 0.0
    return Slope(
        value=float(np.clip(1.0 + trust * excess, 0.0, 3.0)),
        std_error=min(float(np.sqrt(variance)), 3.0),
    )
