"""What a request asks, as text to route on, in each of the three protocols.

A request is routed on the conversation as :func:`render_messages` renders it,
the last user turn last. The steps of a tool loop are routed on the conversation
up to the user turn that began the loop: every step then gets the decision of the
first one, on every process, without memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any

import msgspec

from metarouter.gateway.wire import Body
from metarouter.labels.messages import message_problem, render_messages

__all__ = [
    "Conversation",
    "digest_text",
    "read_chat",
    "read_messages",
    "read_nothing",
    "read_responses",
]

Turn = Mapping[str, Any]

_CALL_FIELDS = "tool_call_id", "call_id", "tool_use_id"  # one in each protocol
_MOST_CALLS = 16  # of one step
_LONGEST_CALL = 200  # characters of an id
_TOOL_ITEMS = frozenset({"function_call_output", "custom_tool_call_output", "mcp_call"})


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """The text to route on, and what it is part of.

    Attributes
    ----------
    text : "" where nothing can be read, such as for an image alone.
    is_tool_step : whether the request continues a tool loop.
    calls : ids of the calls whose results it brings, as far as it has any.
    turns : what the text was made from.
    questions : places of the users' turns among them.
    """

    text: str
    is_tool_step: bool = False
    calls: tuple[str, ...] = ()
    turns: Sequence[Turn] = ()
    questions: Sequence[int] = ()

    @property
    def first(self) -> str:
        """The text up to the first question: the same for all requests of a conversation."""
        return self._until(self.questions[0]) if len(self.questions) > 1 else self.text

    @property
    def earlier(self) -> str | None:
        """The text of the request before the last question; None for a first question."""
        return self._until(self.questions[-2]) if len(self.questions) > 1 else None

    def _until(self, turn: int) -> str:
        return render_messages(self.turns[: turn + 1])


def digest_text(text: str) -> str:
    """Identity of a text, in 32 hex digits."""
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_chat(body: Body) -> Conversation:
    r"""The conversation of a chat completion request.

    Examples
    --------
    >>> from metarouter.gateway.wire import read_body
    >>> read_chat(read_body(b'{"messages": [{"role": "user", "content": "Hi"}]}')).text
    'Hi'
    """
    turns = _turns(body.value("messages", object))
    return _conversation([], turns, lambda turn: turn.get("role") in ("tool", "function"))


def read_messages(body: Body) -> Conversation:
    """The conversation of an Anthropic messages request."""
    system = body.value("system", object)
    head = [] if system is None else [{"role": "system", "content": system}]
    return _conversation(head, _turns(body.value("messages", object)), _holds_tool_result)


def read_responses(body: Body) -> Conversation:
    """The conversation of a responses request."""
    given = body.value("input", object)
    turns = [{"role": "user", "content": given}] if isinstance(given, str) else _turns(given)
    instructions = body.value("instructions", object)
    head = [] if instructions is None else [{"role": "system", "content": instructions}]
    return _conversation(head, turns, lambda turn: turn.get("type") in _TOOL_ITEMS)


def read_nothing(body: Body) -> Conversation:
    """No conversation: what cannot be routed."""
    return Conversation(text="")


def _turns(value: object) -> list[Turn]:
    return [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []


def _holds_tool_result(turn: Turn) -> bool:
    content = turn.get("content")
    return isinstance(content, list) and any(
        isinstance(part, Mapping) and part.get("type") == "tool_result" for part in content
    )


def _conversation(
    head: Sequence[Turn], turns: Sequence[Turn], is_tool: Callable[[Turn], bool]
) -> Conversation:
    is_step = bool(turns) and is_tool(turns[-1])
    calls: tuple[str, ...] = ()
    if is_step:
        calls = _calls(turns, is_tool)
        turns = turns[: _last_question(turns, is_tool) + 1]
    readable = [turn for turn in (*head, *turns) if message_problem([turn]) is None]
    asked = [i for i, turn in enumerate(readable) if turn["role"] == "user" and not is_tool(turn)]
    text = render_messages(readable)
    return Conversation(
        text=text, is_tool_step=is_step, calls=calls, turns=readable, questions=asked
    )


def _calls(turns: Sequence[Turn], is_tool: Callable[[Turn], bool]) -> tuple[str, ...]:
    """Ids of the calls whose results come last, last one first."""
    results = (part for turn in takewhile(is_tool, reversed(turns)) for part in _parts(turn))
    given = (part.get(name) for part in results for name in _CALL_FIELDS)
    named = (one for one in given if isinstance(one, str) and 0 < len(one) <= _LONGEST_CALL)
    return tuple(islice(named, _MOST_CALLS))


def _parts(turn: Turn) -> Iterator[Turn]:
    """A turn, and what its content is made of."""
    yield turn
    content = turn.get("content")
    if isinstance(content, list):
        yield from (part for part in reversed(content) if isinstance(part, Mapping))


def _last_question(turns: Sequence[Turn], is_tool: Callable[[Turn], bool]) -> int:
    asked = (i for i in reversed(range(len(turns))) if turns[i].get("role") == "user")
    return next((i for i in asked if not is_tool(turns[i])), len(turns) - 1)
