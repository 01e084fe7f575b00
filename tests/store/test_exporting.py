"""Feedback becomes label rows; whatever becomes none is counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from store_makers import fill_with_opinions

from metarouter.cli import run
from metarouter.labels.read import read_gain_table
from metarouter.store.database import open_database
from metarouter.store.exporting import (
    Statement,
    export_labels,
    read_offered,
    read_statements,
    sort_statements,
)
from metarouter.store.feedback import read_feedback, save_feedback
from metarouter.store.tables import decisions, feedback

Capture = pytest.CaptureFixture[str]


def said(kind: str, decision: str = "d", **fields: Any) -> Statement:
    """A statement about a question that `small` answered, unless told otherwise."""
    names = ("value", "scores", "model_a", "model_b", "winner", "annotator")
    content = {name: fields.pop(name) for name in names if name in fields}
    given = {"created": 0.0, "prompt": "Why?", "answered": "small", **fields}
    return Statement(kind=kind, content=content, decision_id=decision, **given)


def vote(winner: str, a: str = "large", b: str = "small", **fields: Any) -> Statement:
    return said("preference", model_a=a, model_b=b, winner=winner, **fields)


def test_an_audit_becomes_gold_scores_that_fit_reads() -> None:
    labels = sort_statements([said("gold", scores={"small": 0.2, "large": 0.9})])
    table, _ = read_gain_table(labels.scores, premium="large", cheap="small")
    assert table.is_gold.all()
    assert table.gain.tolist() == pytest.approx([0.7])


def test_thumbs_on_two_models_answers_to_one_prompt_become_a_preference_label() -> None:
    """As of exploration; the judge is named, so that its bias is learned apart from others'."""
    labels = sort_statements(
        [
            said("thumbs", "1", value="down"),
            said("thumbs", "2", value="up", answered="large"),
        ]
    )
    table, _ = read_gain_table(preference=labels.user_scores, premium="large", cheap="small")
    assert table.gain.tolist() == [1.0]
    assert table.judges == ("user thumbs",)


def test_scores_and_thumbs_do_not_pair_because_their_scales_differ() -> None:
    labels = sort_statements(
        [said("thumbs", "1", value="up"), said("score", "2", value=0.4, answered="large")]
    )
    assert labels.user_scores == []
    assert labels.without_pair == 2


def test_the_last_word_of_a_speaker_stands() -> None:
    labels = sort_statements([vote("model_a"), vote("model_b"), vote("model_b")])
    assert [(row["model_a"], row["winner"]) for row in labels.votes] == [("large", "model_b")]
    assert (labels.revised, labels.repeats) == (1, 1)


def test_a_pair_given_the_other_way_round_is_the_same_pair() -> None:
    labels = sort_statements([vote("model_a"), vote("model_b", a="small", b="large")])
    assert len(labels.votes) == 1
    assert labels.repeats == 1


def test_speakers_who_disagree_are_all_kept_and_counted() -> None:
    labels = sort_statements([vote("model_a", annotator="x"), vote("model_b", annotator="y")])
    assert len(labels.votes) == 2
    assert labels.disagreements == 1


@pytest.mark.parametrize(
    ("statement", "count"),
    [
        (vote("tie", prompt=None), "without_prompt"),
        (vote("tie", prompt=None, is_known=False), "without_decision"),
        (said("thumbs", value="up", answered=None), "without_answer"),
        (said("gold", scores={"small": 1.0}), "without_pair"),
    ],
)
def test_what_becomes_no_row_is_counted_with_its_reason(statement: Statement, count: str) -> None:
    labels = sort_statements([statement])
    assert getattr(labels, count) == 1
    assert sum(labels.left_out().values()) == labels.claims == 1


