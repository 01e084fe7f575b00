"""Grades that need no judge: exact match, numbers, regular expressions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["extract", "is_exact_match", "is_same_number", "last_number", "matches", "normalised"]

# A sign belongs to a number unless it joins it to a word or number before ("5-3", "GPT-4").
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>-?)[$€£]?\s?(?P<a>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<b>\.\d+)?"
    r"(?P<exponent>[eE][+-]?\d{1,3}(?!\w))?(?:/(?P<divisor>[1-9]\d*))?"
    r"|(?<![\w.])(?P<sign2>-?)(?P<c>\.\d+)"
    r"|(?<=\w)-(?P<joined>\d+(?:\.\d+)?)"
)
_LONGEST_NUMBER = 1_000  # characters; Python reads up to 4,300 digits
_OUTER = " \t\r\n\"'`*_$“”‘’«»()[]{}<>"
_ENDING = ".,;:!?。"


def normalised(text: str) -> str:
    r"""A text without what no answer hangs on.

    Unicode compatibility forms (NFKC), case, runs of white space, and quotes,
    brackets, marks of emphasis and closing punctuation around the whole. Inner
    punctuation and signs stay: "-5" is not "5" and "C++" is not "C".

    Examples
    --------
    >>> normalised(' **The  Hague**.\n')
    'the hague'
    >>> normalised("-5"), normalised("C++")
    ('-5', 'c++')
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    while (stripped := text.strip(_OUTER).rstrip(_ENDING)) != text:
        text = stripped
    return text


def is_exact_match(response: str, accepted: Sequence[str]) -> bool:
    """Whether a response is one of the accepted answers, both normalised."""
    given = normalised(response)
    return any(given == normalised(answer) for answer in accepted)


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None when it has none.

    Thousands may be set off by commas, a currency sign may stand in front, and
    decimal fractions, exponents and simple fractions ("3/4") are understood. A
    per cent sign changes nothing: 5 % is 5. What has above 1,000 characters is no
    number.

    Examples
    --------
    >>> last_number("It costs $1,234.50 in all.")
    Fraction(2469, 2)
    >>> last_number("from −3 to 3/4"), last_number("none")
    (Fraction(3, 4), None)
    """
    found = list(_NUMBER.finditer(text.replace("−", "-").replace("–", "-")))
    if not found or len(found[-1].group()) > _LONGEST_NUMBER:
        return None
    return _value(found[-1])


def is_same_number(response: str, accepted: Sequence[str], tolerance: float = 1e-6) -> bool:
    """Whether the last number of a response is that of an accepted answer.

    `tolerance` is relative to the accepted number (absolute around 0).
    """
    given = last_number(response)
    if given is None:
        return False
    wanted = (last_number(answer) for answer in accepted)
    limit = Fraction(tolerance)
    return any(
        number is not None and abs(given - number) <= limit * (abs(number) or 1)
        for number in wanted
    )


def matches(response: str, pattern: re.Pattern[str]) -> bool:
    """Whether the pattern is found anywhere in the response."""
    return pattern.search(response) is not None


def extract(response: str, pattern: re.Pattern[str] | None) -> str:
    r"""The last match of a pattern (its first group, when it has one); "" without a match.

    Examples
    --------
    >>> extract("Answer: 3. No: Answer: 4", re.compile(r"Answer: (\d)"))
    '4'
    """
    if pattern is None:
        return response
    found = list(pattern.finditer(response))
    if not found:
        return ""
    return str(found[-1].group(1 if pattern.groups else 0) or "")


def _value(match: re.Match[str]) -> Fraction:
    part = match.groupdict()
    if part["joined"] is not None:
        return Fraction(part["joined"])
    if part["c"] is not None:
        return Fraction(f"{part['sign2']}0{part['c']}")
    digits = part["a"].replace(",", "")
    number = Fraction(f"{part['sign']}{digits}{part['b'] or ''}{part['exponent'] or ''}")
    return number / int(part["divisor"] or 1)
