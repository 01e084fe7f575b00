"""Read what a judge decided, or find that it cannot be read; nothing is guessed.

A verdict stands in the last line that has one. Two different verdicts there,
a hedge ("A or B"), or an answer that was cut off at the token limit is none.
"""

from __future__ import annotations

import re
from typing import Literal

from metarouter.providers.chat import ChatAnswer

__all__ = ["Verdict", "read_choice", "read_met", "read_score", "shown"]

Verdict = Literal["A", "B", "tie"]

_MARKS = r"""[\s"'*_`#>(\[{]*"""
_END = r"""["'*_`)\]}.!,;]*\s*$"""
_CHOICE_WORD = r"(?:(?:response|answer|assistant|option|model)\s+)?(A|B|C|tie|equal|draw)"
_CHOICE = re.compile(
    rf"\bverdict\b{_MARKS}[:=]{_MARKS}{_CHOICE_WORD}{_END}"
    rf"|\[\[\s*{_CHOICE_WORD}\s*\]\]"
    rf'|"verdict"\s*:\s*"{_CHOICE_WORD}"',
    re.IGNORECASE,
)
_NUMBER = r"(\d{1,3}(?:\.\d+)?)(?:\s*/\s*(\d{1,3}))?"
_SCORE = re.compile(
    rf"\b(?:score|rating)\b{_MARKS}[:=]{_MARKS}{_NUMBER}{_END}"
    rf"|\[\[\s*{_NUMBER}\s*\]\]"
    r'|"(?:score|rating)"\s*:\s*"?(\d{1,3}(?:\.\d+)?)"?\s*[,}]',
    re.IGNORECASE,
)
_MET = re.compile(
    rf"\bmet\b{_MARKS}[:=]{_MARKS}(yes|no|true|false){_END}"
    r'|"(?:criteria_met|met)"\s*:\s*"?(yes|no|true|false)"?\s*[,}]',
    re.IGNORECASE,
)
_SHOWN = 120  # characters
_MEANING: dict[str, Verdict] = {"a": "A", "b": "B"}  # all other words mean a tie


def read_choice(answer: ChatAnswer) -> Verdict | None:
    """Which response the judge prefers, by position; None when it cannot be read.

    Examples
    --------
    >>> def said(text: str, finish: str = "stop") -> ChatAnswer:
    ...     return ChatAnswer(
    ...         text=text, served_model="", finish_reason=finish, prompt_tokens=None,
    ...         completion_tokens=None, seconds=0.0,
    ...     )
    >>> read_choice(said("B is shorter, A is right. **Verdict: A**"))
    'A'
    >>> read_choice(said("[[C]]"))
    'tie'
    >>> read_choice(said("VERDICT: A or B")) is None
    True
    >>> read_choice(said("VERDICT: A", "length")) is None
    True
    """
    found = {_MEANING.get(word.lower(), "tie") for word, *_ in _last_line(_CHOICE, answer)}
    return found.pop() if len(found) == 1 else None


def read_score(answer: ChatAnswer, low: int, high: int) -> float | None:
    """The score that the judge gives; None when it cannot be read or is out of range."""
    found: set[float] = set()
    for number, *limit in _last_line(_SCORE, answer):
        if limit and int(limit[0]) != high:
            return None
        found.add(float(number))
    score = found.pop() if len(found) == 1 else None
    return score if score is not None and low <= score <= high else None


def read_met(answer: ChatAnswer) -> bool | None:
    """Whether a criterion is met; None when it cannot be read."""
    found = {word.lower() in ("yes", "true") for word, *_ in _last_line(_MET, answer)}
    return found.pop() if len(found) == 1 else None


def shown(answer: ChatAnswer) -> str:
    r"""The end of an answer that cannot be read, for a message to people.

    Examples
    --------
    >>> answer = ChatAnswer(
    ...     text="A is short.\nSo: B?", served_model="", finish_reason="length",
    ...     prompt_tokens=None, completion_tokens=None, seconds=0.0,
    ... )
    >>> shown(answer)
    "'A is short. So: B?' (cut off at the token limit)"
    """
    text = " ".join(answer.text.split())
    end = repr(text if len(text) <= _SHOWN else f"… {text[-_SHOWN:]}") if text else "no text"
    return f"{end} (cut off at the token limit)" if answer.finish_reason == "length" else end


def _last_line(pattern: re.Pattern[str], answer: ChatAnswer) -> list[list[str]]:
    """The filled groups of every match in the last line that has one."""
    if answer.finish_reason == "length":
        return []
    for line in reversed(answer.text.splitlines()):
        found = [[g for g in match.groups() if g is not None] for match in pattern.finditer(line)]
        if found:
            return found
    return []
