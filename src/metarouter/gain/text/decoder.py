"""Causal language model that grades the cheap model: :class:`DecoderGain`, ``causal_lm``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.features.checkpoints import PACKAGED, fingerprint, import_extra, load_decoder
from metarouter.features.decoder import (
    N_GRADES,
    DecoderClassifier,
    DecoderPrompt,
    make_network,
)
from metarouter.gain.table_model import TableRows
from metarouter.gain.text.finetune import FinetuneSettings, chunks, finetune, length_batches
from metarouter.gain.text.rows import Readout, StagedModel, TextRows, part_of, prepare_texts
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray, IntArray, ModelState

__all__ = ["DecoderGain", "balanced", "grade_targets"]

_EVALUATION_BATCH = 16
_ENOUGH = 4  # the lowest grade at which the cheap model suffices


@dataclass
class DecoderGain(StagedModel):
    """A pretrained decoder fine-tuned to grade the cheap model's answer, unseen.

    Five label tokens are added to the vocabulary for each candidate. The query
    is put into a fixed prompt, and the probabilities of a candidate's five
    tokens as the next one are those of the reference model's grades against
    it. The reference, cheap model suffices with P(4) + P(5). Only labels
    against the reference are used.

    Parameters
    ----------
    checkpoint : str, default "packaged"
        Pretrained decoder: the packaged SmolLM2-135M-Instruct, a folder, or the
        name of a model on the hub. Only safetensors (GGUF for the packaged one)
        are read. It must still be there when the router is loaded.
    lora_rank : int, default 8
        Rank of the adapters that are trained; 0 trains all parameters, and the
        router folder then holds all of them.
    rebalance : bool, default True
        Drop training rows at random until as many have a grade of 4 or 5 as
        have less, as RouteLLM does.
    max_tokens : int, default 512, of the query.
    learning_rate : float, default 5e-4
        1e-5 suits full fine-tuning.
    weight_decay : float, default 0.01
    batch_size : int, default 8
    epochs : int, default 1
    validation_share : float in (0, 1), default 0.1
        Share of the queries that choose the epoch and calibrate the gain.
    seed : int, default 0

    Attributes
    ----------
    stage_ : DecoderClassifier, texts to the probabilities of the grades.
    losses_ : tuple of float
        Held-out loss before training and after each epoch.

    Raises
    ------
    OptionError
        When an option is not allowed or there is no such checkpoint.
    DataError
        From ``fit``: no candidate's label against the reference, or see
        :func:`~metarouter.gain.table_model.prepare_table`.
    MissingDependencyError
        From ``fit`` and when a router is loaded, without the extra ``torch``.

    Notes
    -----
    A candidate's answer is taken to deserve a 5, so a gain of g is the
    grade ``5 − 4 g/s`` of the cheap one's, cut to [1, 5], with s the largest
    gain a label states; what lies between two grades is shared by them. The
    gain is read from ``1 − P(4) − P(5)``, RouteLLM's score, by a line whose
    level is the mean label and whose slope is the difference of the mean labels
    with and without a grade of 4 or 5, set right by the held-out labels.

    References
    ----------
    Ong et al. (2024), RouteLLM, section 4.2. https://arxiv.org/abs/2406.18665
    Hu et al. (2022), LoRA. https://arxiv.org/abs/2106.09685

    Examples
    --------
    >>> DecoderGain(lora_rank=4).settings().epochs
    1
    """

    checkpoint: str = PACKAGED
    lora_rank: int = 8
    rebalance: bool = True
    max_tokens: int = 512
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    batch_size: int = 8
    epochs: int = 1
    validation_share: float = 0.1
    seed: int = 0

    def settings(self) -> FinetuneSettings:
        """The options as the training takes them."""
        if self.lora_rank < 0:
            raise OptionError.of("lora_rank", self.lora_rank, "an integer from 0")
        return FinetuneSettings(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
        )

    def fit(self, table: GainTable) -> Self:
        """Fine-tune on the texts of a table, and calibrate on held-out rows."""
        settings = self.settings()
        rng = np.random.default_rng(self.seed)
        data = prepare_texts(table.rows(table.baseline == 0), self.validation_share, rng)
        n_models = data.rows.n_models
        torch = import_extra("torch")
        base, tokenizer = load_decoder(self.checkpoint)
        state = ModelState(
            kind="decoder_classifier", config=self._config(fingerprint(base), n_models)
        )
        prompt = DecoderPrompt.of(tokenizer, self.checkpoint, self.max_tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # adapters start at random
            network, grade_ids = make_network(
                base, tokenizer, lora_rank=self.lora_rank, n_candidates=n_models - 1
            )
        inside = np.flatnonzero(~data.held_out)
        if self.rebalance:
            inside = balanced(data.rows, inside, rng)
        self.losses_ = _Training(network, data, prompt, grade_ids).run(inside, settings)
        state = replace(state, arrays=self._learned(network))
        served = network.merge_and_unload() if self.lora_rank else network
        stage = DecoderClassifier(served.eval(), prompt, grade_ids, state)
        return self._keep(stage, _readout(stage, data))

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """1 − P(4) − P(5): the candidate is needed, RouteLLM's score, (n, n_models − 1)."""
        grades = np.asarray(features, dtype=np.float64).reshape(len(features), -1, N_GRADES)
        enough: FloatArray = grades[:, :, _ENOUGH - 1 :].sum(axis=2)
        return 1.0 - enough

    def _config(self, base: str, n_models: int) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "fingerprint": base,
            "lora_rank": self.lora_rank,
            "max_tokens": self.max_tokens,
            "n_models": n_models,
        }

    def _learned(self, network: Any) -> dict[str, NDArray[Any]]:
        """What training changed: adapters and new rows, or all parameters once."""
        if self.lora_rank:
            found = import_extra("peft").get_peft_model_state_dict(
                network, save_embedding_layers=False
            )
        else:
            found = dict(network.named_parameters())  # shared ones come once
        return {name: value.detach().cpu().numpy().copy() for name, value in found.items()}


