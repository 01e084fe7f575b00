"""The data of the pages over HTTP: who may read it, what it says, what it refuses."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from dashboard_makers import Shown

from metarouter.store.tables import decisions, feedback

PATHS = (
    "about", "traffic", "saving", "decisions", "decisions/d1", "service", "what-if", "feedback",
    "experiments",
)  # fmt: skip
DAY = {"seconds": 86_400}


def _get(shown: Shown, path: str, key: str | None = None, /, **query: Any) -> httpx2.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx2.get(f"{shown.url}/dashboard/api/{path}", params=query, headers=headers)


@pytest.mark.parametrize("path", PATHS)
def test_data_needs_the_key_of_an_admin(locked: Shown, path: str) -> None:
    """Without a key, with a wrong one and with somebody's there is nothing to see."""
    assert _get(locked, path).status_code == 401
    assert _get(locked, path, "mr-wrong").status_code == 401
    refused = _get(locked, path, locked.other)
    assert refused.status_code == 403
    assert "admin" in refused.json()["error"]["message"]
    assert _get(locked, path, locked.admin).status_code not in (401, 403)


def test_a_key_in_the_address_opens_nothing(locked: Shown) -> None:
    """Addresses are logged along the way: a key is taken from headers only."""
    assert _get(locked, "about", None, authorization=locked.admin).status_code == 401


def test_the_page_itself_is_open(locked: Shown) -> None:
    """It holds no data, so that a browser can ask for the key."""
    answer = httpx2.get(f"{locked.url}/dashboard")
    assert answer.status_code == 200
    assert "swift-8b" not in answer.text


def test_another_name_of_this_host_sees_nothing(shown: Shown) -> None:
    """A page elsewhere that points its own name at this machine is refused."""
    for path in ("/dashboard", "/dashboard/api/about"):
        answer = httpx2.get(shown.url + path, headers={"host": "evil.example"})
        assert answer.status_code == 421


def test_traffic_is_that_which_was_sent(shown: Shown) -> None:
    """Every request that reached a model, and what those of the store say of each."""
    view = _get(shown, "traffic", **DAY).json()
    with shown.gateway.engine.connect() as connection:
        rows = connection.execute(sa.select(decisions.c.policy, decisions.c.outcome)).all()
    assert view["totals"]["requests"] == sum(row.outcome != "decided" for row in rows)
    assert view["totals"]["routed"] == sum(row.policy is not None for row in rows)
    assert len(rows) >= len(shown.sent)
    assert sum(view["requests"]["ok"]) == view["totals"]["outcomes"]["ok"]
    assert {row["model"] for row in view["models"]} == {"swift-8b", "atlas-400b"}


def test_the_saving_lies_in_its_interval(shown: Shown) -> None:
    view = _get(shown, "saving", **DAY).json()
    assert 0 < view["share"]["low"] < view["share"]["value"] < view["share"]["high"] < 1
    assert view["problems"] == []


def test_pages_of_decisions_lead_to_every_one(shown: Shown) -> None:
    """The place that a page ends with is where the next begins."""
    seen: list[str] = []
    query: dict[str, Any] = {**DAY, "limit": 50}
    while True:
        page = _get(shown, "decisions", **query).json()
        seen += [row["decision_id"] for row in page["decisions"]]
        if page["next"] is None:
            break
        query |= {"after": page["next"][0], "after_id": page["next"][1]}
    assert len(seen) == len(set(seen))
    assert {sent.decision_id for sent in shown.sent} <= set(seen)


def test_a_decision_is_shown_with_all_that_is_known(shown: Shown) -> None:
    sent = shown.sent[0]
    found = _get(shown, f"decisions/{sent.decision_id}").json()
    assert found["prompt"].endswith(sent.prompt.text)
    assert {option["model"] for option in found["options"]} == {"swift-8b", "atlas-400b"}
    assert found["answered"] == sent.model
    assert found["attempts"]
    assert _get(shown, "decisions/none").status_code == 404


