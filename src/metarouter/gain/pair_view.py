"""One pair out of a pool: train on all models, route between two."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.gain.scoring import GainScorer, load_gain_model
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["PairView", "PairViewScorer"]

_PREFIX = "pool."


class _Pool(Protocol):
    """A fitted model of the gains of a pool."""

    def predict(self, features: NDArray[Any]) -> GainEstimate: ...

    def state(self) -> ModelState: ...


class PairView:
    """The gain of one candidate of a pool over its reference, as a pair's gain model.

    Battles between models that will never be routed to still teach a ranking
    what prompts are like. Put the cheap model first with
    :func:`metarouter.labels.battles.reorder_models`, fit the pool, and serve the
    premium model's gain alone.

    Parameters
    ----------
    pool : fitted model of a pool, with ``predict`` and ``state``
    models : sequence of str, the pool's models, the reference first.
    premium : str, the candidate to keep.

    Raises
    ------
    OptionError
        When `premium` is not a candidate of the pool.

    Examples
    --------
    >>> from metarouter.gain import make_table_gain_model
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("abc"), models=("x", "y", "z"), gain=[1.0, 1.0, -1.0],
    ...     candidate=[1, 2, 2], baseline=[0, 0, 1], is_gold=[False] * 3, features=np.eye(3))
    >>> pool = make_table_gain_model("sw_ranking").fit(table)
    >>> PairView(pool, table.models, "y").predict(np.eye(3)).mean.shape
    (3, 1)
    """

    def __init__(self, pool: _Pool, models: tuple[str, ...], premium: str) -> None:
        if premium not in models[1:]:
            raise OptionError.of("premium", premium, f"one of {', '.join(models[1:])}")
        inner = pool.state()
        self._state = ModelState(
            kind="pair_view",
            config={
                "column": models.index(premium) - 1,
                "pool": {"kind": inner.kind, "config": inner.config},
            },
            arrays={_PREFIX + name: array for name, array in inner.arrays.items()},
        )
        self._scorer = PairViewScorer(self._state)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """The candidate's gain over the reference, mean and std of shape (n, 1)."""
        return self._scorer.predict(features)

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats the reference), shape (n, 1)."""
        return self._scorer.win_probability(features)

    def state(self) -> ModelState:
        """State of kind "pair_view", which holds the pool's."""
        return self._state


class PairViewScorer:
    """Scores :class:`PairView` from its state, with NumPy alone."""

    def __init__(self, state: ModelState) -> None:
        column = int(state.config["column"])
        self._column = slice(column, column + 1)
        inner = state.config["pool"]
        self._pool: GainScorer = load_gain_model(
            ModelState(
                kind=inner["kind"],
                config=inner["config"],
                arrays={n.removeprefix(_PREFIX): a for n, a in state.arrays.items()},
            )
        )

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """The candidate's column of the pool's gains, shape (n, 1)."""
        gain = self._pool.predict(features)
        return GainEstimate(mean=gain.mean[:, self._column], std=gain.std[:, self._column])

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """The candidate's column of the pool's probabilities, shape (n, 1).

        Raises
        ------
        OptionError
            When the pool's model knows gains alone.
        """
        ask = getattr(self._pool, "win_probability", None)
        if ask is None:
            raise OptionError(f"{type(self._pool).__name__} knows gains, not probabilities of wins")
        return np.asarray(ask(features)[:, self._column])
