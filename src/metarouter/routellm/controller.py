"""RouteLLM's ``Controller`` on metarouter's routers."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from metarouter.errors import OptionError, shorten
from metarouter.labels.messages import message_problem
from metarouter.routellm.completions import (
    Upstream,
    last_user_text,
    wait_for,
)
from metarouter.routellm.names import RoutingError, check_threshold, parse_router_name
from metarouter.routellm.settings import Config, make_win_rater, read_config
from metarouter.routellm.streams import iterate, stream_chat
from metarouter.routellm.win_rates import WinRater
from metarouter.types import FloatArray

__all__ = ["Controller", "ModelPair"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelPair:
    """The two models that a request may go to."""

    strong: str
    weak: str


class Controller:
    """Routes prompts between two models by win rate and threshold, as RouteLLM's does.

    Nothing is fetched and no key is read before a completion is asked for.
    Thread-safe.

    Parameters
    ----------
    routers : list of str, or mapping of str to callable
        Names whose options are in `config` (``random`` needs none), or routers
        of your own: functions from prompts to win rates, shape (n,).
    strong_model, weak_model : str, as the endpoint calls them.
    config : mapping or path of a YAML file, optional; see
        :func:`metarouter.routellm.settings.make_win_rater`.
    api_base, api_key : str, optional
        OpenAI's endpoint and ``OPENAI_API_KEY`` by default; that key goes to no
        other address, unless given here.
    progress_bar : bool, default False
        Say on stderr which router is loaded.

    Attributes
    ----------
    model_pair : ModelPair
    model_counts : dict of router to a Counter of models, completions so far.

    Raises
    ------
    OptionError
        When a router has no checkpoint, or knows more than two models and
        neither these nor those of its config.

    Examples
    --------
    >>> controller = Controller(routers=["random"], strong_model="large", weak_model="small")
    >>> controller.route("What is 2 + 2?", "random", 0.0)
    'large'
    """

    def __init__(
        self,
        routers: Sequence[str] | Mapping[str, WinRater],
        strong_model: str,
        weak_model: str,
        config: Config | None = None,
        api_base: str | None = None,
        api_key: str | None = None,
        progress_bar: bool = False,
    ) -> None:
        if isinstance(routers, str):
            raise OptionError.of("routers", routers, "a list of names")
        self.model_pair = ModelPair(strong=strong_model, weak=weak_model)
        self.routers: dict[str, WinRater] = {}
        self.upstream = Upstream(base_url=api_base, api_key=api_key)
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in routers}
        self._lock = threading.Lock()
        options = read_config(config)
        for name in routers:
            if progress_bar:
                sys.stderr.write(f"Loading {name}\n")
            self.routers[name] = (
                routers[name]
                if isinstance(routers, Mapping)
                else make_win_rater(name, options.get(name, {}), strong_model, weak_model)
            )
        # The shape of OpenAI's client.
        self.chat = SimpleNamespace(
            completions=SimpleNamespace(create=self.completion, acreate=self.acompletion)
        )

    @property
    def model_counts(self) -> dict[str, Counter[str]]:
        """How many completions each router has sent to each model."""
        with self._lock:
            return {name: Counter(counts) for name, counts in self._counts.items()}

    def route(self, prompt: str, router: str, threshold: float) -> str:
        """The model for a prompt: strong where its win rate is at least the threshold.

        Raises
        ------
        RoutingError
            When the router is unknown, the threshold is not from 0 to 1, or
            the prompt holds no text.
        """
        threshold = check_threshold(threshold)
        if not isinstance(prompt, str) or not prompt.strip():
            raise RoutingError(f"prompt = {shorten(prompt)}; allowed: a text that is not blank")
        wins = float(self._rater(router)([prompt])[0])
        return self.model_pair.strong if wins >= threshold else self.model_pair.weak

    def batch_calculate_win_rate(self, prompts: Iterable[str], router: str) -> FloatArray:
        """Win rates of the strong model, shape (n,), in the order of the prompts.

        Parameters
        ----------
        prompts : sequence or Series of str
        router : str
        """
        texts = list(prompts)
        return np.asarray(self._rater(router)(texts)) if texts else np.zeros(0)

    def completion(
        self, *, router: str | None = None, threshold: float | None = None, **request: Any
    ) -> Any:
        """A chat completion of the model that the router chose.

        Parameters
        ----------
        router, threshold : or `model`, a name like ``router-mf-0.11593``, which
            goes first.
        **request
            Any field of the request; all but `model` are sent as they are.

        Returns
        -------
        :class:`~metarouter.routellm.completions.Completion`, or with
        ``stream=True`` an iterator over its pieces.

        Raises
        ------
        RoutingError
            When the request cannot be routed.
        CallError
            When the endpoint failed; after retries, where nothing is streamed.
        """
        routed = wait_for(self._routed(router, threshold, request))
        if routed.get("stream"):
            return iterate(stream_chat(self.upstream.endpoint(), routed))
        return wait_for(self.upstream.ask(routed))

    async def acompletion(
        self, *, router: str | None = None, threshold: float | None = None, **request: Any
    ) -> Any:
        """The same, awaited; features are computed in a thread of their own."""
        routed = await self._routed(router, threshold, request)
        if routed.get("stream"):
            return stream_chat(self.upstream.endpoint(), routed)
        return await self.upstream.ask(routed)

    async def _routed(
        self, router: str | None, threshold: float | None, request: dict[str, Any]
    ) -> dict[str, Any]:
        """The request as it is sent on."""
        if "model" in request:
            router, threshold = parse_router_name(request["model"])
        if router is None or threshold is None:
            raise RoutingError(
                "no router and threshold; allowed: model='router-NAME-THRESHOLD', or both of "
                "router= and threshold="
            )
        messages = _messages(request.get("messages"))
        text = last_user_text(messages)
        model = await asyncio.to_thread(self.route, text, router, threshold)
        with self._lock:
            self._counts.setdefault(router, Counter())[model] += 1
        return request | {"messages": messages, "model": model}

    def _rater(self, router: str) -> WinRater:
        if router not in self.routers:
            known = ", ".join(self.routers) or "none"
            raise RoutingError(f"router = {shorten(router)}; allowed: {known}")
        return self.routers[router]


def _messages(messages: Any) -> list[Any]:
    """The chat history; a text alone is one user turn."""
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    problem = message_problem(messages)
    if problem is not None:
        raise RoutingError(f"messages: {problem}; allowed: objects with role and content")
    return list(messages)
