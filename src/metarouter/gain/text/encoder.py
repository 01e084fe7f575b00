"""Encoder classifier of battles: :class:`EncoderGain`, the router ``bert``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.features.checkpoints import PACKAGED, import_extra, load_encoder, tokenizer_json
from metarouter.features.encoder import EncoderClassifier, load_tokenizer, token_ids
from metarouter.gain.table_model import TableRows
from metarouter.gain.text.export import export_graph
from metarouter.gain.text.finetune import (
    FinetuneSettings,
    chunks,
    finetune,
    length_batches,
)
from metarouter.gain.text.rows import Readout, StagedModel, TextRows, part_of, prepare_texts
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray, IntArray, ModelState

__all__ = ["EncoderGain", "battle_targets"]

_EVALUATION_BATCH = 32


@dataclass
class EncoderGain(StagedModel):
    """A pretrained encoder fine-tuned to say who wins: win, tie or loss.

    The text goes in as it is; one logit comes out for each model and one for a
    tie, and the battle of two models is the softmax of theirs and the tie's.
    For a pair these are RouteLLM's three classes. Training needs the extra
    ``torch``; the fitted model is an ONNX graph that onnxruntime serves.

    Parameters
    ----------
    checkpoint : str, default "packaged"
        Pretrained encoder: the packaged all-MiniLM-L6-v2, a folder, or the name
        of a model on the hub. Only safetensors are read.
    score : "difference" or "win", default "difference"
        What the gain is read from: P(win) − P(loss), or P(win) alone as
        RouteLLM does, which ranks worse where ties are common.
    precision : "int8" or "fp32", default "int8"
        Weights of the exported graph; int8 is quantised by channel.
    max_tokens : int, default 256
        Of a text; less where the checkpoint takes less.
    learning_rate : float, default 5e-5
    weight_decay : float, default 0.01
    batch_size : int, default 16
    epochs : int, default 3
    validation_share : float in (0, 1), default 0.1
        Share of the queries that choose the epoch and calibrate the gain.
    seed : int, default 0

    Attributes
    ----------
    stage_ : EncoderClassifier
        Texts to class probabilities; the graph that is served.
    network_ : torch module, the fine-tuned encoder.
    losses_ : tuple of float
        Held-out loss before training and after each epoch.

    Raises
    ------
    OptionError
        When an option is not allowed or there is no such checkpoint.
    DataError
        From ``fit``, see :func:`~metarouter.gain.table_model.prepare_table`.
    MissingDependencyError
        From ``fit``, without the extra ``torch``.

    Notes
    -----
    A label of gain g counts as a win by ``max(g, 0)/s``, a loss by
    ``max(−g, 0)/s`` and a tie by what is left, with s the largest gain a label
    states: whole classes for votes and for right or wrong, shares of classes
    for graded or corrected labels. Cross-entropy then makes
    ``s (P(win) − P(loss))`` an estimate of E[g given text]. Its slope is set
    right on the held-out labels; see :class:`metarouter.gain.text.rows.Readout`
    for what the standard deviation holds.

    References
    ----------
    Ong et al. (2024), RouteLLM, section 4.2. https://arxiv.org/abs/2406.18665
    Devlin et al. (2019), BERT. https://arxiv.org/abs/1810.04805

    Examples
    --------
    >>> EncoderGain(checkpoint="packaged", score="win").settings().batch_size
    16
    """

    checkpoint: str = PACKAGED
    score: Literal["difference", "win"] = "difference"
    precision: Literal["int8", "fp32"] = "int8"
    max_tokens: int = 256
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    batch_size: int = 16
    epochs: int = 3
    validation_share: float = 0.1
    seed: int = 0

    def settings(self) -> FinetuneSettings:
        """The options as the training takes them."""
        for name, value, allowed in (
            ("score", self.score, ("difference", "win")),
            ("precision", self.precision, ("int8", "fp32")),
        ):
            if value not in allowed:
                raise OptionError.of(name, value, " or ".join(allowed))
        return FinetuneSettings(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            epochs=self.epochs,
            seed=self.seed,
        )

    def fit(self, table: GainTable) -> Self:
        """Fine-tune on the texts of a table, export, and calibrate on held-out rows."""
        settings = self.settings()
        data = prepare_texts(table, self.validation_share, np.random.default_rng(self.seed))
        torch = import_extra("torch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)  # the head starts at random
            network, tokenizer = load_encoder(self.checkpoint, data.rows.n_models + 1)
        content = tokenizer_json(tokenizer, self.checkpoint)
        max_tokens = min(self.max_tokens, _longest(network, tokenizer))
        training = _Training(network, data, load_tokenizer(content, max_tokens))
        self.losses_ = training.run(settings)
        self.network_ = network
        stage = EncoderClassifier(
            ModelState(
                kind="encoder_classifier",
                config={"n_models": data.rows.n_models, "max_tokens": max_tokens},
                arrays={
                    "onnx": _bytes(export_graph(network, precision=self.precision)),
                    "tokenizer": _bytes(content),
                },
            )
        )
        return self._keep(stage, self._readout(stage, data))

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        """P(win) + P(tie)/2 of each candidate, from the stage's output, (n, n_models − 1)."""
        battles = np.asarray(features, dtype=np.float64).reshape(len(features), -1, 3)
        win: FloatArray = battles[:, :, 0] + 0.5 * battles[:, :, 1]
        return win

    def _readout(self, stage: EncoderClassifier, data: TextRows) -> ModelState:
        """The gain from the probabilities of the held-out texts, or of all when none are."""
        chosen = data.held_out if data.held_out.any() else np.ones_like(data.held_out)
        rows = part_of(data.rows, chosen)
        probabilities = stage.transform([data.texts[i] for i in np.unique(rows.query)])
        per_row = probabilities[np.unique(rows.query, return_inverse=True)[1]]
        difference = _each_candidate(rows, [1.0, 0.0, -1.0])
        level = (per_row.astype(np.float64) @ difference.T).mean(axis=0)
        direction = difference if self.score == "difference" else _each_candidate(rows, [2, 0, 0])
        return Readout(direction=direction, level=level).state(rows, per_row)


