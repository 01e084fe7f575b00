"""The endpoints that pass requests on, each with its protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metarouter.gateway.conversation import (
    Conversation,
    read_chat,
    read_messages,
    read_nothing,
    read_responses,
)
from metarouter.gateway.upstream import Dialect
from metarouter.gateway.wire import Body

__all__ = ["PROTOCOLS", "Protocol"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One endpoint: where it goes, who speaks it, what in it is routed on."""

    path: str
    dialect: Dialect
    read: Callable[[Body], Conversation]
    is_routed: bool = True
    is_free: bool = False


PROTOCOLS = (
    Protocol(path="chat/completions", dialect="openai", read=read_chat),
    Protocol(path="responses", dialect="openai", read=read_responses),
    Protocol(path="messages", dialect="anthropic", read=read_messages),
    Protocol(path="messages/count_tokens", dialect="anthropic", read=read_messages, is_free=True),
    Protocol(path="embeddings", dialect="openai", read=read_nothing, is_routed=False),
)
