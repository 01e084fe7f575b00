"""A fine-tuned encoder at serving: text to class probabilities through onnxruntime."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from metarouter.features.endpoint import EndpointEmbedder
from metarouter.features.excerpts import valid_excerpt
from metarouter.features.onnx import one_thread_session
from metarouter.types import IntArray, ModelState

__all__ = ["EncoderClassifier", "battle_probabilities", "load_tokenizer", "token_ids"]


class EncoderClassifier:
    """P(win), P(tie) and P(loss) of every candidate against the reference model.

    Needs no torch: the network is an ONNX graph and the tokenizer a JSON file,
    both kept as bytes in the state. Texts are read one at a time on one thread,
    which on a CPU is faster than in batches, so a text's features do not depend
    on its batch.

    Parameters
    ----------
    state : ModelState of kind "encoder_classifier"
        Arrays ``onnx`` and ``tokenizer`` (uint8); config ``max_tokens`` and
        ``n_models``. The graph takes ``input_ids`` (1, tokens) and gives one
        logit for each model, the candidates first, then one for a tie, then
        that of the reference.

    Raises
    ------
    MissingDependencyError
        Without the extra ``onnx``.
    """

    def __init__(self, state: ModelState) -> None:
        self._state = state
        self._n_models = int(state.config["n_models"])
        graph = state.arrays["onnx"].tobytes()
        self._hash = hashlib.sha256(graph).hexdigest()[:12]
        self._session = one_thread_session(graph, "a router with a fine-tuned encoder")
        self._tokenizer = load_tokenizer(
            state.arrays["tokenizer"].tobytes(), int(state.config["max_tokens"])
        )

    @property
    def name(self) -> str:
        """Kind, and the start of the graph's hash."""
        return f"encoder_classifier-{self._hash}"

    @property
    def dim(self) -> int:
        """Three for each candidate: P(win), P(tie), P(loss)."""
        return 3 * (self._n_models - 1)

    @property
    def endpoints(self) -> tuple[EndpointEmbedder, ...]:
        """None: texts are read here."""
        return ()

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities, shape (n_texts, 3 (n_models − 1))."""
        logits = np.empty((len(texts), self._n_models + 1), dtype=np.float32)
        for i, text in enumerate(texts):
            ids = token_ids(self._tokenizer, text)
            logits[i] = self._session.run(None, {"input_ids": ids[None]})[0][0]
        return battle_probabilities(logits)

    def state(self) -> ModelState:
        """Graph, tokenizer and settings."""
        return self._state


def battle_probabilities(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Win, tie and loss of each candidate against the reference, from one logit a model.

    Parameters
    ----------
    logits : array, shape (n, n_models + 1): z₁ … z_{M−1}, tie, z₀.

    Returns
    -------
    float32 array, shape (n, 3 (n_models − 1))
        Softmax of (z_m, tie, z₀) for each candidate m. For a pair this is the
        softmax of all three logits, in RouteLLM's order of labels.

    References
    ----------
    Davidson (1970), On extending the Bradley-Terry model to accommodate ties
    in paired comparison experiments. https://doi.org/10.1080/01621459.1970.10481082

    Examples
    --------
    >>> battle_probabilities(np.zeros((1, 3))).round(3).tolist()
    [[0.3330000042915344, 0.3330000042915344, 0.3330000042915344]]
    """
    n, width = logits.shape
    battles = np.empty((n, width - 2, 3), dtype=np.float64)
    battles[:, :, 0] = logits[:, : width - 2]
    battles[:, :, 1] = logits[:, width - 2, None]
    battles[:, :, 2] = logits[:, width - 1, None]
    battles = np.exp(battles - battles.max(axis=2, keepdims=True))
    battles /= battles.sum(axis=2, keepdims=True)
    probabilities: NDArray[np.float32] = battles.reshape(n, 3 * (width - 2)).astype(np.float32)
    return probabilities


def load_tokenizer(content: bytes, max_tokens: int) -> Tokenizer:
    """A tokenizer from the bytes of its JSON file, cut at `max_tokens` and not padded.

    Special tokens in a text are read as plain text.
    """
    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def token_ids(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> IntArray:
    """Token ids of what the local embedders read of a text, shape (n_tokens,)."""
    found = tokenizer.encode(valid_excerpt(text), add_special_tokens=add_special_tokens)
    return np.array(found.ids, dtype=np.int64)
