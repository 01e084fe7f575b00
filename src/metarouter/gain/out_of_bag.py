"""What a gain model says of queries that it was fitted on, as if they were new.

A model that follows its training rows predicts them more widely than it will predict others,
so a threshold between its predictions for them lies too far out. Ensembles of half-samples
have the remedy at hand: the bags that did not see a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import NotFittedError
from metarouter.gain.rows import ScoredGain, TrainingRows, feature_keys
from metarouter.records import GainEstimate
from metarouter.types import BoolArray, FloatArray, IntArray, ModelState

__all__ = [
    "HalfSampledGain",
    "HalfSamples",
    "PredictsUnseen",
    "follows_rows",
    "out_of_bag",
    "unseen_gains",
]

_CHUNK = 2_048  # queries at once: a boosted ensemble holds 2,000 numbers for each
_PAIRED = 1.5  # 1 where the two halves of a pair err independently, 2 where they err oppositely


class _Fitted(Protocol):
    def predict(self, features: NDArray[Any]) -> GainEstimate: ...


@runtime_checkable
class PredictsUnseen(Protocol):
    """A fitted gain model that can leave out what it knows of a query."""

    def predict_unseen(self, features: NDArray[Any]) -> FloatArray:
        """ψ̂ as by a model that was not fitted on the query, the shape of ``predict``'s mean."""
        ...


def unseen_gains(model: _Fitted, features: NDArray[Any]) -> FloatArray:
    """Predicted gains of training queries that are spread as those of new ones are.

    Those of ``predict`` for a model that has no ``predict_unseen``.

    Parameters
    ----------
    model : fitted gain model, of one gain or of a pool
    features : array, shape (n, d)

    Returns
    -------
    array, of the shape of the model's mean gains.

    Examples
    --------
    >>> from metarouter.gain import make_gain_model
    >>> rng = np.random.default_rng(0)
    >>> features = rng.normal(size=(200, 5))
    >>> forest = make_gain_model("forest").fit(features, features[:, 0] + rng.normal(size=200))
    >>> bool(unseen_gains(forest, features).std() < forest.predict(features).mean.std())
    True
    """
    if isinstance(model, PredictsUnseen):
        return model.predict_unseen(features)
    predict_mean = getattr(model, "predict_mean", None)
    return model.predict(features).mean if predict_mean is None else predict_mean(features)


def follows_rows(model: object) -> bool:
    """Whether a fitted model, or one of a pool, predicts training queries more widely than others.

    Examples
    --------
    >>> from metarouter.gain import make_gain_model
    >>> follows_rows(make_gain_model("forest")), follows_rows(make_gain_model("ridge"))
    (True, False)
    """
    members: Sequence[object] = getattr(model, "members_", [model])
    return any(isinstance(member, PredictsUnseen) for member in members)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HalfSamples:
    """Which queries each bag of an ensemble was fitted on.

    Parameters
    ----------
    keys : int array, shape (n_groups,), ascending; what :func:`feature_keys` gives for a query.
    chosen : bool array, shape (n_bags, n_groups)
    """

    keys: IntArray
    chosen: BoolArray

    @classmethod
    def of(cls, rows: TrainingRows, chosen: BoolArray) -> Self:
        """Of the groups of training rows."""
        return cls(keys=np.unique(feature_keys(rows.features)), chosen=chosen)

    def held_out(self, features: NDArray[np.float32]) -> BoolArray:
        """Bags that did not see each query, (n, n_bags); all where every one has seen it."""
        keys = feature_keys(features)
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        saw: BoolArray = self.chosen[:, at].T & (self.keys[at] == keys)[:, None]
        return ~saw | saw.all(axis=1, keepdims=True)


def out_of_bag(bags: FloatArray, held_out: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Mean of the bags that did not see a query, and how much it varies for being of few.

    Parameters
    ----------
    bags : array, shape (n, n_bags); prediction of each bag.
    held_out : bool array of the same shape, with one or more in each row.

    Returns
    -------
    mean : array, shape (n,)
    excess : array, shape (n,)
        Variance beyond that of the mean of all bags at a new query.

    Notes
    -----
    With v the variance between the k bags, the mean of k has variance v/k and that of all B
    bags v/B when bags err independently; where the two halves of a pair err oppositely, as a
    linear fit does, the latter has none. The excess is in between, ``1.5 v (1/k − 1/B)``.
    """
    k = held_out.sum(axis=1)
    mean = (bags * held_out).sum(axis=1) / k
    squares = (held_out * (bags - mean[:, None]) ** 2).sum(axis=1)
    excess = _PAIRED * squares / np.maximum(k - 1, 1) * (1.0 / k - 1.0 / bags.shape[1])
    return mean, excess


class HalfSampledGain(ScoredGain):
    """A gain model whose members were fitted on random halves of the queries.

    A subclass calls `_keep_halves` at the end of its ``fit``; its scorer has ``bags``.
    """

    halves_: HalfSamples

    def predict_unseen(self, features: NDArray[Any]) -> FloatArray:
        """ψ̂ as by a model that was not fitted on the query, shape (n,).

        Of a training query the mean over the bags that did not see it, drawn to the common
        mean by as much as being of fewer bags spreads it.
        """
        if not hasattr(self, "halves_"):
            raise NotFittedError.of(self)
        features = np.ascontiguousarray(features, dtype=np.float32)
        scorer: Any = self.scorer_
        mean, excess = np.empty(len(features)), np.empty(len(features))
        for start in range(0, len(features), _CHUNK):
            at = slice(start, start + _CHUNK)
            held_out = self.halves_.held_out(features[at])
            mean[at], excess[at] = out_of_bag(scorer.bags(features[at]), held_out)
        centre, slope = (float(self.state_.config[name]) for name in ("gain_centre", "slope"))
        return centre + slope * (_drawn_in(mean, excess) - centre)

    def _keep_halves(self, state: ModelState, rows: TrainingRows, halves: BoolArray) -> Self:
        self.halves_ = HalfSamples.of(rows, halves)
        return self._keep(state)


def _drawn_in(mean: FloatArray, excess: FloatArray) -> FloatArray:
    """Means without the part of their variance that is in excess."""
    known = excess > 0
    if not known.any():
        return mean
    centre, variance = float(mean[known].mean()), float(mean[known].var())
    left = max(0.0, 1.0 - float(excess[known].mean()) / variance) if variance > 0 else 1.0
    drawn: FloatArray = np.where(known, centre + np.sqrt(left) * (mean - centre), mean)
    return drawn
