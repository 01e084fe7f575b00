"""How close the tested prompts are to those that were learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import MissingDependencyError
from metarouter.features.cache import CachedEmbedder
from metarouter.features.registry import make_embedder
from metarouter.types import BoolArray, Embedder, FloatArray, IntArray

__all__ = [
    "CONTAMINATED",
    "Similarity",
    "measure_similarity",
    "similarity_embedder",
    "similarity_over_folds",
]

CONTAMINATED = 0.95
"""Cosine from which two prompts count as the same, as RouteLLM has it."""

_BLOCK = 1_024


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """Nearness of test prompts to training prompts.

    Attributes
    ----------
    largest : array, shape (n_test,)
        Largest cosine to any training prompt; NaN without training prompts.
    identical : bool array, shape (n_test,); the text itself is there, up to
        spaces and case.
    embedder : str, name of what made the vectors.
    """

    largest: FloatArray
    identical: BoolArray
    embedder: str

    @property
    def mean(self) -> float:
        """Benchmark-training similarity: the mean largest cosine."""
        return float(self.largest.mean()) if len(self.largest) else float("nan")

    @property
    def contaminated(self) -> BoolArray:
        """Test prompts that training holds, word for word or nearly."""
        return np.asarray(self.identical | (self.largest >= CONTAMINATED))


def similarity_embedder(cache: Path | str | None = None) -> Embedder:
    """The sentence encoder, or the static embedding where it is not installed."""
    try:
        embedder = make_embedder("minilm")
        getattr(embedder, "verify", lambda: None)()
    except MissingDependencyError:
        return make_embedder("static")
    return embedder if cache is None else CachedEmbedder(embedder, cache)


def measure_similarity(test: Sequence[str], train: Sequence[str], embedder: Embedder) -> Similarity:
    """Compare every test prompt with every training prompt.

    Parameters
    ----------
    test, train : sequences of str
    embedder : Embedder

    Returns
    -------
    Similarity

    References
    ----------
    Ong et al. (2025), "RouteLLM", ICLR, https://arxiv.org/abs/2406.18665.

    Examples
    --------
    >>> found = measure_similarity(["Hello  there"], ["hello there"], make_embedder("hashed:64"))
    >>> found.contaminated.tolist()
    [True]
    """
    known = {_plain(text) for text in train}
    return Similarity(
        largest=_largest_cosine(embedder.embed(test), embedder.embed(train)),
        identical=np.array([_plain(text) in known for text in test], dtype=np.bool_),
        embedder=embedder.name,
    )


def similarity_over_folds(
    prompts: Sequence[str], folds: Sequence[tuple[IntArray, IntArray]], embedder: Embedder
) -> Similarity:
    """Compare the test prompts of each fold with its own training prompts.

    Parameters
    ----------
    prompts : sequence of str, embedded once.
    folds : sequence of (test, train), int arrays that index `prompts`.
    embedder : Embedder

    Returns
    -------
    Similarity
        Of the test prompts, fold after fold.

    Examples
    --------
    >>> folds = [(np.array([0]), np.array([1, 2])), (np.array([1]), np.array([2]))]
    >>> texts = ["Hello there", "hello there", "Prove it"]
    >>> similarity_over_folds(texts, folds, make_embedder("hashed:64")).identical.tolist()
    [True, False]
    """
    vectors = embedder.embed(prompts)
    plain = np.array([_plain(text) for text in prompts], dtype=object)
    _, code = np.unique(plain, return_inverse=True)
    return Similarity(
        largest=np.concatenate(
            [_largest_cosine(vectors[test], vectors[train]) for test, train in folds]
        ),
        identical=np.concatenate([np.isin(code[test], code[train]) for test, train in folds]),
        embedder=embedder.name,
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _largest_cosine(test: NDArray[np.float32], train: NDArray[np.float32]) -> FloatArray:
    if not len(train):
        return np.full(len(test), np.nan)
    a, b = _unit(test), _unit(train)
    blocks = [(a[i : i + _BLOCK] @ b.T).max(axis=1) for i in range(0, len(a), _BLOCK)]
    return np.concatenate(blocks).astype(np.float64) if blocks else np.zeros(0)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.asarray(rows / np.maximum(length, np.float32(1e-12)))
