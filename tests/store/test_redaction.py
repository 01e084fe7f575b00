"""What has the form of a secret or of personal data is taken out; what has not stays."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.errors import OptionError
from metarouter.store.redaction import PATTERNS, Redactor

_ALL = Redactor(PATTERNS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to bob.smith+news@mail.example.co.uk, now", "write to [email], now"),
        ("<Ünal@example.org>", "<[email]>"),
        ("call +49 (0)30 1234567!", "call [phone]!"),
        ("+1 415 555 2671 or 0044 20 7946 0958", "[phone] or [phone]"),
        ("(415) 555-2671, 415-555-2671", "[phone], [phone]"),
        ("0171 2345678 or 030/1234567", "[phone] or [phone]"),
        ("card 4111-1111-1111-1111.", "card [card]."),
        ("card 378282246310005", "card [card]"),
        ("key sk-proj-abcdefghijklmnopqrstuv", "key [secret]"),
        ("mr-" + "a" * 43, "[secret]"),
        ("github_pat_11ABCDEFG0abcdefghij", "[secret]"),
        ("AKIAIOSFODNN7EXAMPLE", "[secret]"),
        ("Authorization: Bearer abcdefghijklmnop1234==", "Authorization: [secret]"),
        ("https://bob:hunter2@host/x", "https://[secret]@host/x"),
        ("DB_PASSWORD=hunter2&x=1", "DB_PASSWORD[secret]&x=1"),
        ("password: hunter2", "password[secret]"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nbye",
            "[secret]\nbye",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIE, cut off", "[secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0xx.sig-nature", "[secret]"),
    ],
)
def test_what_has_the_form_is_taken_out(text: str, expected: str) -> None:
    assert _ALL(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "on 2026-11-22 at 08:32, or 05.12.2020",
        "version 1.2.3 costs 12.345.678 euros",
        "card 4111 1111 1111 1112 has a wrong check digit",
        "ISBN 978-3-16-148410-0, order 1234567890123456",
        "at 192.168.100.200 in 1990 and 2001",
        "pi is 3.14159265358979323846",
        "def f(a, b=0): return a @ b  # a - 1 + 2",
        "scores 0-1, 0 10 20; 1 000 000 people",
        "the risk-free rate; task-oriented; mr-smith",
        "token: x",
    ],
)
def test_what_has_not_stays(text: str) -> None:
    assert _ALL(text) == text


def test_only_what_was_asked_for_is_taken_out() -> None:
    text = "ann@example.org, +49 30 1234567, case-12"
    assert Redactor(["phone"])(text) == "ann@example.org, [phone], case-12"
    assert Redactor([])(text) == text
    own = Redactor(["email"], {"case": r"case-\d+"})
    assert own(text) == "[email], +49 30 1234567, [case]"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["name"]}, "store.redact = 'name'; allowed: secret, email, card, phone"),
        ({"names": [], "own": {"bad": "("}}, "store.redact_patterns.bad"),
        ({"names": [], "own": {"all": "x*"}}, "does not find the empty text"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Redactor(**given)
    assert message in str(caught.value)


@given(st.text(alphabet="ab1 0+-.@:/()=eyJsk_\n", max_size=300))
def test_what_was_taken_out_stays_out(text: str) -> None:
    """A second time changes nothing."""
    once = _ALL(text)
    assert _ALL(once) == once


@pytest.mark.speed
@pytest.mark.parametrize(
    "piece",
    ["a", "1", "a.", "1 ", "+1", "0 ", "a@a.", "://a:", "(0", "eyJaaaaaaaa.", "eyJ-", "sk-", "="],
)
def test_no_text_takes_long(piece: str) -> None:
    """Time grows with the length, not with its square: 0.1 MB in well under a second."""
    text = (piece * 100_000)[:100_000]
    start = time.process_time()
    _ALL(text)
    assert time.process_time() - start < 1.0


@pytest.mark.speed
@pytest.mark.parametrize("unit", ["eyJaaaaaaaa-", "eyJaaaaaaaa.", "eyJaaaaaaaa.eyJaaaaaaaa-"])
def test_no_prompt_takes_time_that_grows_with_its_square(unit: str) -> None:
    """Twice the text costs about twice, not four times; the first measure is the longer one."""

    def seconds(n: int) -> float:
        text, start = unit * n, time.process_time()
        Redactor(PATTERNS)(text)
        return time.process_time() - start

    seconds(100)
    assert seconds(16_000) < 20 * max(seconds(2_000), 0.002)


def test_a_token_is_taken_out_whole() -> None:
    """Also where it follows a sign that belongs to no word."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4"
    redact = Redactor(["secret"])
    assert redact(f"use {token}, please") == "use [secret], please"
    assert redact(f"({token})") == "([secret])"
