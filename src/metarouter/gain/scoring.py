"""NumPy-only scoring of fitted gain models, by the kind of their state.

A gain model exports a :class:`~metarouter.types.ModelState` when it is fitted
and predicts through the scorer made here from that state. So what is served
is what was measured: there is no second implementation to drift.

An installed package may bring a kind of its own: an entry point in the group
``metarouter.gain_scorers``, named after the kind, whose object is called with
the state. A built-in kind wins over one of the same name.

========== ===============================================================
kind   arrays
========== ===============================================================
linear ``coef`` (d,), ``intercept`` (), ``factor`` (d + 1, r): the standard
       deviation at x is the norm of ``[1, x] @ factor``
gp     ``points`` (m, d), ``centre`` (d,), ``alpha`` (m,), ``factor`` (m, m)
trees  nodes of all trees, end to end: ``feature``, ``threshold``, ``left``,
       ``right``, ``value``; ``root`` and ``unit`` of each tree; ``offset``
       of each unit
mlp    ``weight_k`` (members, in, out) and ``bias_k`` (members, 1, out)
pool   the arrays of each candidate's model, prefixed ``i.``
posterior  ``mean`` (candidates, q), ``factor.m`` (q, r) of each candidate, and
       the arrays of the map x ↦ v(x), prefixed ``map.``; ``elsewhere`` (1 + d,)
       where gold labels and others were learned from
sw_ranking  ``points`` (n_prompts, d); ``query``, ``pair``, ``win``, ``weight`` of
       each battle; ``strength`` (tiers,), ``tier`` and ``offset`` (models,);
       ``cell_size`` (cells,) or ``largest`` (n_prompts,) where used
knn    ``points`` (n_prompts, d); ``query``, ``candidate``, ``baseline``,
       ``gain``, ``weight`` of each row; ``centre`` (candidates,)
cluster  ``centres`` (clusters, d), ``mean`` and ``std`` (clusters, candidates)
pair_view  the arrays of the pool's model, prefixed ``pool.``
random ``direction`` (d, candidates), ``phase`` (candidates,)
always ``win`` (candidates,)
mf     ``columns`` (d, members · candidates), ``level`` (members, candidates),
       ``centre``, ``mean_gain``, ``slope`` (candidates,), and what
       :func:`metarouter.gain.linear_error.linear_error_arrays` gives
logistic ``weight`` (regressions,), ``coef`` (regressions, 1 + d, columns),
       ``factor`` (1 + d, r) as in ``linear``
========== ===============================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import ArtifactError, DataError
from metarouter.gain.posterior import PosteriorScorer
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, ModelState

__all__ = ["ENTRY_POINT_GROUP", "GainScorer", "WinScorer", "gain_kernel", "load_gain_model"]

ENTRY_POINT_GROUP = "metarouter.gain_scorers"

# Bounds the temporary arrays of a batch: 4 million float64 are 32 MB.
_CHUNK_CELLS = 4_000_000


class GainScorer(Protocol):
    """Anything that predicts gains from features."""

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ and its standard deviation for each row of `features`."""
        ...


