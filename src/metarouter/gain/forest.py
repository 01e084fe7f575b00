"""Random forest of the gain: :class:`ForestGain`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.extras import import_train, one_thread
from metarouter.gain.out_of_bag import HalfSampledGain
from metarouter.gain.rows import TrainingRows, half_samples, prepare_rows
from metarouter.gain.scoring import TreesScorer
from metarouter.gain.slope import with_slope
from metarouter.gain.trees import Tree, trees_state
from metarouter.types import BoolArray, FloatArray

__all__ = ["ForestGain"]


@dataclass(kw_only=True, eq=False)
class ForestGain(HalfSampledGain):
    """Random forest of the gain, with a standard deviation from little bags.

    Every bag of trees sees a random half of the queries. The trees of a bag
    differ only in the features they may split on, so what differs between
    bags, less what differs within, is the effect of the data.

    Parameters
    ----------
    n_bags : int, even, default 40
        More bags make the standard deviation steadier.
    bag_size : int, at least 2, default 5
        Trees of a bag; the forest has ``n_bags · bag_size`` trees.
    leaf_queries : float, default 5
        A leaf holds at least as much weight as this many average queries.
    largest_bag : int, default 20000
        Most queries in a bag, so that cost stays linear in rows.
    seed : int, default 0

    Attributes
    ----------
    state_ : ModelState of kind "trees".

    Raises
    ------
    DataError
        From ``fit``, see :func:`~metarouter.gain.rows.prepare_rows`.
    MissingDependencyError
        From ``fit``, without scikit-learn.

    Notes
    -----
    The variance is ``V_between − V_within / bag_size``, kept positive as
    :func:`~metarouter.gain.scoring.bag_variance` says, plus that of
    the slope (:mod:`metarouter.gain.slope`) that sets predictions right, and at
    least that of the mean gain. It is still too small with few labels, as no
    bag resolves what its leaves average over: on a linear gain with a hundred
    noisy labels, errors were 1.5 times what it says. Rows with the same
    features stay together, so a row of weight 2 equals the row given twice.

    References
    ----------
    Breiman (2001), Random forests. https://doi.org/10.1023/A:1010933404324
    Athey, Tibshirani & Wager (2019), Generalized random forests, section 4.1.
    https://arxiv.org/abs/1610.01271

    Examples
    --------
    >>> features = np.linspace(-1, 1, 200)[:, None]
    >>> model = ForestGain().fit(features, np.sign(features[:, 0]))
    >>> model.predict(np.array([[-0.5], [0.5]])).mean.round(2).tolist()
    [-1.0, 1.0]
    """

    n_bags: int = 40
    bag_size: int = 5
    leaf_queries: float = 5.0
    largest_bag: int = 20_000
    seed: int = 0

    def fit(
        self, features: NDArray[Any], gain: FloatArray, weight: FloatArray | None = None
    ) -> Self:
        """Fit the bags; see the class for what is learned."""
        rows = prepare_rows(features, gain, weight)
        rng = np.random.default_rng(self.seed)
        halves = half_samples(rows.n_groups, self.n_bags, self.largest_bag, rng)
        seeds = rng.integers(2**31, size=self.n_bags)
        make = import_train("sklearn.ensemble", "ForestGain").RandomForestRegressor
        with one_thread():
            bags = [
                self._fit_bag(make, rows, half, seed)
                for half, seed in zip(halves, seeds.tolist(), strict=True)
            ]
        trees = [tree for bag in bags for tree in bag]
        share = min(0.5, halves.mean())  # queries in a bag, of all
        state = trees_state(
            [[tree] for tree in trees],
            [0.0] * len(trees),
            rows,
            bag_size=self.bag_size,
            variance_factor=float(share / (1.0 - share)),
        )
        state = with_slope(state, TreesScorer(state), rows, halves)
        return self._keep_halves(state, rows, halves)

    def _fit_bag(self, make: Any, rows: TrainingRows, half: BoolArray, seed: int) -> list[Tree]:
        forest = make(
            n_estimators=self.bag_size,
            max_features=1 / 3,
            min_weight_fraction_leaf=min(0.5, self.leaf_queries / float(half.sum())),
            bootstrap=False,
            random_state=seed,
        )
        chosen = half[rows.group]
        forest.fit(rows.features[chosen], rows.target[chosen], rows.weight[chosen])
        return [_export(fitted.tree_) for fitted in forest.estimators_]


def _export(tree: Any) -> Tree:
    return Tree.of(
        feature=tree.feature,
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        value=tree.value[:, 0, 0],
        is_leaf=tree.children_left < 0,
        depth=tree.max_depth,
    )