def grade_targets(rows: TableRows) -> NDArray[np.float32]:
    """Shares of the five grades that each row's gain states, shape (n_rows, 5).

    Examples
    --------
    >>> from metarouter.gain.table_model import prepare_table
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("abc"), gain=[1.0, 0.375, -1.0],
    ...     is_gold=[True] * 3, features=np.eye(3))
    >>> grade_targets(prepare_table(table)).tolist()
    [[1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    grade = np.clip(5.0 - 4.0 * rows.gain / rows.scale, 1.0, 5.0)
    distance = np.abs(grade[:, None] - np.arange(1.0, 6.0))
    shares: NDArray[np.float32] = np.maximum(1.0 - distance, 0.0).astype(np.float32)
    return shares


def balanced(rows: TableRows, chosen: IntArray, rng: np.random.Generator) -> IntArray:
    """Some of the rows `chosen`: as many where the cheap model suffices as where not.

    Where all are of one kind, all stay.
    """
    enough: BoolArray = grade_targets(rows)[chosen, _ENOUGH - 1 :].sum(axis=1) > 0.5
    kinds = [chosen[enough], chosen[~enough]]
    fewest = min(len(kind) for kind in kinds)
    if fewest == 0:
        return chosen
    return np.sort(np.concatenate([rng.permutation(kind)[:fewest] for kind in kinds]))


def _readout(stage: DecoderClassifier, data: TextRows) -> ModelState:
    """The gain from the grades of the held-out texts, or of all when none are."""
    chosen = data.held_out if data.held_out.any() else np.ones_like(data.held_out)
    rows = part_of(data.rows, chosen)
    queries, at = np.unique(rows.query, return_inverse=True)
    grades = stage.transform([data.texts[i] for i in queries])
    level, drop = _means(data.rows)
    enough = np.kron(np.diag(drop), [0.0, 0.0, 0.0, 1.0, 1.0])
    return Readout(direction=-enough.astype(np.float64), level=level).state(rows, grades[at])


def _means(rows: TableRows) -> tuple[FloatArray, FloatArray]:
    """Mean label of each candidate, and how much less it is where the reference suffices."""
    n, by = rows.n_models, rows.candidate
    enough = grade_targets(rows)[:, _ENOUGH - 1 :].sum(axis=1).astype(np.float64)

    def mean(weight: FloatArray) -> FloatArray:
        total = np.bincount(by, weights=weight * rows.gain, minlength=n)
        return total[1:] / np.maximum(np.bincount(by, weights=weight, minlength=n)[1:], 1e-12)

    drop = mean(rows.weight * (1.0 - enough)) - mean(rows.weight * enough)
    return mean(rows.weight), np.where(drop > 0, drop, rows.scale)


class _Training:
    """Losses of a decoder on the rows of a table."""

    def __init__(
        self, network: Any, data: TextRows, prompt: DecoderPrompt, grade_ids: list[int]
    ) -> None:
        self.torch = import_extra("torch")
        self.network, self.grade_ids = network, grade_ids
        self.rows, self.held_out = data.rows, data.held_out
        self.ids = [[*prompt.before, *prompt.ending(text)] for text in data.texts]
        self.target = grade_targets(data.rows)
        self.columns = N_GRADES * (data.rows.candidate[:, None] - 1) + np.arange(N_GRADES)[None]
        self.length = np.array([len(ids) for ids in self.ids])[data.rows.query]

    def run(self, inside: IntArray, settings: FinetuneSettings) -> tuple[float, ...]:
        """Fine-tune on some rows; the held-out losses."""
        log = finetune(
            self.network,
            lambda rng: length_batches(inside, self.length[inside], settings.batch_size, rng),
            lambda part: self._losses(part).mean(),
            self._held_out_loss if self.held_out.any() else None,
            settings,
        )
        return log.losses

    def _losses(self, part: IntArray) -> Any:
        """Weighted cross-entropy of each row's grade among its candidate's five."""
        torch = self.torch
        ids, mask = self._padded(self.rows.query[part])
        found = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            logits_to_keep=1,
            use_cache=False,
        )
        grades = found.logits[:, -1, self.grade_ids]
        grades = grades.gather(1, torch.from_numpy(self.columns[part])).log_softmax(dim=1)
        entropy = -(torch.from_numpy(self.target[part]) * grades).sum(dim=1)
        return entropy * torch.from_numpy(self.rows.weight[part].astype(np.float32))

    def _padded(self, queries: IntArray) -> tuple[Any, Any]:
        """Ids and mask, padded on the left so that every text ends in the last column."""
        torch = self.torch
        longest = max(len(self.ids[i]) for i in queries)
        ids = torch.zeros((len(queries), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(queries):
            start = longest - len(self.ids[i])
            ids[row, start:] = torch.tensor(self.ids[i])
            mask[row, start:] = 1
        return ids, mask

    def _held_out_loss(self) -> float:
        rows = np.flatnonzero(self.held_out)
        rows = rows[np.argsort(self.length[rows], kind="stable")]
        with self.torch.no_grad():
            total = sum(float(self._losses(part).sum()) for part in chunks(rows, _EVALUATION_BATCH))
        return total / float(self.rows.weight[rows].sum())
