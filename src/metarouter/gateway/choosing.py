"""From a question to a choice: which policy is asked, what is left to chance.

A policy's decision is a function of its question. What a request gets may also
depend on the arm that it was drawn for and on exploration, and its propensity is
over both: that takes the decisions of the arms that it was not drawn for. They
are asked for aside, as shadow policies are, while the answer is on its way. A
choice that nobody could complete in time is kept without propensities.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from numpy.typing import NDArray

from metarouter.errors import InputError, MetarouterError
from metarouter.gateway.deciding import Decided, Question, ServedPolicy
from metarouter.gateway.experiments import Split, explored, mixed
from metarouter.records import Decision

__all__ = ["Choice", "Deciders", "ask_others", "ask_shadows", "choose", "stayed_choice"]

_LONG_TEXT = 50_000  # characters; a decision on more would hold up other requests

Allowed = Callable[[ServedPolicy], Collection[str]]
Shares = Sequence[tuple[float, ServedPolicy]]


class Deciders(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to decide for a request.

    Attributes
    ----------
    policies : all of the generation, by name.
    policy : the one that was asked for; any arm where a split was.
    split : that shares the request out, or None.
    unit : what the split draws for.
    decision_id : what exploration draws for.
    allowed : a policy's models that can answer this request.
    """

    policies: Mapping[str, ServedPolicy]
    policy: ServedPolicy
    split: Split | None
    unit: str
    decision_id: str
    allowed: Allowed


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, who made it, and what was left to chance.

    Attributes
    ----------
    decision : Decision
    policy : whose it is.
    deciders, question : what it came from.
    experiment : the split that drew the policy; None where an arm of it could not
        have answered, so that arms are compared on requests that each could take.
    features, rest : see :class:`Decided`.
    is_exploration : whether the model was drawn at random.
    within : propensity of each model, given the policy.
    models : that it may have been, by the request's options.
    share : probability of the policy.
    others : the arms that were not drawn, each with its probability.
    shadows : policies that are asked too, and never act.
    """

    decision: Decision
    policy: ServedPolicy
    deciders: Deciders
    question: Question
    experiment: str | None = None
    features: NDArray[Any] | None = None
    rest: Callable[[], Decision] | None = None
    is_exploration: bool = False
    within: Mapping[str, float]
    models: Sequence[str] = ()
    share: float = 1.0
    others: Shares = ()
    shadows: Sequence[ServedPolicy] = ()

    @property
    def features_hash(self) -> str | None:
        """Of the features: made when the row is, which no answer waits for."""
        if self.features is None:
            return None
        return hashlib.blake2b(self.features.tobytes(), digest_size=16).hexdigest()

    @property
    def propensities(self) -> dict[str, float] | None:
        """Of every model that may be chosen; None until the other arms are asked."""
        return None if self.others else dict(self.within)

    @property
    def drawn_by(self) -> str | None:
        """What the split of the experiment draws by; None where there is none."""
        split = self.deciders.split
        return None if split is None or self.experiment is None else split.by

    @property
    def joint_propensity(self) -> float:
        """Probability of this policy and this model."""
        return self.share * self.within[self.decision.model]


async def choose(deciders: Deciders, question: Question, *, is_early: bool = False) -> Choice:
    """The choice for a request, by one decision of one policy.

    Parameters
    ----------
    deciders : Deciders
    question : Question
    is_early : whether its `rest` may be left for later.

    Raises
    ------
    InputError
        When no policy can answer it as it is asked.
    """
    shares = _shares(deciders, question)
    policy = _drawn(deciders, shares)
    decided = await _decide(policy, question, deciders.allowed(policy), is_early=is_early)
    decision, is_exploration, within = _explored(policy, decided, deciders.decision_id)
    is_free = bool(decided.models)
    return Choice(
        decision=decision,
        policy=policy,
        deciders=deciders,
        question=question,
        experiment=_experiment(deciders.split, shares),
        features=decided.features,
        rest=decided.rest,
        is_exploration=is_exploration,
        within=within,
        models=decided.models,
        share=1.0 if question.options.pin else next(s for s, one in shares if one is policy),
        others=_others(shares, policy, question),
        shadows=tuple(deciders.policies[n] for n in policy.settings.shadow) if is_free else (),
    )


def stayed_choice(
    deciders: Deciders, question: Question, policy: str | None, model: str, why: str
) -> Choice | None:
    """A choice that nothing is left of: the request stays with a model.

    Parameters
    ----------
    deciders : Deciders
    question : Question
    policy : whose decision it once was, as far as it still exists.
    model : that answered before.
    why : what keeps the request there.

    Returns
    -------
    Choice or None
        None where the model may not answer this request.
    """
    kept = deciders.policy
    if policy is not None and deciders.split is not None and policy in deciders.split.arms:
        kept = deciders.policies.get(policy, kept)
    try:
        kept.allowed(question, [m for m in deciders.allowed(kept) if m == model])
    except InputError:
        return None
    return Choice(
        decision=kept.fixed(model, f"{why} stays with {model}"),
        policy=kept,
        deciders=deciders,
        question=question,
        experiment=None if deciders.split is None else deciders.split.name,
        within={model: 1.0},
    )


def ask_others(choice: Choice) -> dict[str, float]:
    """Propensity of every model, over the arms of the split and what happens within them.

    Raises
    ------
    MetarouterError
        When an arm fails to decide; the propensities are unknown then.
    """
    deciders = choice.deciders
    parts: list[tuple[float, Mapping[str, float]]] = [(choice.share, choice.within)]
    for share, policy in choice.others:
        decided = policy.decide_early(choice.question, deciders.allowed(policy))
        parts.append((share, _explored(policy, decided, deciders.decision_id)[2]))
    return mixed(parts)


def ask_shadows(choice: Choice, on_failure: Callable[[str, str], None]) -> list[dict[str, Any]]:
    """What the shadow policies would have done, without exploration of their own.

    Parameters
    ----------
    choice : Choice
    on_failure : called with the name of a policy that cannot decide, and why.
    """
    found = []
    for policy in choice.shadows:
        try:
            decided = policy.decide(choice.question, choice.deciders.allowed(policy)).decision
        except MetarouterError as error:
            on_failure(policy.name, str(error))
        else:
            found.append(_shadow(policy.name, decided))
    return found


def _shadow(policy: str, decision: Decision) -> dict[str, Any]:
    names = ("model", "predicted_gain", "predicted_gain_std", "threshold", "cost")
    said = {name: getattr(decision, name) for name in names}
    numbers = {n: None if v != v else v for n, v in said.items()}  # NaN: nothing was predicted
    return {"policy": policy, "version": decision.policy_version, **numbers}


def _experiment(split: Split | None, shares: Shares) -> str | None:
    if split is None:
        return None
    able = {policy.name for share, policy in shares if share > 0}
    wanted = {arm for arm, share in split.arms.items() if share > 0}
    return split.name if able == wanted else None


def _shares(deciders: Deciders, question: Question) -> Shares:
    """The policies that can answer, each with its probability."""
    if deciders.split is None:
        return [(1.0, deciders.policy)]
    arms = [deciders.policies[arm] for arm in deciders.split.arms]
    refusal: InputError | None = None
    able = []
    for policy in arms:
        try:
            policy.allowed(question, deciders.allowed(policy))
        except InputError as error:
            refusal = error
        else:
            able.append(policy)
    if refusal is not None and not able:
        raise refusal
    shares = deciders.split.shares({policy.name for policy in able})
    return [(shares[policy.name], policy) for policy in able]


def _others(shares: Shares, policy: ServedPolicy, question: Question) -> Shares:
    """The arms whose decisions the propensities need: none where all would do the same."""
    if question.options.pin is not None:
        return ()
    return tuple(one for one in shares if one[1] is not policy)


def _drawn(deciders: Deciders, shares: Shares) -> ServedPolicy:
    if deciders.split is None:
        return deciders.policy
    arm = deciders.split.draw(deciders.unit, {policy.name: share for share, policy in shares})
    return deciders.policies[arm]


async def _decide(
    policy: ServedPolicy, question: Question, allowed: Collection[str], *, is_early: bool
) -> Decided:
    """The decision, in a thread where it would hold up other requests."""
    if policy.is_slow or len(question.text) > _LONG_TEXT:
        return await asyncio.to_thread(policy.decide, question, allowed)
    return (policy.decide_early if is_early else policy.decide)(question, allowed)


def _explored(
    policy: ServedPolicy, decided: Decided, decision_id: str
) -> tuple[Decision, bool, dict[str, float]]:
    decision, epsilon = decided.decision, policy.settings.exploration
    if not epsilon or not decided.models:
        return decision, False, {decision.model: 1.0}
    model, is_drawn, within = explored(decision.model, decided.models, epsilon, decision_id)
    if not is_drawn:
        return decision, False, within
    drawn = replace(
        decision,
        model=model,
        cost=next(option.cost for option in decision.options if option.model == model),
        bound="random",
        reason=(
            f"{model} was drawn at random among {', '.join(decided.models)} (exploration "
            f"{epsilon:g}); the policy's choice was {decision.model}: {decision.reason}"
        ),
    )
    return drawn, True, within
