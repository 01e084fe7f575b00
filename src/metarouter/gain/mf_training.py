"""Minibatch training of matrix factorisation with PyTorch, all members at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from metarouter.errors import MissingDependencyError, OptionError
from metarouter.types import FloatArray, IntArray

__all__ = ["MFBattles", "MFMember", "MFSettings", "MFTrained", "train_members"]

_FEWEST = 40  # queries below which none can be spared for validation
_BLIND_EPOCHS = 10  # of a training that nothing stops; the paper's number
_EVALUATION_ROWS = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class MFSettings:
    """How to train; see :class:`metarouter.gain.mf.MFGain`."""

    dim: int
    use_proj: bool
    bias: bool
    normalise: bool
    n_members: int
    noise: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    validation_share: float
    checkpoint: Path | None
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MFBattles:
    """Rows to train on, arrays of shape (n_rows,).

    `win` is the share of a win of `candidate` over `baseline`; `query` indexes
    the feature matrix; `weight` has mean 1.
    """

    query: IntArray
    candidate: IntArray
    baseline: IntArray
    win: FloatArray
    weight: FloatArray
    n_models: int

    def rows(self, keep: NDArray[Any]) -> MFBattles:
        """Some of the rows."""
        return MFBattles(
            query=self.query[keep],
            candidate=self.candidate[keep],
            baseline=self.baseline[keep],
            win=self.win[keep],
            weight=self.weight[keep],
            n_models=self.n_models,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MFMember:
    """Parameters of one bilinear model, for features as they are given.

    Attributes
    ----------
    models : array, shape (n_models, dim); v_m, of length 1 where normalised.
    projection : array, shape (d, dim); W₁, the identity without projection.
    bias : array, shape (dim,); b.
    output : array, shape (dim,); w₂.
    """

    models: FloatArray
    projection: FloatArray
    bias: FloatArray
    output: FloatArray

    def over_reference(self) -> tuple[FloatArray, FloatArray]:
        """Slope (d, n_models − 1) and level (n_models − 1,) of δ_m − δ_0."""
        contrast = (self.models[1:] - self.models[0]) * self.output
        return self.projection @ contrast.T, contrast @ self.bias


@dataclass(frozen=True, kw_only=True, slots=True)
class MFTrained:
    """What training gives: the members at their best epochs, and how it went."""

    members: list[MFMember]
    n_epochs: int
    validation_loss: float


def train_members(
    features: NDArray[np.float32], battles: MFBattles, settings: MFSettings
) -> MFTrained:
    """Train the ensemble and keep each member's best epoch.

    Parameters
    ----------
    features : float32 array, shape (n_queries, d)
    battles : MFBattles
    settings : MFSettings

    Raises
    ------
    MissingDependencyError
        Without the extra ``torch``.
    OptionError
        When the checkpoint is of another shape.
    """
    rng = np.random.default_rng(settings.seed)
    # The paper's model is given features of mean 0 and overall variance 1, undone at the end.
    centre = features.mean(axis=0) if settings.bias else np.zeros(features.shape[1])
    spread = (float(np.sqrt(features.var(axis=0).mean())) or 1.0) if settings.bias else 1.0
    training = _Training(
        ((features - centre) / spread).astype(np.float32), battles.n_models, settings
    )
    held_out = _held_out(battles.query, settings.validation_share, rng)
    inside, outside = battles.rows(~held_out), battles.rows(held_out)
    n_epochs, losses = training.run(inside, outside, rng)
    return MFTrained(
        members=[_original_units(member, centre, spread) for member in training.members()],
        n_epochs=n_epochs,
        validation_loss=float(np.mean(losses)) if held_out.any() else float("nan"),
    )


def _held_out(query: IntArray, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Rows of the validation queries; none of a table too small to spare any."""
    queries = rng.permutation(np.unique(query))
    if len(queries) < _FEWEST:
        return np.zeros(len(query), dtype=np.bool_)
    return np.isin(query, queries[: max(1, round(share * len(queries)))])


def _original_units(member: MFMember, centre: FloatArray, spread: float) -> MFMember:
    """The same function of features that were not centred and scaled."""
    projection = member.projection / spread
    return MFMember(
        models=member.models,
        projection=projection,
        bias=member.bias - centre @ projection,
        output=member.output,
    )


