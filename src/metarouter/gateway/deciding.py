"""A policy as it is served: a router, and what settings and requests bend it by."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from metarouter.errors import InputError, OptionError, shorten
from metarouter.gateway.options import RequestOptions
from metarouter.gateway.settings import GatewaySettings, PolicySettings
from metarouter.gateway.spending import Prices
from metarouter.gateway.wire import Usage
from metarouter.loading import load
from metarouter.policy.baselines import premium_index
from metarouter.policy.calibrate import calibrate_share
from metarouter.policy.costs import DEFAULT_COMPLETION_TOKENS, estimate_tokens
from metarouter.policy.rule import UtilityPolicy
from metarouter.querying import read_queries
from metarouter.records import Decision, ModelOption
from metarouter.router import Router, prompt_tokens
from metarouter.types import FloatArray

__all__ = [
    "CachedPrompt",
    "Decided",
    "Question",
    "ServedPolicy",
    "fixed_decision",
    "load_policies",
    "load_policy",
]

_ORDINARY = "A query of ordinary length, to tell which model is dearer."
_SLOW_SECONDS = 0.01  # of a prediction, from which on others are not kept waiting
_MOST_QUERIES = 20_000  # more tell a share no better than to a third of a percent


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedPrompt:
    """An upstream's prompt cache that a conversation filled.

    Attributes
    ----------
    model : whose cache holds the earlier turns.
    dollars : what they cost less there; 0 where no price is known.
    """

    model: str
    dollars: float = 0.0


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What policies are asked to decide; the same for all that are asked.

    Attributes
    ----------
    text : to route on; blank text goes to the default model.
    options : what the request bends.
    prices : of models, for budgets.
    threshold : float, optional
        In [0, 1], as in RouteLLM: another model answers where its chance to do
        better than the reference, ties counting half, is above this.
    cached : where changing the model has a price.
    """

    text: str
    options: RequestOptions
    prices: Prices
    threshold: float | None = None
    cached: CachedPrompt | None = None


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and what it came from.

    Attributes
    ----------
    decision : Decision
    features : that it was made from; None when from none.
    models : among which it was made; empty where nothing was weighed.
    rest : makes the decision whole, where only its model is known yet.
    """

    decision: Decision
    features: NDArray[Any] | None = None
    models: tuple[str, ...] = ()
    rest: Callable[[], Decision] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServedPolicy:
    """Decides for requests; deterministic and thread-safe.

    Attributes
    ----------
    name : str
    router : Router
    settings : PolicySettings
    sample : predicted gains and costs of the calibration queries, or None.
    default_model : answers where there is no text to route on.
    seconds : that a prediction took when the policy was loaded.
    """

    name: str
    router: Router
    settings: PolicySettings
    sample: tuple[FloatArray, FloatArray] | None = None
    default_model: str = ""
    seconds: float = 0.0
    _w_of_share: dict[float, float] = field(default_factory=dict, repr=False)

    @property
    def models(self) -> tuple[str, ...]:
        """Models that it may choose."""
        wanted = self.settings.models
        return tuple(m for m in self.router.models if wanted is None or m in wanted)

    @property
    def is_slow(self) -> bool:
        """Whether a decision would hold up other requests, so that it needs a thread."""
        return bool(self.router.features.endpoints) or self.seconds > _SLOW_SECONDS

    def decide(self, question: Question, allowed: Collection[str]) -> Decided:
        """The decision for one text: that of :meth:`decide_early`, whole.

        Raises
        ------
        InputError
            As there.
        """
        decided = self.decide_early(question, allowed)
        if decided.rest is None:
            return decided
        return msgspec.structs.replace(decided, decision=decided.rest(), rest=None)

    def decide_early(self, question: Question, allowed: Collection[str]) -> Decided:
        """The decision for one text, or its model alone and what makes it whole.

        Deviations and reasons move no choice, and take a third of the time of a decision: they
        can wait until an upstream has been asked.

        Parameters
        ----------
        question : Question
        allowed : models that can answer this request.

        Raises
        ------
        InputError
            When none of the policy's models is allowed, or an option asks for
            what the policy cannot do.
        """
        text, options = question.text, question.options
        models = self.allowed(question, allowed)
        if options.pin is not None:
            return Decided(decision=self.fixed(options.pin, f"pinned to {options.pin}"))
        if not text.strip():
            model = self.default_model if self.default_model in models else models[-1]
            reason = f"no text to route on: {model} is the model for that"
            return Decided(decision=self.fixed(model, reason))
        x = self.router.features.transform([text])
        costs = self.router.cost.costs(x, prompt_tokens([text], self.router.cost))[0].tolist()
        early = self._early(question, models, x, costs)
        if early is not None:
            return early
        gain = self.router.scorer.predict(x)
        mean, std = gain.mean.ravel().tolist(), gain.std.ravel().tolist()
        if question.threshold is None:
            decision = self._weighed(question, models, mean, std, costs)
        else:
            decision = self._by_threshold(question.threshold, options, mean, std, costs)
            decision = _narrowed(decision, models)
        return Decided(decision=decision, features=x, models=tuple(models))

    def _early(
        self,
        question: Question,
        models: Sequence[str],
        x: NDArray[np.float32],
        costs: Sequence[float],
    ) -> Decided | None:
        """The model by its gain and cost; None where more than these bears on it."""
        predict_mean = getattr(self.router.scorer, "predict_mean", None)
        more = question.threshold is not None or question.cached is not None
        if predict_mean is None or more or self.settings.exploration:
            return None
        rule, mean = self._rule(question.options), predict_mean(x).ravel().tolist()
        model = rule.choose_one(mean, costs)
        if model not in models:
            return None

        def rest() -> Decision:
            std = self.router.scorer.predict(x).std.ravel().tolist()
            return rule.decide_one(mean, std, costs)

        decision = fixed_decision(model, "its numbers are being worked out", rule.version)
        return Decided(decision=decision, features=x, models=tuple(models), rest=rest)

    def fixed(self, model: str, reason: str) -> Decision:
        """A decision that nothing was predicted for."""
        return fixed_decision(model, reason, self.router.policy.version)

    def allowed(self, question: Question, allowed: Collection[str]) -> list[str]:
        """The policy's models that may answer, as the request's options have it.

        Raises
        ------
        InputError
            When an option names a model that is none of the router's, or asks for
            what the policy cannot do, or no model is left.
        """
        options = question.options
        wanted = [options.pin] if options.pin is not None else options.models
        unknown = [model for model in wanted or () if model not in self.router.models]
        if unknown:
            raise InputError(
                f"model {shorten(unknown[0])} is none of policy {self.name}; allowed: "
                f"{', '.join(self.router.models)}"
            )
        models = [m for m in self.models if m in allowed and (wanted is None or m in wanted)]
        if not models:
            asked = f" of {', '.join(wanted)}" if wanted else ""
            left = ", ".join(model for model in self.models if model in allowed)
            raise InputError(
                f"policy {self.name} has no model{asked} that may answer here; by the key and the "
                f"upstreams there are: {left or 'none'}"
            )
        if options.premium_share is not None and self.sample is None:
            raise InputError(
                f"premium_share: policy {self.name} has no queries to calibrate on; set "
                f"policies.{self.name}.queries, or give w"
            )
        return models if options.budget is None else self._affordable(models, question)

    def _affordable(self, models: Sequence[str], question: Question) -> list[str]:
        """Models whose expected cost for the text is within the request's budget."""
        budget = question.options.budget or 0.0
        dollars = self._dollars(question)
        known = {m: cost for m in models if (cost := dollars[m]) is not None}
        if not known:
            raise InputError(
                f"budget = {budget:g}: no price of {', '.join(models)} is known; set "
                f"prices.{models[0]}, or leave the budget out"
            )
        kept = [model for model, cost in known.items() if cost <= budget]
        if not kept:
            least = min(known, key=known.__getitem__)
            raise InputError(
                f"budget = {budget:g}: the least dear model, {least}, is expected to cost "
                f"{known[least]:.3g} dollars for this request; allowed: at least that"
            )
        return kept

    def _dollars(self, question: Question) -> dict[str, float | None]:
        """Expected dollars of each model: the router's own where it counts in them."""
        text = question.text if question.text.strip() else "-"
        if self.router.cost.unit == "USD":
            costs = self.router.expected_costs([text])[0].tolist()
            return dict(zip(self.router.models, costs, strict=True))
        usage = Usage(
            prompt_tokens=estimate_tokens(text), completion_tokens=int(DEFAULT_COMPLETION_TOKENS)
        )
        return {model: question.prices.dollars(model, usage) for model in self.router.models}

    def _weighed(
        self,
        question: Question,
        models: Collection[str],
        mean: Sequence[float],
        std: Sequence[float],
        costs: Sequence[float],
    ) -> Decision:
        """What the rule chooses, where staying in a conversation may be worth something."""
        rule, cached = self._rule(question.options), question.cached
        free = _narrowed(rule.decide_one(mean, std, costs), models)
        if cached is None or cached.model not in models or rule.w <= 0:
            return free
        bound = _narrowed(rule.decide_one(mean, std, self._switching(costs, cached)), models)
        if bound.model == free.model:
            return bound
        reason = (
            f"stays with {bound.model}: changing the model would cost the conversation more than "
            f"it gains; without that: {free.reason}"
        )
        return replace(bound, bound="cost", reason=reason)

    def _switching(self, costs: Sequence[float], cached: CachedPrompt) -> list[float]:
        """Expected costs of a request whose earlier turns one model's cache holds."""
        models, extra = self.router.models, self.settings.switch_cost
        if extra is not None:
            return [c + extra * (m != cached.model) for m, c in zip(models, costs, strict=True)]
        saved = cached.dollars if self.router.cost.unit == "USD" else 0.0
        return [c - saved * (m == cached.model) for m, c in zip(models, costs, strict=True)]

    def _rule(self, options: RequestOptions) -> UtilityPolicy:
        rule = self.router.policy
        if options.w is not None:
            w = options.w
        elif options.premium_share is not None and self.sample is not None:
            w = self._share_w(self.sample, options.premium_share)
        else:
            return rule
        return replace(rule, w=w, version=f"{rule.version}+w={w:g}")

    def _share_w(self, sample: tuple[FloatArray, FloatArray], share: float) -> float:
        share = round(share, 3)
        if share not in self._w_of_share:
            self._w_of_share[share] = calibrate_share(*sample, share).w
        return self._w_of_share[share]

    def _by_threshold(
        self,
        threshold: float,
        options: RequestOptions,
        mean: Sequence[float],
        std: Sequence[float],
        costs: Sequence[float],
    ) -> Decision:
        if options.w is not None or options.premium_share is not None:
            raise InputError("w and premium_share do not go with a threshold in the model's name")
        rule = self.router.policy
        version = f"{rule.version}+threshold={threshold:g}"
        scale = float(self.router.artifact.parts["gain"].config.get("scale", 1.0))
        needed = scale * (2.0 * threshold - 1.0)  # P = (1 + ψ/s)/2
        counted = replace(rule, w=needed, cost_unit="calls", version=version)
        units = [0.0, *[1.0] * (len(costs) - 1)]
        decision = counted.decide_one(mean, std, units)
        real = dict(zip(rule.models, costs, strict=True))
        return replace(
            decision,
            cost=real[decision.model],
            options=tuple(replace(o, cost=real[o.model]) for o in decision.options),
        )


