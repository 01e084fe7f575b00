"""What will be done for a request, before anything is sent anywhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from metarouter.errors import InputError
from metarouter.gateway.choosing import Choice, choose, stayed_choice
from metarouter.gateway.conversation import Conversation
from metarouter.gateway.deciding import Question, ServedPolicy, fixed_decision
from metarouter.gateway.following import Follower, Following, follow, response_name
from metarouter.gateway.ids import make_decision_id
from metarouter.gateway.keyring import read_client_key
from metarouter.gateway.limits import Ticket, estimate_answer, estimate_prompt
from metarouter.gateway.names import Asked, read_model_name
from metarouter.gateway.options import NO_OPTIONS, RequestOptions
from metarouter.gateway.problems import RefusedError
from metarouter.gateway.protocols import Protocol
from metarouter.gateway.records import Exchange, routed_exchange
from metarouter.gateway.spending import Prices
from metarouter.gateway.state import Gateway, Generation
from metarouter.gateway.sticky import Kept
from metarouter.gateway.upstream import Target, Upstreams
from metarouter.gateway.wire import Body, Usage
from metarouter.store.keys import ApiKey

__all__ = ["Asking", "Plan", "Planner"]

_LONGEST_NAME = 256  # characters of a model's name
_CACHE_FIELD = b'"cache_control"'  # without it, an Anthropic upstream caches nothing


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came in, and the generation that serves it.

    Attributes
    ----------
    generation : Generation
    body, headers : as sent; names of headers in lower case.
    options : what it bends.
    key : the caller's, or None.
    started : ``time.perf_counter``
    """

    generation: Generation
    body: Body
    headers: Mapping[str, str]
    options: RequestOptions
    key: ApiKey | None
    started: float

    @property
    def key_id(self) -> str | None:
        """Whose it is."""
        return None if self.key is None else self.key.key_id

    @property
    def is_metered(self) -> bool:
        """Whether the size of the prompt matters to the key's limits."""
        key = self.key
        return key is not None and (key.tokens_per_minute, key.budget) != (None, None)

    def is_for(self, model: str) -> bool:
        """Whether the caller's key is for the model, whatever it costs."""
        return self.key is None or self.key.models is None or model in self.key.models

    def may(self, model: str) -> bool:
        """Whether the caller's key is for the model; a budget is for models of known price."""
        has_budget = self.key is not None and self.key.budget is not None
        return self.is_for(model) and (not has_budget or self.generation.prices.knows(model))

    def why_not(self, model: str) -> str:
        """What :meth:`may` said no for."""
        if self.is_for(model):
            return f"model {model} has no known price, and this key has a budget; set prices"
        return f"this key may not use model {model}"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What will be done for a request.

    Attributes
    ----------
    upstreams, prices : of the generation.
    exchange : what is known so far.
    body : as it came in.
    targets : where it may go, best first.
    explain : whether the decision comes back in a header.
    text_name : what the answer is remembered under here; "" for nothing.
    shared : what it is remembered under by other processes too.
    is_stream : whether the caller asked for a stream of events.
    client_key : the caller's key, for upstreams that are to get it.
    ticket : of the key's limits.
    """

    upstreams: Upstreams
    exchange: Exchange
    body: Body
    targets: list[Target]
    explain: bool
    text_name: str
    shared: tuple[str, ...]
    is_stream: bool
    client_key: str | None
    prices: Prices
    ticket: Ticket | None

    def kept(self, target: Target) -> Kept:
        """What is remembered of who answered."""
        policy, identity = self.exchange.policy, self.exchange.conversation
        name = None if policy is None else policy.name
        return Kept(
            model=target.model, upstream=target.upstream, policy=name, conversation=identity
        )


class Planner:
    """Plans the requests of one endpoint.

    Parameters
    ----------
    gateway : Gateway
    protocol : Protocol
    """

    def __init__(self, gateway: Gateway, protocol: Protocol) -> None:
        self._gateway = gateway
        self._protocol = protocol

    async def plan(self, asking: Asking) -> Plan:
        """What will be done, before anything is sent anywhere.

        Raises
        ------
        MetarouterError
            When the request cannot be served as it is.
        """
        protocol, generation = self._protocol, asking.generation
        name = asking.body.value("model", str)
        if name is None:
            raise InputError("field model is missing; allowed: metarouter, or a model's name")
        if len(name) > _LONGEST_NAME:
            raise InputError(f"model: {len(name)} characters; allowed: at most {_LONGEST_NAME}")
        asked = _asked(name, generation)
        held = await self._held(asking) if protocol.path == "responses" else None
        if asked.policy is None:
            return self._direct(asking, name, held)
        if not protocol.is_routed:
            raise InputError(f"model = {name!r}: /v1/{protocol.path} takes a model's name only")
        generation.check(asked.policy, asking.key)
        conversation = protocol.read(asking.body)
        follower = _follower(asking, asked.policy, conversation)
        if held is None and (conversation.is_tool_step or follower.given_name):
            await self._gateway.recall.fetch(follower.sought)
        following = self._following(asking, follower, held)
        decision_id = make_decision_id()
        choice = await self._choose(asking, asked, conversation.text, following, decision_id, held)
        exchange = routed_exchange(
            choice,
            endpoint=protocol.path,
            asked=name,
            key_id=asking.key_id,
            conversation=following.conversation,
            prompt=conversation.text if generation.settings.store.prompts else None,
            decision_id=decision_id,
            decision_seconds=time.perf_counter() - asking.started,
            started=asking.started,
        )
        return self._planned(asking, exchange, held, None if protocol.is_free else following)

    def _direct(self, asking: Asking, name: str, held: Kept | None) -> Plan:
        """A request that names its model."""
        options = asking.options
        if options is not NO_OPTIONS and options != RequestOptions(explain=options.explain):
            raise InputError(f"model = {name!r} is no policy: options of decisions do not apply")
        is_served = asking.generation.upstreams.serves(name, self._protocol.dialect)
        # a key of few models learns of no other whether it is there
        if asking.is_for(name) and not is_served:
            raise RefusedError(
                404,
                "not_found_error",
                f"model = {name!r}: no upstream serves it at /v1/{self._protocol.path}; "
                "see GET /v1/models",
            )
        if not asking.may(name):
            raise RefusedError(403, "permission_error", asking.why_not(name))
        exchange = Exchange(
            endpoint=self._protocol.path,
            decision=fixed_decision(name, "named by the caller", ""),
            asked=name,
            chosen=name,
            key_id=asking.key_id,
            started=asking.started,
        )
        return self._planned(asking, exchange, held)

    def _planned(
        self,
        asking: Asking,
        exchange: Exchange,
        held: Kept | None,
        following: Following | None = None,
    ) -> Plan:
        upstreams, model = asking.generation.upstreams, exchange.decision.model
        stand_ins = _stand_ins(asking, exchange)
        targets = upstreams.targets(model, self._protocol.dialect, stand_ins.__contains__)
        if held is not None:
            # what it continues is there and nowhere else
            targets = [t for t in targets if (t.upstream, t.model) == (held.upstream, model)]
        if held is not None and not targets:
            raise InputError(
                f"previous_response_id: upstream {held.upstream} holds that response, and does "
                f"not serve {model}"
            )
        if asking.key is not None:
            self._gateway.owners.note(exchange.decision_id, asking.key.key_id)
        return Plan(
            upstreams=upstreams,
            exchange=exchange,
            body=asking.body,
            targets=targets,
            explain=asking.options.explain,
            text_name="" if following is None else following.text_name,
            shared=() if following is None else following.shared,
            is_stream=asking.body.value("stream", object) is True,
            client_key=read_client_key(asking.headers),
            prices=asking.generation.prices,
            ticket=None if asking.key is None else self._admit(asking, asking.key, exchange),
        )

    def _admit(self, asking: Asking, key: ApiKey, exchange: Exchange) -> Ticket:
        """Let the request in, if the key's limits do, with an estimate of what it will use."""
        prompt = estimate_prompt(asking.body.content)
        if not asking.is_metered:
            return self._gateway.limits.admit(key, prompt_tokens=prompt)
        has_answer = self._protocol.is_routed and not self._protocol.is_free
        answer = estimate_answer(asking.body) if has_answer else 0
        dollars = None
        if key.budget is not None:
            usage = Usage(prompt_tokens=prompt, completion_tokens=answer)
            dollars = asking.generation.prices.dollars(exchange.chosen, usage)
        return self._gateway.limits.admit(
            key, tokens=prompt + answer, dollars=dollars or 0.0, prompt_tokens=prompt
        )

    async def _held(self, asking: Asking) -> Kept | None:
        """Who holds the response that the request continues, as far as it is still there."""
        previous = asking.body.value("previous_response_id", object)
        if not isinstance(previous, str):
            return None  # whatever else it is, is the upstream's to refuse
        name = response_name(asking.key_id or "", previous)
        await self._gateway.recall.fetch([name], is_certain=True)
        kept = self._gateway.sticky.get(name)
        is_there = kept is not None and kept.upstream in asking.generation.settings.upstreams
        return kept if is_there else None

    def _is_there(self, generation: Generation, model: str, held: Kept | None) -> bool:
        """Whether the upstream that holds the earlier turns serves a model."""
        if held is None:
            return True
        targets = generation.upstreams.targets(model, self._protocol.dialect, lambda _: False)
        return any(target.upstream == held.upstream for target in targets)

    def _following(self, asking: Asking, follower: Follower, held: Kept | None) -> Following:
        """What the request stays with."""
        generation = asking.generation
        following = follow(
            self._gateway.sticky,
            generation.settings,
            generation.prices,
            follower,
            is_cached=self._protocol.dialect == "openai" or _CACHE_FIELD in asking.body.content,
        )
        if held is None:
            return following
        return Following(
            conversation=held.conversation or following.conversation,
            text_name=following.text_name,
            shared=following.shared,
            kept=held,
            why=f"upstream {held.upstream} holds the response that it continues:",
        )

    async def _choose(
        self,
        asking: Asking,
        asked: Asked,
        text: str,
        following: Following,
        decision_id: str,
        held: Kept | None,
    ) -> Choice:
        generation, kept = asking.generation, following.kept

        def allowed(policy: ServedPolicy) -> list[str]:
            models = generation.models[policy.name, self._protocol.dialect]
            return [m for m in models if asking.may(m) and self._is_there(generation, m, held)]

        question = Question(
            text=text,
            options=asking.options,
            prices=generation.prices,
            threshold=asked.threshold,
            cached=following.cached,
        )
        deciders = generation.deciders(
            asked,
            conversation=following.conversation,
            key_id=asking.key_id,
            decision_id=decision_id,
            allowed=allowed,
        )
        if kept is not None and asking.options.pin is None:
            choice = stayed_choice(deciders, question, kept.policy, kept.model, following.why)
            if choice is not None:
                return choice
        return await choose(deciders, question, is_early=True)


def _follower(asking: Asking, policy: str, conversation: Conversation) -> Follower:
    return Follower(
        owner=asking.key_id or "",
        policy=policy,
        conversation=conversation,
        options=asking.options,
        is_loose=asking.generation.settings.sticky == "off",
    )


def _asked(name: str, generation: Generation) -> Asked:
    # a real model goes first, should it be called like a policy
    if name in generation.named:
        return Asked(model=name)
    return read_model_name(name, generation.policies, generation.splits)


def _stand_ins(asking: Asking, exchange: Exchange) -> set[str]:
    """Models that may answer where the chosen one cannot."""
    options, choice = asking.options, exchange.choice
    models = asking.generation.settings.fallbacks.get(exchange.chosen, ())
    if options.pin is not None:
        return set()
    if options.budget is not None and choice is not None:
        models = [m for m in choice.models if m in models]
    return {m for m in models if (options.models is None or m in options.models) and asking.may(m)}
