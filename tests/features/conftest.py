"""Texts that embedders and pipelines are tried on."""

from __future__ import annotations

import pytest

SUBJECTS = ("matrix", "treaty", "kidney", "sonnet", "compiler", "tariff", "orbit", "sauce")
FRAMES = (
    "What is the role of a {a} in the study of a {b}?",
    "Explain how a {a} differs from a {b}, step by step.",
    "Write a Python function that maps each {a} to a {b}.\n```python\ndef f(x):\n    return x\n```",
    "A {a} costs 12 dollars and a {b} costs 7. How much do 3 of each cost?",
    "Which of these is true of a {a}?\nA. It is a {b}.\nB. It is not.\nC. Both.\nD. Neither.",
)


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """280 short prompts of five kinds about eight subjects."""
    return [
        frame.format(a=a, b=b) for frame in FRAMES for a in SUBJECTS for b in SUBJECTS if a != b
    ]
