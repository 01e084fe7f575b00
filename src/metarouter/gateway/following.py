"""What a request follows, and so what it stays with.

* ``previous_response_id`` of ``/v1/responses``: the earlier turns are at one
  upstream, so the request goes there, to the model that holds them.
* A conversation's id, given by the caller: its requests stay with one model.
* The step of a tool loop stays with the model that began it.
* Any other later turn is decided anew, but the upstream's prompt cache may hold
  its earlier turns. That is worth the tokens' discount to the model that filled it,
  or what the policy's `switch_cost` says, and weighs against changing the model.
  The conversation is recognised by its earlier turns.

Who answered what is in the memory of this process alone. A request that another
process began is decided anew; the steps of a tool loop get the same decision
there too, exploration and splits by request apart, as they are routed on the same
text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from metarouter.gateway.conversation import Conversation, digest_text
from metarouter.gateway.deciding import CachedPrompt
from metarouter.gateway.options import RequestOptions
from metarouter.gateway.settings import GatewaySettings
from metarouter.gateway.spending import Prices
from metarouter.gateway.sticky import Kept, StickyModels
from metarouter.policy.costs import estimate_tokens

__all__ = [
    "Following",
    "conversation_identity",
    "follow",
    "read_response_id",
    "response_name",
]

_LEAST_CACHED = 1024  # tokens; providers cache no shorter prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Following:
    """A request's place among others.

    Attributes
    ----------
    conversation : its identity, as rows of decisions have it.
    names : what the answer is remembered under.
    kept : who it stays with, or None.
    why : what keeps it there.
    cached : what changing the model would lose, or None.
    """

    conversation: str
    names: tuple[str, ...] = ()
    kept: Kept | None = None
    why: str = ""
    cached: CachedPrompt | None = None


def response_name(owner: str, response: str) -> str:
    """What the answer with an id is remembered under."""
    return f"{owner}|response|{response}"


class _Response(msgspec.Struct):
    id: str = ""


_RESPONSE = msgspec.json.Decoder(_Response)
_RESPONSE_EVENT = re.compile(rb'"response"\s*:\s*\{[^{}]*?"id"\s*:\s*"([^"\\]{1,200})"')


def read_response_id(content: bytes, *, is_stream: bool) -> str | None:
    """The id of a response, in its JSON or in the first bytes of its events.

    Examples
    --------
    >>> read_response_id(b'{"object": "response", "id": "resp_1"}', is_stream=False)
    'resp_1'
    >>> event = b'data: {"type": "response.created", "response": {"id": "resp_1", "ob'
    >>> read_response_id(event, is_stream=True)
    'resp_1'
    """
    if is_stream:
        found = _RESPONSE_EVENT.search(content)
        return None if found is None else found[1].decode("utf-8", "replace")
    try:
        return _RESPONSE.decode(content).id or None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def conversation_identity(owner: str, conversation: Conversation, options: RequestOptions) -> str:
    """What a conversation's requests share: the caller's id for it, else how it begins."""
    given = options.conversation
    return digest_text(f"{owner}|{conversation.first if given is None else given!r}")


def follow(
    memory: StickyModels,
    settings: GatewaySettings,
    prices: Prices,
    *,
    owner: str,
    policy: str,
    conversation: Conversation,
    options: RequestOptions,
    is_cached: bool,
) -> Following:
    """A request's place among others, by what is remembered of them.

    Parameters
    ----------
    memory : StickyModels
    settings : GatewaySettings
    prices : of prompts that a cache holds.
    owner : id of the caller's key, or "".
    policy : as it was asked for; each has conversations of its own.
    conversation : Conversation
    options : RequestOptions
    is_cached : whether upstreams cache a prompt that is sent like this.
    """
    given, space = options.conversation, f"{owner}|{policy}"
    identity = conversation_identity(owner, conversation, options)
    # a pin is about one request: what follows in the conversation stays where it was
    is_named = given is not None and options.pin is None
    named = (f"{space}|conversation|{given}",) if is_named else ()
    loops = () if settings.sticky == "off" else (f"{space}|loop|{conversation.digest}",)
    names = (*named, *loops)
    if named or conversation.is_tool_step:
        # the same text begins other conversations too: it tells nothing but of a step
        sought = names if conversation.is_tool_step else named
        kept = next(filter(None, map(memory.get, sought)), None)
        why = "the conversation" if named else "the tool loop"
        return Following(conversation=identity, names=names, kept=kept, why=why)
    cached = None
    if settings.sticky != "off" and conversation.earlier is not None:
        name = f"{space}|loop|{digest_text(conversation.earlier)}"
        last = memory.get(name, settings.cache_seconds)
        if last is not None:
            cached = _cached(last.model, conversation.earlier, prices, is_cached)
    return Following(conversation=identity, names=names, cached=cached)


def _cached(model: str, text: str, prices: Prices, is_cached: bool) -> CachedPrompt:
    tokens = estimate_tokens(text)
    dollars = prices.cache_saving(model) * tokens
    return CachedPrompt(
        model=model, dollars=dollars if is_cached and tokens >= _LEAST_CACHED else 0.0
    )