@pytest.mark.parametrize("kinds", [None, ("score", "gold")])
def test_brief_statements_are_the_whole_ones_without_what_only_labels_need(
    store_url: str, kinds: tuple[str, ...] | None
) -> None:
    """About decisions since a time, and of some kinds, if that is what is asked for."""
    engine = open_database(store_url)
    fill_with_opinions(engine, seed=0)
    expected = [
        replace(one, prompt=None, conversation=None, completion_tokens=None)
        for one in read_statements(engine, since=10.5)
        if (one.decided or 0.0) >= 12.5 and (kinds is None or one.kind in kinds)
    ]
    found = read_statements(engine, since=10.5, decided_since=12.5, kinds=kinds, is_brief=True)
    assert list(found) == expected
    assert len(expected) > 20
    engine.dispose()


@pytest.mark.parametrize("audited_since", [0.0, 30.0])
def test_scores_that_no_audit_met_need_not_be_read(store_url: str, audited_since: float) -> None:
    """An audit from before the time is none."""
    engine = open_database(store_url)
    _, given, _ = fill_with_opinions(engine, seed=0, n=100)
    audited = {
        one["decision_id"]
        for one in given
        if one["kind"] == "gold" and one["created"] >= audited_since
    }
    every = list(read_statements(engine, kinds=("score",)))
    found = list(read_statements(engine, kinds=("score",), audited_since=audited_since))
    assert found == [one for one in every if one.decision_id in audited]
    assert 0 < len(found) < len(every)
    engine.dispose()


def test_tokens_go_with_the_answer_that_they_were_counted_for() -> None:
    labels = sort_statements(
        [said("gold", scores={"small": 0.2, "large": 0.9}, completion_tokens=7, prompt_tokens=3)]
    )
    assert [row.get("completion_tokens") for row in labels.scores] == [7, None]


def _drawn(kind: str, answered: str, up: bool, **fields: Any) -> Statement:
    contents: dict[str, dict[str, Any]] = {
        "thumbs": {"value": "up" if up else "down"},
        "score": {"value": float(up)},
        "gold": {"scores": {"small": float(up), "large": 0.5}},
        "preference": {"model_a": "large", "model_b": "small", "winner": "tie"},
    }
    return said(kind, answered=answered, **contents[kind], **fields)


STATEMENTS = st.builds(
    _drawn,
    st.sampled_from(["thumbs", "score", "gold", "preference"]),
    st.sampled_from(["small", "large", None]),
    st.booleans(),
    decision=st.sampled_from(["1", "2", "3"]),
    prompt=st.sampled_from(["Why?", "How?", None]),
    annotator=st.sampled_from(["x", "y", None]),
)


@given(st.lists(STATEMENTS, max_size=12))
def test_every_claim_is_a_row_or_is_counted(statements: list[Statement]) -> None:
    labels = sort_statements(statements)
    rows = len(labels.scores) + len(labels.votes) + len(labels.user_scores)
    assert rows + sum(labels.left_out().values()) == labels.claims
    assert labels.claims == sum(2 if one.kind == "gold" else 1 for one in statements)


@pytest.fixture
def store(store_url: str) -> Iterator[sa.Engine]:
    """Three decided questions, and a vote on each."""
    engine = open_database(store_url)
    common = dict.fromkeys(column.name for column in decisions.columns) | {
        "endpoint": "chat/completions",
        "asked": "metarouter",
        "model": "small",
        "options": [{"model": "small"}, {"model": "large"}],
        "answered": "small",
        "logging_propensity": 1.0,
        "bound": "gain",
        "reason": "because",
        "outcome": "ok",
    }
    with engine.begin() as connection:
        for number in range(3):
            row = {"decision_id": f"d{number}", "created": float(number), "prompt": f"Q{number}"}
            policy = {"policy": "default" if number else "other"}
            connection.execute(decisions.insert(), common | row | policy)
    for number in range(3):
        content = {"type": "preference", "decision_id": f"d{number}", "winner": "model_a"}
        models = {"model_a": "large", "model_b": "small"}
        save_feedback(engine, read_feedback(json.dumps(content | models).encode()), None)
    yield engine
    engine.dispose()


