"""Static embedding: the mean of pretrained token vectors, no network to run.

WordLlama (Miller 2024) holds one vector a token, trained so that the mean over
a text is a sentence embedding. Its two files are read directly from the
installed package, which is never imported.

The tokenizer of this vocabulary joins the words of a text into one string with
``▁`` for a space and merges symbols by rank. No token has a ``▁`` after another
character, so no merge ever crosses from the end of a word into the next space:
the tokens of a text are the tokens of its words, and words can be remembered.
That makes the tokenizer, otherwise most of the cost, a dictionary look-up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarouter.features.excerpts import excerpt
from metarouter.features.packaged import PackagedFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["StaticEmbedding"]

_WEIGHTS = PackagedFile(
    package="wordllama",
    path="weights/l2_supercat_256.safetensors",
    size=16_384_096,
    sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
)
_TOKENIZER = PackagedFile(
    package="wordllama",
    path="tokenizers/l2_supercat_tokenizer_config.json",
    size=1_842_796,
    sha256="93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
)
_DIM = 256
_WORDS = re.compile(r" ( *[^ ]*)")
# About 20 MB when full; a flood of unseen words starts it anew.
_MAX_WORDS = 65_536
_LONGEST_WORD = 64


@dataclass(frozen=True, slots=True)
class StaticEmbedding:
    """Mean of WordLlama's 256-dimensional token vectors, of unit length.

    A text without tokens gives the zero vector. Only the first and last 4,000
    characters of a long text are read.

    References
    ----------
    Miller (2024), WordLlama: recycled token embeddings from large language
    models, https://github.com/dleemiller/wordllama

    Examples
    --------
    >>> cat, kitten, tax = StaticEmbedding().embed(["a cat", "a kitten", "income tax law"])
    >>> bool(cat @ kitten > cat @ tax)
    True
    """

    @property
    def name(self) -> str:
        """Kind, version and source of the vectors."""
        return "static-v1-wordllama-256"

    @property
    def dim(self) -> int:
        """256."""
        return _DIM

    def verify(self) -> None:
        """Check the SHA-256 of the weights and of the tokenizer.

        Raises
        ------
        MissingDependencyError
            When wordllama is not installed.
        DataError
            When a file is not the pinned one.
        """
        _WEIGHTS.verify()
        _TOKENIZER.verify()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, shape (n_texts, 256), each of length 1 or 0."""
        table = _table()
        out = np.empty((len(texts), _DIM), dtype=np.float32)
        for i, text in enumerate(texts):
            total = out[i]
            table.sum_into(text, total)
            total /= np.float32(max(math.sqrt(total @ total), 1e-12))
        return out


class _TokenTable:
    """Token vectors, and the token ids of the words seen so far.

    Safe to share between threads: each step writes values that do not depend
    on who writes them, and a row is complete before a word refers to it.
    """

    def __init__(self, tokenizer: Tokenizer, half: NDArray[np.float16]) -> None:
        self._tokenizer = tokenizer
        self._half = half
        # Untouched pages take no memory: only rows of tokens that occur are filled.
        self._rows = np.zeros(half.shape, dtype=np.float32)
        self._ids: dict[str, list[int]] = {}

    def sum_into(self, text: str, out: NDArray[np.float32]) -> None:
        """Write the sum of the token vectors to `out`."""
        known = self._ids.get
        ids: list[int] = []
        for word in _words(excerpt(text).replace("▁", " ")):
            found = known(word)
            ids += self._tokenize(word) if found is None else found
        np.add.reduce(self._rows.take(ids, axis=0), axis=0, out=out) if ids else out.fill(0)

    def _tokenize(self, word: str) -> list[int]:
        plain = word.encode("utf-8", "replace").decode()
        ids: list[int] = self._tokenizer.encode(plain, add_special_tokens=False).ids
        self._rows[ids] = self._half[ids]
        if len(word) <= _LONGEST_WORD:
            if len(self._ids) >= _MAX_WORDS:
                self._ids.clear()
            self._ids[word] = ids
        return ids


def _words(text: str) -> list[str]:
    """Words without the one space before each, which the tokenizer puts there itself."""
    spaced = f" {text}"
    return _WORDS.findall(spaced) if "  " in spaced else text.split(" ")


@lru_cache(maxsize=1)
def _table() -> _TokenTable:
    from safetensors import safe_open
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_TOKENIZER.locate()))
    with safe_open(_WEIGHTS.locate(), "numpy") as weights:
        return _TokenTable(tokenizer, weights.get_tensor("embedding.weight"))
