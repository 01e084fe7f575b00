"""Who may speak about a decision, and read it: whose key it was made with, and admins."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from gateway_makers import HELLO, Served

from metarouter.store.exporting import export_labels
from metarouter.store.keys import create_key
from metarouter.testing import PostgresServer

Serve = Callable[..., Served]
Headers = dict[str, str]

CHAT, ROUTE = "/v1/chat/completions", "/v1/route"


def _keys(served: Served, **admins: bool) -> list[Headers]:
    made = [create_key(served.gateway.engine, n, is_admin=a)[0] for n, a in admins.items()]
    served.gateway.keyring.refresh()
    return [{"authorization": f"Bearer {key}"} for key in made]


def _ask(served: Served, headers: Headers, path: str = CHAT) -> str:
    if path == ROUTE:
        decided = served.post(ROUTE, b'{"query": "Hello"}', **headers).json()
        return str(decided["decisions"][0]["decision_id"])
    return str(served.post(path, HELLO, **headers).headers["x-metarouter-decision-id"])


def _say(served: Served, decision: str, headers: Headers, **more: Any) -> httpx2.Response:
    said = {"type": "gold", "decision_id": decision, "scores": {"cheap": 0.1, "premium": 0.9}}
    return served.post("/v1/feedback", json.dumps(said | more).encode(), **headers)


@pytest.mark.parametrize("path", [CHAT, ROUTE])
def test_feedback_may_come_before_its_decision_is_written(serve: Serve, path: str) -> None:
    """The process that decided knows whose it is; an hour's pause of the writer is no reason."""
    served = serve(auth="keys", store={"flush_seconds": 3600.0})
    (mine,) = _keys(served, me=False)
    name = _ask(served, mine, path)
    assert [_say(served, name, mine).status_code for _ in range(2)] == [201, 200]


@pytest.mark.parametrize("path", [CHAT, ROUTE])
def test_only_the_key_of_a_decision_and_admins_speak_about_it(
    serve: Serve, store_url: str, path: str
) -> None:
    """At this process and at another; for anybody else it is as if it did not exist."""
    one = serve(auth="keys", store={"url": store_url})
    mine, yours, boss = _keys(one, me=False, you=False, boss=True)
    two = serve(auth="keys", store={"url": store_url})
    name = _ask(one, mine, path)
    _wait(one.rows)
    for served in (one, two):
        unknown = ("d" * 36, "nothing", "no\x00thing")
        refused = [_say(served, decision, yours) for decision in (name, *unknown)]
        assert {answer.status_code for answer in refused} == {404}
        texts = {answer.text.replace(name, "d" * 36) for answer in refused[:2]}
        assert len(texts) == 1
        reads = [served.client.get(f"/v1/decisions/{d}", headers=yours) for d in (name, "d" * 36)]
        assert {answer.status_code for answer in reads} == {404}
        assert len({answer.text.replace(name, "d" * 36) for answer in reads}) == 1
    assert [_say(served, name, mine).status_code for served in (one, two)] == [201, 200]
    assert _say(two, name, boss).status_code == 201
    assert _say(two, "nothing", boss).status_code == 201
    shown = one.client.get(f"/v1/decisions/{name}", headers=mine).json()
    assert len(shown["feedback"]) == 2


def test_refusing_takes_as_long_for_a_decision_of_another_as_for_none(serve: Serve) -> None:
    """Time tells no more than the answer does."""
    served = serve(auth="keys")
    mine, yours = _keys(served, me=False, you=False)
    name = _ask(served, mine)
    _wait(served.rows)
    times: dict[str, list[float]] = {name: [], "d" * 36: []}
    for _ in range(9):
        for decision, seen in times.items():
            start = time.perf_counter()
            assert _say(served, decision, yours).status_code == 404
            seen.append(time.perf_counter() - start)
    medians = [statistics.median(seen) for seen in times.values()]
    assert all(one >= 0.2 for one in medians)
    assert 0.5 < medians[0] / medians[1] < 2.0


def test_without_keys_anybody_speaks_about_anything(serve: Serve) -> None:
    served = serve()
    assert _say(served, "nothing", {}).status_code == 201


def test_what_came_unchecked_while_the_store_was_down_is_not_used(
    serve: Serve, postgres: PostgresServer
) -> None:
    """Feedback of both keys is on the disk and then in the store; that of a stranger stays there.

    Neither labels nor the decision itself show it.
    """
    url = postgres.make_database()
    served = serve(auth="keys", store={"url": url, "prompts": True})
    mine, yours, boss = _keys(served, me=False, you=False, boss=True)
    name = _ask(served, mine)
    _wait(served.rows)
    postgres.stop()
    try:
        _wait(lambda: served.gateway.writer.is_down)
        statuses = [
            _say(served, name, key, annotator=who).status_code
            for who, key in (("me", mine), ("you", yours), ("boss", boss))
        ]
        assert statuses == [202, 202, 202]
        assert _say(served, "d" * 36, yours).status_code == 202
    finally:
        postgres.start()
    _wait(lambda: served.gateway.writer.state == "ok")
    labels = export_labels(served.gateway.engine)
    assert {row["annotator"] for row in labels.scores} == {"me", "boss"}
    assert (labels.claims, labels.without_decision) == (8, 4)
    shown = served.client.get(f"/v1/decisions/{name}", headers=boss).json()
    assert {one["content"]["annotator"] for one in shown["feedback"]} == {"me", "boss"}


def _wait(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