class WinScorer(GainScorer, Protocol):
    """A scorer that knows wins as well: those of table gain models."""

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats ``models[0]``), ties counting half, (n, n_models − 1)."""
        ...


def load_gain_model(state: ModelState) -> GainScorer:
    """Make the scorer of a fitted gain model.

    Parameters
    ----------
    state : ModelState
        What ``GainModel.state()`` or ``PoolGainModel.state()`` returned, or
        the same read from an artifact.

    Returns
    -------
    GainScorer
        Its ``predict(features)`` needs NumPy alone and takes features of
        shape (n, d). For a single gain, mean and std have shape (n,); for a
        pool, (n, n_models − 1).

    Raises
    ------
    ArtifactError
        When the kind is unknown or an array or setting is missing.

    Examples
    --------
    >>> state = ModelState(kind="linear", arrays={
    ...     "coef": np.array([2.0]), "intercept": np.array(0.5), "factor": np.eye(2)})
    >>> load_gain_model(state).predict(np.array([[0.0], [1.0]])).mean.tolist()
    [0.5, 2.5]
    """
    make = _SCORERS.get(state.kind) or _installed(state.kind)
    if make is None:
        raise ArtifactError(
            f"gain model kind = {state.kind!r}; allowed: {', '.join(sorted(_SCORERS))}, and what "
            f"installed packages register in the group {ENTRY_POINT_GROUP}; a newer metarouter "
            "may have written it"
        )
    try:
        return make(state)
    except KeyError as error:
        raise ArtifactError(
            f"the state of gain model kind {state.kind!r} lacks {error.args[0]!r}; "
            "fit and save the router again"
        ) from error


def gain_kernel(
    a: FloatArray, b: FloatArray, constant: float, linear: float, rbf: float, length_sq: float
) -> FloatArray:
    """Covariance of the gain at the rows of `a` and of `b`, shape (n_a, n_b).

    Notes
    -----
    ``k(x, z) = constant + linear · x·z + rbf · exp(−‖x − z‖² / (2 ℓ²))`` with
    ``ℓ² = length_sq``: a level, a linear trend and a smooth departure from it.
    """
    dot = a @ b.T
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * dot
    kernel: FloatArray = constant + linear * dot
    kernel += rbf * np.exp(np.maximum(squared, 0.0) / (-2.0 * length_sq))
    return kernel


class LinearScorer:
    """Linear mean with the standard deviation of a Gaussian posterior."""

    def __init__(self, state: ModelState) -> None:
        self._coef = _floats(state, "coef")
        self._intercept = float(state.arrays["intercept"].reshape(()))
        factor = _floats(state, "factor")
        self._level, self._slopes = factor[0], factor[1:]

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ = intercept + x·coef; s.d. ‖[1, x] · factor‖."""
        _check_width(features, len(self._coef))
        spread = features @ self._slopes
        spread += self._level
        std = np.sqrt(np.einsum("ij,ij->i", spread, spread))
        return GainEstimate(mean=features @ self._coef + self._intercept, std=std)


