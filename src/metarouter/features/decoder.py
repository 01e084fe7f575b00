"""A fine-tuned decoder at serving: text to the probabilities of five grades. Needs torch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from metarouter.errors import ArtifactError
from metarouter.features.checkpoints import fingerprint, import_extra, load_decoder, tokenizer_json
from metarouter.features.encoder import token_ids
from metarouter.features.endpoint import EndpointEmbedder
from metarouter.types import ModelState

__all__ = [
    "N_GRADES",
    "DecoderClassifier",
    "DecoderPrompt",
    "grade_tokens",
    "load_decoder_stage",
    "make_network",
]

N_GRADES = 5
"""Grades of the cheap model's answer against a candidate's."""

_INSTRUCTION = (
    "You judge how well a small language model will answer a question, compared with a strong "
    "one. Grades: 5 as good or better, 4 nearly as good, 3 clearly weaker, 2 poor, 1 useless. "
    "Reply with the grade alone."
)
_QUESTION = "Question:\n{question}\n\nGrade:"
_MARK = "{question}"
_LORA_TARGETS = ["q_proj", "v_proj"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderPrompt:
    """Token ids around a question, and the tokenizer of the question itself.

    Parameters
    ----------
    before, after : tuple of int
        The same for every query.
    tokenizer : Tokenizer
        Reads special tokens in a question as plain text, so that no query can
        end its turn or grade itself.
    max_tokens : int, of the question; what is beyond is cut.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, tokenizer: Any, checkpoint: str, max_tokens: int) -> DecoderPrompt:
        """The prompt in the chat format of a checkpoint, where it has one."""
        whole = f"{_INSTRUCTION}\n\n{_QUESTION} "
        if getattr(tokenizer, "chat_template", None):
            turns = [
                {"role": "system", "content": _INSTRUCTION},
                {"role": "user", "content": _QUESTION},
            ]
            whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, _, after = whole.partition(_MARK)
        content = tokenizer_json(tokenizer, checkpoint).decode()
        special, plain = Tokenizer.from_str(content), Tokenizer.from_str(content)
        plain.encode_special_tokens = True
        plain.no_padding()
        plain.enable_truncation(max_tokens)
        return cls(
            before=tuple(special.encode(before, add_special_tokens=False).ids),
            after=tuple(special.encode(after, add_special_tokens=False).ids),
            tokenizer=plain,
        )

    def ending(self, text: str) -> list[int]:
        """Ids of the question and of what follows it."""
        ids = token_ids(self.tokenizer, text, add_special_tokens=False)
        return [*ids.tolist(), *self.after]


