"""Routers that look at nothing: the lines that every learned router must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.table_model import ScoredTableModel, prepare_table
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["AlwaysGain", "AlwaysScorer", "RandomGain", "RandomScorer"]

# Turns of the triangle wave per standard deviation of the projection: enough for draws of
# different queries to be unrelated, few enough that float32 rounding moves a draw by < 1e-3.
_TURNS = 512.0


@dataclass
class RandomGain(ScoredTableModel):
    """Gains drawn at random, the same for the same query whenever it is asked.

    Queries are sent to the premium model independently of what they ask, so
    its APGR is ½ up to sampling. Nothing of the labels is used but their scale
    and the features' spread.

    Parameters
    ----------
    seed : int, default 0

    Notes
    -----
    The draw is ``u = tri(512 · r'(x − x̄) / sd(r'x))`` with a random direction r
    for each candidate and tri the triangle wave onto [0, 1]: uniform to within
    a percent when queries differ, and continuous, so that the last bits of x
    do not matter. The gain is s (2u − 1).

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("abc"), gain=[1.0, 0.0, -1.0],
    ...     is_gold=[True] * 3, features=np.eye(3))
    >>> RandomGain(seed=1).fit(table).win_probability(np.eye(3)).shape
    (3, 1)
    """

    seed: int = 0

    def fit(self, table: GainTable) -> Self:
        """Draw the directions and note the scale of the labels."""
        rows = prepare_table(table)
        rng = np.random.default_rng(self.seed)
        x = rows.features.astype(np.float64)
        direction = rng.normal(size=(x.shape[1], rows.n_models - 1))
        projected = x @ direction
        spread = projected.std(axis=0)
        direction *= _TURNS / np.where(spread > 0, spread, 1.0)
        phase = rng.uniform(size=rows.n_models - 1) - x.mean(axis=0) @ direction
        state = ModelState(
            kind="random",
            config={"scale": rows.scale},
            arrays={"direction": direction, "phase": phase},
        )
        return self._keep(state, RandomScorer(state))


class RandomScorer:
    """Draws of :class:`RandomGain` from its state."""

    def __init__(self, state: ModelState) -> None:
        self._direction = np.asarray(state.arrays["direction"], dtype=np.float64)
        self._phase = np.asarray(state.arrays["phase"], dtype=np.float64)
        self._scale = float(state.config["scale"])

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """Uniform draws, shape (n, n_models − 1)."""
        turn = features.astype(np.float64) @ self._direction + self._phase
        return np.abs(2.0 * (turn - np.floor(turn)) - 1.0)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains s (2u − 1), with the standard deviation of such a draw, s / √3."""
        mean = self._scale * (2.0 * self.win_probability(features) - 1.0)
        return GainEstimate(mean=mean, std=np.full_like(mean, self._scale / np.sqrt(3.0)))


@dataclass
class AlwaysGain(ScoredTableModel):
    """One model for every query: the last of the table, or its reference.

    Parameters
    ----------
    choice : "premium" or "cheap"
        Whose gain is s everywhere: ``models[-1]``'s, or nobody's over the
        reference.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("ab"), gain=[1.0, -1.0], is_gold=[True] * 2,
    ...     features=np.eye(2))
    >>> AlwaysGain("premium").fit(table).predict(np.eye(2)).mean.tolist()
    [[1.0], [1.0]]
    """

    choice: Literal["premium", "cheap"]

    def fit(self, table: GainTable) -> Self:
        """Note the models and the scale of the labels."""
        rows = prepare_table(table)
        win = np.zeros(rows.n_models - 1)
        win[-1] = float(self.choice == "premium")
        state = ModelState(kind="always", config={"scale": rows.scale}, arrays={"win": win})
        return self._keep(state, AlwaysScorer(state))


class AlwaysScorer:
    """The constant answer of :class:`AlwaysGain` from its state."""

    def __init__(self, state: ModelState) -> None:
        self._win = np.asarray(state.arrays["win"], dtype=np.float64)
        self._scale = float(state.config["scale"])

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """0 or 1, shape (n, n_models − 1)."""
        return np.tile(self._win, (len(features), 1))

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """±s; the standard deviation is s, because nothing was looked at."""
        mean = self._scale * (2.0 * self.win_probability(features) - 1.0)
        return GainEstimate(mean=mean, std=np.full_like(mean, self._scale))
