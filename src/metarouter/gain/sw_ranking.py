"""Similarity-weighted ranking: Bradley-Terry strengths of tiers, near the query.

For every query the battles are weighed by how similar their prompts are, and
strengths are fitted to the weighted battles. A weighted fit needs the battles
only through the wins between tiers, so a query costs one product with the
prompts, one sum over the battles and a few Newton steps on a matrix of tiers,
from the strengths that hold over all queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.gain.bradley_terry import contrast_variance, laplacian, sigmoid, solve_strengths
from metarouter.gain.similarity import largest_similarities, unit_rows
from metarouter.gain.table_model import ScoredTableModel, TableRows, prepare_table
from metarouter.gain.tiers import optimal_tiers, rate_models
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import BoolArray, FloatArray, IntArray, ModelState

__all__ = ["SWRanking", "SWRankingScorer"]

Normaliser = Literal["query", "battle"]

# 2 million float64 are 16 MB: weights of a batch of queries stay in the cache of one core.
_CHUNK_CELLS = 2_000_000


@dataclass
class SWRanking(ScoredTableModel):
    """Bradley-Terry fit at query time, on battles weighted by similarity.

    Assumes that models that are good at prompts like this one are good at
    this one. Models are grouped into tiers by rating, so that sparse battles
    suffice; battles within a tier say nothing of tiers and are left out.

    Parameters
    ----------
    gamma : float > 1, default 10
        How much more the most similar battle counts than one of similarity 0.
        Near 1 every query gets the overall ranking.
    normaliser : "query" or "battle", default "query"
        What a similarity is divided by: the largest similarity of the query to
        any prompt (RouteLLM's code), or the largest similarity of the battle's
        prompt to any other prompt (its paper).
    num_tiers : int, default 10
        With as many models or fewer, each is its own tier.
    within_tiers : bool, default True
        Place a model in its tier by its own overall rating. False makes all
        models of a tier equal, as in RouteLLM.
    penalty : float > 0, default 1
        Pull of a query's strengths to the overall ones, in battles as near as
        the nearest; RouteLLM has none.

    Attributes
    ----------
    tier_ : int array, shape (n_models,); tier 0 is the best.
    strength_ : array, shape (n_tiers,); overall log-odds of the tiers.

    Notes
    -----
    A battle of prompt x' has weight ``γ^(sim(x, x') / normaliser − 1)`` with
    sim the cosine. RouteLLM's ``10 · 10^(sim / max)`` differs by a factor,
    which no unpenalised fit can see. With ξ̂ the strengths, candidate m in
    tier t(m) has ``P = σ(ξ̂_t(m) − ξ̂_t(0) + o_m − o_0)``, o its place within
    the tier, and gain s (2 P − 1). Its standard deviation follows by the delta
    method from the sandwich covariance of the weighted fit: sampling error of
    the ranking near x, not the error of taking neighbours for x.

    Differences to RouteLLM: a battle within one tier is dropped (there it
    pulls the tier's strength to 0, because one design entry overwrites the
    other), and strengths are pulled to the overall ones and not left infinite
    where one side won everything.

    References
    ----------
    Ong et al. (2024), RouteLLM: Learning to route LLMs with preference data,
    section 4.1. https://arxiv.org/abs/2406.18665

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> table = make_gain_table(queries=list("abcd"), gain=[1.0, 1.0, -1.0, -1.0],
    ...     is_gold=[True] * 4, features=x)
    >>> gain = SWRanking().fit(table).predict(x).mean[:, 0]
    >>> bool((gain[:2] > 0).all() and (gain[2:] < 0).all())
    True
    """

    gamma: float = 10.0
    normaliser: Normaliser = "query"
    num_tiers: int = 10
    within_tiers: bool = True
    penalty: float = 1.0

    def fit(self, table: GainTable) -> Self:
        """Rate the models, cut tiers, and store the battles in order of tier pairs."""
        self._check()
        rows = prepare_table(table)
        ratings = rate_models(table).strength_
        self.tier_ = optimal_tiers(ratings, self.num_tiers)
        candidate, baseline = self.tier_[rows.candidate], self.tier_[rows.baseline]
        across = candidate != baseline
        if not across.any():
            raise DataError(
                f"all battles are within one of {self.num_tiers} tiers; allowed: num_tiers >= 2 "
                "and battles between models of different tiers"
            )
        n_tiers = int(self.tier_.max()) + 1
        wins = _total_wins(rows, candidate, baseline, across, n_tiers)
        self.strength_, _ = solve_strengths(wins, penalty=0.01, centre=np.zeros(n_tiers))
        state = self._state(rows, ratings, candidate, baseline, across)
        return self._keep(state, SWRankingScorer(state))

    def _check(self) -> None:
        if not self.gamma > 1:
            raise OptionError.of("gamma", self.gamma, "a number above 1")
        if self.normaliser not in ("query", "battle"):
            raise OptionError.of("normaliser", self.normaliser, "query or battle")
        if not self.penalty > 0:
            raise OptionError.of("penalty", self.penalty, "a number above 0")

    def _state(
        self,
        rows: TableRows,
        ratings: FloatArray,
        candidate: IntArray,
        baseline: IntArray,
        across: BoolArray,
    ) -> ModelState:
        points = unit_rows(rows.features)
        cell = candidate * len(self.strength_) + baseline
        order = np.flatnonzero(across)[np.argsort(cell[across], kind="stable")]
        arrays: dict[str, NDArray[Any]] = {
            "points": points,
            "query": rows.query[order].astype(np.int32),
            "cell": cell[order].astype(np.int32),
            "win": rows.win[order],
            "weight": rows.weight[order],
            "strength": self.strength_,
            "tier": self.tier_.astype(np.int32),
            "offset": _offsets(ratings, self.tier_, self.within_tiers),
        }
        if self.normaliser == "battle":
            arrays["largest"] = largest_similarities(points)
        config = {
            "gamma": self.gamma,
            "penalty": self.penalty,
            "scale": rows.scale,
            "shared_variance": rows.shared_variance,
        }
        return ModelState(kind="sw_ranking", config=config, arrays=arrays)


class SWRankingScorer:
    """Scores :class:`SWRanking` from its state, with NumPy alone."""

    def __init__(self, state: ModelState) -> None:
        arrays, config = state.arrays, state.config
        self._points = np.asarray(arrays["points"], dtype=np.float32)
        self._query = np.asarray(arrays["query"], dtype=np.int64)
        self._win = np.asarray(arrays["win"], dtype=np.float64)
        self._weight = np.asarray(arrays["weight"], dtype=np.float64)
        self._strength = np.asarray(arrays["strength"], dtype=np.float64)
        # Battles are in order of cells, so that a sum over a cell is over neighbours in memory.
        self._cells, self._starts = np.unique(arrays["cell"], return_index=True)
        largest = arrays.get("largest")
        self._largest = None if largest is None else np.asarray(largest, dtype=np.float64)
        tier = np.asarray(arrays["tier"], dtype=np.int64)
        eye = np.eye(len(self._strength))
        self._contrasts: FloatArray = eye[tier[1:]] - eye[tier[0]]
        offset = np.asarray(arrays["offset"], dtype=np.float64)
        self._offset = offset[1:] - offset[0]
        self._log_gamma = math.log(float(config["gamma"]))
        self._penalty, self._scale = float(config["penalty"]), float(config["scale"])
        self._shared_variance = float(config["shared_variance"])

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        """Gains over the reference model, shape (n, n_models − 1)."""
        log_odds, variance = self._log_odds(features)
        p = sigmoid(log_odds)
        slope = 2.0 * self._scale * p * (1.0 - p)
        std = np.sqrt(slope * slope * variance + self._shared_variance)
        return GainEstimate(mean=self._scale * (2.0 * p - 1.0), std=std)

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(candidate beats the reference model), shape (n, n_models − 1)."""
        return sigmoid(self._log_odds(features)[0])

    def _log_odds(self, features: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
        """Log-odds of a win and their variance, each (n, n_models − 1)."""
        if features.ndim != 2 or features.shape[1] != self._points.shape[1]:
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {self._points.shape[1]}), "
                "as in training"
            )
        shape = (len(features), len(self._contrasts))
        log_odds, variance = np.empty(shape), np.empty(shape)
        step = max(1, _CHUNK_CELLS // max(len(self._points), len(self._query)))
        for start in range(0, len(features), step):
            at = slice(start, start + step)
            log_odds[at], variance[at] = self._near(unit_rows(features[at]))
        return log_odds, variance

    def _near(self, unit: NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
        weight = self._weights(unit)
        wins, second = self._sums(weight)
        strength, hessian = solve_strengths(wins, penalty=self._penalty, centre=self._strength)
        middle = laplacian(_residual_squares(second, strength))
        middle += self._penalty * np.eye(len(self._strength))
        variance = contrast_variance(hessian, middle, self._contrasts)
        return strength @ self._contrasts.T + self._offset, variance

    def _weights(self, unit: NDArray[np.float32]) -> FloatArray:
        """Weight of each battle for each query, shape (n, n_battles)."""
        similarity = (unit @ self._points.T).astype(np.float64)
        if self._largest is None:
            norm = np.maximum(similarity.max(axis=1, keepdims=True), 1e-6)
        else:
            norm = self._largest
        weight = np.exp(self._log_gamma * (similarity / norm - 1.0))
        battle: FloatArray = weight[:, self._query] * self._weight
        return battle

    def _sums(self, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Wins (n, t, t), and Σ w², Σ w² y, Σ w² y² of each ordered pair (3, n, t, t)."""
        y, squared = self._win, weight * weight
        parts = (weight * y, weight * (1.0 - y), squared, squared * y, squared * (y * y))
        size = len(self._strength)
        sums = np.zeros((5, len(weight), size * size))
        for total, part in zip(sums, parts, strict=True):
            total[:, self._cells] = np.add.reduceat(part, self._starts, axis=1)
        pairs = sums.reshape(5, len(weight), size, size)
        return pairs[0] + np.swapaxes(pairs[1], -1, -2), pairs[2:]


def _total_wins(
    rows: TableRows, candidate: IntArray, baseline: IntArray, across: BoolArray, n_tiers: int
) -> FloatArray:
    wins = np.zeros((n_tiers, n_tiers))
    weight, win = rows.weight[across], rows.win[across]
    np.add.at(wins, (candidate[across], baseline[across]), weight * win)
    np.add.at(wins, (baseline[across], candidate[across]), weight * (1.0 - win))
    return wins


def _residual_squares(second: FloatArray, strength: FloatArray) -> FloatArray:
    """Σ w² (y − p)² of each pair of tiers, symmetric, (n, t, t)."""
    p = sigmoid(strength[..., :, None] - strength[..., None, :])
    squares: FloatArray = second[2] - 2.0 * p * second[1] + p * p * second[0]
    return squares + np.swapaxes(squares, -1, -2)


def _offsets(ratings: FloatArray, tier: IntArray, within_tiers: bool) -> FloatArray:
    """Rating of each model above the mean of its tier, log-odds."""
    if not within_tiers:
        return np.zeros(len(ratings))
    mean: FloatArray = np.bincount(tier, ratings) / np.bincount(tier)
    return np.asarray(ratings - mean[tier])