class DecoderClassifier:
    """P(grade 1) … P(grade 5) of the cheap model's answer against each candidate's.

    What the network makes of the instruction before the question (its keys and
    values) is computed once and kept. Calls from several threads take turns.

    Parameters
    ----------
    network : transformers causal language model in evaluation mode
    prompt : DecoderPrompt
    grade_ids : sequence of int, ids of :func:`grade_tokens`.
    state : ModelState of kind "decoder_classifier"
        What the network was made of.
    """

    def __init__(
        self, network: Any, prompt: DecoderPrompt, grade_ids: Sequence[int], state: ModelState
    ) -> None:
        self._network, self._prompt, self._state = network, prompt, state
        self._grade_ids = list(grade_ids)
        self._lock = threading.Lock()
        self._prefix: Any = None

    @property
    def name(self) -> str:
        """Kind, and the start of the fingerprint of the pretrained decoder."""
        return f"decoder_classifier-{self._state.config['fingerprint'][:12]}"

    @property
    def dim(self) -> int:
        """Five for each candidate."""
        return len(self._grade_ids)

    @property
    def endpoints(self) -> tuple[EndpointEmbedder, ...]:
        """None: texts are read here."""
        return ()

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Probabilities of the grades, shape (n_texts, 5 (n_models − 1))."""
        torch = import_extra("torch")
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        with self._lock, torch.inference_mode():
            for i, text in enumerate(texts):
                logits = self._next_logits(torch, self._prompt.ending(text))
                grades = logits[self._grade_ids].reshape(-1, N_GRADES).softmax(dim=1)
                out[i] = grades.ravel().cpu().numpy()
        return out

    def state(self) -> ModelState:
        """What :func:`load_decoder_stage` makes the same stage of."""
        return self._state

    def _next_logits(self, torch: Any, ids: list[int]) -> Any:
        """Logits of the token after the instruction and `ids`, over the vocabulary."""
        device = self._network.device
        if self._prefix is None:
            before = torch.tensor([self._prompt.before], device=device)
            self._prefix = self._network(before, use_cache=True).past_key_values
        try:
            found = self._network(
                torch.tensor([ids], device=device),
                past_key_values=self._prefix,
                use_cache=True,
                logits_to_keep=1,
            )
        except RuntimeError:
            self._prefix = None  # it may hold part of the question
            raise
        self._prefix.crop(-len(ids))
        return found.logits[0, -1].float()


def load_decoder_stage(state: ModelState) -> DecoderClassifier:
    """The stage of a router folder: the pretrained decoder, with what was learned put in.

    Raises
    ------
    ArtifactError
        When the pretrained decoder is not the one that was fine-tuned.
    OptionError
        When it is not there.
    MissingDependencyError
        Without the extra ``torch``.
    """
    torch, config = import_extra("torch"), state.config
    network, tokenizer = load_decoder(config["checkpoint"])
    if fingerprint(network) != config["fingerprint"]:
        raise ArtifactError(
            f"the checkpoint {config['checkpoint']!r} is not the one that the router was fitted "
            "with: restore it or fit the router again"
        )
    network, grade_ids = make_network(
        network, tokenizer, lora_rank=config["lora_rank"], n_candidates=config["n_models"] - 1
    )
    learned = {name: torch.from_numpy(array.copy()) for name, array in state.arrays.items()}
    if config["lora_rank"]:
        import_extra("peft").set_peft_model_state_dict(network, learned)
        network = network.merge_and_unload()
    else:
        network.load_state_dict(learned, strict=False)
    prompt = DecoderPrompt.of(tokenizer, config["checkpoint"], config["max_tokens"])
    return DecoderClassifier(network.eval(), prompt, grade_ids, state)


def grade_tokens(n_candidates: int) -> list[str]:
    """The tokens added to the vocabulary, five for each candidate.

    Examples
    --------
    >>> grade_tokens(2)[3:7]
    ['[[4]]', '[[5]]', '[[2:1]]', '[[2:2]]']
    """
    prefixes = ["", *(f"{candidate}:" for candidate in range(2, n_candidates + 1))]
    return [f"[[{prefix}{grade}]]" for prefix in prefixes for grade in range(1, N_GRADES + 1)]


def make_network(
    network: Any, tokenizer: Any, *, lora_rank: int, n_candidates: int = 1
) -> tuple[Any, list[int]]:
    """Add the grade tokens to a decoder, and low-rank adapters where they are wanted.

    Parameters
    ----------
    network, tokenizer : what :func:`~metarouter.features.checkpoints.load_decoder` gave.
    lora_rank : int
        0 leaves all parameters to be trained. Otherwise only adapters of the
        query and value projections and the new rows of the embedding are.
    n_candidates : int, models beside the reference.

    Returns
    -------
    network : the decoder, wrapped by peft where it has adapters.
    grade_ids : ids of the grade tokens. Their rows start as the mean row.
    """
    torch = import_extra("torch")
    tokens = grade_tokens(n_candidates)
    tokenizer.add_tokens(tokens, special_tokens=True)
    grade_ids: list[int] = tokenizer.convert_tokens_to_ids(tokens)
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (network.get_input_embeddings(), network.get_output_embeddings()):
            layer.weight[grade_ids] = layer.weight[: min(grade_ids)].mean(dim=0)
    if not lora_rank:
        return network, grade_ids
    peft = import_extra("peft")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora_rank,
        lora_alpha=2 * lora_rank,
        target_modules=_LORA_TARGETS,
        trainable_token_indices=grade_ids,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what peft asks it
        return peft.get_peft_model(network, config), grade_ids
