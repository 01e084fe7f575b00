"""Judging: both orders, votes and scores, prompts, rubrics, answers files."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from collection_makers import make_answer, make_response, make_target
from hypothesis import given
from hypothesis import strategies as st

from metarouter.collection import prompts
from metarouter.collection.answers import Criterion, read_answers
from metarouter.collection.calls import Call
from metarouter.collection.judging import (
    Judge,
    judge_pairs,
    judge_scores,
    judged_rows,
    pairs_of,
)
from metarouter.collection.ledger import Ledger
from metarouter.collection.prompts import JudgePrompt, read_prompt
from metarouter.collection.rubric import rubric_grades, rubric_score
from metarouter.errors import DataError, InputError, LabelError

JUDGE = Judge(target=make_target(name="j"), prompt=prompts.PAIRWISE)
A, B, C = (make_response("What?", model, f"from {model}") for model in "abc")


def _said(call: Call, text: str) -> dict[str, Any]:
    return {call.key: (make_answer(text), 10**12)}


def test_every_two_responses_to_a_query_are_paired_or_those_of_two_models() -> None:
    other = make_response("Else?", "a", "alone")
    assert pairs_of([A, B, C, other]) == [(A, B), (A, C), (B, C)]
    assert pairs_of([A, B, C, other], ("c", "a")) == [(A, C)]
    with pytest.raises(DataError, match="models in the file: a, b"):
        pairs_of([A, B], ("a", "z"))


def test_the_two_orders_show_the_same_responses_in_exchanged_places() -> None:
    (pair,) = judge_pairs([(A, B)], JUDGE)
    forward, backward = (call.request.messages[-1]["content"] for call in pair.calls())
    assert forward.index("from a") < forward.index("from b")
    swapped = forward.replace("from a", "from x").replace("from b", "from a")
    assert swapped.replace("from x", "from b") == backward
    assert pair.forward.key != pair.backward.key


@pytest.mark.parametrize(
    ("forward", "backward", "p_a"),
    [("A", "B", 1.0), ("B", "A", 0.0), ("A", "A", 0.5), ("TIE", "TIE", 0.5), ("A", "TIE", 0.75)],
)
def test_a_vote_is_the_mean_of_both_orders(forward: str, backward: str, p_a: float) -> None:
    (pair,) = judge_pairs([(A, B)], JUDGE)
    answers = _said(pair.forward, f"VERDICT: {forward}") | _said(
        pair.backward, f"VERDICT: {backward}"
    )
    row = pair.row(answers)
    assert row is not None
    assert (row["model_a"], row["model_b"], row["p_a"]) == ("a", "b", p_a)
    assert (row["judge"], row["query"], row["cost_usd"]) == ("j", "What?", 2.0)


def test_votes_and_scores_keep_how_long_the_responses_were() -> None:
    """`fit --cost token` learns lengths from label files; an unknown length is left out."""
    long, short = (replace(A, completion_tokens=90), replace(B, completion_tokens=0))
    (pair,) = judge_pairs([(long, short)], JUDGE)
    said = _said(pair.forward, "VERDICT: A") | _said(pair.backward, "VERDICT: B")
    vote = pair.row(said)
    assert vote is not None
    assert (vote["completion_tokens_a"], vote["completion_tokens_b"]) == (90, 0)
    judge = Judge(target=make_target(name="j"), prompt=prompts.SCORE)
    counted, uncounted = (judge_scores([r], judge, low=1, high=10)[0] for r in (long, C))
    row = counted.row(_said(counted.call, "SCORE: 4"))
    assert row is not None
    assert row["completion_tokens"] == 90
    assert "completion_tokens" not in (uncounted.row(_said(uncounted.call, "SCORE: 4")) or {})


def test_a_pair_with_one_readable_order_is_no_vote() -> None:
    """One order alone would carry the liking for a position."""
    (pair,) = judge_pairs([(A, B)], JUDGE)
    readable = _said(pair.forward, "VERDICT: A")
    assert pair.row(readable) is None
    assert pair.row(readable | _said(pair.backward, "hm")) is None
    assert pair.order(readable) is None


def test_equal_responses_are_a_tie_that_costs_nothing_and_says_nothing_of_positions() -> None:
    """Both orders would be one request, so that no answer of the judge could say more."""
    (pair,) = judge_pairs([(A, replace(A, model="b"))], JUDGE)
    assert pair.calls() == ()
    row = pair.row({})
    assert row is not None
    assert (row["model_a"], row["model_b"], row["p_a"], row["cost_usd"]) == ("a", "b", 0.5, 0)
    assert pair.order({}) is None


def test_ties_of_equal_responses_end_where_a_run_was_stopped(tmp_path: Path) -> None:
    """Else a run that its budget stops would hold too many ties."""
    equal = replace(A, model="b")
    judged = judge_pairs([(A, equal), (A, B), (A, equal), (A, C), (A, equal)], JUDGE)
    with Ledger(tmp_path / "l", {}) as ledger:
        for call in judged[1].calls():
            attempt = ledger.begin(call, 0)
            ledger.finish(attempt, call, make_answer("VERDICT: A"), 0)
        rows = list(judged_rows(judged, ledger))
    assert [(row["model_b"], row["verdicts"][0]) for row in rows] == [
        ("b", "tie"), ("b", "A"), ("b", "tie"),
    ]  # fmt: skip


@pytest.mark.parametrize(("said", "score"), [(1, 0.0), (10, 1.0), (4, 1 / 3)])
def test_scores_come_back_on_zero_to_one(said: int, score: float) -> None:
    judge = Judge(target=make_target(name="j"), prompt=prompts.SCORE)
    (scored,) = judge_scores([A], judge, low=1, high=10)
    row = scored.row(_said(scored.call, f"SCORE: {said}"))
    assert row is not None
    assert (row["score"], row["raw_score"]) == (pytest.approx(score), said)
    assert scored.row({}) is None
    assert "from 1 (useless) to 10 (could not be better)" in str(scored.call.request.messages)


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_stands_in_a_response_is_not_filled_in(query: str, response: str) -> None:
    """A place in braces inside a text stays as it is."""
    prompt = JudgePrompt(user="{query}|{response}")
    values = {"query": query + "{response}", "response": response + "{query}{rubric}"}
    (turn,) = prompt.messages(values)
    assert turn["content"] == f"{query}{{response}}|{response}{{query}}{{rubric}}"


def _prompt(tmp_path: Path, text: str) -> JudgePrompt:
    path = tmp_path / "prompt.toml"
    path.write_text(text, encoding="utf-8")
    needed, known = prompts.PLACES["pairwise"]
    return read_prompt(path, needed=needed, known=known)


def test_a_prompt_file_replaces_the_default(tmp_path: Path) -> None:
    text = 'user = "{query} {response_a} {response_b} {{\\"x\\"}}"\nreminder = "Now!"'
    prompt = _prompt(tmp_path, text)
    judge = Judge(target=make_target(name="j"), prompt=prompt)
    (pair,) = judge_pairs([(A, B)], judge)
    assert pair.forward.request.messages == (
        {"role": "user", "content": 'What? from a from b {{"x"}}'},
    )
    assert pair.forward.reminder == "Now!"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('user = "{query} {response_a}"', "{response_b} is missing"),
        ('user = "{query} {response_a} {response_b} {colour}"', "{colour} is unknown"),
        ("user = 3", "user; allowed"),
        ('usr = "x"', "usr; allowed"),
        ("user = ", "prompt.toml"),
        ("", "is missing"),
    ],
)
def test_a_wrong_prompt_file_is_told(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        _prompt(tmp_path, text)


def test_our_own_prompts_have_the_places_they_need() -> None:
    own = {
        "pairwise": prompts.PAIRWISE,
        "score": prompts.SCORE,
        "criterion": prompts.CRITERION,
    }
    for mode, prompt in own.items():
        needed, known = prompts.PLACES[mode]
        places = set(re.findall(r"\{([a-z_]+)\}", prompt.system + prompt.user))
        assert needed <= places <= known


@given(
    st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=1, max_size=12).filter(
        lambda rows: any(points > 0 for points, _ in rows)
    )
)
def test_a_rubric_score_is_points_met_over_positive_points(
    rows: list[tuple[int, bool]],
) -> None:
    points, met = zip(*rows, strict=True)
    gained = sum(p for p, m in rows if m)
    possible = sum(p for p in points if p > 0)
    assert rubric_score(points, met) == pytest.approx(gained / possible)


def test_a_rubric_grade_needs_every_criterion_and_is_clipped() -> None:
    judge = Judge(target=make_target(name="j"), prompt=prompts.CRITERION)
    criteria = (Criterion(text="is kind", points=2), Criterion(text="is rude", points=-5))
    (grade,) = rubric_grades([(A, criteria)], judge)
    kind, rude = grade.calls()
    assert "is rude" in str(rude.request.messages)
    yes = _said(kind, "MET: YES")
    assert grade.row(yes) is None
    row = grade.row(yes | _said(rude, "MET: NO"))
    assert row is not None
    assert (row["score"], row["raw_score"], row["met"]) == (1.0, 1.0, [True, False])
    row = grade.row(yes | _said(rude, "MET: YES"))
    assert row is not None
    assert (row["score"], row["raw_score"]) == (0.0, -1.5)


def _answers(tmp_path: Path, rows: list[Any]) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_meet_responses_by_id_else_by_text(tmp_path: Path) -> None:
    key = read_answers(_answers(tmp_path, [{"query": "What?", "answer": [4, "four"]}]), "exact")
    stranger = make_response("Else?", "a", "x")
    found, n_without = key.match([A, stranger])
    assert found == [(A, ["4", "four"])]
    assert n_without == 1
    with pytest.raises(DataError, match="no response belongs"):
        key.match([stranger])


def test_an_answer_meets_a_chat_however_it_is_written(tmp_path: Path) -> None:
    """By its text, as labels meet; it was known by the cell's text alone."""
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    asked = make_response("system: Be brief.\n\nWhat?", "a", "four")
    for field, cell in (("query", chat), ("query", json.dumps(chat)), ("messages", chat)):
        key = read_answers(_answers(tmp_path, [{field: cell, "answer": "four"}]), "exact")
        assert key.match([asked]) == ([(asked, ["four"])], 0)


