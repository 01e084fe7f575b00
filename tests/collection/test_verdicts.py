"""What judges say is read, or found unreadable; it is never guessed."""

from __future__ import annotations

import pytest
from collection_makers import make_answer
from hypothesis import given
from hypothesis import strategies as st

from metarouter.collection.verdicts import read_choice, read_met, read_score


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Both fine.\nVERDICT: A", "A"),
        ("verdict: b.", "B"),
        ("**Verdict:** TIE", "tie"),
        ("Verdict: **Response B**", "B"),
        ("Verdict: [[A]]", "A"),
        ("## Verdict: `C`", "tie"),
        ("My final answer: [[B]] because it is right", "B"),
        ('{"reason": "x", "verdict": "A"}', "A"),
        ('```json\n{"verdict": "tie",\n "why": "same"}\n```', "tie"),
        ("At first [[A]].\nOn reflection:\n[[B]]", "B"),
        ("VERDICT: A\n\nThank you for asking about A and B!", "A"),
        ("Verdict = option a", "A"),
    ],
)
def test_the_usual_forms_are_read(text: str, verdict: str) -> None:
    assert read_choice(make_answer(text)) == verdict


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "I prefer response A.",
        "VERDICT: A or B",
        "VERDICT: A/B",
        "VERDICT: A is worse than B",
        "VERDICT: neither",
        "VERDICT:",
        "[[A]] or [[B]]",
        "[[AB]]",
        "Verdict: Apple",
        '{"verdict": "A or B"}',
        "The verdict is A",
        "verdict A",
    ],
)
def test_hedges_and_silence_are_no_verdict(text: str) -> None:
    assert read_choice(make_answer(text)) is None


def test_an_answer_that_was_cut_off_is_no_verdict() -> None:
    """What stands last in it need not be where it was going."""
    assert read_choice(make_answer("[[A]] might seem", finish_reason="length")) is None
    assert read_score(make_answer("SCORE: 3", finish_reason="length"), 1, 5) is None
    assert read_met(make_answer("MET: YES", finish_reason="length")) is None


@given(st.text(alphabet="ABCtie:[]vrdicVERDICT \n", max_size=80))
def test_reading_never_fails(text: str) -> None:
    answer = make_answer(text)
    assert read_choice(answer) in ("A", "B", "tie", None)
    assert read_score(answer, 1, 5) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good.\nSCORE: 4", 4.0),
        ("Score: 4/5", 4.0),
        ("**Rating:** 3.5", 3.5),
        ("[[5]]", 5.0),
        ('{"score": 2, "why": "…"}', 2.0),
        ("score = 1.", 1.0),
        ("SCORE: 2 then\nSCORE: 3", 3.0),
    ],
)
def test_scores_are_read(text: str, score: float) -> None:
    assert read_score(make_answer(text), 1, 5) == score


@pytest.mark.parametrize(
    "text",
    ["", "4", "SCORE: 7", "SCORE: 0", "SCORE: 4/10", "SCORE: 3-4", "SCORE: N", "SCORE: 3 or 4",
     "SCORE: four", "[[2]] [[3]]", "SCORE: -3"],
)  # fmt: skip
def test_scores_out_of_range_or_unclear_are_none(text: str) -> None:
    assert read_score(make_answer(text), 1, 5) is None


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("It does.\nMET: YES", True),
        ("met: no.", False),
        ('{"explanation": "x", "criteria_met": true}', True),
        ('{"criteria_met": false}', False),
        ("**MET:** No", False),
        ("MET: YES or NO", None),
        ("It is met.", None),
        ("unmet: yes", None),
        ("", None),
    ],
)
def test_criteria_are_read(text: str, met: bool | None) -> None:
    assert read_met(make_answer(text)) is met
