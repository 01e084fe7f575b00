"""What a request follows, and so what it stays with.

* ``previous_response_id`` of ``/v1/responses``: the earlier turns are at one
  upstream, so the request goes there, to the model that holds them.
* A conversation's id, given by the caller: its requests stay with one model.
* The step of a tool loop stays with the model whose calls it brings the results of,
  found by their ids; where those are unknown, with the model that answered the same
  text last.
* Any other later turn is decided anew, but the upstream's prompt cache may hold
  its earlier turns. That is worth the tokens' discount to the model that filled it,
  or what the policy's `switch_cost` says, and weighs against changing the model.
  The conversation is recognised by its earlier turns.

Other processes know of responses, of conversations with an id and of tool calls
through the store (:mod:`metarouter.gateway.recalling`). What is remembered by text
alone is this process's own: it costs a row a request to share, and says little.
"""

from __future__ import annotations

import re

import msgspec

from metarouter.gateway.conversation import Conversation, digest_text
from metarouter.gateway.deciding import CachedPrompt
from metarouter.gateway.options import RequestOptions
from metarouter.gateway.settings import GatewaySettings
from metarouter.gateway.spending import Prices
from metarouter.gateway.sticky import Kept, StickyModels
from metarouter.policy.costs import estimate_tokens

__all__ = [
    "Follower",
    "Following",
    "call_name",
    "conversation_identity",
    "follow",
    "read_call_ids",
    "read_response_id",
    "response_name",
]

_LEAST_CACHED = 1024  # tokens; providers cache no shorter prompts


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """A request's place among others.

    Attributes
    ----------
    conversation : its identity, as rows of decisions have it.
    text_name : what the answer is remembered under here; "" for nothing.
    shared : what it is remembered under by other processes too.
    kept : who it stays with, or None.
    why : what keeps it there.
    cached : what changing the model would lose, or None.
    """

    conversation: str
    text_name: str = ""
    shared: tuple[str, ...] = ()
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


_CALLS = re.compile(  # some upstreams say `"tool_calls": []` and `"function_call": null`
    rb'"tool_calls"\s*:\s*\[\s*\{|"type"\s*:\s*"(?:tool_use|(?:custom_tool|function)_call)"'
)
_IDS = re.compile(rb'"(?:call_)?id"\s*:\s*"([^"\\]{1,200})"')
_MOST_CALLS = 32  # of one answer


def read_call_ids(content: bytes) -> list[str]:
    r"""Ids in an answer that calls tools, those of its calls among them; none in others.

    What is inside a string is not found, because its quotation marks are escaped.

    Examples
    --------
    >>> read_call_ids(b'{"tool_calls": [{"id": "call_1", "function": {"arguments": "{}"}}]}')
    ['call_1']
    >>> read_call_ids(b'{"id": "chatcmpl-1", "content": "\\"tool_calls\\""}')
    []
    """
    if _CALLS.search(content) is None:
        return []
    found = dict.fromkeys(match[1] for match in _IDS.finditer(content))
    return [name.decode("utf-8", "replace") for name in list(found)[-_MOST_CALLS:]]


def conversation_identity(owner: str, conversation: Conversation, options: RequestOptions) -> str:
    """What a conversation's requests share: the caller's id for it, else how it begins."""
    given = options.conversation
    return digest_text(f"{owner}|{conversation.first if given is None else given!r}")


def call_name(text_name: str, call: str) -> str:
    """What the answer with a tool call is remembered under.

    The text is part of it: some upstreams count their calls from 0 in each answer.
    """
    return f"{text_name}|{call}"


class Follower(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may follow others.

    Attributes
    ----------
    owner : id of the caller's key, or "".
    policy : as it was asked for; each has conversations of its own.
    conversation : Conversation
    options : RequestOptions
    is_loose : whether nothing is remembered by text.
    """

    owner: str
    policy: str
    conversation: Conversation
    options: RequestOptions
    is_loose: bool = False

    @property
    def given_name(self) -> str:
        """What is remembered under the caller's id of the conversation; "" without one."""
        given, options = self.options.conversation, self.options
        # a pin is about one request: what follows in the conversation stays where it was
        is_named = given is not None and options.pin is None
        return f"{self.owner}|{self.policy}|conversation|{given}" if is_named else ""

    @property
    def sought(self) -> tuple[str, ...]:
        """Names that somebody answered under, if anybody did; the best one first."""
        calls = () if self.is_loose else self.conversation.calls
        given, text = self.given_name, self.text_name(self.conversation.text) if calls else ""
        return (*((given,) if given else ()), *(call_name(text, call) for call in calls))

    def text_name(self, text: str) -> str:
        """What is remembered under a text; "" for nothing."""
        return "" if self.is_loose else f"{self.owner}|{self.policy}|loop|{digest_text(text)}"


def follow(
    memory: StickyModels,
    settings: GatewaySettings,
    prices: Prices,
    follower: Follower,
    *,
    is_cached: bool,
) -> Following:
    """A request's place among others, by what is remembered of them.

    Parameters
    ----------
    memory : StickyModels
    settings : GatewaySettings
    prices : of prompts that a cache holds.
    follower : the request.
    is_cached : whether upstreams cache a prompt that is sent like this.
    """
    conversation, given = follower.conversation, follower.given_name
    text, kept, cached = follower.text_name(conversation.text), None, None
    if given or conversation.is_tool_step:
        # the same text begins other conversations too: it tells nothing but of a step
        is_told = conversation.is_tool_step and conversation.text
        sought = (*follower.sought, *([text] if is_told else []))
        kept = next(filter(None, map(memory.get, sought)), None)
    elif text and (earlier := conversation.earlier) is not None:
        last = memory.get(follower.text_name(earlier), settings.cache_seconds)
        cached = None if last is None else _cached(last.model, earlier, prices, is_cached)
    return Following(
        conversation=conversation_identity(follower.owner, conversation, follower.options),
        text_name=text,
        shared=(given,) if given else (),
        kept=kept,
        why="the conversation" if given else "the tool loop",
        cached=cached,
    )


def _cached(model: str, text: str, prices: Prices, is_cached: bool) -> CachedPrompt:
    tokens = estimate_tokens(text)
    dollars = prices.cache_saving(model) * tokens
    return CachedPrompt(
        model=model, dollars=dollars if is_cached and tokens >= _LEAST_CACHED else 0.0
    )