def test_a_model_that_no_decision_offers_becomes_no_row_and_is_counted(store: sa.Engine) -> None:
    """As older versions and a store that was down took it: a misspelt name is no new model."""
    contents: list[dict[str, Any]] = [
        {"type": "gold", "scores": {"small": 0.2, "large": 0.9, "lrage": 1.0}},
        {"type": "preference", "model_a": "lrage", "model_b": "small", "winner": "model_a"},
    ]
    rows = [
        {"feedback_id": f"old {i}", "created": 9.0, "decision_id": "d0", "kind": one["type"]}
        | {"content": one}
        for i, one in enumerate(contents)
    ]
    with store.begin() as connection:
        connection.execute(feedback.insert(), rows)
    labels = export_labels(store)
    assert {row["model"] for row in labels.scores} == {"small", "large"}
    assert (len(labels.votes), labels.without_offer) == (3, 2)
    assert sum(labels.left_out().values()) == 2


@pytest.mark.parametrize(("outcome", "names"), [("ok", {"small", "own"}), ("refused", {"small"})])
def test_a_model_that_callers_named_is_offered_if_its_upstream_took_it(
    store: sa.Engine, outcome: str, names: set[str]
) -> None:
    with store.begin() as connection:
        connection.execute(decisions.update().values(options=[]))
        named = decisions.update().where(decisions.c.decision_id == "d2")
        connection.execute(named.values(policy=None, answered="own", outcome=outcome))
    assert read_offered(store) == names


def test_a_policy_and_a_time_narrow_the_export(store: sa.Engine) -> None:
    assert [row["query"] for row in export_labels(store, policy="default").votes] == ["Q1", "Q2"]
    assert export_labels(store, since=4e9).claims == 0


def test_a_score_after_a_bare_decision_is_about_the_chosen_model(store: sa.Engine) -> None:
    """``/v1/route`` answers nothing itself: the caller asked the model that was chosen."""
    with store.begin() as connection:
        connection.execute(decisions.update().values(endpoint="route", answered=None))
    save_feedback(store, read_feedback(b'{"type":"thumbs","decision_id":"d0","value":"up"}'), None)
    assert export_labels(store).without_answer == 0


def test_the_command_writes_files_and_says_what_it_left_out(
    store: sa.Engine, store_url: str, tmp_path: Path, capsys: Capture
) -> None:
    save_feedback(store, read_feedback(b'{"type":"thumbs","decision_id":"d0","value":"up"}'), None)
    assert run(["labels", "export", "--store", store_url, "--out", str(tmp_path / "l")]) == 0
    output = capsys.readouterr().out
    assert "preference: 3 rows" in output
    assert "left out: 1 scores of one model" in output
    assert len((tmp_path / "l/preference.jsonl").read_text().splitlines()) == 3


def test_a_file_of_an_earlier_export_does_not_pass_for_one_of_this(
    store: sa.Engine, store_url: str, tmp_path: Path, capsys: Capture
) -> None:
    command = ["labels", "export", "--store", store_url, "--out", str(tmp_path)]
    assert run([*command, "--policy", "default"]) == 0
    assert run([*command, "--policy", "nobody"]) == 2
    assert "preference.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("since", ["yesterday", "7x", "d"])
def test_a_time_that_is_none_is_refused(since: str, tmp_path: Path, capsys: Capture) -> None:
    assert run(["labels", "export", "--out", str(tmp_path), "--since", since]) == 2
    assert "2026-11-01" in capsys.readouterr().err


def test_votes_of_the_playground_are_a_judge_of_their_own() -> None:
    """Names were in sight, and the query was made up."""
    rows = sort_statements([vote("tie"), vote("tie", decision="e", annotator="playground")]).votes
    assert [row["judge"] for row in rows] == ["user votes", "playground votes"]