class KernelScorer:
    """Posterior of a Gaussian process held by m points."""

    def __init__(self, state: ModelState) -> None:
        self._points = _floats(state, "points")
        self._centre = _floats(state, "centre")
        self._alpha = _floats(state, "alpha")
        self._factor = _floats(state, "factor")
        config = state.config
        self._kernel = tuple(
            float(config[name]) for name in ("constant", "linear", "rbf", "length_sq")
        )
        self._feature_scale = float(config["feature_scale"])
        self._gain_centre = float(config["gain_centre"])
        self._gain_scale = float(config["gain_scale"])

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """ψ̂ = k(x, Z)·α; variance k(x, x) − ‖A k(Z, x)‖²."""
        _check_width(features, len(self._centre))
        return _by_chunks(self._predict, features, len(self._alpha))

    def _predict(self, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        constant, linear, rbf, length_sq = self._kernel
        x = (features - self._centre) / self._feature_scale
        cross = gain_kernel(x, self._points, constant, linear, rbf, length_sq)
        prior = constant + linear * (x * x).sum(axis=1) + rbf
        explained = cross @ self._factor.T
        variance = prior - (explained * explained).sum(axis=1)
        std = np.sqrt(np.maximum(variance, 1e-12 * prior))  # rounding can leave it below 0
        mean = self._gain_centre + self._gain_scale * (cross @ self._alpha)
        return mean, self._gain_scale * std


class TreesScorer:
    """Average of tree ensembles fitted on half-samples of the queries.

    A *unit* is a sum of trees (a single tree of a forest, a whole boosted
    ensemble); a *bag* is the units fitted on one half-sample.
    """

    def __init__(self, state: ModelState) -> None:
        arrays = state.arrays
        self._feature, self._threshold = arrays["feature"], _floats(state, "threshold")
        self._left, self._right = arrays["left"], arrays["right"]
        self._value, self._root = _floats(state, "value"), arrays["root"]
        self._offset = _floats(state, "offset")
        self._members = np.zeros((len(self._root), len(self._offset)))
        self._members[np.arange(len(self._root)), arrays["unit"]] = 1.0
        self._bag_size = int(state.config["bag_size"])
        self._variance_factor = float(state.config["variance_factor"])
        self._ensemble = _Ensemble(state)
        self._depth = int(state.config["depth"])
        self._width = int(state.config["n_features"])

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Mean over units; s.d. by the bootstrap of little bags."""
        _check_width(features, self._width)
        return _by_chunks(self._predict, features, len(self._root))

    def _predict(self, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        units = self._units(features)
        variance = self._variance_factor * bag_variance(units, self._bag_size)
        return self._ensemble.estimate(units.mean(axis=1), variance)

    def bags(self, features: NDArray[Any]) -> FloatArray:
        """Prediction of each bag, shape (n, n_bags)."""
        units = self._units(features)
        n_bags = units.shape[1] // self._bag_size
        bags: FloatArray = units.reshape(len(units), n_bags, self._bag_size).mean(axis=2)
        return bags

    def _units(self, features: NDArray[Any]) -> FloatArray:
        values = self._tree_values(features.astype(np.float32))
        units: FloatArray = values @ self._members + self._offset
        return units

    def _tree_values(self, x: NDArray[np.float32]) -> FloatArray:
        rows = np.arange(len(x))[:, None]
        node = np.broadcast_to(self._root, (len(x), len(self._root)))
        for _ in range(self._depth):  # a leaf points at itself, so all trees may go on
            goes_left = x[rows, self._feature[node]] <= self._threshold[node]
            node = np.where(goes_left, self._left[node], self._right[node])
        values: FloatArray = self._value[node]
        return values


class _Ensemble:
    """Estimate of an ensemble from the mean and the variance of its bags."""

    def __init__(self, state: ModelState) -> None:
        self._centre = float(state.config["gain_centre"])
        self._slope = float(state.config["slope"])
        self._slope_std = float(state.config["slope_std"])
        self._floor = float(state.config["std_floor"])

    def estimate(self, mean: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Centre + slope · departure; s.d. of both factors, at least the floor."""
        departure = mean - self._centre
        squared = self._slope**2 * variance + (self._slope_std * departure) ** 2
        std = np.sqrt(np.maximum(squared, self._floor**2))
        return self._centre + self._slope * departure, std


def bag_variance(units: FloatArray, bag_size: int) -> FloatArray:
    """Variance of the mean over bags, the trees' own randomness taken out.

    Parameters
    ----------
    units : array, shape (n, n_bags · bag_size), predictions bag by bag.
    bag_size : int
        With 1 there is nothing to take out, and the plain variance between
        bags is returned.

    Returns
    -------
    array, shape (n,)

    Notes
    -----
    Between-bag variance minus (within-bag variance) / bag_size can be
    negative by chance. As its estimate is near normal with standard error
    ``s = max(both) · √(2 / n_bags)``, the posterior mean under a flat prior on
    [0, ∞) is reported, which is positive.

    References
    ----------
    Athey, Tibshirani & Wager (2019), Generalized random forests, section 4.1.
    https://arxiv.org/abs/1610.01271
    """
    n_bags = units.shape[1] // bag_size
    bags = units.reshape(len(units), n_bags, bag_size)
    if n_bags < 2:
        return np.zeros(len(units))
    between: FloatArray = bags.mean(axis=2).var(axis=1, ddof=1)
    if bag_size == 1:
        return between
    noise: FloatArray = bags.var(axis=2, ddof=1).mean(axis=1) / bag_size
    error = np.maximum(between, noise) * math.sqrt(2.0 / n_bags)
    ratio = np.divide(between - noise, error, out=np.zeros_like(error), where=error > 0)
    variance: FloatArray = error * (ratio + _inverse_mills(ratio))
    return variance


def _inverse_mills(z: FloatArray) -> FloatArray:
    """φ(z) / Φ(z) of the standard normal; `z` stays above −√(n_bags / 2)."""
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    tail = np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z.tolist()])
    mills: FloatArray = density / tail
    return mills


