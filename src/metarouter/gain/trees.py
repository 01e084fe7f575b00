"""Trees laid end to end in flat arrays, for the NumPy scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.gain.rows import TrainingRows
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["Tree", "trees_state"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Nodes of one tree, root first; a row goes left where x[feature] <= threshold.

    A leaf has ``left == right`` == its own index.
    """

    feature: IntArray
    threshold: FloatArray
    left: IntArray
    right: IntArray
    value: FloatArray
    depth: int

    @classmethod
    def of(
        cls,
        *,
        feature: NDArray[Any],
        threshold: NDArray[Any],
        left: NDArray[Any],
        right: NDArray[Any],
        value: NDArray[Any],
        is_leaf: NDArray[Any],
        depth: int,
    ) -> Tree:
        """Make leaves point at themselves, whatever the library marks them with."""
        itself = np.arange(len(value))
        return cls(
            feature=np.where(is_leaf, 0, feature).astype(np.int64),
            threshold=np.where(is_leaf, 0.0, threshold),
            left=np.where(is_leaf, itself, left).astype(np.int64),
            right=np.where(is_leaf, itself, right).astype(np.int64),
            value=value.astype(np.float64),
            depth=depth,
        )


def trees_state(
    units: list[list[Tree]],
    offsets: list[float],
    rows: TrainingRows,
    *,
    bag_size: int,
    variance_factor: float,
) -> ModelState:
    """State of kind "trees", back in gain units.

    Parameters
    ----------
    units : list of lists of Tree; the prediction of a unit is its offset plus
        the sum of its trees, in standardised gain.
    offsets : list of float, one for each unit.
    rows : TrainingRows that standardised the gain.
    bag_size : int, units fitted on the same half-sample, next to each other.
    variance_factor : float, multiplies the variance between bags.
    """
    trees = [tree for unit in units for tree in unit]
    unit_of_tree = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
    arrays = _nodes(trees)
    arrays["value"] = arrays["value"] * rows.scale
    arrays["unit"] = unit_of_tree.astype(np.int32)
    arrays["offset"] = rows.centre + rows.scale * np.array(offsets, dtype=np.float64)
    config = {
        "bag_size": bag_size,
        "variance_factor": variance_factor,
        "std_floor": rows.std_floor,
        "slope": 1.0,
        "slope_std": 0.0,
        "gain_centre": rows.centre,
        "depth": max((tree.depth for tree in trees), default=0),
        "n_features": rows.features.shape[1],
    }
    return ModelState(kind="trees", config=config, arrays=arrays)


def _nodes(trees: list[Tree]) -> dict[str, NDArray[Any]]:
    sizes = np.array([len(tree.value) for tree in trees], dtype=np.int64)
    root = np.cumsum(sizes) - sizes
    shift = np.repeat(root, sizes)
    return {
        "feature": _join(trees, "feature").astype(np.int32),
        "threshold": _join(trees, "threshold"),
        "left": (_join(trees, "left") + shift).astype(np.int32),
        "right": (_join(trees, "right") + shift).astype(np.int32),
        "value": _join(trees, "value"),
        "root": root.astype(np.int32),
    }


def _join(trees: list[Tree], name: str) -> NDArray[Any]:
    parts = [getattr(tree, name) for tree in trees]
    return np.concatenate(parts) if parts else np.zeros(0)