@lru_cache(1024)
def fixed_decision(model: str, reason: str, version: str) -> Decision:
    """A decision without a prediction: its gains are NaN, as nobody asked for them."""
    return Decision(
        model=model,
        predicted_gain=math.nan,
        predicted_gain_std=math.nan,
        threshold=math.nan,
        cost=math.nan,
        reason=reason,
        policy_version=version,
        bound="fixed",
    )


def _narrowed(decision: Decision, models: Collection[str]) -> Decision:
    """The decision among the models that are allowed."""
    if decision.model in models:
        return decision
    chosen: ModelOption = next(option for option in decision.options if option.model in models)
    reason = f"{decision.model} is not allowed here, {chosen.model} is next: {decision.reason}"
    return replace(decision, model=chosen.model, cost=chosen.cost, bound="fixed", reason=reason)


def load_policy(name: str, settings: PolicySettings) -> ServedPolicy:
    """Load the router of a policy and calibrate it as its settings ask.

    Raises
    ------
    InputError
        When the router or the queries cannot be read.
    OptionError
        When a model that the settings name is none of the router's.
    """
    router = load(settings.router)
    named = [
        *(settings.models or ()),
        *([settings.default_model] if settings.default_model else ()),
    ]
    for model in named:
        if model not in router.models:
            allowed = ", ".join(router.models)
            raise OptionError.of(f"policies.{name}: model", model, allowed)
    sample = None if settings.queries is None else _sample(router, settings)
    if settings.w is not None:
        router = router.with_policy(w=settings.w)
    elif settings.premium_share is not None and sample is not None:
        router = router.with_policy(w=calibrate_share(*sample, settings.premium_share).w)
    return ServedPolicy(
        name=name,
        router=router,
        settings=settings,
        sample=sample,
        default_model=settings.default_model or _premium(router),
        seconds=0.0 if router.features.endpoints else _prediction_seconds(router),
    )


