"""One pair out of a pool: train on all models, route between two."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.gain.onboarded import base_state
from metarouter.gain.scoring import GainScorer, WinScorer, load_gain_model
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["PairView", "PairViewScorer", "load_pair_view", "pair_view_state"]

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
    premium model's gain alone. A fitted router does this by
    :meth:`metarouter.Router.for_pair`.

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
    >>> import numpy as np
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
        self._state = pair_view_state(pool.state(), models.index(premium) - 1)
        self._scorer = load_pair_view(self._state)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """The candidate's gain over the reference, mean and std of shape (n, 1)."""
        return self._scorer.predict(features)

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats the reference), shape (n, 1).

        Raises
        ------
        OptionError
            When the pool's model knows gains alone.
        """
        if not isinstance(self._scorer, _PairWinScorer):
            raise OptionError("the pool's model knows gains, not probabilities of wins")
        return self._scorer.win_probability(features)

    def state(self) -> ModelState:
        """State of kind "pair_view", which holds the pool's."""
        return self._state


class PairViewScorer:
    """Scores :class:`PairView` from its state, with NumPy alone."""

    def __init__(self, pool: GainScorer, column: int) -> None:
        self._pool = pool
        self._column = slice(column, column + 1)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """The candidate's column of the pool's gains, shape (n, 1)."""
        gain = self._pool.predict(features)
        return GainEstimate(mean=gain.mean[:, self._column], std=gain.std[:, self._column])


class _PairWinScorer(PairViewScorer):
    """The same of a pool whose scorer knows wins as well."""

    _pool: WinScorer

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """The candidate's column of the pool's probabilities, shape (n, 1)."""
        return self._pool.win_probability(features)[:, self._column]


def pair_view_state(pool: ModelState, column: int) -> ModelState:
    """State of kind "pair_view": a pool's state, and which candidate of it to keep.

    Raises
    ------
    DataError
        When a ranking put the candidate into the reference's tier: its gain would
        be the same for every query.
    """
    tier = _shared_tier(pool, column)
    if tier is not None:
        raise DataError(
            f"sw_ranking put both models into tier {tier}, where their battles do not "
            "count and no query is told from another; allowed: models of different tiers; give "
            "it more tiers, or learn from metarouter.labels.battles.strong_weak_table"
        )
    config = {"column": column, "pool": {"kind": pool.kind, "config": pool.config}}
    if "scale" in pool.config:
        config["scale"] = pool.config["scale"]  # the gain of a certain win
    arrays = {_PREFIX + name: array for name, array in pool.arrays.items()}
    return ModelState(kind="pair_view", config=config, arrays=arrays)


def _shared_tier(pool: ModelState, column: int) -> int | None:
    """Tier of a ranking that holds both the reference and a candidate; None where none does."""
    if pool.kind == "onboarded":
        place = pool.config.get("place")  # None, of an old router, is after all others
        if column == place or not pool.config["keeps_base"]:
            return None  # the new model's own gain, which features move
        return _shared_tier(base_state(pool), column - (place is not None and column > place))
    tier = pool.arrays.get("tier", np.zeros(0))  # of sw_ranking
    shared = column + 1 < len(tier) and tier[0] == tier[column + 1]
    return int(tier[0]) if shared else None


def load_pair_view(state: ModelState) -> PairViewScorer:
    """The scorer of a state that :func:`pair_view_state` made."""
    inner = state.config["pool"]
    arrays = {name.removeprefix(_PREFIX): array for name, array in state.arrays.items()}
    pool = load_gain_model(ModelState(kind=inner["kind"], config=inner["config"], arrays=arrays))
    make = _PairWinScorer if hasattr(pool, "win_probability") else PairViewScorer
    return make(pool, int(state.config["column"]))
