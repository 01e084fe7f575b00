"""What a fitted router is worth on held-out gold labels.

Everything here is about one fixed router: intervals say how far a number could
be off because the held-out queries are a sample of the queries the router will
meet. They do not cover what another training set would have given; for that see
:func:`metarouter.evaluation.experiment.compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from metarouter.errors import DataError
from metarouter.evaluation.breakdown import Example, SliceValue, pick_examples, slice_values
from metarouter.evaluation.curves import collected_gain_curve, quality_curve
from metarouter.evaluation.frontier import (
    hull_advantage,
    hull_quality,
    price_frontier,
)
from metarouter.evaluation.heldout import FittedRouter, HeldOut, read_unseen
from metarouter.evaluation.intervals import (
    Band,
    bootstrap_interval,
    mean_interval,
    mean_ratio_statistic,
    mean_statistic,
    simultaneous_band,
    without_interval,
)
from metarouter.evaluation.metrics import (
    WeightedStatistic,
    apgr_statistic,
    collected_at_statistic,
    cpt_statistic,
    efficiency_gain_area_statistic,
    efficiency_gain_at_statistic,
)
from metarouter.evaluation.quality import GainCalibration, calibration_of_gain, policy_values
from metarouter.evaluation.regret import RegretCurve, price_grid, regret_curve
from metarouter.evaluation.verdict import Verdict, judge_router, signed_interval
from metarouter.policy.baselines import premium_index
from metarouter.records import Decision, Estimate, GainEstimate, PolicyValue
from metarouter.types import FloatArray, IntArray

__all__ = [
    "EvaluatedRouter",
    "Evaluation",
    "QualityCurve",
    "evaluate_router",
]

MIN_QUERIES = 10
FEW_QUERIES = 100
_SHARES = np.linspace(0.0, 1.0, 51)
_LIMITS = {
    "traffic": (
        "How the router does on queries unlike the held-out ones: intervals cover sampling "
        "from the same kind of query, not a change of traffic."
    ),
    "gold": "Whether the gold labels are right: they are taken as the truth.",
    "refit": "What another training set would have given: this is one fitted router.",
    "usd": (
        "What will be invoiced: costs are expected costs, from token prices and predicted "
        "answer lengths."
    ),
    "calls": "What it costs in money: costs count calls, and every premium call counts the same.",
    "service": "Latency, failures, and the answers of later versions of these models.",
    "level": (
        "The share of the premium model's quality that is kept: the labels are gains, "
        "without a level."
    ),
    "seen": (
        "Whether the held-out queries were used for fitting: the router does not say which "
        "queries it saw."
    ),
}


class EvaluatedRouter(FittedRouter, Protocol):
    """The part of a router that an evaluation uses."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it was fitted on, as plain JSON values.

        `w` and `cost_unit` are needed; `score_range` is how gold labels are read;
        `corrector`, `bias_map` and so on are reported where they are given.
        """
        ...

    def predict_gain(self, queries: Sequence[str]) -> GainEstimate:
        """Gains over the reference model, shape (n,) or (n, n_models - 1)."""
        ...

    def route_batch(self, queries: Sequence[str]) -> Sequence[Decision]:
        """One decision for each query, with every model among its options."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityCurve:
    """Quality over the premium share when the router's ranking decides.

    All arrays have shape (k,). `band` holds the whole router curve at once;
    `oracle` knows every gold gain, `random` none. The costs are those of 1,000
    queries at these shares, in the policy's unit.

    Of a pool with prices it is quality over the cost when the router's rule
    decides, at one price of cost after another; `random` is then the best fixed
    mixture of single models, and all three are at the same costs.
    """

    share: FloatArray
    band: Band
    random: FloatArray
    oracle: FloatArray
    cost: FloatArray
    random_cost: FloatArray
    oracle_cost: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Evaluation:
    """All that was measured of one router; see the report for its reading.

    Attributes
    ----------
    models : names, the reference model first.
    premium : the model with the largest mean cost, the last of several.
    n : held-out gold queries.
    seed : of the bootstrap.
    quality_unit : "gold score", with its range where that was given and is now 0 to 1, or
        "gold gain over <reference>".
    policies : the router, and what it should be compared with.
    model_shares : share of the queries that the router sends to each model.
    singles : cost of 1,000 queries and mean quality of each model alone, by name.
    kept : share of the premium model's quality that the router keeps (of its
        gain over the reference model, where scores are unknown); NaN where
        that quality or gain is not clearly above 0.
    difference : mean quality of the router minus the premium model's.
    saving : share of the premium model's cost that the router saves.
    advantage : quality above a random router that sends as many queries to each model.
    hull_advantage : quality above the best fixed mixture of single models at the same
        cost; None for a pair, where that is the random router.
    curve, efficiency : quality and efficiency gain over the premium share.
    area, area_20_80, apgr, cpt50, cpt80 : see :mod:`metarouter.evaluation.metrics`;
        the last three are NaN where the gain is not clearly above 0.
    regret : utility lost against an oracle, over the price of cost.
    calibration : of predicted gains, in bins of about equal size.
    slices, examples : see :mod:`metarouter.evaluation.breakdown`.
    verdict : in one sentence, and what it rests on.
    warnings, limits : what weakens the numbers; what the data cannot tell.
    facts : what the router was fitted on, as the router tells it.
    """

    models: tuple[str, ...]
    premium: str
    n: int
    seed: int
    quality_unit: str
    is_absolute: bool
    policies: tuple[PolicyValue, ...]
    model_shares: tuple[float, ...]
    singles: Mapping[str, tuple[float, float]]
    kept: Estimate
    difference: Estimate
    saving: Estimate
    advantage: Estimate
    hull_advantage: Estimate | None
    curve: QualityCurve
    efficiency: Band
    area: Estimate
    area_20_80: Estimate
    apgr: Estimate
    cpt50: Estimate
    cpt80: Estimate
    regret: RegretCurve
    calibration: GainCalibration
    slices: tuple[SliceValue, ...]
    examples: tuple[Example, ...]
    verdict: Verdict
    warnings: tuple[str, ...]
    limits: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Evaluation(n = {self.n}: {self.verdict.sentence})"

    def as_records(self) -> list[dict[str, Any]]:
        """The flat records of the command line's JSON."""
        return [
            {
                "policy": value.policy,
                "premium_share": value.premium_share,
                "quality": value.quality.value,
                "quality_low": value.quality.low,
                "quality_high": value.quality.high,
                "cost_per_1k": value.cost_per_1k,
                "saving_share": value.saving_share,
            }
            for value in self.policies
        ]


