"""Exact matches, numbers and extraction."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from collection_makers import make_response
from hypothesis import given
from hypothesis import strategies as st

from metarouter.collection.grades import answer_rows, extracted
from metarouter.collection.grading import (
    extract,
    is_exact_match,
    is_same_number,
    last_number,
    normalised,
)
from metarouter.errors import OptionError


@pytest.mark.parametrize(
    ("response", "accepted", "is_match"),
    [
        ("Paris", ["paris"], True),
        ("  “Paris”.\n", ["Paris"], True),
        ("**B**", ["B"], True),
        ("(C)", ["c"], True),
        ("ﬁne", ["fine"], True),
        ("New  York", ["new york"], True),
        ("Paris, France", ["Paris"], False),
        ("-5", ["5"], False),
        ("C++", ["C"], False),
        ("1.5", ["15"], False),
        ("no", ["yes", "No"], True),
        ("", ["a"], False),
    ],
)
def test_exact_matches_ignore_form_and_nothing_else(
    response: str, accepted: list[str], is_match: bool
) -> None:
    assert is_exact_match(response, accepted) is is_match


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", 42),
        ("#### 1,234", 1234),
        ("1,234,567.89 in all", Fraction("1234567.89")),
        ("$3.50", Fraction("3.5")),
        ("-$7", -7),
        ("−7", -7),
        ("x = -3", -3),
        ("5-3", 3),
        ("GPT-4 says 9, GPT-4 does", 4),
        ("about .5", Fraction("0.5")),
        ("3/4 of it", Fraction(3, 4)),
        ("6.02e23", Fraction("6.02e23")),
        ("20%", 20),
        ("1, 2", 2),
        ("1,2", 2),
        ("12,34", 34),
        ("v2", None),
        ("7/0", 0),
        ("**18**", 18),
        ("\\boxed{5}", 5),
        ("no number", None),
    ],
)
def test_the_last_number_is_found(text: str, number: Fraction | int | None) -> None:
    assert last_number(text) == number


@given(st.integers(-(10**12), 10**12))
def test_whole_numbers_are_read_with_and_without_commas(number: int) -> None:
    assert last_number(f"so {number}.") == number
    assert last_number(f"so {number:,}!") == number


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert last_number(text) is None or isinstance(last_number(text), Fraction)


def test_numbers_agree_within_the_tolerance() -> None:
    assert is_same_number("0.3333333", ["1/3"], tolerance=1e-6)
    assert not is_same_number("0.3333333", ["1/3"], tolerance=1e-8)
    assert is_same_number("0", ["0"])
    assert not is_same_number("none", ["0"])
    assert is_same_number("It is 6", ["5", "#### 6"])


def test_rows_are_scores_of_zero_and_one() -> None:
    right, wrong = make_response("q", "a", "so 4"), make_response("q", "b", "so 5")
    rows = answer_rows([(right, ["4"]), (wrong, ["4"])], "numeric")
    assert rows == [
        {"query": "q", "model": "a", "score": 1.0},
        {"query": "q", "model": "b", "score": 0.0},
    ]
    pattern = re.compile(r"\b4\b")
    assert [r["score"] for r in answer_rows([(right, pattern), (wrong, pattern)], "regex")] == [
        1,
        0,
    ]
    with pytest.raises(OptionError, match="tolerance"):
        answer_rows([(right, ["4"])], "numeric", tolerance=-1.0)


def test_extraction_takes_the_last_match() -> None:
    response = make_response("q", "a", "Answer: 3\nno, Answer: 4 (not 5)")
    ((cut, _),) = extracted([(response, None)], r"Answer: (\d)")
    assert cut.text == "4"
    assert extract("nothing", re.compile("x")) == ""
    assert extract("axbx", re.compile("x")) == "x"
    with pytest.raises(OptionError, match="extract"):
        extracted([(response, None)], "(")


@pytest.mark.parametrize("form", ["{}", "-{}.5", "1/{}", "0.{}", ".{}", "GPT-{}", "1,{}", "{}/7"])
def test_what_is_too_long_is_no_number(form: str) -> None:
    """Python refuses to read integers above 4,300 digits."""
    text = form.format("3" * 5_000)
    assert last_number(text) is None
    assert not is_same_number(text, ["3"])
    assert last_number("3" * 1_000) == int("3" * 1_000)
