"""Tiers of models by rating: :func:`optimal_tiers`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metarouter.errors import DataError, OptionError
from metarouter.gain.bradley_terry import BradleyTerry
from metarouter.gain.pool import check_linked
from metarouter.gain.table_model import gain_scale
from metarouter.gain.weights import row_weights
from metarouter.labels.repeats import first_of_text
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray, IntArray

__all__ = ["model_tiers", "optimal_tiers", "rate_models", "rated_tiers"]


def optimal_tiers(rating: Any, n_tiers: int = 10) -> IntArray:
    """Cut sorted ratings into tiers that vary as little as possible within.

    Exact, by dynamic programming over contiguous segments of the sorted
    ratings.

    Parameters
    ----------
    rating : array, shape (n_models,)
    n_tiers : int >= 1, default 10
        As many tiers as models where there are fewer models.

    Returns
    -------
    int array, shape (n_models,); tier 0 is the best.

    Raises
    ------
    OptionError
        When `n_tiers` is less than 1.
    DataError
        When a rating is not finite.

    Notes
    -----
    Minimises the sum over tiers of the population variance of the ratings in
    it. Variances are not weighted by the size of a tier, as in RouteLLM.

    References
    ----------
    Ong et al. (2024), RouteLLM, section 4.1 and appendix A.
    https://arxiv.org/abs/2406.18665

    Examples
    --------
    >>> optimal_tiers([1000, 1210, 1190, 400], n_tiers=3).tolist()
    [1, 0, 0, 2]
    """
    rating = np.asarray(rating, dtype=np.float64)
    if n_tiers < 1:
        raise OptionError.of("n_tiers", n_tiers, "1 or more")
    if rating.ndim != 1 or not len(rating) or not np.isfinite(rating).all():
        raise DataError(f"ratings of shape {rating.shape}; allowed: (n_models,), finite")
    order = np.argsort(-rating, kind="stable")
    starts = _best_starts(rating[order], min(n_tiers, len(rating)))
    sorted_tier = np.zeros(len(rating), dtype=np.int64)
    sorted_tier[starts[1:]] = 1
    tier = np.empty(len(rating), dtype=np.int64)
    tier[order] = np.cumsum(sorted_tier)
    return tier


def rate_models(table: GainTable, penalty: float = 0.01) -> BradleyTerry:
    """Bradley-Terry strengths of all models of a table, over all its queries.

    Labels of one query, or of queries of the same text, count as dependent.

    Parameters
    ----------
    table : GainTable, features are not needed.
    penalty : float, default 0.01; see :class:`BradleyTerry`.
    """
    weight = row_weights(table)
    keep = weight > 0
    kept = table.rows(keep)
    check_linked(kept, weight[keep])
    win = 0.5 + 0.5 * kept.gain / gain_scale(table)
    return BradleyTerry(penalty=penalty).fit(
        kept.candidate,
        kept.baseline,
        win,
        weight[keep],
        n_models=len(table.models),
        groups=first_of_text(kept)[kept.query],
    )


def model_tiers(table: GainTable, n_tiers: int = 10) -> IntArray:
    """Tier of each model of a table by its Bradley-Terry strength, 0 the best.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("abc"), models=("x", "y", "z"), gain=[1.0, 1.0, 0.0],
    ...     candidate=[1, 2, 2], baseline=[0, 0, 1], is_gold=[False] * 3)
    >>> model_tiers(table, n_tiers=2).tolist()
    [1, 0, 0]
    """
    return optimal_tiers(rate_models(table).strength_, n_tiers)


def rated_tiers(table: GainTable, n_tiers: int = 10) -> list[dict[str, Any]]:
    """Models of a table with their ratings, best first, as flat records.

    Returns
    -------
    list of dict
        `tier`, `model`, `elo` (mean 1000), `elo_std` and `labels`, the number
        of rows about the model.
    """
    ratings = rate_models(table)
    tier = optimal_tiers(ratings.strength_, n_tiers)
    std = 400.0 / math.log(10.0) * np.sqrt(np.diag(ratings.covariance_))
    labels = np.bincount(np.concatenate([table.candidate, table.baseline]))
    return [
        {
            "tier": int(tier[i]),
            "model": table.models[i],
            "elo": float(ratings.elo[i]),
            "elo_std": float(std[i]),
            "labels": int(labels[i]),
        }
        for i in np.argsort(-ratings.strength_, kind="stable")
    ]


def _best_starts(rating: FloatArray, n_tiers: int) -> list[int]:
    """Where each tier starts in the sorted ratings."""
    n = len(rating)
    cost = _segment_costs(rating)
    best = cost[:, n].copy()  # of the models from i on, in one tier
    cuts = np.full((n_tiers, n + 1), n)
    for tiers in range(2, n_tiers + 1):
        better = np.full(n + 1, np.inf)
        for i in range(n - tiers + 1):
            ends = np.arange(i + 1, n - tiers + 2)
            total = cost[i, ends] + best[ends]
            cuts[tiers - 1, i] = ends[int(np.argmin(total))]
            better[i] = total.min()
        best = better
    starts = [0]
    for tiers in range(n_tiers, 1, -1):
        starts.append(int(cuts[tiers - 1, starts[-1]]))
    return starts


def _segment_costs(rating: FloatArray) -> FloatArray:
    """Population variance of rating[i:j], shape (n + 1, n + 1); inf where j <= i."""
    n = len(rating)
    cost = np.full((n + 1, n + 1), np.inf)
    for i in range(n):
        # running mean and sum of squares of rating[i:j], without cancellation
        part, size = rating[i:] - rating[i], np.arange(1, n - i + 1)
        mean = np.cumsum(part) / size
        earlier = np.concatenate([[0.0], mean[:-1]])
        cost[i, i + 1 :] = np.cumsum((part - earlier) * (part - mean)) / size
    return cost