class MLPScorer:
    """Average of rectifier networks, all evaluated at once."""

    def __init__(self, state: ModelState) -> None:
        self._layers = [
            (_floats(state, f"weight_{k}"), _floats(state, f"bias_{k}"))
            for k in range(int(state.config["n_layers"]))
        ]
        self._ensemble = _Ensemble(state)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Mean over members; s.d. between members."""
        weight, _ = self._layers[0]  # (members, in, out)
        _check_width(features, weight.shape[1])
        return _by_chunks(self._predict, features, weight.shape[0] * weight.shape[2])

    def bags(self, features: NDArray[Any]) -> FloatArray:
        """Prediction of each member, shape (n, n_members)."""
        hidden: FloatArray = features[None].astype(np.float64)
        for weight, bias in self._layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0.0)  # (members, n, out)
        weight, bias = self._layers[-1]
        return (hidden @ weight + bias)[:, :, 0].T

    def _predict(self, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        members = self.bags(features)
        return self._ensemble.estimate(members.mean(axis=1), bag_variance(members, 1))


class PoolScorer:
    """One scorer for each candidate; columns follow ``models[1:]``."""

    def __init__(self, state: ModelState) -> None:
        self._members = [
            load_gain_model(_member_state(state, i)) for i in range(len(state.config["members"]))
        ]
        self._std_factor = np.asarray(state.config["std_factor"], dtype=np.float64)
        # One number in the routers of earlier versions.
        self._shared_variance = np.asarray(state.config["shared_variance"], dtype=np.float64)

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains over the reference model, shape (n, n_models − 1)."""
        estimates = [member.predict(features) for member in self._members]
        if len(estimates) == 1:  # a pair, where stacking would double the time of a query
            mean, std = estimates[0].mean[:, None], estimates[0].std[:, None]
        else:
            mean = np.column_stack([estimate.mean for estimate in estimates])
            std = np.column_stack([estimate.std for estimate in estimates])
        own = std * self._std_factor
        return GainEstimate(mean=mean, std=np.sqrt(own * own + self._shared_variance))


def _member_state(state: ModelState, index: int) -> ModelState:
    member, prefix = state.config["members"][index], f"{index}."
    arrays = {
        name.removeprefix(prefix): array
        for name, array in state.arrays.items()
        if name.startswith(prefix)
    }
    return ModelState(kind=member["kind"], config=member["config"], arrays=arrays)


def _by_chunks(
    predict: Callable[[NDArray[Any]], tuple[FloatArray, FloatArray]],
    features: NDArray[Any],
    cells_per_row: int,
) -> GainEstimate:
    step = max(1, _CHUNK_CELLS // max(1, cells_per_row))
    starts = range(0, max(1, len(features)), step)
    parts = [predict(features[start : start + step]) for start in starts]
    if len(parts) == 1:
        return GainEstimate(mean=parts[0][0], std=parts[0][1])
    means, stds = zip(*parts, strict=True)
    return GainEstimate(mean=np.concatenate(means), std=np.concatenate(stds))


def _check_width(features: NDArray[Any], width: int) -> None:
    if features.ndim != 2 or features.shape[1] != width:
        raise DataError(
            f"features of shape {features.shape}; allowed: (n, {width}), as in training"
        )


def _floats(state: ModelState, name: str) -> FloatArray:
    return np.asarray(state.arrays[name], dtype=np.float64)


def _installed(kind: str) -> Callable[[ModelState], GainScorer] | None:
    """Scorer of a kind that another package brings."""
    for plugin in entry_points(group=ENTRY_POINT_GROUP, name=kind):
        make: Callable[[ModelState], GainScorer] = plugin.load()
        return make
    return None


def _of(module: str, name: str) -> Callable[[ModelState], GainScorer]:
    """Scorer of a table gain model, imported when one is loaded."""

    def make(state: ModelState) -> GainScorer:
        scorer: GainScorer = getattr(import_module(f"metarouter.gain.{module}"), name)(state)
        return scorer

    return make


_SCORERS: dict[str, Callable[[ModelState], GainScorer]] = {
    "linear": LinearScorer,
    "gp": KernelScorer,
    "trees": TreesScorer,
    "mlp": MLPScorer,
    "pool": PoolScorer,
    "posterior": PosteriorScorer,
    "sw_ranking": _of("sw_ranking", "SWRankingScorer"),
    "knn": _of("neighbours", "NeighbourScorer"),
    "cluster": _of("cluster", "ClusterScorer"),
    "pair_view": _of("pair_view", "load_pair_view"),
    "random": _of("reference", "RandomScorer"),
    "always": _of("reference", "AlwaysScorer"),
    "mf": _of("mf_scorer", "MFScorer"),
    "logistic": _of("logistic_scorer", "LogisticScorer"),
    "onboarded": _of("onboarded", "OnboardedScorer"),
}