class _Training:
    """Parameters of all members, stacked, and the steps that change them."""

    def __init__(
        self, features: NDArray[np.float32], n_models: int, settings: MFSettings
    ) -> None:
        self.torch = _import_torch()
        self.settings = settings
        self.generator = self.torch.Generator().manual_seed(settings.seed)
        self.features = self.torch.from_numpy(features)
        self.parameters = self._start(features.shape[1], n_models)
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}

    def run(
        self, inside: MFBattles, outside: MFBattles, rng: np.random.Generator
    ) -> tuple[int, FloatArray]:
        """Epochs made, and the best validation loss of each member."""
        settings = self.settings
        optimiser = self.torch.optim.Adam(
            self.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        drawn = rng.exponential(size=(settings.n_members, len(self.features)))
        if settings.n_members == 1:
            drawn[:] = 1.0  # a single member is the plain fit
        blind = len(outside.win) == 0
        best_loss = self._loss(outside)
        best_epoch, epoch = 0, 0
        last = min(_BLIND_EPOCHS, settings.max_epochs) if blind else settings.max_epochs
        for epoch in range(1, last + 1):
            for part in _minibatches(len(inside.win), settings.batch_size, rng):
                self._step(inside.rows(part), drawn, optimiser)
            loss = self._loss(outside)
            better = np.ones(len(loss), dtype=np.bool_) if blind else loss < best_loss
            best_loss = np.where(better, loss, best_loss)
            if better.any():
                best_epoch = epoch
                self._keep(better)
            elif epoch - best_epoch >= settings.patience:
                break
        return epoch, best_loss

    def members(self) -> list[MFMember]:
        """Parameters of each member at its best epoch, normalised where they are to be."""
        arrays = {name: value.numpy().astype(np.float64) for name, value in self.best.items()}
        models = arrays["models"]
        if self.settings.normalise:
            models = models / np.maximum(np.linalg.norm(models, axis=2, keepdims=True), 1e-12)
        width = self.features.shape[1]
        projection = arrays.get("projection", np.tile(np.eye(width), (len(models), 1, 1)))
        bias = arrays.get("bias", np.zeros((len(models), 1, models.shape[2])))
        return [
            MFMember(
                models=models[k],
                projection=projection[k],
                bias=bias[k, 0],
                output=arrays["output"][k, 0],
            )
            for k in range(len(models))
        ]

    def _start(self, width: int, n_models: int) -> dict[str, Any]:
        """First parameters: those of a checkpoint, or drawn as torch's layers draw theirs."""
        settings, members = self.settings, self.settings.n_members
        dim = settings.dim if settings.use_proj else width
        values = {
            "models": self.torch.randn(members, n_models, dim, generator=self.generator),
            "output": self._uniform((members, 1, dim), dim),
        }
        if settings.use_proj:
            values["projection"] = self._uniform((members, width, dim), width)
        if settings.bias:
            values["bias"] = self._uniform((members, 1, dim), width)
            # From 0 the members differ by what they learned, not by where they began.
            values["output"].zero_()
        values |= self._read_checkpoint({name: tuple(v.shape) for name, v in values.items()})
        return {name: value.requires_grad_() for name, value in values.items()}

    def _uniform(self, shape: tuple[int, ...], fan_in: int) -> Any:
        drawn = self.torch.rand(shape, generator=self.generator)
        return (2.0 * drawn - 1.0) / fan_in**0.5

    def _logits(self, battles: MFBattles, *, noise: float = 0.0) -> Any:
        """δ_candidate − δ_baseline, shape (members, rows)."""
        torch, values = self.torch, self.parameters
        x = self.features[torch.from_numpy(battles.query)]
        if noise:
            x = x + noise * torch.randn(x.shape, generator=self.generator)
        models = values["models"]
        if self.settings.normalise:
            models = torch.nn.functional.normalize(models, dim=2)
        chosen = torch.from_numpy(battles.candidate), torch.from_numpy(battles.baseline)
        contrast = models[:, chosen[0]] - models[:, chosen[1]]
        hidden = x @ values["projection"] if "projection" in values else x
        if "bias" in values:
            hidden = hidden + values["bias"]
        return (contrast * hidden * values["output"]).sum(dim=2)

    def _cross_entropy(self, logits: Any, battles: MFBattles) -> Any:
        # −t log σ(δ) − (1 − t) log σ(−δ) = softplus(δ) − t δ, for any t
        target = self.torch.from_numpy(battles.win.astype(np.float32))
        return self.torch.nn.functional.softplus(logits) - target * logits

    def _step(self, battles: MFBattles, drawn: FloatArray, optimiser: Any) -> None:
        weight = (battles.weight * drawn[:, battles.query]).astype(np.float32)
        loss = self._cross_entropy(self._logits(battles, noise=self.settings.noise), battles)
        optimiser.zero_grad()
        # Summed over members, whose gradients do not meet; averaged over rows.
        (loss * self.torch.from_numpy(weight)).sum(dim=0).mean().backward()
        optimiser.step()

    def _loss(self, battles: MFBattles) -> FloatArray:
        """Weighted mean loss of each member, without noise; infinite without rows."""
        total = np.zeros(self.settings.n_members)
        if len(battles.win) == 0:
            return np.full(self.settings.n_members, np.inf)
        with self.torch.no_grad():
            for start in range(0, len(battles.win), _EVALUATION_ROWS):
                part = battles.rows(np.arange(len(battles.win))[start : start + _EVALUATION_ROWS])
                loss = self._cross_entropy(self._logits(part), part).numpy()
                total += (loss * part.weight).sum(axis=1)
        mean: FloatArray = total / battles.weight.sum()
        return mean

    def _keep(self, better: NDArray[np.bool_]) -> None:
        """Note the parameters of the members that are better now than ever."""
        chosen = self.torch.from_numpy(better)
        with self.torch.no_grad():
            for name, value in self.parameters.items():
                self.best[name][chosen] = value[chosen]
        if self.settings.checkpoint is not None:
            arrays = {name: value.numpy() for name, value in self.best.items()}
            part = self.settings.checkpoint.with_suffix(".part")
            save_file(arrays, part)
            part.replace(self.settings.checkpoint)

    def _read_checkpoint(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        path = self.settings.checkpoint
        if path is None or not path.exists():
            return {}
        try:
            arrays = load_file(path)
        except SafetensorError as error:
            raise OptionError.of("checkpoint", str(path), "a file of an earlier fit") from error
        found = {name: array.shape for name, array in arrays.items()}
        if found != shapes:
            raise OptionError.of("checkpoint", str(path), f"parameters of shapes {shapes}")
        return {name: self.torch.from_numpy(array) for name, array in arrays.items()}


def _minibatches(n: int, size: int, rng: np.random.Generator) -> Iterator[IntArray]:
    order = rng.permutation(n)
    for start in range(0, n, size):
        yield order[start : start + size]


def _import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("training mf", "torch") from error
    return torch
