"""Surface features: length, shape and cues of a text, read off its characters.

They tell kinds of prompts apart (an exam question with options, a request for
code, a chat) at almost no cost. On subjects that the training data did not hold
they are worth little, so they complement an embedding and do not replace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarouter.features.excerpts import excerpt

__all__ = ["SURFACE_NAMES", "SurfaceFeatures"]

# Classes of UTF-8 bytes. Each gives two features: ln(1 + count) and the share of all bytes.
_BYTE_CLASSES: dict[str, bytes] = {
    "lower": b"abcdefghijklmnopqrstuvwxyz",
    "upper": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "digit": b"0123456789",
    "space": b" \t",
    "newline": b"\n",
    "sentence_end": b".!",
    "question_mark": b"?",
    "comma": b",;",
    "colon": b":",
    "quote": b"\"'",
    "paren": b"()",
    "bracket": b"[]{}",
    "operator": b"+-*/=<>^%",
    "latex": b"\\$_",
    "markup": b"#`|~@&",
    "latin_accented": bytes(range(0xC2, 0xC8)),
    "greek_cyrillic": bytes(range(0xCE, 0xD4)),
    "semitic": bytes(range(0xD6, 0xDC)),
    "indic_symbols": bytes(range(0xE0, 0xE3)),
    "cjk": bytes(range(0xE3, 0xED)),
    "emoji": bytes(range(0xF0, 0xF5)),
}
# Each gives one feature: ln(1 + number of words of the lower-cased text that are in the group).
_WORD_CUES: dict[str, str] = {
    "what": "what what's",
    "which": "which",
    "who_where_when": "who whose where when",
    "why": "why",
    "how": "how",
    "negation": "not no never don't doesn't isn't can't cannot except without",
    "following": "following below above",
    "statement": "statement statements true false both neither",
    "comparison": "most least best more less than likely",
    "condition": "if suppose assume given let",
    "option_letter": "a. b. c. d. a) b) c) d) (a) (b) (c) (d)",
    "write": "write create generate design build implement",
    "explain": "explain describe discuss compare analyze",
    "list": "list give suggest recommend name provide",
    "rewrite": "translate summarize rewrite paraphrase correct convert",
    "compute": "calculate compute evaluate solve find determine simplify",
    "prove": "prove proof theorem show lemma",
    "mathematics": "equation function integer integers matrix polynomial probability triangle",
    "quantity": "many much total each per every twice half",
    "money": "dollar dollars price cost costs percent paid",
    "code_word": "def return import class assert print for while else int string array",
    "code_language": "python java javascript sql c++ html json bash regex code",
    "roleplay": "act imagine pretend character story poem",
    "first_person": "i my me i'm we our",
    "second_person": "you your",
    "turn": "user: assistant: system:",
    "english": "the of and to is in",
    "romance": "el la los las que en de por para le les des est une um uma não",
    "german": "der die das und ist ein eine nicht",
}
# Likewise, counting places where the text holds one of the strings.
_STRING_CUES: dict[str, tuple[str, ...]] = {
    "code_fence": ("```",),
    "call": ("()", ");"),
    "blank": ("___",),
    "latex_command": ("\\frac", "\\sqrt", "\\begin", "$$"),
    "numbered": ("\n1.", "\n2."),
    "bulleted": ("\n- ", "\n* "),
    "link": ("http",),
}
_SHAPES = ("chars", "words", "mean_word", "longest_word", "distinct_words")

SURFACE_NAMES: tuple[str, ...] = (
    *(f"log_{name}" for name in (*_SHAPES, *_BYTE_CLASSES, *_WORD_CUES, *_STRING_CUES)),
    *(f"share_{name}" for name in _BYTE_CLASSES),
    "ends_in_question",
)
"""What each column of :class:`SurfaceFeatures` measures, in order."""


def _class_table() -> NDArray[np.float32]:
    table = np.zeros((256, len(_BYTE_CLASSES)), dtype=np.float32)
    for column, members in enumerate(_BYTE_CLASSES.values()):
        table[list(members), column] = 1.0
    return table


_CLASS_OF_BYTE = _class_table()
_CUE_OF_WORD = {
    word + mark: group
    for group, words in enumerate(_WORD_CUES.values())
    for word in words.split()
    for mark in ("", ",", ".", ":", ";", "?", "!")
}
_GROUP_OF_STRING = tuple(
    (string, group)
    for group, strings in enumerate(_STRING_CUES.values(), start=len(_WORD_CUES))
    for string in strings
)
_N_CUES = len(_WORD_CUES) + len(_STRING_CUES)
_CLASSES = slice(len(_SHAPES), len(_SHAPES) + len(_BYTE_CLASSES))
_COUNTS = slice(0, _CLASSES.stop + _N_CUES)


@dataclass(frozen=True, slots=True)
class SurfaceFeatures:
    """Length, character classes and cue words of a text, log-scaled.

    The columns are named by :data:`SURFACE_NAMES`. Counts come as
    ln(1 + count), shares in [0, 1]. Except for the length, only the first and
    last 4,000 characters of a long text are read.

    Examples
    --------
    >>> row = SurfaceFeatures().embed(["Is 7 prime?"])[0]
    >>> value = dict(zip(SURFACE_NAMES, row.tolist(), strict=True))
    >>> value["ends_in_question"], round(value["log_digit"], 3)
    (1.0, 0.693)
    """

    @property
    def mixed_units(self) -> bool:
        """True: the columns are to be standardised before they are compared."""
        return True

    @property
    def name(self) -> str:
        """Kind and version."""
        return "surface-v1"

    @property
    def dim(self) -> int:
        """Number of columns."""
        return len(SURFACE_NAMES)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features, shape (n_texts, dim)."""
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for i, text in enumerate(texts):
            _describe_into(text, out[i])
        return out


def _describe_into(text: str, out: NDArray[np.float32]) -> None:
    read = excerpt(text)
    lower = read.lower()
    words = lower.split()
    octets = np.frombuffer(read.encode("utf-8", "replace"), dtype=np.uint8)
    classes = np.bincount(octets, minlength=256).astype(np.float32) @ _CLASS_OF_BYTE
    out[: _CLASSES.start] = (len(text), len(words), *_word_lengths(words), len(set(words)))
    out[_CLASSES] = classes
    out[_CLASSES.stop : _COUNTS.stop] = _cues(words, lower)
    np.log1p(out[_COUNTS], out=out[_COUNTS])
    out[_COUNTS.stop : -1] = classes / max(len(octets), 1)
    out[-1] = read.rstrip().endswith("?")


def _word_lengths(words: list[str]) -> tuple[float, int]:
    """Mean and largest length of the words."""
    lengths = [*map(len, words)]
    return (sum(lengths) / len(lengths), max(lengths)) if lengths else (0.0, 0)


def _cues(words: list[str], lower: str) -> list[int]:
    """How often each group of words occurs, then each group of strings."""
    found, group_of_word = [0] * _N_CUES, _CUE_OF_WORD
    for word in words:
        if word in group_of_word:
            found[group_of_word[word]] += 1
    for string, group in _GROUP_OF_STRING:
        found[group] += lower.count(string)
    return found
