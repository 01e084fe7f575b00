"""Dollars for the tokens that an upstream counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from metarouter.gateway.settings import GatewaySettings
from metarouter.gateway.wire import Usage
from metarouter.policy.prices import find_cached_price, find_price
from metarouter.records import ModelSpec

__all__ = ["Prices", "charged_usage"]

_MOST_NAMES = 4096  # callers choose names where an upstream serves every one
_BYTES_OF_A_TOKEN = 4  # of a JSON answer
_BYTES_OF_AN_EVENT = 200  # of a stream, which has about one event a token


def charged_usage(
    counted: Usage, *, prompt_tokens: int, answer_bytes: int, is_stream: bool, is_whole: bool
) -> Usage:
    """Tokens that a key is charged for an answer.

    Parameters
    ----------
    counted : Usage, what the upstream said.
    prompt_tokens : int, estimate from the request.
    answer_bytes : int, of the answer so far.
    is_stream : bool, whether they are a stream of events.
    is_whole : bool, whether the answer came to its end.

    Returns
    -------
    Usage
        `counted` where that is all; else what was not counted is estimated:
        an upstream that is not asked for usage in a stream, or a caller who
        leaves early, must not be free of charge.

    Examples
    --------
    >>> charged_usage(Usage(), prompt_tokens=9, answer_bytes=2000, is_stream=True, is_whole=True)
    Usage(prompt_tokens=9, completion_tokens=10, cached_tokens=0)
    """
    if is_whole and counted != Usage():
        return counted
    size = _BYTES_OF_AN_EVENT if is_stream else _BYTES_OF_A_TOKEN
    return Usage(
        prompt_tokens=prompt_tokens if counted.prompt_tokens is None else counted.prompt_tokens,
        completion_tokens=max(counted.completion_tokens or 0, answer_bytes // size),
        cached_tokens=counted.cached_tokens,
    )


class Prices:
    """What models cost: as the settings say, else by the bundled price list.

    A model without a price in the settings is looked up by its name at the first
    upstream that has one of known price. :meth:`warm` reads the list, so that no
    request waits for it.

    Parameters
    ----------
    settings : GatewaySettings
    on_unknown : called when the tokens of a model without a price are asked for.

    Examples
    --------
    >>> from metarouter.gateway.settings import read_settings
    >>> given = {"upstreams": {"a": {"base_url": "http://127.0.0.1:9/v1"}},
    ...          "prices": {"small": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0}}}
    >>> prices = Prices(read_settings(overrides=given))
    >>> prices.dollars("small", Usage(prompt_tokens=1_000_000, completion_tokens=500_000))
    3.0
    """

    def __init__(
        self, settings: GatewaySettings, on_unknown: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._on_unknown = on_unknown
        self._price = lru_cache(_MOST_NAMES)(self._find)
        self._saving = lru_cache(_MOST_NAMES)(self._find_saving)

    def warm(self) -> None:
        """Look up what may be asked for, which reads the price list: half a second."""
        for upstream in self._settings.upstreams.values():
            # of an upstream that serves every name, none is known: any name reads the list
            for model in upstream.models or ("gpt-4o",):
                self._price(model)

    def knows(self, model: str) -> bool:
        """Whether the price of a model is known."""
        return self._price(model) is not None

    def cache_saving(self, model: str) -> float:
        """Dollars that a prompt token costs less when a prompt cache holds it; 0 where unknown."""
        return self._saving(model)

    def dollars(self, model: str, usage: Usage) -> float | None:
        """Dollars for counted tokens.

        Parameters
        ----------
        model : str, as the gateway calls it.
        usage : Usage

        Returns
        -------
        float or None
            None where no token was counted or no price is known. Tokens that a
            prompt cache held cost what the price of cached input says; those
            that were written to one cost as much as others, which is less than
            some providers charge.
        """
        if usage.prompt_tokens is None and usage.completion_tokens is None:
            return None
        price = self._price(model)
        if price is None or (usage.completion_tokens and price.output_usd_per_mtok is None):
            self._on_unknown()
            return None
        prompt = (usage.prompt_tokens or 0) * (price.input_usd_per_mtok or 0.0)
        answer = (usage.completion_tokens or 0) * (price.output_usd_per_mtok or 0.0)
        saved = usage.cached_tokens * self.cache_saving(model) if usage.cached_tokens else 0.0
        return (prompt + answer) / 1e6 - saved

    def _find(self, model: str) -> ModelSpec | None:
        given = self._settings.prices.get(model)
        if given is not None:
            return ModelSpec(
                name=model,
                input_usd_per_mtok=given.input_usd_per_mtok,
                output_usd_per_mtok=given.output_usd_per_mtok,
            )
        return next((spec for name in self._names(model) if (spec := find_price(name))), None)

    def _find_saving(self, model: str) -> float:
        price, given = self._price(model), self._settings.prices.get(model)
        if price is None or price.input_usd_per_mtok is None:
            return 0.0
        if given is not None:
            cached = given.cached_input_usd_per_mtok
        else:
            found = map(find_cached_price, self._names(model))
            cached = next((dollars for dollars in found if dollars is not None), None)
        return 0.0 if cached is None else max(0.0, price.input_usd_per_mtok - cached) / 1e6

    def _names(self, model: str) -> Iterator[str]:
        """What upstreams call the model."""
        upstreams = self._settings.upstreams.values()
        names = (up.models.get(model) if up.models else model for up in upstreams)
        return (name for name in names if name)
