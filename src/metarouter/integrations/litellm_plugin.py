"""A routing plugin for LiteLLM (from 1.94 on) that imports nothing of it.

LiteLLM takes any object with an asynchronous ``run(context)``. Of several
deployments under one name the plugin leaves those of the model that the router
chooses. See ``deploy/litellm``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from metarouter.errors import InputError, OptionError
from metarouter.loading import load
from metarouter.records import Decision
from metarouter.router import Router

__all__ = ["MetarouterPlugin", "RoutingContext", "plugin"]

_VARIABLE = "METAROUTER_ROUTER"


class RoutingContext(Protocol):
    """The part of LiteLLM's context that the plugin uses.

    Attributes
    ----------
    structured_messages : the conversation as OpenAI's chat has it.
    candidate_models : deployments' models, such as ``openai/gpt-4o``.
    signals : what plugins tell the ones after them, and the log.
    """

    structured_messages: list[dict[str, Any]]
    candidate_models: list[str]
    signals: dict[str, Any]


C = TypeVar("C", bound=RoutingContext)


class MetarouterPlugin:
    """Narrows LiteLLM's candidates to the model that a router chooses.

    Parameters
    ----------
    router : Router, optional
        By default the folder that ``METAROUTER_ROUTER`` names, read when the
        first request comes.
    names : mapping, optional
        The router's name of a model to LiteLLM's, where they differ by more than
        the provider before the slash.

    Notes
    -----
    The choice is the best by utility among the candidates; a candidate that the
    router does not know is never chosen while another is there. Where there is
    nothing to choose (no text, or no candidate that the router knows) the
    candidates stay as they are, and the signal says why.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from metarouter.fitting import fit
    >>> from metarouter.testing import make_world
    >>> from metarouter.testing.worlds import gold_records
    >>> world = make_world(n_queries=60, n_gold=60, n_test=0)
    >>> router = fit(gold=gold_records(world.table), embedder="surface", folds=0)
    >>> context = SimpleNamespace(
    ...     structured_messages=[{"role": "user", "content": "What is 2 + 2?"}],
    ...     candidate_models=["a/cheap", "b/premium"],
    ...     signals={},
    ... )
    >>> left = asyncio.run(MetarouterPlugin(router).run(context))
    >>> len(left.candidate_models), left.signals["metarouter"]["model"] in router.models
    (1, True)
    """

    def __init__(
        self, router: Router | None = None, names: Mapping[str, str] | None = None
    ) -> None:
        self._router = router
        self._names = dict(names or {})

    async def run(self, context: C) -> C:
        """Narrow the candidates of a request, and say why in its signals.

        Raises
        ------
        OptionError
            When no router was given and ``METAROUTER_ROUTER`` is not set.
        """
        router = self._router
        if router is None:
            router = self._router = await asyncio.to_thread(_load)
        known = {model: self._matching(model, context.candidate_models) for model in router.models}
        if not any(known.values()):
            context.signals["metarouter"] = {"skipped": "the router knows none of the candidates"}
            return context
        try:
            decision = await _decide(router, context.structured_messages)
        except InputError as error:
            context.signals["metarouter"] = {"skipped": str(error)}
            return context
        model = next(option.model for option in decision.options if known[option.model])
        context.candidate_models = known[model]
        context.signals["metarouter"] = _signal(decision, model)
        return context

    def _matching(self, model: str, candidates: Sequence[str]) -> list[str]:
        """Candidates that are this model, at whichever provider."""
        name = self._names.get(model, model)
        return [one for one in candidates if one == name or one.partition("/")[2] == name]


async def _decide(router: Router, messages: list[dict[str, Any]]) -> Decision:
    """The decision; in a thread where the router asks another machine for embeddings."""
    if router.features.endpoints:
        return await asyncio.to_thread(router.route, messages)
    return router.route(messages)


def _signal(decision: Decision, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "preferred": decision.model,
        "predicted_gain": decision.predicted_gain,
        "threshold": decision.threshold,
        "reason": decision.reason,
        "policy_version": decision.policy_version,
    }


def _load() -> Router:
    folder = os.environ.get(_VARIABLE)
    if not folder:
        raise OptionError(f"{_VARIABLE} is not set; allowed: a folder of `metarouter fit`")
    return load(folder)


plugin = MetarouterPlugin()
"""The one that LiteLLM's configuration names; it reads nothing before its first request."""
