"""Protocols and aliases that the parts of metarouter agree on.

Extension goes by these protocols: an object with the right methods is enough,
no base class is needed. Third parties register theirs by entry points in the
groups ``metarouter.embedders`` (called with the text after the colon of
``name:argument``), ``metarouter.correctors``, ``metarouter.gain_models`` and
``metarouter.table_gain_models`` (called with ``seed=``), and
``metarouter.gain_scorers`` (named by the kind of a state, called with it).
``metarouter.testing`` has checks of what each promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from metarouter.records import GainEstimate

if TYPE_CHECKING:
    from metarouter.labels.table import GainTable

__all__ = [
    "BoolArray",
    "Corrector",
    "Embedder",
    "FloatArray",
    "GainModel",
    "IntArray",
    "ModelState",
    "Regressor",
    "TableGainModel",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class ModelState:
    """All that is needed to score with a fitted object, without pickle.

    `kind` picks the loader, from a closed table or, for a gain model, from the
    entry points of installed packages; `config` is JSON, `arrays` go to
    safetensors.
    """

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __repr__(self) -> str:
        numbers = sum(array.size for array in self.arrays.values())
        return f"ModelState({self.kind!r}; {len(self.arrays)} arrays of {numbers:,} numbers)"


@runtime_checkable
class Embedder(Protocol):
    """Texts to vectors. Stateless: the same text always gives the same vector."""

    @property
    def name(self) -> str:
        """Identity of the embedder: kind, version and settings, no secrets."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, shape (n_texts, dim), finite float32."""
        ...


class Regressor(Protocol):
    """The part of the scikit-learn regressor contract that nuisances need."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Learn E[y given X]."""
        ...

    def predict(self, X: Any) -> Any:
        """Predict, shape (n,)."""
        ...


@runtime_checkable
class GainModel(Protocol):
    """Query features to one quality gain with uncertainty.

    The gain of one candidate over one baseline. Pools of models are built from
    these by :class:`metarouter.gain.PoolGainModel`.
    """

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        """Learn ψ(x) = E[gain given x] from rows with precision `weight`.

        `features` has shape (n, d), `gain` and `weight` (n,). A weight is
        proportional to the inverse variance of its row; None means equal.
        """
        ...

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ and its standard deviation, each of shape (n,)."""
        ...

    def state(self) -> ModelState:
        """Arrays from which the NumPy-only scorer predicts the same values."""
        ...


@runtime_checkable
class TableGainModel(Protocol):
    """A labelled table to the gains of all its models, with uncertainty.

    Learns from the table itself, because it needs to know which models a row
    compares. Corrected tables count by their precision, as everywhere: see
    :func:`metarouter.gain.row_weights`. Models that will never be routed to
    are welcome as training data.
    """

    def fit(self, table: GainTable) -> Self:
        """Learn from a table with features; ``models[0]`` is the reference."""
        ...

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains of ``models[1:]`` over ``models[0]``, shape (n, n_models − 1)."""
        ...

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats ``models[0]``), ties counting half, (n, n_models − 1)."""
        ...

    def state(self) -> ModelState:
        """Arrays from which the NumPy-only scorer predicts the same values."""
        ...


@runtime_checkable
class Corrector(Protocol):
    """Removes the preference bias from a table that holds features.

    Gold rows come back untouched. Preference rows come back with a pseudo-gold
    gain and the variance of that gain as a stand-in for a gold label; a row
    that the corrector does not trust comes back with infinite variance, which
    gives it no weight.
    """

    def fit(self, table: GainTable) -> Self:
        """Learn the shift between the two label sources."""
        ...

    def transform(self, table: GainTable) -> GainTable:
        """The corrected table."""
        ...

    @property
    def diagnostics_(self) -> dict[str, Any]:
        """What was learned, as plain JSON values."""
        ...