def test_what_if_holds_the_policy_as_it_is(shown: Shown) -> None:
    view = _get(shown, "what-if", policy="default", **DAY).json()
    about = {one["policy"]: one for one in _get(shown, "about").json()["policies"]}
    assert view["now"]["w"] == about["default"]["w"]
    assert view["now"]["w"] in [point["w"] for point in view["points"]]
    assert _get(shown, "what-if", policy="none").status_code == 400


def test_feedback_finds_the_users_biased(shown: Shown) -> None:
    """The made users like the premium model too well, and the page has data to say so."""
    view = _get(shown, "feedback", **DAY).json()
    assert {row["model"] for row in view["models"]} == {"swift-8b", "atlas-400b"}
    assert view["pairs"][0]["pair"] == ["atlas-400b", "swift-8b"]
    assert view["gold"] > 20


def test_feedback_on_a_model_that_no_decision_offers_is_counted_out(shown: Shown) -> None:
    """A row from before such names were refused makes no pair on the page."""
    before = _get(shown, "feedback", **DAY).json()
    assert before["unknown"] == 0
    sent = shown.sent[-1].decision_id
    content = {"model_a": "atlas-400b", "model_b": "swfit-8b", "winner": "model_a"}
    row = {
        "feedback_id": "misspelt",
        "created": time.time() - 1,
        "decision_id": sent,
        "kind": "preference",
        "content": {"type": "preference", "decision_id": sent, **content},
    }
    with shown.gateway.engine.begin() as connection:
        connection.execute(feedback.insert(), [row])
    try:
        after = _get(shown, "feedback", **DAY).json()
    finally:
        with shown.gateway.engine.begin() as connection:
            connection.execute(feedback.delete().where(feedback.c.feedback_id == "misspelt"))
    assert after["unknown"] == 1
    assert (after["n"], after["pairs"]) == (before["n"], before["pairs"])


def test_service_shows_tries_that_failed(shown: Shown) -> None:
    view = _get(shown, "service", **DAY).json()
    main, _spare = view["upstreams"]
    assert main["tries"] >= len(shown.sent)
    assert main["is_open"] is False
    assert all(model["seconds"]["p50"] <= model["seconds"]["p95"] for model in view["models"])


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("traffic", {"seconds": 7}),
        ("traffic", {"seconds": "x"}),
        ("traffic", {"seconds": "-3600"}),
        ("traffic", {"seconds": "٣"}),
        ("decisions", {"limit": 0}),
        ("decisions", {"limit": 10_000}),
        ("decisions", {"after": "nan-"}),
        ("what-if", {"policy": "x" * 500}),
    ],
)
def test_a_wrong_question_is_told_what_is_allowed(
    shown: Shown, path: str, query: dict[str, Any]
) -> None:
    answer = _get(shown, path, **query)
    assert answer.status_code == 400
    assert "allowed" in answer.json()["error"]["message"]
    assert len(answer.text) < 500


def test_a_store_that_is_down_is_told(shown: Shown) -> None:
    """Pages say so, and nothing of how the store is asked comes out."""
    with shown.gateway.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE decisions RENAME TO aside"))
    try:
        answer = _get(shown, "traffic")
    finally:
        with shown.gateway.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE aside RENAME TO decisions"))
    assert answer.status_code == 503
    assert "SELECT" not in answer.text


@pytest.mark.parametrize("path", ["decisions", "decisions/a%00b"])
def test_text_that_no_store_takes_is_refused_as_such(shown: Shown, path: str) -> None:
    """PostgreSQL would refuse it, and the store would count as down."""
    answer = httpx2.get(f"{shown.url}/dashboard/api/{path}", params={"text": "a\x00b"})
    assert answer.status_code == 400
    assert "allowed: text without NUL" in answer.json()["error"]["message"]
