"""One request from start to end, and the row that is kept of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import msgspec

from metarouter.gateway.choosing import Choice
from metarouter.gateway.deciding import ServedPolicy
from metarouter.gateway.ids import make_decision_id
from metarouter.gateway.upstream import Answer, Attempt
from metarouter.gateway.wire import Usage
from metarouter.records import Decision, json_value

__all__ = ["Exchange", "decision_headers", "decision_row", "routed_exchange", "with_fallback"]

_MOST_OPTIONS = 10  # of an explanation, which has to fit into a header


class Exchange(msgspec.Struct, kw_only=True):
    """What is known of a request so far; filled in as it goes.

    Until :meth:`finish` only the model of a routed request's decision is known.
    """

    endpoint: str
    decision: Decision
    asked: str
    chosen: str
    policy: ServedPolicy | None = None
    choice: Choice | None = None
    rest: Callable[[], Decision] | None = None
    key_id: str | None = None
    conversation: str | None = None
    prompt: str | None = None
    decision_seconds: float | None = None
    decision_id: str = msgspec.field(default_factory=make_decision_id)
    created: float = msgspec.field(default_factory=time.time)
    started: float = msgspec.field(default_factory=time.perf_counter)
    attempts: list[Attempt] = []
    answered: str | None = None
    status: int | None = None
    outcome: str = "failed"
    first_byte_seconds: float | None = None
    usage: Usage = Usage()
    answer_bytes: int = 0
    spent: float | None = None

    @property
    def seconds(self) -> float:
        """Time since the request began."""
        return time.perf_counter() - self.started

    def finish(self) -> None:
        """Make the decision whole, once."""
        if self.rest is not None:
            self.decision = replace(
                self.rest(), logging_propensity=self.decision.logging_propensity
            )
            self.rest = None


def routed_exchange(choice: Choice, **known: Any) -> Exchange:
    """The exchange of a request that a policy decided.

    The probability of its model is that of the arm and the model together, until
    the other arms are asked.
    """
    propensity = math.nan if choice.others else choice.joint_propensity
    decision = choice.decision
    if propensity != decision.logging_propensity:
        decision = replace(decision, logging_propensity=propensity)
    return Exchange(
        decision=decision,
        chosen=decision.model,
        policy=choice.policy,
        choice=choice,
        rest=choice.rest,
        **known,
    )


def with_fallback(decision: Decision, answer: Answer, attempts: list[Attempt]) -> Decision:
    """The decision as it became: another model answered where the chosen one could not."""
    if answer.target.model == decision.model:
        return decision
    failed = [attempt for attempt in attempts if attempt.outcome != "ok"]
    why = ", ".join(dict.fromkeys(f"{attempt.upstream}: {attempt.outcome}" for attempt in failed))
    option = next((o for o in decision.options if o.model == answer.target.model), None)
    return replace(
        decision,
        model=answer.target.model,
        cost=float("nan") if option is None else option.cost,
        bound="fallback",
        reason=(
            f"{answer.target.model} answered for {decision.model} ({why}; {len(failed)} tries); "
            f"the choice was: {decision.reason}"
        ),
    )


def decision_headers(exchange: Exchange, *, explain: bool = False) -> list[tuple[bytes, bytes]]:
    """The decision in headers of the answer."""
    decision, policy = exchange.decision, exchange.policy
    values = (
        (b"x-metarouter-model", decision.model),
        (b"x-metarouter-decision-id", exchange.decision_id),
        (
            b"x-metarouter-policy",
            "" if policy is None else f"{policy.name}@{decision.policy_version}",
        ),
        (b"x-metarouter-gain", _number(decision.predicted_gain, ".4f")),
        (b"x-metarouter-cost", _number(decision.cost, ".6g")),
        (b"x-metarouter-attempts", str(len(exchange.attempts) or "")),
        (b"x-metarouter-explanation", _explanation(exchange) if explain else ""),
    )
    return [(name, _header_bytes(value)) for name, value in values if value]


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)  # NaN: nothing was predicted


def _explanation(exchange: Exchange) -> str:
    import json

    decision, choice = exchange.decision, exchange.choice
    shown = asdict(replace(decision, options=decision.options[:_MOST_OPTIONS]))
    if choice is not None:
        shown |= {"experiment": choice.experiment, "propensities": choice.propensities}
    return json.dumps(json_value(shown), separators=(",", ":"))


def _header_bytes(value: str) -> bytes:
    """A header that cannot start another: control characters and non-ASCII become "?"."""
    if value.isascii() and value.isprintable():
        return value.encode()
    return "".join(c if " " <= c <= "~" else "?" for c in value).encode()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def decision_row(exchange: Exchange) -> dict[str, Any]:
    """The row of the table of decisions; who writes it adds the name of the process."""
    decision, policy, choice = exchange.decision, exchange.policy, exchange.choice
    return {
        "decision_id": exchange.decision_id,
        "created": exchange.created,
        "endpoint": exchange.endpoint,
        "key_id": exchange.key_id,
        "asked": exchange.asked,
        "policy": None if policy is None else policy.name,
        "policy_version": decision.policy_version or None,
        "artifact": None if policy is None else policy.router.artifact.created,
        "features_hash": None if choice is None else choice.features_hash,
        "model": exchange.chosen,
        "answered": exchange.answered,
        "predicted_gain": _finite(decision.predicted_gain),
        "predicted_gain_std": _finite(decision.predicted_gain_std),
        "threshold": _finite(decision.threshold),
        "cost": _finite(decision.cost),
        "cost_unit": None if policy is None else policy.router.policy.cost_unit,
        "options": decision.options,
        "logging_propensity": 1.0 if choice is None else choice.joint_propensity,
        "bound": decision.bound,
        "reason": decision.reason,
        "outcome": exchange.outcome,
        "status": exchange.status,
        "attempts": exchange.attempts,
        "prompt_tokens": exchange.usage.prompt_tokens,
        "completion_tokens": exchange.usage.completion_tokens,
        "decision_seconds": exchange.decision_seconds,
        "first_byte_seconds": exchange.first_byte_seconds,
        "seconds": exchange.seconds,
        "prompt": exchange.prompt,
        "experiment": None if choice is None else choice.experiment,
        "propensities": None if choice is None else choice.propensities,
        "is_exploration": None if choice is None else choice.is_exploration,
        "shadow": None,
        "conversation": exchange.conversation,
        "spent": exchange.spent,
        "instance": None,
        "drawn_by": None if choice is None else choice.drawn_by,
    }
