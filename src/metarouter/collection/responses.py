"""``metarouter collect``: queries and models to responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metarouter.collection.calls import Call, make_call
from metarouter.collection.ledger import Ledger
from metarouter.collection.money import to_usd
from metarouter.collection.rows import QueryRow
from metarouter.providers.chat import ChatAnswer, ChatRequest
from metarouter.providers.endpoints import Target

__all__ = ["response_calls", "response_rows"]


def response_calls(
    queries: Sequence[QueryRow],
    targets: Sequence[Target],
    *,
    max_tokens: int,
    temperature: float | None = None,
    system: str | None = None,
) -> list[Call]:
    """One call for each query and model.

    Parameters
    ----------
    queries, targets : who is asked what.
    max_tokens : int, at least 1, most tokens of a response.
    temperature : float, optional; None leaves it to the endpoint.
    system : str, optional, put in front of each query as the system's turn.

    Returns
    -------
    list of Call
        Query by query, so that a run that is stopped has whole queries.
    """
    return [
        _call(query, target, max_tokens, temperature, system)
        for query in queries
        for target in targets
    ]


def response_rows(
    queries: Sequence[QueryRow],
    targets: Sequence[Target],
    calls: Sequence[Call],
    ledger: Ledger,
) -> Iterator[Mapping[str, Any]]:
    """Rows of the responses file, in the order of the calls; missing ones are left out.

    `calls` are those of :func:`response_calls` for the same queries and targets.
    """
    answers = ledger.answers()
    pairs = ((query, target) for query in queries for target in targets)
    for (query, target), call in zip(pairs, calls, strict=True):
        if call.key in answers:
            yield {**query.kept, "model": target.name, **_fields(*answers[call.key])}


def _call(
    query: QueryRow,
    target: Target,
    max_tokens: int,
    temperature: float | None,
    system: str | None,
) -> Call:
    front = () if system is None else ({"role": "system", "content": system},)
    request = ChatRequest(
        messages=(*front, *query.messages), max_tokens=max_tokens, temperature=temperature
    )
    return make_call(f"{short_label(query)} · {target.name}", target, request)


def short_label(query: QueryRow) -> str:
    """A query without its text: its id, else a digest."""
    if query.query_id is not None:
        return query.query_id
    import hashlib

    return f"query {hashlib.sha256(query.text.encode('utf-8', 'replace')).hexdigest()[:12]}"


def _fields(answer: ChatAnswer, charged: int) -> dict[str, Any]:
    return {
        "response": answer.text,
        "finish_reason": answer.finish_reason,
        "served_model": answer.served_model,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "cost_usd": to_usd(charged),
        "seconds": round(answer.seconds, 3),
    }