def evaluate_router(
    router: EvaluatedRouter,
    gold: Any,
    *,
    seed: int = 0,
    level: float = 0.95,
    n_boot: int = 2000,
) -> Evaluation:
    """Measure quality, cost and calibration of a router on held-out gold labels.

    Assumes that the held-out queries are a random sample of those the router
    will meet and that none was used to fit it. Queries that the router says it
    was fitted on are left out.

    Parameters
    ----------
    router : EvaluatedRouter
    gold : path, list of paths, data frame, iterable of dicts, or GainTable
        Gold labels in the *scores* or the *gains* form, for every model of the
        router.
    seed : int, default 0
        Of the bootstrap over queries.
    level : float, default 0.95
        Confidence level in (0, 1).
    n_boot : int, default 2000
        Bootstrap resamples.

    Returns
    -------
    Evaluation

    Raises
    ------
    DataError
        When fewer than ten queries are left, or labels of a model are missing.

    Examples
    --------
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=40)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> evaluation = evaluate_router(router, world.test, n_boot=200)
    >>> [record["policy"] for record in evaluation.as_records()][:4]
    ['always_premium', 'always_cheap', 'router', 'random']
    """
    held_out, left_out = read_unseen(router, gold)
    if len(held_out.queries) < MIN_QUERIES:
        raise DataError(
            f"{len(held_out.queries)} held-out queries with gold labels for every model; at "
            f"least {MIN_QUERIES} are needed, {FEW_QUERIES} for intervals worth reading"
        )
    routed = _route(router, held_out)
    no_gap, no_share = _no_gap(routed, level), _no_share(routed, level)
    bootstrap = _Bootstrap(n=len(held_out.queries), seed=seed, n_boot=n_boot, level=level)
    policies = policy_values(
        routed.mean, held_out.quality, routed.cost, routed.w, level, choice=routed.choice
    )
    return Evaluation(
        models=held_out.models,
        premium=routed.premium_name,
        n=len(held_out.queries),
        seed=seed,
        quality_unit=_quality_unit(held_out, router.facts.get("score_range")),
        is_absolute=held_out.is_absolute,
        policies=tuple(policies),
        model_shares=tuple(routed.model_shares.values()),
        singles=routed.singles,
        regret=_regret(routed, bootstrap),
        calibration=calibration_of_gain(
            routed.predicted, routed.std, routed.gain, _n_bins(len(routed.gain)), level
        ),
        slices=tuple(
            slice_values(held_out, routed.choice, routed.weighed_gain, routed.premium, level)
        ),
        examples=tuple(pick_examples(held_out, routed.decisions, routed.weighed_gain)),
        warnings=(
            *([f"{left_out}."] if left_out else []),
            *dict.fromkeys(no_share + no_gap),
            *_warnings(held_out),
        ),
        limits=_limits(held_out, routed, knows_queries=router.query_hashes is not None),
        facts=dict(router.facts),
        **_setting(routed, bootstrap, no_share),
        **_rankings(routed, bootstrap, no_gap),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Routed:
    """Held-out queries with what the router predicted and chose.

    `mean` (n, n_models - 1) are the predicted gains; `predicted` and `std` (n,)
    are those of the best candidate by prediction, `gain` (n,) is the gold gain
    of that same candidate; `cost` is (n, n_models).
    """

    held_out: HeldOut
    decisions: tuple[Decision, ...]
    choice: IntArray
    mean: FloatArray
    predicted: FloatArray
    std: FloatArray
    gain: FloatArray
    cost: FloatArray
    premium: int
    w: float
    cost_unit: str

    @property
    def quality(self) -> FloatArray:
        """Gold quality of the chosen answers, shape (n,)."""
        return self.at(self.held_out.quality, self.choice)

    @property
    def premium_share(self) -> float:
        """Share of queries that do not go to the reference model."""
        return float((self.choice != 0).mean())

    @property
    def model_shares(self) -> dict[str, float]:
        """Share of the queries that go to each model."""
        share = np.bincount(self.choice, minlength=len(self.held_out.models)) / len(self.choice)
        return dict(zip(self.held_out.models, share.tolist(), strict=True))

    @property
    def singles(self) -> dict[str, tuple[float, float]]:
        """Cost of 1,000 queries and mean quality of each model alone."""
        cost, quality = 1000 * self.cost.mean(axis=0), self.held_out.quality.mean(axis=0)
        pairs = zip(cost.tolist(), quality.tolist(), strict=True)
        return dict(zip(self.held_out.models, pairs, strict=True))

    @property
    def weighed_gain(self) -> FloatArray:
        """Gold gain of the candidate that a decision is about, shape (n,).

        That is the chosen model; where the reference was chosen, the next best.
        """
        models = self.held_out.models
        weighed = [
            models.index(next(o.model for o in decision.options if o.model != models[0]))
            for decision in self.decisions
        ]
        quality = self.held_out.quality
        return self.at(quality, np.asarray(weighed)) - quality[:, 0]

    @property
    def premium_name(self) -> str:
        """Name of the model with the largest mean cost."""
        return self.held_out.models[self.premium]

    @property
    def saved_per_1k(self) -> float:
        """Expected cost saved on 1,000 queries against always the premium model."""
        saved = self.cost[:, self.premium] - self.at(self.cost, self.choice)
        return float(1000 * saved.mean())

    @staticmethod
    def at(matrix: FloatArray, choice: IntArray) -> FloatArray:
        """One entry of each row."""
        chosen: FloatArray = matrix[np.arange(len(choice)), choice]
        return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bootstrap:
    """Settings of the bootstrap; every statistic sees the same resamples."""

    n: int
    seed: int
    n_boot: int
    level: float

    def interval(self, statistic: WeightedStatistic) -> Estimate:
        rng = np.random.default_rng(self.seed)
        return bootstrap_interval(statistic, self.n, rng, self.n_boot, self.level)

    def band(self, statistic: WeightedStatistic) -> Band:
        rng = np.random.default_rng(self.seed)
        return simultaneous_band(statistic, self.n, rng, self.n_boot, self.level)


def _route(router: EvaluatedRouter, held_out: HeldOut) -> _Routed:
    decisions = tuple(router.route_batch(list(held_out.queries)))
    estimate = router.predict_gain(list(held_out.queries))
    mean, std = (
        np.asarray(part, dtype=np.float64).reshape(len(decisions), -1)
        for part in (estimate.mean, estimate.std)
    )
    best = mean.argmax(axis=1)
    quality, models = held_out.quality, held_out.models
    cost = np.asarray([_option_costs(decision, models) for decision in decisions])
    return _Routed(
        held_out=held_out,
        decisions=decisions,
        choice=np.asarray([models.index(decision.model) for decision in decisions]),
        mean=mean,
        predicted=_Routed.at(mean, best),
        std=_Routed.at(std, best),
        gain=_Routed.at(quality, best + 1) - quality[:, 0],
        cost=cost,
        premium=premium_index(cost.mean(axis=0)),
        w=float(router.facts["w"]),
        cost_unit=str(router.facts["cost_unit"]),
    )


def _option_costs(decision: Decision, models: Sequence[str]) -> list[float]:
    costs = {option.model: option.cost for option in decision.options}
    return [costs[model] for model in models]


def _setting(routed: _Routed, bootstrap: _Bootstrap, no_share: tuple[str, ...]) -> dict[str, Any]:
    """All that depends on the router's threshold."""
    premium = routed.held_out.quality[:, routed.premium]
    found: dict[str, Any] = {
        "kept": _kept(routed, bootstrap, no_share),
        "difference": bootstrap.interval(mean_statistic(routed.quality - premium)),
        "saving": _saving(routed, bootstrap),
        "advantage": bootstrap.interval(_advantage_statistic(routed)),
    }
    is_pool = len(routed.held_out.models) > 2
    found["hull_advantage"] = _hull_advantage(routed, bootstrap) if is_pool else None
    verdict = judge_router(
        premium=routed.premium_name,
        premium_share=routed.premium_share,
        is_absolute=routed.held_out.is_absolute,
        saved_usd_per_1k=routed.saved_per_1k if routed.cost_unit == "USD" else None,
        model_shares=routed.model_shares if is_pool else None,
        **found,
    )
    return {**found, "verdict": verdict}


def _hull_advantage(routed: _Routed, bootstrap: _Bootstrap) -> Estimate:
    return hull_advantage(
        routed.held_out.quality,
        routed.cost,
        routed.choice,
        np.random.default_rng(bootstrap.seed),
        n_boot=bootstrap.n_boot,
        level=bootstrap.level,
    )


def _kept(routed: _Routed, bootstrap: _Bootstrap, no_share: tuple[str, ...]) -> Estimate:
    """Share of the premium model's quality, or gain, that the router keeps."""
    premium = routed.held_out.quality[:, routed.premium]
    if no_share:
        return without_interval(np.nan, len(premium), *no_share)
    return bootstrap.interval(mean_ratio_statistic(routed.quality, premium))


def _no_share(routed: _Routed, level: float) -> tuple[str, ...]:
    """Why no share of the premium model's quality is given: a ratio to about 0 says nothing."""
    premium = routed.held_out.quality[:, routed.premium]
    if not routed.held_out.is_absolute:
        return _not_better(premium, routed.premium_name, routed, level)
    if mean_interval(premium, level).low > 0:
        return ()
    name = routed.premium_name
    return (f"The mean quality of {name} is not clearly above 0: no share of it is given.",)


def _no_gap(routed: _Routed, level: float) -> tuple[str, ...]:
    """Why APGR and CPT, which are about shares of the gap between the models, are not given."""
    is_pair = len(routed.held_out.models) == 2
    name = routed.premium_name if is_pair else "The model that is predicted best"
    return _not_better(routed.gain, name, routed, level)


def _not_better(gain: FloatArray, model: str, routed: _Routed, level: float) -> tuple[str, ...]:
    mean = mean_interval(gain, level)
    if mean.low > 0:
        return ()
    cheap = routed.held_out.models[0]
    text = f"{model} is not clearly better than {cheap} on these labels: its mean gain is "
    return (f"{text}{signed_interval(mean)}, and no share of that is given.",)


def _saving(routed: _Routed, bootstrap: _Bootstrap) -> Estimate:
    spent = routed.at(routed.cost, routed.choice)
    ratio = mean_ratio_statistic(spent, routed.cost[:, routed.premium])
    return bootstrap.interval(lambda weights: 1.0 - ratio(weights))


def _advantage_statistic(routed: _Routed) -> WeightedStatistic:
    """Router's mean quality minus a random router's with the same shares."""
    quality, chosen = routed.held_out.quality, routed.quality
    is_chosen = np.eye(quality.shape[1])[routed.choice]

    def statistic(weights: FloatArray) -> FloatArray:
        part = weights / weights.sum(axis=1, keepdims=True)
        random = ((part @ is_chosen) * (part @ quality)).sum(axis=1)
        return np.asarray(part @ chosen - random)

    return statistic


def _rankings(routed: _Routed, bootstrap: _Bootstrap, no_gap: tuple[str, ...]) -> dict[str, Any]:
    """All that depends on the router's ranking, not on its threshold."""
    score, gain = routed.predicted, routed.gain
    reference = routed.held_out.quality[:, 0]
    collected = collected_at_statistic(score, gain, _SHARES)

    def quality_at(weights: FloatArray) -> FloatArray:
        level = weights @ reference / weights.sum(axis=1)
        return np.asarray(collected(weights) + level[:, None])

    in_money = len(routed.held_out.models) > 2 and routed.cost_unit != "calls"
    return {
        "curve": (
            _cost_curve(routed, bootstrap)
            if in_money
            else _quality_curve(routed, bootstrap.band(quality_at))
        ),
        "efficiency": bootstrap.band(efficiency_gain_at_statistic(score, gain, _SHARES)),
        "area": bootstrap.interval(efficiency_gain_area_statistic(score, gain)),
        "area_20_80": bootstrap.interval(efficiency_gain_area_statistic(score, gain, 0.2, 0.8)),
        **_gap_shares(score, reference, reference + gain, bootstrap, no_gap),
    }


def _gap_shares(
    score: FloatArray,
    cheap: FloatArray,
    premium: FloatArray,
    bootstrap: _Bootstrap,
    no_gap: tuple[str, ...],
) -> dict[str, Estimate]:
    """Metrics of the share of the gap that is recovered; unknown where it may be nothing."""
    if no_gap:
        unknown = without_interval(np.nan, len(score), *no_gap)
        return dict.fromkeys(("apgr", "cpt50", "cpt80"), unknown)
    return {
        "apgr": bootstrap.interval(apgr_statistic(score, cheap, premium)),
        "cpt50": bootstrap.interval(cpt_statistic(score, cheap, premium, 0.5)),
        "cpt80": bootstrap.interval(cpt_statistic(score, cheap, premium, 0.8)),
    }


def _regret(routed: _Routed, bootstrap: _Bootstrap) -> RegretCurve:
    return regret_curve(
        routed.mean,
        routed.held_out.quality,
        routed.cost,
        price_grid(routed.mean, routed.cost, routed.w),
        np.random.default_rng(bootstrap.seed),
        n_boot=bootstrap.n_boot,
        level=bootstrap.level,
    )


def _quality_curve(routed: _Routed, band: Band) -> QualityCurve:
    gain, quality = routed.gain, routed.held_out.quality
    reference, best = quality[:, 0], quality[:, 1:].max(axis=1)
    # In the order of the gains the extra cost adds up as a gain would.
    base = routed.cost[:, 0].mean()
    extra = routed.at(routed.cost, routed.mean.argmax(axis=1) + 1) - routed.cost[:, 0]
    return QualityCurve(
        share=_SHARES,
        band=band,
        random=reference.mean() + gain.mean() * _SHARES,
        oracle=quality_curve(best - reference, reference, best).at(_SHARES),
        cost=1000 * (base + collected_gain_curve(routed.predicted, extra).at(_SHARES)),
        random_cost=1000 * (base + extra.mean() * _SHARES),
        oracle_cost=1000 * (base + collected_gain_curve(gain, extra).at(_SHARES)),
    )


def _cost_curve(routed: _Routed, bootstrap: _Bootstrap) -> QualityCurve:
    """Quality of the rule at every price of cost, over what it costs."""
    quality, cost = routed.held_out.quality, routed.cost
    gains = np.column_stack([np.zeros(len(quality)), routed.mean])
    own = price_frontier(gains, cost, quality)
    ideal = price_frontier(quality - quality[:, :1], cost, quality)
    at = np.ones((len(own.cost), 1))
    per_1k = 1000 * own.cost

    def quality_at(weights: FloatArray) -> FloatArray:
        return np.asarray(weights @ own.quality / weights.sum(axis=1, keepdims=True))

    return QualityCurve(
        share=own.share,
        band=bootstrap.band(quality_at),
        random=hull_quality(at * cost.mean(axis=0), at * quality.mean(axis=0), own.cost),
        oracle=np.interp(own.cost, ideal.cost, ideal.quality.mean(axis=0)),
        cost=per_1k,
        random_cost=per_1k,
        oracle_cost=per_1k,
    )


def _n_bins(n: int) -> int:
    return max(1, min(10, n // 25))


def _quality_unit(held_out: HeldOut, score_range: Sequence[float] | None) -> str:
    if not held_out.is_absolute:
        return f"gold gain over {held_out.models[0]}"
    if score_range is None:
        return "gold score"
    low, high = score_range
    return f"gold score, {low:g} to {high:g} as 0 to 1"


def _warnings(held_out: HeldOut) -> tuple[str, ...]:
    found = []
    if held_out.n_incomplete:
        found.append(
            f"{held_out.n_incomplete} queries lack a gold label for some model and are left out."
        )
    if held_out.n_self_judged:
        found.append(
            f"{held_out.n_self_judged} of {len(held_out.queries)} held-out queries have a gold "
            "label by one of the models that it compares: a model prefers its own answers, and "
            "here that counts as the truth. Take labels of another judge."
        )
    if len(held_out.queries) < FEW_QUERIES:
        found.append(
            f"{len(held_out.queries)} held-out queries: intervals are wide and rest on "
            f"approximations that want at least {FEW_QUERIES}."
        )
    return tuple(found)


def _limits(held_out: HeldOut, routed: _Routed, *, knows_queries: bool) -> tuple[str, ...]:
    """What these data cannot tell, most consequential first."""
    found = [_LIMITS["traffic"], _LIMITS["gold"], _LIMITS["refit"]]
    found.append(_LIMITS["usd" if routed.cost_unit == "USD" else "calls"])
    found.append(_LIMITS["service"])
    if not held_out.is_absolute:
        found.insert(1, _LIMITS["level"])
    if not knows_queries:
        found.insert(1, _LIMITS["seen"])
    return tuple(found)