def battle_targets(rows: TableRows) -> NDArray[np.float32]:
    """Shares of win, tie and loss that each row's gain states, shape (n_rows, 3).

    Examples
    --------
    >>> from metarouter.gain.table_model import prepare_table
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=list("abc"), gain=[1.0, 0.25, -1.0],
    ...     is_gold=[True] * 3, features=np.eye(3))
    >>> battle_targets(prepare_table(table)).tolist()
    [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 1.0]]
    """
    gain = rows.gain / rows.scale
    shares = [np.maximum(gain, 0.0), np.maximum(1.0 - np.abs(gain), 0.0), np.maximum(-gain, 0.0)]
    return np.column_stack(shares).astype(np.float32)


def _longest(network: Any, tokenizer: Any) -> int:
    """Tokens that the checkpoint can take."""
    positions = getattr(network.config, "max_position_embeddings", tokenizer.model_max_length)
    return int(min(positions, tokenizer.model_max_length))


def _each_candidate(rows: TableRows, direction: list[float]) -> FloatArray:
    """The direction over a candidate's own three classes, in gain units, (candidates, 3 each)."""
    each = np.kron(np.eye(rows.n_models - 1), direction)
    return np.asarray(rows.scale * each, dtype=np.float64)


def _bytes(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, dtype=np.uint8)


class _Training:
    """Losses of a network on the rows of a table."""

    def __init__(self, network: Any, data: TextRows, tokenizer: Any) -> None:
        self.torch = import_extra("torch")
        self.network = network
        self.rows = data.rows
        self.held_out = data.held_out
        self.ids = [token_ids(tokenizer, text) for text in data.texts]
        self.target = battle_targets(data.rows)
        self.columns = _logit_columns(data.rows)
        self.length = np.array([len(ids) for ids in self.ids])[data.rows.query]

    def run(self, settings: FinetuneSettings) -> tuple[float, ...]:
        """Fine-tune; the held-out losses."""
        inside = np.flatnonzero(~self.held_out)
        log = finetune(
            self.network,
            lambda rng: length_batches(inside, self.length[inside], settings.batch_size, rng),
            lambda part: self._losses(part).mean(),
            self._held_out_loss if self.held_out.any() else None,
            settings,
        )
        return log.losses

    def _losses(self, part: IntArray) -> Any:
        """Weighted cross-entropy of each row."""
        torch = self.torch
        logits = self.network(**self._padded(self.rows.query[part])).logits
        battle = logits.gather(1, torch.from_numpy(self.columns[part]))
        entropy = -(torch.from_numpy(self.target[part]) * battle.log_softmax(dim=1)).sum(dim=1)
        return entropy * torch.from_numpy(self.rows.weight[part].astype(np.float32))

    def _padded(self, queries: IntArray) -> dict[str, Any]:
        chosen = [self.torch.from_numpy(self.ids[i]) for i in queries]
        pad = self.torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(chosen, batch_first=True, padding_value=self._pad_id()),
            "attention_mask": pad([self.torch.ones_like(x) for x in chosen], batch_first=True),
        }

    def _pad_id(self) -> int:
        return int(self.network.config.pad_token_id or 0)

    def _held_out_loss(self) -> float:
        rows = np.flatnonzero(self.held_out)
        rows = rows[np.argsort(self.length[rows], kind="stable")]
        with self.torch.no_grad():
            total = sum(float(self._losses(part).sum()) for part in chunks(rows, _EVALUATION_BATCH))
        return total / float(self.rows.weight[rows].sum())


def _logit_columns(rows: TableRows) -> IntArray:
    """Columns of the logits of candidate, tie and baseline of each row, (n_rows, 3)."""
    last = rows.n_models
    baseline = np.where(rows.baseline == 0, last, rows.baseline - 1)
    return np.column_stack([rows.candidate - 1, np.full_like(baseline, last - 1), baseline])
