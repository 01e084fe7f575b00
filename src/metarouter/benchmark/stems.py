"""The stem of a question: its text without the answers that are offered."""

from __future__ import annotations

import re

__all__ = ["stem"]

_FIRST_OPTION = re.compile(r"\n\s*\(?A[.)]\s")


def stem(prompt: str) -> str:
    r"""The prompt up to its first option, spaces and case evened out.

    Near copies of a question differ in their options or in the order of them;
    questions of one stem must not be parted, or a test question is trained on.

    Parameters
    ----------
    prompt : str
        Options are lines that start with ``A.``, ``A)`` or ``(A)``; without them
        the whole prompt is its stem.

    Examples
    --------
    >>> stem("Which is  prime?\nA. 4\nB. 5") == stem("which is prime?\n(A) 7\n(B) 8")
    True
    """
    option = _FIRST_OPTION.search(prompt)
    kept = prompt if option is None else prompt[: option.start()]
    return " ".join(kept.lower().split())