def load_policies(settings: GatewaySettings) -> dict[str, ServedPolicy]:
    """The routers of all policies, checked against the upstreams.

    Raises
    ------
    OptionError
        When a policy has no model that an upstream serves.
    """
    policies = {name: load_policy(name, entry) for name, entry in settings.policies.items()}
    for name, policy in policies.items():
        lost = [model for model in policy.models if not settings.serves(model)]
        if lost:
            raise OptionError(
                f"policies.{name}: no upstream serves {', '.join(lost)}; add them to the models of "
                f"an upstream, or set policies.{name}.models"
            )
    return policies


def _sample(router: Router, settings: PolicySettings) -> tuple[FloatArray, FloatArray]:
    queries = read_queries(settings.queries or "")
    if len(queries) > _MOST_QUERIES:
        rows = np.random.default_rng(0).choice(len(queries), _MOST_QUERIES, replace=False)
        queries = [queries[row] for row in rows]
    return router.predict_gain(queries).mean, router.expected_costs(queries)


def _prediction_seconds(router: Router) -> float:
    """Least time of a prediction, after one that reads what is read once."""
    router.predict_gain([_ORDINARY])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        router.predict_gain([_ORDINARY])
        times.append(time.perf_counter() - start)
    return min(times)


def _premium(router: Router) -> str:
    costs = router.expected_costs([_ORDINARY])
    return router.models[premium_index(costs[0])]
