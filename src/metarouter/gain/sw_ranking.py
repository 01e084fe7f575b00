"""Similarity-weighted ranking: Bradley-Terry strengths of tiers, near the query.

For every query the battles are weighed by how similar their prompts are, and
strengths are fitted to the weighted battles. A weighted fit needs the battles
only through the wins between tiers, so a query costs one product with the
prompts (or with cells of them, :mod:`metarouter.gain.battle_sums`), one sum over
the battles and a few Newton steps on a matrix of tiers, from the strengths that
hold over all queries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError, OptionError
from metarouter.gain.battle_sums import BattleCells, BattleScan, BattleSums, TierBattles
from metarouter.gain.bradley_terry import (
    contrast_variance,
    laplacian,
    sigmoid,
    solve_strengths,
    win_probabilities,
)
from metarouter.gain.similarity import largest_similarities, unit_rows
from metarouter.gain.table_model import ScoredTableModel, TableRows, prepare_table
from metarouter.gain.tiers import optimal_tiers, rate_models
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["SWRanking", "SWRankingScorer"]

Normaliser = Literal["query", "battle"]

GAMMAS = (10.0, 100.0, 1_000.0, 10_000.0)
"""Values of γ that are tried."""

_PUBLISHED_TIERS = 10

_MIN_INDEXED = 20_000
"""Prompts from which on a query is compared with cells of them."""

_MAX_HELD_OUT = 500
_HELD_OUT_CELLS = 10_000_000  # weights computed for each γ that is tried


@dataclass
class SWRanking(ScoredTableModel):
    """Bradley-Terry fit at query time, on battles weighted by similarity.

    Assumes that models that are good at prompts like this one are good at
    this one. Models are grouped into tiers by rating, so that sparse battles
    suffice; battles within a tier say nothing of tiers and are left out.

    Parameters
    ----------
    gamma : float > 1, optional
        How much more the most similar battle counts than one of similarity 0.
        Near 1 every query gets the overall ranking; RouteLLM has 10. By default
        the smallest of 10, 100, 1,000 and 10,000 that predicts left-out
        training queries within a standard error of the best.
    normaliser : "query" or "battle", default "query"
        What a similarity is divided by: the largest similarity of the query to
        any prompt (RouteLLM's code), or the largest similarity of the battle's
        prompt to any other prompt (its paper).
    num_tiers : int >= 2, optional
        Where battles are sparse, tiers let models learn from each other's. By
        default 10, as in RouteLLM, or one for each model where that predicts
        left-out prompts better by a standard error; with 10 models or fewer
        each is its own tier.
    within_tiers : bool, default True
        Place a model in its tier by its own overall rating. False makes all
        models of a tier equal, as in RouteLLM.
    penalty : float > 0, default 1
        Pull of a query's strengths to the overall ones, in battles as near as
        the nearest; RouteLLM has none.
    cells : int >= 0, optional
        Cells of similar prompts, of which far ones act as wholes; 0 compares a
        query with every prompt. By default 2√n from 20,000 prompts on, and 0
        for fewer or with ``normaliser="battle"``, which needs 0.
    seed : int, default 0
        Of the cells, and of the left-out queries where there are many.

    Attributes
    ----------
    gamma_ : float, the γ used.
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
    section 4.1. https://arxiv.org/abs/2406.18665. Breiman et al. (1984),
    Classification and regression trees, section 3.4.3 (one standard error).

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

    gamma: float | None = None
    normaliser: Normaliser = "query"
    num_tiers: int | None = None
    within_tiers: bool = True
    penalty: float = 1.0
    cells: int | None = None
    seed: int = 0
    gamma_: float = field(init=False, repr=False)
    tier_: IntArray = field(init=False, repr=False)
    strength_: FloatArray = field(init=False, repr=False)

    def fit(self, table: GainTable) -> Self:
        """Rate the models, cut tiers, choose what is left open, and keep the battles."""
        self._check()
        rows = prepare_table(table)
        rng = np.random.default_rng(self.seed)
        ratings = rate_models(table).strength_
        numbers = self._tier_numbers(rows.n_models)
        rankings = [self._ranked(rows, ratings, n_tiers) for n_tiers in numbers]
        gammas = GAMMAS if self.gamma is None else (self.gamma,)
        ranked, self.gamma_ = self._best(rows, rankings, gammas, rng)
        self.tier_, self.strength_ = ranked.tier, ranked.strength
        battles = ranked.battles
        largest = ranked.largest
        arrays: dict[str, NDArray[Any]] = {} if largest is None else {"largest": largest}
        n_cells = self._n_cells(len(battles.points))
        if n_cells:
            battles, arrays["cell_size"] = battles.in_cells(n_cells, rng)
        config = {
            "gamma": self.gamma_,
            "penalty": self.penalty,
            "scale": rows.scale,
            "shared_variance": rows.shared_variance.tolist(),
        }
        arrays |= {
            "points": battles.points,
            "query": battles.query.astype(np.int32),
            "pair": battles.pair.astype(np.int32),
            "win": battles.win,
            "weight": battles.weight,
            "strength": ranked.strength,
            "tier": ranked.tier,
            "offset": ranked.offset,
        }
        state = ModelState(kind="sw_ranking", config=config, arrays=arrays)
        return self._keep(state, SWRankingScorer(state))

    def _tier_numbers(self, n_models: int) -> tuple[int, ...]:
        if self.num_tiers is not None:
            return (self.num_tiers,)
        return (_PUBLISHED_TIERS, n_models) if n_models > _PUBLISHED_TIERS else (n_models,)

    def _ranked(self, rows: TableRows, ratings: FloatArray, n_tiers: int) -> _Ranking:
        tier = optimal_tiers(ratings, n_tiers)
        battles = _between_tiers(rows, tier)
        centre = np.zeros(battles.n_tiers)
        strength, _ = solve_strengths(battles.total_wins(), penalty=0.01, centre=centre)
        by_battle = self.normaliser == "battle"
        return _Ranking(
            tier=tier,
            strength=strength,
            offset=_offsets(ratings, tier, self.within_tiers),
            battles=battles,
            largest=largest_similarities(battles.points) if by_battle else None,
        )

    def _check(self) -> None:
        if self.gamma is not None and not self.gamma > 1:
            raise OptionError.of("gamma", self.gamma, "a number above 1")
        if self.normaliser not in ("query", "battle"):
            raise OptionError.of("normaliser", self.normaliser, "query or battle")
        if not self.penalty > 0:
            raise OptionError.of("penalty", self.penalty, "a number above 0")
        if self.cells is not None and (
            self.cells < 0 or (self.cells > 0 and self.normaliser == "battle")
        ):
            raise OptionError.of("cells", self.cells, '0 or more; 0 with normaliser="battle"')

    def _best(
        self,
        rows: TableRows,
        rankings: Sequence[_Ranking],
        gammas: Sequence[float],
        rng: np.random.Generator,
    ) -> tuple[_Ranking, float]:
        """The smoothest ranking and γ that is about as good on prompts left out in turn.

        About as good is within a standard error of the best: prompts to come are
        rarely as close to the training prompts as these are to each other.
        """
        if len(rankings) == len(gammas) == 1:
            return rankings[0], gammas[0]
        cells = max(len(rows.features), len(rows.query))
        most = max(50, min(_MAX_HELD_OUT, _HELD_OUT_CELLS // cells))
        held = np.sort(rng.permutation(len(rows.features))[:most])
        tried = [(ranking, gamma) for gamma in gammas for ranking in rankings]
        errors = np.array([self._errors(rows, ranking, gamma, held) for ranking, gamma in tried])
        excess = errors - errors[int(errors.sum(axis=1).argmin())]
        spread = np.sqrt(excess.shape[1]) * excess.std(axis=1)
        return tried[int(np.argmax(excess.sum(axis=1) <= spread))]

    def _errors(
        self, rows: TableRows, ranking: _Ranking, gamma: float, held: IntArray
    ) -> FloatArray:
        """Weighted squared error of P on the rows of each left-out prompt."""
        battles, tier = ranking.battles, ranking.tier
        scan = BattleScan(battles, math.log(gamma), ranking.largest, leave_out_same=True)
        wins, _ = scan(battles.points[held])
        strength, _ = solve_strengths(wins, penalty=self.penalty, centre=ranking.strength)
        place = np.full(len(battles.points), -1)
        place[held] = np.arange(len(held))
        row = np.flatnonzero(place[rows.query] >= 0)
        strength_of = strength[:, tier] + ranking.offset  # of each model, near each prompt
        at, candidate, baseline = place[rows.query[row]], rows.candidate[row], rows.baseline[row]
        p = sigmoid(strength_of[at, candidate] - strength_of[at, baseline])
        squared = np.bincount(at, rows.weight[row] * (rows.win[row] - p) ** 2, len(held))
        return np.asarray(squared, dtype=np.float64)

    def _n_cells(self, n_points: int) -> int:
        if self.cells is not None:
            return min(self.cells, n_points)
        scans = self.normaliser == "battle" or n_points < _MIN_INDEXED
        return 0 if scans else math.isqrt(4 * n_points)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ranking:
    """Models cut into tiers, the tiers' overall strengths, and the battles between them."""

    tier: IntArray
    strength: FloatArray
    offset: FloatArray
    battles: TierBattles
    largest: FloatArray | None


class SWRankingScorer:
    """Scores :class:`SWRanking` from its state, with NumPy alone."""

    def __init__(self, state: ModelState) -> None:
        arrays, config = state.arrays, state.config
        self._strength = np.asarray(arrays["strength"], dtype=np.float64)
        tier = np.asarray(arrays["tier"], dtype=np.int64)
        self._tier = tier[1:]
        eye = np.eye(len(self._strength))
        self._contrasts: FloatArray = eye - eye[tier[0]]  # of each tier
        offset = np.asarray(arrays["offset"], dtype=np.float64)
        self._offset = offset[1:] - offset[0]
        self._penalty, self._scale = float(config["penalty"]), float(config["scale"])
        self._pull: FloatArray = self._penalty * eye
        self._shared_variance = np.asarray(config["shared_variance"], dtype=np.float64)
        self._width = arrays["points"].shape[1]
        self._sums = _make_sums(state, len(self._strength))

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
        if features.ndim != 2 or features.shape[1] != self._width:
            raise DataError(
                f"features of shape {features.shape}; allowed: (n, {self._width}), as in training"
            )
        wins, second = self._sums(unit_rows(features))
        strength, inverse = solve_strengths(wins, penalty=self._penalty, centre=self._strength)
        middle = laplacian(_residual_squares(second, strength)) + self._pull
        variance = contrast_variance(inverse, middle, self._contrasts)
        log_odds = (strength @ self._contrasts.T)[:, self._tier] + self._offset
        return log_odds, variance[:, self._tier]


def _make_sums(state: ModelState, n_tiers: int) -> BattleSums:
    arrays = state.arrays
    battles = TierBattles(
        points=np.ascontiguousarray(arrays["points"], dtype=np.float32),
        query=np.asarray(arrays["query"], dtype=np.int64),
        pair=np.asarray(arrays["pair"], dtype=np.int64),
        win=np.asarray(arrays["win"], dtype=np.float64),
        weight=np.asarray(arrays["weight"], dtype=np.float64),
        n_tiers=n_tiers,
    )
    log_gamma = math.log(float(state.config["gamma"]))
    if "cell_size" in arrays:
        return BattleCells(battles, np.asarray(arrays["cell_size"], dtype=np.int64), log_gamma)
    largest = arrays.get("largest")
    norm = None if largest is None else np.asarray(largest, dtype=np.float64)
    return BattleScan(battles, log_gamma, norm)


def _between_tiers(rows: TableRows, tier: IntArray) -> TierBattles:
    """The battles whose models are of different tiers, those of a prompt and pair as one.

    They share the prompt's noise, so the variance takes them as one draw.
    """
    n_tiers = int(tier.max()) + 1
    candidate, baseline = tier[rows.candidate], tier[rows.baseline]
    across = candidate != baseline
    if not across.any():
        raise DataError(
            f"all battles are within one of {n_tiers} tiers; allowed: num_tiers >= 2 and battles "
            "between models of different tiers"
        )
    pair = np.minimum(candidate, baseline) * n_tiers + np.maximum(candidate, baseline)
    win = np.where(candidate < baseline, rows.win, 1.0 - rows.win)[across]
    cell, group = np.unique((rows.query * n_tiers**2 + pair)[across], return_inverse=True)
    weight = rows.weight[across]
    total = np.bincount(group, weight).astype(np.float64)
    return TierBattles(
        points=unit_rows(rows.features),
        query=cell // n_tiers**2,
        pair=cell % n_tiers**2,
        win=np.bincount(group, weight * win) / total,
        weight=total,
        n_tiers=n_tiers,
    )


def _residual_squares(second: FloatArray, strength: FloatArray) -> FloatArray:
    """Σ w² (y − p)² of each pair of tiers, symmetric, (n, t, t)."""
    p = win_probabilities(strength)
    squares: FloatArray = second[2] - 2.0 * p * second[1] + p * p * second[0]
    return squares + squares.swapaxes(-1, -2)


def _offsets(ratings: FloatArray, tier: IntArray, within_tiers: bool) -> FloatArray:
    """Rating of each model above the mean of its tier, log-odds."""
    if not within_tiers:
        return np.zeros(len(ratings))
    mean: FloatArray = np.bincount(tier, ratings) / np.bincount(tier)
    return np.asarray(ratings - mean[tier])
