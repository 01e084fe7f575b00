"""Mean hidden state of a small pretrained decoder as a text's vector. Needs torch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.features.checkpoints import PACKAGED, import_extra, load_decoder, tokenizer_json

__all__ = ["DecoderStates"]

_DIM = 576
_MAX_TOKENS = 256
_LOADING = threading.Lock()  # it takes half a minute and a gigabyte: once, whoever asks first


@dataclass(frozen=True, slots=True)
class DecoderStates:
    """What half of a small language model makes of a text, averaged over its tokens.

    The packaged decoder is SmolLM2-135M-Instruct, 15 of its 30 layers. At most
    256 tokens of the first and last 4,000 characters are read. A text takes a
    tenth of a second of one core: keep the vectors of a training set in a
    :class:`~metarouter.features.CachedEmbedder`. Texts are read one at a time,
    so that a text's vector does not depend on its batch. Weights are bfloat16,
    so vectors differ between machines in the third digit.

    Parameters
    ----------
    checkpoint : str, default "packaged"
        Pretrained decoder: the packaged one, a folder, or the name of a hub model.

    Notes
    -----
    With the states h_1 … h_n of the text's tokens after half of the layers, a
    token that begins a sequence standing before them::

        v = n^(−1) Σ_i h_i / √(mean of the squares of h_i)

    The state of the token before them is left out: whatever follows, it is the
    same, and a hundred times as long as others (Xiao et al. 2024). The columns
    have units of their own, so pipelines standardise them.

    References
    ----------
    Allal et al. (2025), SmolLM2, https://arxiv.org/abs/2502.02737;
    Xiao et al. (2024), Efficient streaming language models with attention
    sinks, https://arxiv.org/abs/2309.17453

    Examples
    --------
    >>> DecoderStates().dim
    576
    """

    checkpoint: str = PACKAGED

    @property
    def name(self) -> str:
        """Kind, version and weights."""
        weights = "135m-instruct" if self.checkpoint == PACKAGED else self.checkpoint
        return f"smollm-v1-{weights}-half-mean-bf16-{_MAX_TOKENS}tokens"

    @property
    def dim(self) -> int:
        """Width of the decoder: 576 of the packaged one."""
        return _DIM if self.checkpoint == PACKAGED else _half(self.checkpoint).dim

    @property
    def mixed_units(self) -> bool:
        """True: some columns are a hundred times as large as others."""
        return True

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, shape (n_texts, dim)."""
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for i, text in enumerate(texts):
            out[i] = _half(self.checkpoint).vector(text)
        return out


class _HalfDecoder:
    """The first half of a decoder's layers, without what follows them."""

    def __init__(self, checkpoint: str) -> None:
        from metarouter.features.encoder import load_tokenizer

        torch = import_extra("torch")
        network, tokenizer = load_decoder(checkpoint)
        self._tokenizer = load_tokenizer(tokenizer_json(tokenizer, checkpoint), _MAX_TOKENS)
        self._first = tokenizer.bos_token_id or 0
        self._trunk: Any = network.model
        self._trunk.layers = self._trunk.layers[: len(self._trunk.layers) // 2]
        self._trunk.norm = torch.nn.Identity()
        self._trunk.to(torch.bfloat16).eval()

    @property
    def dim(self) -> int:
        """Width of a state."""
        return int(self._trunk.config.hidden_size)

    def vector(self, text: str) -> NDArray[np.float32]:
        """Mean direction of the states of a text's tokens, shape (dim,)."""
        from metarouter.features.encoder import token_ids

        torch = import_extra("torch")
        ids = token_ids(self._tokenizer, text, add_special_tokens=False)
        with torch.inference_mode():
            row = torch.tensor([[self._first, *ids.tolist()]])
            states = self._trunk(row, use_cache=False).last_hidden_state[0].float()
            kept = states[1:] if len(ids) else states
            sizes = kept.square().mean(dim=1, keepdim=True).sqrt()
            mean: NDArray[np.float32] = (kept / sizes).mean(dim=0).numpy()
        return mean


def _half(checkpoint: str) -> _HalfDecoder:
    with _LOADING:
        return _loaded(checkpoint)


@lru_cache(maxsize=1)
def _loaded(checkpoint: str) -> _HalfDecoder:
    return _HalfDecoder(checkpoint)
