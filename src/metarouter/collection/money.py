"""What a request costs, exactly, and the most that it can cost.

Money is counted in whole picodollars (10⁻¹² USD): a price of one USD per
million tokens is 10⁶ of them a token, and sums of integers do not round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from metarouter.errors import OptionError
from metarouter.providers.chat import ChatRequest
from metarouter.records import ModelSpec

__all__ = ["PICO", "cost_of", "is_text", "prompt_token_bound", "to_pico", "to_usd", "worst_cost"]

PICO = 10**12
# What a chat template may add: a built-in system prompt, and marks around each message.
_TEMPLATE_TOKENS = 64
_MESSAGE_TOKENS = 8


def cost_of(spec: ModelSpec, prompt_tokens: int, completion_tokens: int) -> int | None:
    """Cost in picodollars; None when the price is unknown.

    Examples
    --------
    >>> spec = ModelSpec(name="m", input_usd_per_mtok=0.5, output_usd_per_mtok=2.0)
    >>> to_usd(cost_of(spec, 1000, 100))
    0.0007
    """
    if spec.input_usd_per_mtok is None or spec.output_usd_per_mtok is None:
        return None
    input_price, output_price = map(_per_token, (spec.input_usd_per_mtok, spec.output_usd_per_mtok))
    return input_price * prompt_tokens + output_price * completion_tokens


def worst_cost(spec: ModelSpec, request: ChatRequest) -> int | None:
    """The most that a request can cost, in picodollars; None when nobody can know.

    That is where the price is unknown, or the prompt holds more than text.
    """
    if not is_text(request.messages):
        return None
    return cost_of(spec, prompt_token_bound(request.messages), request.max_tokens)


def is_text(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the messages hold text alone; bytes do not bound the tokens of an image.

    Examples
    --------
    >>> is_text([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])
    False
    """
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return all(isinstance(part, str) or part.get("type", "text") == "text" for part in parts)


def prompt_token_bound(messages: Sequence[Mapping[str, Any]]) -> int:
    """Upper bound of the tokens of a prompt of text.

    A token of every tokenizer in use stands for at least one byte, so the bytes
    of the messages as JSON bound their tokens; what a chat template adds is
    allowed for. For English text the bound is about four times the count.

    Raises
    ------
    OptionError
        When a message holds parts other than text, which bytes do not bound.

    Examples
    --------
    >>> prompt_token_bound([{"role": "user", "content": "Hi"}])
    104
    """
    if not is_text(messages):
        raise OptionError(
            "a message holds a part that is not text, whose tokens are not known before it is "
            "sent; allowed: text only where a budget is to be kept"
        )
    size = len(msgspec.json.encode(list(messages)))
    return size + _MESSAGE_TOKENS * len(messages) + _TEMPLATE_TOKENS


def to_pico(usd: float) -> int:
    """USD as whole picodollars, rounded down: a budget must not grow.

    Examples
    --------
    >>> to_pico(0.1)
    100000000000
    """
    return math.floor(Decimal(repr(usd)) * PICO)


def to_usd(pico: int) -> float:
    """Picodollars as USD."""
    return pico / PICO


def _per_token(usd_per_mtok: float) -> int:
    """Price of a token, rounded up: a cost must not shrink."""
    return math.ceil(Decimal(repr(usd_per_mtok)) * (PICO // 10**6))