@pytest.mark.parametrize(
    ("how", "row", "named"),
    [
        ("exact", {"query": "q"}, "answer = None"),
        ("numeric", {"query": "q", "answer": []}, "answer = []"),
        ("exact", {"query": "q", "answer": True}, "answer = True"),
        ("regex", {"query": "q", "pattern": "("}, "pattern = '('"),
        ("tests", {"query": "q", "tests": ""}, "tests = ''"),
        ("tests", {"query": "q", "tests": "x", "entry_point": "f()"}, "entry_point"),
        ("rubric", {"query": "q", "rubrics": []}, "rubrics = []"),
        ("rubric", {"query": "q", "rubrics": [{"criterion": "x"}]}, "rubrics"),
        ("rubric", {"query": "q", "rubrics": [{"criterion": "x", "points": -1}]}, "positive"),
        ("rubric", {"query": "q", "rubrics": "x"}, "rubrics"),
        ("exact", {"answer": "x"}, "query = None"),
    ],
)
def test_a_wrong_answer_is_named_by_row_and_field(
    how: str, row: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(LabelError) as caught:
        read_answers(_answers(tmp_path, [row]), how)
    assert "a.jsonl: row 1: " in str(caught.value)
    assert named in str(caught.value)


def test_two_rows_for_one_query_are_refused(tmp_path: Path) -> None:
    row = {"query_id": 1, "answer": "x"}
    with pytest.raises(LabelError, match="row 2: query_id = '1'; allowed: one row"):
        read_answers(_answers(tmp_path, [row, row]), "exact")


def test_tests_make_one_program(tmp_path: Path) -> None:
    row = {
        "query": "q", "setup": "import math", "tests": ["def check(f):", "    assert f(1)"],
        "entry_point": "g",
    }  # fmt: skip
    key = read_answers(_answers(tmp_path, [row]), "tests")
    program = key.by_text["q"].program("g = bool")
    assert program == "import math\n\ng = bool\n\ndef check(f):\n    assert f(1)\ncheck(g)"
