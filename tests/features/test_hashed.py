"""Hashed n-grams against a straight-line re-implementation."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.errors import OptionError
from metarouter.features import HashedNgrams
from metarouter.features.excerpts import MAX_CHARS, excerpt


def murmur_finaliser(h: int) -> int:
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ (h >> 16)


def by_hand(text: str, n_buckets: int) -> list[float]:
    """One text, n-gram by n-gram, in plain Python; ASCII only."""
    words = [crc32(w.encode()) for w in re.findall(r"\w+|[^\w\s]", text.lower())]
    pairs = [(a * 0x9E3779B1 + b * 0x85EBCA77) % 2**32 for a, b in pairwise(words)]
    counts = Counter(murmur_finaliser(h) for h in words + pairs)
    norm = math.sqrt(sum((1 + math.log(c)) ** 2 for c in counts.values()))
    out = [0.0] * n_buckets
    for h, c in counts.items():
        out[h % n_buckets] += (-1 if h >> 31 else 1) * (1 + math.log(c)) / norm
    return out


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
@settings(max_examples=80)
def test_equals_the_definition_computed_by_hand(text: str) -> None:
    """Any ASCII text has the vector that the docstring's formula gives."""
    vector = HashedNgrams(32).embed([text])[0]
    np.testing.assert_allclose(vector, by_hand(text, 32), atol=1e-6)


@given(st.text(alphabet="ab C1._-é\x1c\n", max_size=30))
@settings(max_examples=50)
def test_ascii_and_other_texts_are_cut_into_the_same_words(text: str) -> None:
    """One foreign letter far from a word does not change how that word is read."""
    first = HashedNgrams(1 << 24).embed_sparse([text, f"{text} \u00df"])
    shared = set(first.columns[: first.starts[1]]) - set(first.columns[first.starts[1] :])
    assert not shared


def test_word_order_matters_and_case_does_not() -> None:
    """Word pairs tell "dog bites man" from "man bites dog"; capitals change nothing."""
    embedder = HashedNgrams()
    one, other, upper = embedder.embed(["dog bites man", "man bites dog", "DOG BITES MAN"])
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, upper)


def test_scripts_without_spaces_are_read_character_by_character() -> None:
    """Two Chinese sentences that share characters are similar."""
    a, b, c = HashedNgrams().embed(["我喜欢数学", "他喜欢数学", "天气很好吗"])
    assert a @ b > 0.4 > a @ c


def test_the_same_in_another_process() -> None:
    """Vectors do not depend on Python's per-process string hash seed."""
    code = (
        "from metarouter.features import HashedNgrams;"
        "print(HashedNgrams(16).embed(['the same everywhere'])[0].tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{HashedNgrams(16).embed(['the same everywhere'])[0].tolist()}\n"}


@pytest.mark.parametrize("n_buckets", [0, 3, 100, 1 << 25])
def test_bucket_counts_that_are_no_power_of_two_are_refused(n_buckets: int) -> None:
    with pytest.raises(OptionError, match="n_buckets"):
        HashedNgrams(n_buckets)


def test_a_long_text_is_read_at_both_ends() -> None:
    """What stands in the middle of a long text is dropped, the end is not."""
    filler = "x " * MAX_CHARS
    assert excerpt(f"start {filler} end").endswith(" end")
    assert "middle" not in excerpt(f"start {filler} middle {filler} end")
