"""Hashed word n-grams: which words and word pairs a text holds, model-free."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.features.excerpts import MAX_CHARS, excerpt

__all__ = ["HashedNgrams", "SparseRows"]

# Scripts without spaces between words: each character is a word of its own.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"[^\W{_UNSPACED}]+|[^\w\s]|[{_UNSPACED}]")
# The same for ASCII, where bytes save encoding every word; \s of a str has four more members.
_ASCII_WORDS = re.compile(rb"\w+|[^\w\s\x1c-\x1f]")
# 1 + ln c for every count c that an excerpt of MAX_CHARS + 1 words, and as many pairs, can have.
_TF = (1.0 + np.log(np.maximum(np.arange(2 * MAX_CHARS + 3), 1))).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseRows:
    """Sparse vectors, row after row (the CSR layout).

    Row i holds ``values[starts[i]:starts[i + 1]]`` at the columns
    ``columns[starts[i]:starts[i + 1]]``. A column may occur twice in a row;
    its values add up.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    n_columns: int

    @classmethod
    def of(
        cls, rows: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]], n_columns: int
    ) -> SparseRows:
        """Sparse rows from the columns and values of each."""
        lengths = [0, *(len(columns) for columns, _ in rows)]
        return cls(
            starts=np.cumsum(lengths, dtype=np.int64),
            columns=_joined([columns for columns, _ in rows], np.int64),
            values=_joined([values for _, values in rows], np.float32),
            n_columns=n_columns,
        )

    def __len__(self) -> int:
        return len(self.starts) - 1

    def dense(self) -> NDArray[np.float32]:
        """The same rows as a dense array, shape (n_rows, n_columns)."""
        out = np.zeros((len(self), self.n_columns), dtype=np.float32)
        rows = np.repeat(np.arange(len(self)), np.diff(self.starts))
        np.add.at(out, (rows, self.columns), self.values)
        return out


@dataclass(frozen=True, slots=True)
class HashedNgrams:
    """Signed hashed counts of words and word pairs, of unit length.

    Words are runs of letters and digits in lower case, single punctuation
    marks, and single characters of scripts that do not space their words. Only
    the first and last 4,000 characters of a long text are read.

    Parameters
    ----------
    n_buckets : int, power of two in [2, 2**24], default 16,384.

    Notes
    -----
    An n-gram g that occurs c_g times adds s(g)·(1 + ln c_g) to bucket h(g),
    with s(g) = ±1 from another bit of the hash, so that collisions cancel on
    average. The vector is divided by (Σ_g (1 + ln c_g)²)^½. Hashes are CRC-32
    of the UTF-8 words, mixed by the finaliser of MurmurHash3: the same on every
    machine and in every process.

    References
    ----------
    Weinberger, Dasgupta, Langford, Smola, Attenberg (2009), Feature hashing for
    large scale multitask learning, https://arxiv.org/abs/0902.2206

    Examples
    --------
    >>> vectors = HashedNgrams(n_buckets=64).embed(["one two", "one two", ""])
    >>> vectors.shape, bool((vectors[0] == vectors[1]).all()), bool(vectors[2].any())
    ((3, 64), True, False)
    """

    n_buckets: int = 16_384

    def __post_init__(self) -> None:
        """Reject a bucket count that no bit mask can address."""
        n = self.n_buckets
        if not (2 <= n <= 1 << 24 and n & (n - 1) == 0):
            raise OptionError.of("n_buckets", n, "a power of two from 2 to 16,777,216")

    @property
    def name(self) -> str:
        """Kind, version and number of buckets."""
        return f"hashed-v1-{self.n_buckets}"

    @property
    def dim(self) -> int:
        """Number of buckets."""
        return self.n_buckets

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Dense vectors, shape (n_texts, n_buckets): for few texts only."""
        return self.embed_sparse(texts).dense()

    def embed_sparse(self, texts: Sequence[str]) -> SparseRows:
        """Sparse vectors, one row a text."""
        return SparseRows.of([self.embed_one(text) for text in texts], self.n_buckets)

    def embed_one(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Columns and values of one text, ordered by n-gram hash."""
        hashes, counts = _tallied(_ngram_hashes(text))
        tf = _TF.take(counts)
        # Bits 0-23 choose the bucket, bit 31 the sign, as it does of a float.
        values = np.copysign(tf, hashes.view(np.float32))
        values /= np.float32(max(math.sqrt(tf @ tf), 1e-12))
        return (hashes & np.uint32(self.n_buckets - 1)).astype(np.int64), values


def _words(text: str) -> list[bytes]:
    lower = excerpt(text).lower()
    if lower.isascii():
        return _ASCII_WORDS.findall(lower.encode())
    return [word.encode("utf-8", "replace") for word in _WORDS.findall(lower)]


def _ngram_hashes(text: str) -> NDArray[np.uint32]:
    unigrams = np.array([*map(crc32, _words(text))], dtype=np.uint32)
    # Odd constants keep the pair (a, b) apart from (b, a).
    bigrams = unigrams[:-1] * np.uint32(0x9E3779B1) + unigrams[1:] * np.uint32(0x85EBCA77)
    return _mixed(np.concatenate((unigrams, bigrams)))


def _mixed(h: NDArray[np.uint32]) -> NDArray[np.uint32]:
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def _tallied(hashes: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Different values in order, and how often each occurs: `np.unique` in half the time."""
    hashes.sort()
    is_first = np.empty(len(hashes) + 1, dtype=np.bool_)
    is_first[0] = is_first[-1] = True
    np.not_equal(hashes[1:], hashes[:-1], out=is_first[1:-1])
    starts = is_first.nonzero()[0]
    return hashes[starts[:-1]], starts[1:] - starts[:-1]


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
