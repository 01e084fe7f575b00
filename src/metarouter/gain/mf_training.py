"""Minibatch training of matrix factorisation with PyTorch, all members at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from metarouter.errors import MissingDependencyError, OptionError
from metarouter.gain.rows import half_samples
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["MFBattles", "MFMember", "MFSettings", "MFTrained", "train_members"]

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

    def rows(self, keep: IntArray) -> MFBattles:
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
    """What training gives: the members at their best epochs, and how it went.

    `seen` (members, n_queries) says which queries each was trained on.
    """

    members: list[MFMember]
    seen: BoolArray
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
        When the checkpoint is of another shape, other rows or another seed.
    """
    rng = np.random.default_rng(settings.seed)
    seen = _seen_queries(len(features), settings, rng)
    # The paper's model is given features of mean 0 and overall variance 1, undone at the end.
    centre = features.mean(axis=0) if settings.bias else np.zeros(features.shape[1])
    spread = (float(np.sqrt(features.var(axis=0).mean())) or 1.0) if settings.bias else 1.0
    scaled = ((features - centre) / spread).astype(np.float32)
    training = _Training(scaled, battles, seen, settings)
    with _one_thread(training.torch):
        n_epochs, losses = training.run(rng)
    return MFTrained(
        members=[_original_units(member, centre, spread) for member in training.members()],
        seen=seen,
        n_epochs=n_epochs,
        validation_loss=float(losses.mean()),
    )


def _seen_queries(n_queries: int, settings: MFSettings, rng: np.random.Generator) -> BoolArray:
    """What each member is trained on, (members, n_queries); the rest tells it when to stop."""
    if settings.n_members > 1:
        return half_samples(n_queries, settings.n_members, n_queries, rng)
    seen = np.ones((1, n_queries), dtype=np.bool_)
    seen[0, rng.permutation(n_queries)[: int(settings.validation_share * n_queries)]] = False
    return seen


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
        self,
        features: NDArray[np.float32],
        battles: MFBattles,
        seen: BoolArray,
        settings: MFSettings,
    ) -> None:
        self.torch = _import_torch()
        self.settings = settings
        self.battles = battles
        self.inside = battles.weight * seen[:, battles.query]  # (members, rows)
        self.outside = battles.weight * ~seen[:, battles.query]
        self.fingerprint = _fingerprint(features, battles, settings.seed)
        self.generator = self.torch.Generator().manual_seed(settings.seed)
        self.features = self.torch.from_numpy(features)
        self.parameters = self._start(features.shape[1], battles.n_models)
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}

    def run(self, rng: np.random.Generator) -> tuple[int, FloatArray]:
        """Epochs made, and the best loss of each member on rows it was not trained on."""
        settings = self.settings
        optimiser = self.torch.optim.Adam(
            self.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        blind = not self.outside.any()
        used = np.flatnonzero(self.inside.any(axis=0))
        best_loss = self._held_out_loss()
        best_epoch, epoch = 0, 0
        last = min(_BLIND_EPOCHS, settings.max_epochs) if blind else settings.max_epochs
        for epoch in range(1, last + 1):
            for part in _minibatches(used, settings.batch_size, rng):
                self._step(part, optimiser)
            loss = self._held_out_loss()
            better = loss < best_loss if not blind else np.ones(len(loss), dtype=np.bool_)
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

    def _loss(self, part: IntArray, *, noise: float = 0.0) -> Any:
        """Cross-entropy of some rows by each member, shape (members, rows)."""
        torch, rows = self.torch, self.battles.rows(part)
        delta = self._logits(rows, noise)
        # −t log σ(δ) − (1 − t) log σ(−δ) = softplus(δ) − t δ, also for t outside [0, 1]
        target = torch.from_numpy(rows.win.astype(np.float32))
        return torch.nn.functional.softplus(delta) - target * delta

    def _logits(self, rows: MFBattles, noise: float) -> Any:
        """δ_candidate − δ_baseline, shape (members, rows)."""
        torch, values = self.torch, self.parameters
        x = self.features[torch.from_numpy(rows.query)]
        if noise:
            x = x + noise * torch.randn(x.shape, generator=self.generator)
        models = values["models"]
        if self.settings.normalise:
            models = torch.nn.functional.normalize(models, dim=2)
        first, second = torch.from_numpy(rows.candidate), torch.from_numpy(rows.baseline)
        hidden = x @ values["projection"] if "projection" in values else x
        if "bias" in values:
            hidden = hidden + values["bias"]
        return ((models[:, first] - models[:, second]) * hidden * values["output"]).sum(dim=2)

    def _step(self, part: IntArray, optimiser: Any) -> None:
        weight = self.torch.from_numpy(self.inside[:, part].astype(np.float32))
        loss = self._loss(part, noise=self.settings.noise)
        optimiser.zero_grad()
        # Summed over members, whose gradients do not meet; averaged over rows.
        (loss * weight).sum(dim=0).mean().backward()
        optimiser.step()

    def _held_out_loss(self) -> FloatArray:
        """Weighted mean loss of each member on its held-out rows, noise off; infinite without."""
        total = np.zeros(len(self.outside))
        rows = np.flatnonzero(self.outside.any(axis=0))
        with self.torch.no_grad():
            for part in _minibatches(rows, _EVALUATION_ROWS):
                total += (self._loss(part).numpy() * self.outside[:, part]).sum(axis=1)
        weight = self.outside.sum(axis=1)
        some = weight > 0
        mean: FloatArray = np.where(some, total, np.inf) / np.where(some, weight, 1.0)
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
            save_file(arrays, part, metadata={"rows": self.fingerprint})
            part.replace(self.settings.checkpoint)

    def _read_checkpoint(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
        path = self.settings.checkpoint
        if path is None or not path.exists():
            return {}
        try:
            arrays = load_file(path)
            with safe_open(path, framework="numpy") as file:
                rows = (file.metadata() or {}).get("rows")
        except SafetensorError as error:
            raise OptionError.of("checkpoint", str(path), "a file of an earlier fit") from error
        found = {name: array.shape for name, array in arrays.items()}
        if found != shapes:
            raise OptionError.of("checkpoint", str(path), f"parameters of shapes {shapes}")
        if rows != self.fingerprint:  # it may have learned from rows held out now
            raise OptionError.of("checkpoint", str(path), "a file of the same rows and seed")
        return {name: self.torch.from_numpy(array) for name, array in arrays.items()}


def _fingerprint(features: NDArray[np.float32], battles: MFBattles, seed: int) -> str:
    """Of all that decides what a member is trained on and what it is held out from."""
    digest = hashlib.sha256(f"{seed} {features.shape} {battles.n_models}".encode())
    for array in (
        features,
        battles.query,
        battles.candidate,
        battles.baseline,
        battles.win,
        battles.weight,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _minibatches(
    rows: IntArray, size: int, rng: np.random.Generator | None = None
) -> Iterator[IntArray]:
    """The rows in parts of `size`, shuffled where there is a generator."""
    order = rows if rng is None else rng.permutation(rows)
    for start in range(0, len(order), size):
        yield order[start : start + size]


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """Keep torch from starting threads: steps this small gain little, and wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _import_torch() -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("training mf", "torch") from error
    return torch
