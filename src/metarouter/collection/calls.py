"""A request whose answer is wanted once, whatever happens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from metarouter.providers.chat import ChatAnswer, ChatRequest
from metarouter.providers.endpoints import Target

__all__ = ["Call", "make_call"]


def _always(answer: ChatAnswer) -> bool:
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One paid piece of work.

    Parameters
    ----------
    key : str
        Digest of all that the answer depends on: model, messages, limits. The
        ledger keeps one answer for each key, so changed settings ask anew.
    label : str, how audit and messages call it, without the prompt's text.
    target : Target
    request : ChatRequest
    is_readable : function of the answer, optional
        Whether the answer can be used. One that cannot is asked for again, with
        `reminder` as the next turn of the conversation.
    reminder : str
    readings : int, at least 1, default 1
        How many answers may be asked for; the last one is kept as it is.
    """

    key: str
    label: str
    target: Target
    request: ChatRequest
    is_readable: Callable[[ChatAnswer], bool] = _always
    reminder: str = ""
    readings: int = 1

    def reminded(self, request: ChatRequest, answer: ChatAnswer) -> ChatRequest:
        """The request that follows `request` after an answer that cannot be read."""
        turns: tuple[dict[str, Any], ...] = (
            {"role": "assistant", "content": answer.text or "(no answer)"},
            {"role": "user", "content": self.reminder},
        )
        return replace(request, messages=(*request.messages, *turns))


def make_call(label: str, target: Target, request: ChatRequest, **reading: Any) -> Call:
    """A call with its key; `reading` are the fields of :class:`Call` about reading.

    The address of the endpoint is not part of the key: the same model elsewhere
    gives the same answer.
    """
    asked = [
        target.name,
        target.upstream,
        dict(target.options),
        list(request.messages),
        request.max_tokens,
        request.temperature,
    ]
    key = hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
    return Call(key=key, label=label, target=target, request=request, **reading)
