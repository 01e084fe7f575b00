"""What part of a text the local embedders read.

A router must answer in well under a millisecond whatever it is sent, so no
local embedder reads more than :data:`MAX_CHARS` characters. The start of a text
says what is asked; in a conversation rendered to one string the end is the
turn to be answered. Both are kept, the middle is dropped.
"""

from __future__ import annotations

__all__ = ["MAX_CHARS", "excerpt", "valid_excerpt"]

MAX_CHARS = 8_000
_HALF = MAX_CHARS // 2


def excerpt(text: str) -> str:
    """The text itself, or its first and last 4,000 characters when it is longer.

    Examples
    --------
    >>> excerpt("short")
    'short'
    >>> len(excerpt("x" * 1_000_000))
    8001
    """
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:_HALF]}\n{text[-_HALF:]}"


def valid_excerpt(text: str) -> str:
    r"""The excerpt without lone surrogates, which tokenizers in Rust refuse.

    Examples
    --------
    >>> valid_excerpt("a \ud800")
    'a ?'
    """
    return excerpt(text).encode("utf-8", "replace").decode()
