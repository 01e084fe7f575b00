"""Small values that the tests of label making share."""

from __future__ import annotations

from typing import Any

from metarouter.collection import Call, make_call
from metarouter.collection.rows import QueryRow, Response
from metarouter.providers import ChatAnswer, ChatRequest, Endpoint, RetryPolicy, Target
from metarouter.records import ModelSpec

__all__ = ["make_answer", "make_asked", "make_query", "make_response", "make_target"]

QUICK = RetryPolicy(attempts=4, first_pause=0.001, longest_pause=0.1)


def make_target(url: str = "http://127.0.0.1:9/v1", **fields: Any) -> Target:
    """A model at 1 USD per million input tokens and 10 for output."""
    endpoint = Endpoint(name="here", base_url=url, retries=fields.pop("retries", QUICK))
    name = fields.pop("name", "m")
    prices = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0} | fields
    return Target(spec=ModelSpec(name=name, **prices), endpoint=endpoint, upstream=name)


def make_asked(text: str, target: Target, *, max_tokens: int = 20, **reading: Any) -> Call:
    """A call that asks one text."""
    request = ChatRequest(messages=({"role": "user", "content": text},), max_tokens=max_tokens)
    return make_call(text, target, request, **reading)


def make_answer(text: str, finish_reason: str = "stop") -> ChatAnswer:
    """An answer of a model."""
    return ChatAnswer(
        text=text,
        served_model="m",
        finish_reason=finish_reason,
        prompt_tokens=10,
        completion_tokens=5,
        seconds=0.1,
    )


def make_query(text: str, query_id: str | None = None) -> QueryRow:
    """A plain query."""
    kept = {"query": text} | ({} if query_id is None else {"query_id": query_id})
    messages = ({"role": "user", "content": text},)
    return QueryRow(text=text, messages=messages, query_id=query_id, kept=kept)


def make_response(query: str, model: str, text: str) -> Response:
    """A model's response to a plain query."""
    return Response(query=make_query(query), model=model, text=text)
