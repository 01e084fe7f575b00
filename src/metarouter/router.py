"""The router: features, gain scorer, cost and policy, from one artifact.

A router that was just fitted is made from its artifact by the same code as one
that is read from disk, so what is saved, served and measured are the same.
Routing is pure and synchronous: no clock, no randomness, no state that a call
changes, so any number of threads may share a router.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.artifact import RouterArtifact, save_artifact
from metarouter.errors import ArtifactError, InputError, OptionError, shorten
from metarouter.features.stages import FeatureStage, load_stage
from metarouter.gain.pair_view import pair_view_state
from metarouter.gain.scoring import GainScorer, load_gain_model
from metarouter.labels.messages import message_problem, render_messages
from metarouter.policy.costs import CostModel, estimate_tokens, keep_models, load_cost
from metarouter.policy.rule import UtilityPolicy
from metarouter.records import Decision, GainEstimate, Message, Query
from metarouter.types import FloatArray, ModelState

__all__ = [
    "AnyQuery",
    "Router",
    "policy_state",
    "prompt_tokens",
    "query_text",
]

AnyQuery = str | Query | Sequence[Message | Mapping[str, Any]]
"""What can be routed: a text, a :class:`Query`, or a chat history."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Router:
    """Chooses a model for each query by predicted gain and cost.

    Made by :func:`metarouter.fit` or :func:`metarouter.load`; thread-safe and
    deterministic.

    Attributes
    ----------
    artifact : RouterArtifact, all that is saved.
    features : fitted feature pipeline, or another stage from texts to X.
    scorer : predicts ψ̂(x) and its standard deviation.
    cost : expected cost of each model for a query.
    policy : the utility rule.
    """

    artifact: RouterArtifact
    features: FeatureStage
    scorer: GainScorer
    cost: CostModel
    policy: UtilityPolicy

    def __repr__(self) -> str:
        policy = self.policy
        what = f"w = {policy.w:.4g} per {policy.cost_unit}; policy {policy.version}"
        return f"Router({shorten(self.models)}; {what})"

    @classmethod
    def from_artifact(cls, artifact: RouterArtifact) -> Self:
        """Build the router that an artifact describes.

        Raises
        ------
        ArtifactError
            When a part is missing or of an unknown kind.
        """
        missing = {"features", "gain", "cost", "policy"} - artifact.parts.keys()
        if missing:
            raise ArtifactError(f"the router lacks its {min(missing)} part: fit it again")
        parts = artifact.parts
        return cls(
            artifact=artifact,
            features=load_stage(parts["features"]),
            scorer=load_gain_model(parts["gain"]),
            cost=load_cost(parts["cost"]),
            policy=_load_policy(artifact),
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Model names, the reference model first; a pair is (cheap, premium)."""
        return self.artifact.models

    @property
    def facts(self) -> dict[str, Any]:
        """What it was fitted on and how well that went, as JSON values."""
        return {
            "created": self.artifact.created,
            "models": list(self.models),
            "policy_version": self.policy.version,
            "w": self.policy.w,
            "cost_unit": self.policy.cost_unit,
            "rows": {name: source.rows for name, source in self.artifact.data.items()},
            "n_queries": 0 if self.query_hashes is None else len(self.query_hashes),
            **self.artifact.config,
            "metrics": self.artifact.metrics,
        }

    @property
    def query_hashes(self) -> NDArray[np.uint64] | None:
        """Hashes of the queries it was fitted on, sorted; None where it does not know.

        Made by :func:`metarouter.labels.queries.hash_queries`.
        """
        seen = self.artifact.parts.get("seen")
        return None if seen is None else seen.arrays["hash"]

    def route(self, query: AnyQuery) -> Decision:
        """Decide which model answers `query`.

        Parameters
        ----------
        query : str, Query, or sequence of messages with `role` and `content`

        Returns
        -------
        Decision

        Raises
        ------
        InputError
            When `query` is neither, or holds no text.
        """
        text = _routable(query)
        x = self.features.transform([text])
        gain = self.scorer.predict(x)
        costs = self.cost.costs(x, prompt_tokens([text], self.cost))
        return self.policy.decide_one(
            gain.mean.ravel().tolist(), gain.std.ravel().tolist(), costs[0].tolist()
        )

    def route_batch(self, queries: Sequence[AnyQuery]) -> list[Decision]:
        """One decision for each query; the same as :meth:`route` on each, faster.

        Raises
        ------
        OptionError
            When `queries` is one text.
        InputError
            When one of them cannot be routed.
        """
        texts = _texts(queries)
        if not texts:
            return []
        x = self.features.transform(texts)
        costs = self.cost.costs(x, prompt_tokens(texts, self.cost))
        return self.policy.decide(self.scorer.predict(x), costs)

    def predict_gain(self, queries: Sequence[AnyQuery]) -> GainEstimate:
        """Predicted quality gains over the reference model.

        Returns
        -------
        GainEstimate
            Shape (n,) for a pair, (n, n_models − 1) for a pool.

        Raises
        ------
        OptionError, InputError
            As :meth:`route_batch`.
        """
        x = self.features.transform(_texts(queries))
        gain = self.scorer.predict(x)
        shape: tuple[int, ...] = (len(x), len(self.models) - 1)
        shape = shape[:1] if len(self.models) == 2 else shape
        return GainEstimate(mean=gain.mean.reshape(shape), std=gain.std.reshape(shape))

    def expected_costs(self, queries: Sequence[AnyQuery]) -> FloatArray:
        """Expected cost of every model for every query, shape (n, n_models)."""
        texts = _texts(queries)
        return self.cost.costs(self.features.transform(texts), prompt_tokens(texts, self.cost))

    def with_policy(self, *, w: float, **config: Any) -> Router:
        """The same router with another price of cost.

        Parameters
        ----------
        w : float
            Gain units that one unit of cost has to buy.
        **config
            JSON values that replace entries of the artifact's config, to say
            how `w` was found.

        Returns
        -------
        Router
            With a policy version of its own.
        """
        state = policy_state(self.artifact.parts, w=w, cost_unit=self.policy.cost_unit)
        artifact = replace(
            self.artifact,
            parts={**self.artifact.parts, "policy": state},
            config=self.artifact.config | config,
        )
        return replace(self, artifact=artifact, policy=_load_policy(artifact))

    def for_pair(self, premium: str) -> Router:
        """The router of two of a pool's models: the reference model and `premium`.

        So a pair's router can learn from battles between many models. To have
        another reference, put it first before the fit
        (:func:`metarouter.labels.battles.reorder_models`).

        Parameters
        ----------
        premium : str, a model but the reference.

        Returns
        -------
        Router
            With the same gains, costs and price of cost: calibrate it again.
            What was measured at fitting was of the pool, so it has no metrics.

        Raises
        ------
        OptionError
            When `premium` is no candidate of this router.

        Examples
        --------
        >>> from metarouter.fitting import FitOptions, fit_table
        >>> from metarouter.labels.battles import read_battles
        >>> battles = [{"prompt": f"How tall is building number {i}?", "model_a": a, "model_b": b,
        ...     "winner": "model_a"} for i in range(9) for a, b in ("zy", "yx", "zx")]
        >>> table = read_battles(battles, cheap="y")
        >>> pool = fit_table(table, FitOptions(corrector="none", gain_model="knn", folds=0))
        >>> pool.models, pool.for_pair("z").models
        (('y', 'x', 'z'), ('y', 'z'))
        """
        if premium not in self.models[1:]:
            raise OptionError.of("premium", premium, f"one of {', '.join(self.models[1:])}")
        place, parts = self.models.index(premium), dict(self.artifact.parts)
        parts["gain"] = pair_view_state(parts["gain"], place - 1)
        parts["cost"] = keep_models(parts["cost"], [0, place])
        parts["policy"] = policy_state(parts, w=self.policy.w, cost_unit=self.policy.cost_unit)
        models = (self.models[0], premium)
        config = self.artifact.config | {"pool": list(self.models)}
        artifact = replace(self.artifact, models=models, parts=parts, config=config, metrics={})
        return type(self).from_artifact(artifact)

    def save(self, folder: str | Path) -> None:
        """Write the router to a folder; an interrupted save leaves the old one whole.

        Raises
        ------
        ArtifactError
            When the folder holds other files or cannot be written.
        """
        save_artifact(self.artifact, folder)


def query_text(query: AnyQuery) -> str:
    """The one text that features are made from.

    Raises
    ------
    InputError
        When `query` is neither a text nor a chat history.

    Examples
    --------
    >>> query_text([{"role": "user", "content": "Hi"}])
    'Hi'
    """
    if isinstance(query, str):
        return query
    if isinstance(query, Query):
        return query.text if query.messages is None else query_text(query.messages)
    if not isinstance(query, Sequence):
        raise InputError(f"query of type {type(query).__name__}; allowed: a text or messages")
    turns: list[Any] = [
        {"role": turn.role, "content": turn.content} if isinstance(turn, Message) else turn
        for turn in query
    ]
    problem = message_problem(turns)
    if problem is not None:
        raise InputError(f"messages: {problem}; allowed: objects with role and content")
    return render_messages(turns)


def _routable(query: AnyQuery) -> str:
    text = query_text(query)
    if not text.strip():
        raise InputError(f"query = {shorten(text)}; allowed: a text that is not blank")
    return text


def _texts(queries: Sequence[AnyQuery]) -> list[str]:
    # A text is a sequence too: each of its letters would pass as a query.
    if isinstance(queries, str):
        raise OptionError.of("queries", queries, "a list of queries; for one query: [query]")
    return [_routable(query) for query in queries]


def prompt_tokens(texts: Sequence[str], cost: CostModel) -> FloatArray | None:
    """Estimated tokens of each text, shape (n,); None where `cost` does not count them."""
    if cost.unit == "calls":
        return None
    return np.array([estimate_tokens(text) for text in texts], dtype=np.float64)


def policy_state(parts: Mapping[str, ModelState], *, w: float, cost_unit: str) -> ModelState:
    """State of the utility rule; its version names the rule and all it rests on.

    Parameters
    ----------
    parts : mapping with "features", "gain" and "cost"
    w : float
    cost_unit : str, "calls" or "USD"

    Returns
    -------
    ModelState
        The version is the first 12 hex digits of the sha256 of all that a
        decision depends on: equal versions decide alike.
    """
    digest = hashlib.sha256(f"{w!r} {cost_unit}".encode())
    for name in ("cost", "features", "gain"):
        state = parts[name]
        digest.update(f"{state.kind} {json.dumps(state.config, sort_keys=True)}".encode())
        for key in sorted(state.arrays):
            digest.update(key.encode() + state.arrays[key].tobytes())
    config = {"w": float(w), "cost_unit": cost_unit, "version": digest.hexdigest()[:12]}
    return ModelState(kind="utility", config=config)


def _load_policy(artifact: RouterArtifact) -> UtilityPolicy:
    state = artifact.parts["policy"]
    if state.kind != "utility":
        raise ArtifactError(f"policy kind = {state.kind!r}; allowed: utility; upgrade metarouter")
    try:
        return UtilityPolicy(
            models=artifact.models,
            w=state.config["w"],
            cost_unit=state.config["cost_unit"],
            version=state.config["version"],
        )
    except KeyError as error:
        raise ArtifactError(f"the policy lacks {error}: fit the router again") from error
