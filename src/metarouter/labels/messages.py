"""Chat histories as one text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from metarouter.labels.fields import is_encodable

__all__ = [
    "CHAT_ALLOWED",
    "CHAT_CELL",
    "message_problem",
    "read_chat",
    "read_query_chat",
    "render_messages",
]

CHAT_CELL = r"^\s*\[\s*\{"  # a JSON list of objects
_CHAT_CELL = re.compile(CHAT_CELL, re.ASCII)
CHAT_ALLOWED = "a list of {role, content}, content a text or a list of parts"


def render_messages(messages: Sequence[Mapping[str, Any]]) -> str:
    r"""Render a chat history to the one text that features are made from.

    Turns keep their order, except that the last user turn comes last: it is
    what the model is asked to answer. Turns of other roles start with the
    role's name; a history of one user turn is that turn's text, so plain
    queries and chats meet. Parts that are not text (images, audio) are left
    out.

    Parameters
    ----------
    messages : sequence of mappings
        Each with `role` (text) and `content`: a text, None, or a list of parts,
        each a text or a mapping with a `text`.

    Returns
    -------
    str
        Turns joined by a blank line; empty when no turn holds text.

    Examples
    --------
    >>> render_messages([{"role": "user", "content": "Hi"}])
    'Hi'
    >>> render_messages(
    ...     [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ... )
    'system: Be brief.\n\nHi'
    """
    turns = list(messages)
    # histories may end with the assistant, as after a tool call
    users = [i for i, turn in enumerate(turns) if turn["role"] == "user"]
    if users:
        turns.append(turns.pop(users[-1]))
    rendered = [(turn["role"], _text_of(turn.get("content"))) for turn in turns]
    return "\n\n".join(
        text if role == "user" else f"{role}: {text}" for role, text in rendered if text
    )


def message_problem(value: object) -> str | None:
    """Say what keeps `value` from being a chat history, or None when it is one.

    Examples
    --------
    >>> message_problem([{"role": "user", "content": "Hi"}]) is None
    True
    >>> message_problem([{"content": "Hi"}])
    'a message without a role'
    """
    if not isinstance(value, list | tuple):
        return "not a list"
    for turn in value:
        if not isinstance(turn, Mapping):
            return "a message that is not an object"
        if not isinstance(turn.get("role"), str) or not turn["role"].strip():
            return "a message without a role"
        if not _is_content(turn.get("content")):
            return "a message whose content is neither a text nor a list of parts"
    return None


def read_chat(cell: object) -> tuple[Sequence[Mapping[str, Any]], str] | None:
    """The chat of a field `messages`, and its text; None where it holds none.

    A table of text has chats as JSON. One whose text is no valid Unicode is none.

    Examples
    --------
    >>> read_chat('[{"role": "user", "content": "Hi"}]')
    ([{'role': 'user', 'content': 'Hi'}], 'Hi')
    """
    chat: Any = _decoded(cell) if isinstance(cell, str) else cell
    if message_problem(chat) is not None:
        return None
    text = render_messages(chat)
    return (chat, text) if is_encodable(text) else None


def read_query_chat(cell: object) -> tuple[Sequence[Mapping[str, Any]], str] | None:
    """The chat of a field `query`, and its text; None of a plain text, however it looks.

    Examples
    --------
    >>> read_query_chat('[{"role": "user", "content": "Hi"}]') is None
    False
    >>> read_query_chat("[{what is this?}]") is None
    True
    """
    # parsing is slow: only texts that start like a chat are tried
    if isinstance(cell, str) and _CHAT_CELL.match(cell) is None:
        return None
    return read_chat(cell)


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None


def _is_content(content: object) -> bool:
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(isinstance(part, str | Mapping) for part in content)


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return (content or "").strip()
    texts = (part if isinstance(part, str) else part.get("text") for part in content)
    return "\n".join(text for text in texts if isinstance(text, str)).strip()
