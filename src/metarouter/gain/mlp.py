"""Neural network of the gain: :class:`MLPGain`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.extras import import_train, one_thread
from metarouter.gain.out_of_bag import HalfSampledGain
from metarouter.gain.rows import TrainingRows, half_samples, prepare_rows
from metarouter.gain.scoring import MLPScorer
from metarouter.gain.slope import with_slope
from metarouter.types import BoolArray, FloatArray, ModelState

__all__ = ["MLPGain"]

# Weights and biases of each layer, input side first.
_Layers = list[tuple[FloatArray, FloatArray]]


@dataclass(kw_only=True, eq=False)
class MLPGain(HalfSampledGain):
    """Average of small rectifier networks, each trained on half of the queries.

    The other half tells a network when to stop; the best epoch is kept, and
    epoch 0, which predicts the mean, is among the candidates. Halves come in
    complementary pairs.

    Parameters
    ----------
    hidden : tuple of int, default (64, 32)
        Units of the hidden layers.
    n_members : int, even, default 6
    max_epochs : int, default 60
    patience : int, default 8
        Epochs without a better held-out loss before training stops.
    penalty : float, default 0.05
        Times half the squared norm of all weights, added to half the mean
        squared error of the standardised gain.
    seed : int, default 0

    Attributes
    ----------
    state_ : ModelState of kind "mlp".

    Raises
    ------
    DataError
        From ``fit``, see :func:`~metarouter.gain.rows.prepare_rows`.
    MissingDependencyError
        From ``fit``, without scikit-learn.

    Notes
    -----
    Features are standardised one by one. The variance is that between
    members, plus that of the slope (:mod:`metarouter.gain.slope`) that sets
    predictions right, at least that of the mean gain. Half-samples give it the effect
    of the data, random starts that of training.

    References
    ----------
    Lakshminarayanan, Pritzel & Blundell (2017), Simple and scalable predictive
    uncertainty estimation using deep ensembles. https://arxiv.org/abs/1612.01474

    Examples
    --------
    >>> features = np.random.default_rng(0).normal(size=(400, 2))
    >>> model = MLPGain().fit(features, features[:, 0])
    >>> estimate = model.predict(np.array([[-1.0, 0.0], [1.0, 0.0]]))
    >>> bool(estimate.mean[0] < 0 < estimate.mean[1])
    True
    """

    hidden: tuple[int, ...] = (64, 32)
    n_members: int = 6
    max_epochs: int = 60
    patience: int = 8
    penalty: float = 0.05
    seed: int = 0

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        """Train the members; see the class for what is learned."""
        rows = prepare_rows(features, gain, weight)
        x = rows.features.astype(np.float64)
        centre = np.average(x, axis=0, weights=rows.weight)
        spread = np.sqrt(np.average((x - centre) ** 2, axis=0, weights=rows.weight))
        spread[spread <= 1e-6 * (np.abs(centre) + spread.max())] = np.inf  # constant: no effect
        x = (x - centre) / spread
        rng = np.random.default_rng(self.seed)
        halves = half_samples(rows.n_groups, self.n_members, rows.n_groups, rng)
        seeds = rng.integers(2**31, size=self.n_members).tolist()
        # Eight steps or more in an epoch, so that few labels train as far as many.
        batch = int(np.clip(min(half[rows.group].sum() for half in halves) // 8, 1, 64))
        make = import_train("sklearn.neural_network", "MLPGain").MLPRegressor
        with one_thread():
            members = [
                self._train(x, rows, half[rows.group], self._network(make, batch, seed))
                for half, seed in zip(halves, seeds, strict=True)
            ]
        state = _mlp_state(members, rows, centre, spread)
        state = with_slope(state, MLPScorer(state), rows, halves)
        return self._keep_halves(state, rows, halves)

    def _train(self, x: FloatArray, rows: TrainingRows, chosen: BoolArray, network: Any) -> _Layers:
        held_out = ~chosen if not chosen.all() else chosen
        inside = x[chosen], rows.target[chosen], rows.weight[chosen]
        outside = x[held_out], rows.target[held_out], rows.weight[held_out]
        best = _mean_only(x.shape[1], self.hidden, float(np.average(inside[1], weights=inside[2])))
        best_loss, best_epoch = _loss(best, *outside), 0
        for epoch in range(1, self.max_epochs + 1):
            network.partial_fit(*inside)
            layers = [
                (weight.copy(), bias.copy())
                for weight, bias in zip(network.coefs_, network.intercepts_, strict=True)
            ]
            loss = _loss(layers, *outside)
            if loss < best_loss:
                best, best_loss, best_epoch = layers, loss, epoch
            elif epoch - best_epoch >= self.patience:
                break
        return best

    def _network(self, make: Any, batch: int, seed: int) -> Any:
        return make(
            hidden_layer_sizes=self.hidden,
            alpha=self.penalty * batch,  # the library divides by the rows of a batch
            batch_size=batch,
            learning_rate_init=1e-3,
            random_state=seed,
        )


def _mean_only(width: int, hidden: tuple[int, ...], mean: float) -> _Layers:
    sizes = (width, *hidden, 1)
    layers = [(np.zeros(pair), np.zeros(pair[1])) for pair in pairwise(sizes)]
    layers[-1][1][0] = mean
    return layers


def _loss(layers: _Layers, x: FloatArray, target: FloatArray, weight: FloatArray) -> float:
    hidden = x
    for kernel, bias in layers[:-1]:
        hidden = np.maximum(hidden @ kernel + bias, 0.0)
    kernel, bias = layers[-1]
    return float(np.average((target - (hidden @ kernel + bias)[:, 0]) ** 2, weights=weight))


def _mlp_state(
    members: list[_Layers], rows: TrainingRows, centre: FloatArray, spread: FloatArray
) -> ModelState:
    """Stack the members; put standardising into the first and last layer."""
    arrays = {}
    n_layers = len(members[0])
    for k in range(n_layers):
        weight = np.stack([layers[k][0] for layers in members])
        bias = np.stack([layers[k][1] for layers in members])[:, None, :]
        if k == 0:
            weight = weight / spread[:, None]
            bias = bias - centre @ weight[:, None]
        if k == n_layers - 1:
            weight, bias = weight * rows.scale, bias * rows.scale + rows.centre
        arrays[f"weight_{k}"], arrays[f"bias_{k}"] = weight, bias
    config = {
        "n_layers": n_layers,
        "std_floor": rows.std_floor,
        "slope": 1.0,
        "slope_std": 0.0,
        "gain_centre": rows.centre,
    }
    return ModelState(kind="mlp", config=config, arrays=arrays)
