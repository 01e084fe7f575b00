"""Feedback at once, keys as hashes, labels out again, in either database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store_makers import count, make_row, make_writer

from metarouter.errors import InputError, OptionError
from metarouter.labels.read import read_gain_table
from metarouter.store.database import insert_new, open_database
from metarouter.store.exporting import export_labels
from metarouter.store.feedback import FeedbackConflictError, read_feedback, save_feedback
from metarouter.store.keys import create_key, digest_key, list_keys, revoke_key
from metarouter.store.tables import decisions, feedback


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


def test_keys_are_kept_as_hashes_and_their_states_are_known(engine: sa.Engine) -> None:
    key, made = create_key(engine, "alice", models=["cheap"], days=1)
    (record,) = list_keys(engine)
    assert record == made
    assert record.digest == digest_key(key)
    with engine.connect() as connection:
        everything = str(connection.exec_driver_sql("SELECT * FROM api_keys").all())
    assert key not in everything
    now = made.created
    assert [record.is_valid(now + days * 86_400) for days in (0, 0.9, 1.1)] == [True, True, False]
    revoke_key(engine, record.key_id)
    revoke_key(engine, record.key_id)
    assert not list_keys(engine)[0].is_valid(now)
    with engine.connect() as connection:
        actions = connection.exec_driver_sql("SELECT action FROM audit ORDER BY number").scalars()
        assert list(actions) == ["key created", "key revoked"]


@pytest.mark.parametrize("bad", [{"name": " "}, {"name": "a", "days": 0}])
def test_a_key_needs_a_name_and_a_life(engine: sa.Engine, bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        create_key(engine, **bad)


def test_a_key_that_is_not_there_cannot_be_revoked(engine: sa.Engine) -> None:
    with pytest.raises(InputError, match="keys list"):
        revoke_key(engine, "key-0")


def test_feedback_of_two_callers_is_two_statements(engine: sa.Engine) -> None:
    """Repeats are told apart by id, else by content and caller."""
    said = read_feedback(b'{"type": "score", "decision_id": "d", "value": 0.5}')
    names = {save_feedback(engine, said, key)[0] for key in (None, "a", "b", "a")}
    assert len(names) == 3
    named = read_feedback(b'{"type": "score", "decision_id": "d", "value": 1, "feedback_id": "x"}')
    assert save_feedback(engine, named, "a") == ("x", True)
    assert save_feedback(engine, named, "a") == ("x", False)
    with pytest.raises(FeedbackConflictError, match="another statement"):
        save_feedback(engine, named, "b")


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"type": "gold", "scores": {"cheap": 0.1, "premum": 0.9}}, "scores"),
        (
            {"type": "preference", "model_a": "premum", "model_b": "cheap", "winner": "tie"},
            "model_a",
        ),
        (
            {"type": "preference", "model_a": "cheap", "model_b": "premum", "winner": "tie"},
            "model_b",
        ),
    ],
)
def test_a_model_that_the_decision_did_not_offer_is_refused(
    engine: sa.Engine, named: dict[str, Any], field: str
) -> None:
    """Nothing is kept; what was kept before the decision was written stays a repeat."""
    said = read_feedback(json.dumps(named | {"decision_id": "d1"}).encode())
    early = read_feedback(json.dumps(named | {"decision_id": "d2"}).encode())
    assert save_feedback(engine, early, None)[1]
    options = [{"model": "premium"}, {"model": "cheap"}]
    with engine.begin() as connection:
        insert_new(connection, decisions, [make_row(n, options=options) for n in (1, 2)])
    with pytest.raises(InputError, match=rf"{field} = 'premum'.*d1; allowed: cheap, premium"):
        save_feedback(engine, said, None, served=["premum"])
    assert count(engine, feedback) == 1
    assert not save_feedback(engine, early, None)[1]


@pytest.mark.parametrize("served", [None, ["premum"], ["premium"]])
def test_about_a_decision_that_weighed_nothing_what_is_served_may_be_named(
    engine: sa.Engine, served: list[str] | None
) -> None:
    """Its own model too; where any name is served, any may be named."""
    with engine.begin() as connection:
        insert_new(connection, decisions, [make_row(1, options=[])])
    content = b'{"type": "gold", "decision_id": "d1", "scores": {"cheap": 0.1, "premum": 0.9}}'
    if served == ["premium"]:
        with pytest.raises(InputError, match=r"'premum'.*allowed: cheap, premium"):
            save_feedback(engine, read_feedback(content), None, served=served)
    else:
        assert save_feedback(engine, read_feedback(content), None, served=served)[1]


def test_a_statement_of_no_known_form_is_told_the_forms() -> None:
    """What was wrong, and what each type takes."""
    with pytest.raises(InputError, match=r"'great'.*thumbs with value up or down; score with"):
        read_feedback(b'{"type": "thumbs", "decision_id": "d", "value": "great"}')


def test_exported_labels_are_read_by_fit(engine: sa.Engine, tmp_path: Path) -> None:
    """Preferences become votes, audits gold scores; what compares nothing is counted."""
    writer = make_writer(engine, tmp_path / "spill")
    writer.start()
    options = [{"model": "premium"}, {"model": "cheap"}]
    for number in range(3):
        prompt = None if number == 2 else f"question {number}"
        writer.put(make_row(number, prompt=prompt, options=options))
    writer.close()
    votes: dict[str, Any] = {
        "type": "preference",
        "model_a": "premium",
        "model_b": "cheap",
        "winner": "model_a",
    }
    gold: dict[str, Any] = {"type": "gold", "scores": {"premium": 0.9, "cheap": 0.4}}
    thumbs: dict[str, Any] = {"type": "thumbs", "value": "up"}
    statements = [(0, votes), (1, gold), (2, votes), (0, thumbs)]
    for number, said in statements:
        content = json.dumps(said | {"decision_id": f"d{number}"}).encode()
        save_feedback(engine, read_feedback(content), None)
    labels = export_labels(engine)
    assert (labels.without_prompt, labels.without_pair) == (1, 1)
    table, _ = read_gain_table(labels.scores, labels.votes, premium="premium", cheap="cheap")
    assert sorted(table.queries) == ["question 0", "question 1"]
    assert table.gain[table.is_gold].tolist() == pytest.approx([0.5])
