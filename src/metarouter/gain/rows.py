"""Training rows of a gain model: checked, standardised, and split by query."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, NotFittedError
from metarouter.gain.scoring import GainScorer, load_gain_model
from metarouter.records import GainEstimate
from metarouter.types import BoolArray, FloatArray, IntArray, ModelState

__all__ = [
    "ScoredGain",
    "TrainingRows",
    "check_rows",
    "feature_keys",
    "half_samples",
    "prepare_rows",
]


class ScoredGain:
    """Predicts through the NumPy scorer of the exported state.

    A subclass calls `_keep` at the end of its ``fit``.
    """

    state_: ModelState
    scorer_: GainScorer

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ and its standard deviation, each of shape (n,)."""
        if not hasattr(self, "scorer_"):
            raise NotFittedError.of(self)
        return self.scorer_.predict(np.asarray(features))

    def state(self) -> ModelState:
        """Arrays from which the NumPy-only scorer predicts the same values."""
        if not hasattr(self, "state_"):
            raise NotFittedError.of(self)
        return self.state_

    def _keep(self, state: ModelState) -> Self:
        self.state_ = state
        self.scorer_ = load_gain_model(state)
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRows:
    """Rows with positive weight, the gain standardised.

    Parameters
    ----------
    features : float32 array, shape (n, d)
    target : float array, shape (n,); (gain − centre) / scale.
    weight : float array, shape (n,); relative precision, mean 1.
    group : int array, shape (n,)
        Rows with the same features, hence of the same query, share a group.
    centre, scale : float
        Weighted mean and standard deviation of the gain. Where the gain does
        not vary, `scale` is its size, and 1 where it is zero.
    """

    features: NDArray[np.float32]
    target: FloatArray
    weight: FloatArray
    group: IntArray
    centre: float
    scale: float

    @property
    def n_groups(self) -> int:
        """Number of distinct queries."""
        return int(self.group.max()) + 1

    @property
    def std_floor(self) -> float:
        """Standard error of the mean gain alone, in gain units.

        No model of the gain knows it better than a model that has only its
        mean to learn. Uses the effective number of queries, (Σw)² / Σw².
        """
        weight = np.bincount(self.group, weights=self.weight)
        effective = float(weight.sum() ** 2 / (weight**2).sum())
        return self.scale / math.sqrt(effective)


def prepare_rows(
    features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
) -> TrainingRows:
    """Check training rows, drop those of weight 0, and standardise the gain.

    Standardising inside the model makes it scale-equivariant: labels × 3 give
    predictions × 3.

    Raises
    ------
    DataError
        When lengths differ, a value is not finite, a weight is negative, or
        no row has weight.

    Examples
    --------
    >>> rows = prepare_rows(np.eye(3), np.array([0.0, 1.0, 9.0]), np.array([1.0, 1.0, 0.0]))
    >>> rows.centre, rows.scale, rows.target.tolist()
    (0.5, 0.5, [-1.0, 1.0])
    """
    features, gain = np.asarray(features), np.asarray(gain, dtype=np.float64)
    weight = np.ones(len(gain)) if weight is None else np.asarray(weight, dtype=np.float64)
    check_rows(features, gain, weight)
    keep = weight > 0
    if not keep.all():
        features, gain, weight = features[keep], gain[keep], weight[keep]
    weight = weight / weight.mean()
    features = np.ascontiguousarray(features, dtype=np.float32)
    centre = float(np.average(gain, weights=weight))
    scale = _scale(gain - centre, weight, abs(centre))
    return TrainingRows(
        features=features,
        target=(gain - centre) / scale,
        weight=weight,
        group=np.unique(feature_keys(features), return_inverse=True)[1].astype(np.int64),
        centre=centre,
        scale=scale,
    )


def check_rows(features: NDArray[Any], gain: FloatArray, weight: FloatArray | None) -> None:
    """Refuse training rows that no gain model can use.

    Raises
    ------
    DataError
        As :func:`prepare_rows`.
    """
    weight = np.ones(len(gain)) if weight is None else weight
    if features.ndim != 2 or not len(features) == len(gain) == len(weight):
        raise DataError(
            f"features of shape {features.shape}, gain {gain.shape} and weight {weight.shape}; "
            "allowed: (n, d), (n,) and (n,)"
        )
    # The sum is finite when all values are, and needs no array of their size.
    if not np.isfinite(gain).all() or not np.isfinite(features.sum(dtype=np.float64)):
        raise DataError("gain or features hold NaN or infinite values; drop those rows")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError("weight holds negative, NaN or infinite values; allowed: [0, inf)")
    if not (weight > 0).any():
        raise DataError("no row has a positive weight: a gain model needs at least one label")


def half_samples(n_groups: int, n_halves: int, largest: int, rng: np.random.Generator) -> BoolArray:
    """Random halves of the groups, in complementary pairs.

    The variance between fits on random halves estimates the sampling variance
    of a fit on all groups: drawing half of n without replacement has, for a
    mean, variance σ²/n.

    Parameters
    ----------
    n_groups, n_halves : int; a single group is in every half.
    largest : int
        No half has more groups than this; the variance between smaller
        samples is then to be multiplied by ``s / (n − s)``.

    Returns
    -------
    bool array, shape (n_halves, n_groups)

    References
    ----------
    Wager & Athey (2018), Estimation and inference of heterogeneous treatment
    effects using random forests. https://arxiv.org/abs/1510.04342
    """
    if n_groups == 1:
        return np.ones((n_halves, 1), dtype=np.bool_)
    halves = np.zeros((n_halves, n_groups), dtype=np.bool_)
    middle = n_groups // 2
    for i in range(n_halves):
        if i % 2 == 0:
            order = rng.permutation(n_groups)
        chosen = order[:middle] if i % 2 == 0 else order[middle:]
        halves[i, chosen[:largest]] = True
    return halves


def _scale(residual: FloatArray, weight: FloatArray, size: float) -> float:
    spread = float(np.sqrt(np.average(residual**2, weights=weight)))
    if spread > 1e-9 * size:  # below that it is rounding
        return spread
    return size or 1.0


def feature_keys(features: NDArray[np.float32]) -> IntArray:
    """A number for each row of contiguous features, the same for equal rows, shape (n,).

    A collision only joins two queries, which costs nothing.

    Examples
    --------
    >>> keys = feature_keys(np.array([[1, 2], [3, 4], [1, 2]], dtype=np.float32))
    >>> bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
    (True, False)
    """
    return np.fromiter((zlib.crc32(row) for row in features), dtype=np.int64, count=len(features))
