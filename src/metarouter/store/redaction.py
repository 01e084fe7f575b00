"""Personal data and secrets out of prompts before they are kept.

Patterns find what has a form: addresses of e-mail, telephone numbers, numbers
of payment cards, keys. They cannot find names, postal addresses, dates of
birth, health, or anything else that only its meaning gives away; nor what is
spelled out ("at", "dot"), split over messages, or inside an image. What they
take out is gone; what they leave in may still be personal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from metarouter.errors import OptionError

__all__ = ["PATTERNS", "Redactor"]

# Each expression with the texts one of which it needs: looking for those first takes a tenth of
# the time. A look-behind stands after the first character, by which the engine skips ahead.
_Form = tuple[tuple[str, ...], str]

_EMAIL: list[_Form] = [
    (("@",), r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}"),
]
# 13 to 19 digits in groups; the check digit decides.
_CARD: list[_Form] = [((), r"\d(?<![\d.]\d)(?:[ -]?\d){12,18}(?!\d)")]
# International, or national with an area code that is set apart; not dates, amounts or versions.
_PHONE: list[_Form] = [
    (("+", "00"), r"[+0](?<![\w.+].)(?:(?<=\+)|0)[1-9]\d{0,2}(?:[ ().\-/]{0,2}\d){6,13}(?!\w)"),
    (
        ("0",),
        r"[(0](?<![\w.+\-(].)(?:(?<=0)|0)[1-9]\d{0,4}\)?[ /-]{1,2}\d{2,8}(?:[ -]\d{2,8}){,4}(?!\w)",
    ),
    ((), r"[(\d](?<![\w.+-].)(?:(?<=\()\d{3}\) ?|\d\d[-. ])\d{3}[-. ]\d{4}(?![\w-])"),
]
_SECRET: list[_Form] = [
    (
        ("PRIVATE KEY-----",),
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
    ),
    # OpenAI, Anthropic, Stripe, ours
    (("sk", "pk", "rk", "mr"), r"\b(?:sk|pk|rk|mr)[-_][\w-]{16,}"),
    (
        ("gh", "gl", "xox", "hf_", "npm_", "pypi-"),
        r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|hf_|npm_|pypi-)[\w-]{16,}",
    ),
    (("AKIA", "ASIA"), r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b"),
    (("AIza",), r"\bAIza[\w-]{30,}"),
    # JSON web tokens; begun in the middle of a word, each place of a long one would be tried
    (("eyJ",), r"e(?<![\w-].)yJ[\w-]{8,4096}\.[\w-]{8,16384}\.[\w-]{0,4096}"),
    (("earer ", "EARER "), r"(?i:\bbearer )[\w.~+/-]{16,}=*"),
    (("://",), r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)"),  # user and password of an address
    (
        (),
        r"[=:](?i:(?<=password.)|(?<=passwd.)|(?<=secret.)|(?<=_key.)|(?<=token.)) ?[^\s&\"']{4,}",
    ),
]

_FORMS: Mapping[str, list[_Form]] = {
    "secret": _SECRET,
    "email": _EMAIL,
    "card": _CARD,
    "phone": _PHONE,
}
PATTERNS = tuple(_FORMS)
"""Names of the patterns that are built in, in the order in which they are applied."""


class Redactor:
    r"""Replaces what its patterns find by their names in brackets.

    Parameters
    ----------
    names : of :data:`PATTERNS`.
    own : mapping, optional
        Further patterns by name, as regular expressions of Python. One that
        backtracks without end holds up the gateway: prefer plain ones.

    Raises
    ------
    OptionError
        When a name is unknown, or a pattern is no regular expression or finds
        the empty text.

    Examples
    --------
    >>> redact = Redactor(["email", "card"], {"case": r"case-\d+"})
    >>> redact("Ann (ann@example.org) paid with 4111 1111 1111 1111, see case-77")
    'Ann ([email]) paid with [card], see [case]'
    """

    def __init__(self, names: Sequence[str], own: Mapping[str, str] | None = None) -> None:
        unknown = [name for name in names if name not in PATTERNS]
        if unknown:
            raise OptionError.of("store.redact", unknown[0], ", ".join(PATTERNS))
        self._steps = [_step(name, text) for name, text in (own or {}).items()]
        for name in PATTERNS:
            forms = _FORMS[name] if name in names else []
            self._steps += [_step(name, text, marks) for marks, text in forms]

    def __call__(self, text: str) -> str:
        """The text without what was found."""
        for step in self._steps:
            if not step.marks or any(mark in text for mark in step.marks):
                text = step.pattern.sub(step.replacement, text)
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    pattern: re.Pattern[str]
    replacement: Callable[[re.Match[str]], str]
    marks: tuple[str, ...]


def _step(name: str, text: str, marks: tuple[str, ...] = ()) -> _Step:
    key = f"store.redact_patterns.{name}"
    try:
        pattern = re.compile(text, re.DOTALL)
    except re.error as error:
        raise OptionError.of(key, text, f"a regular expression ({error})") from None
    if pattern.search(""):
        raise OptionError.of(key, text, "an expression that does not find the empty text")
    return _Step(pattern=pattern, replacement=_replacement(name), marks=marks)


def _replacement(name: str) -> Callable[[re.Match[str]], str]:
    label = f"[{name}]"
    if name != "card":
        return lambda found: label
    return lambda found: label if _has_check_digit(found.group()) else found.group()


def _has_check_digit(text: str) -> bool:
    """Luhn's sum: from the right, every second digit doubled, is a multiple of ten."""
    digits = [int(c) for c in reversed(text) if c.isdigit()]
    doubled = (2 * d - 9 if d > 4 else 2 * d for d in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
