"""The training loop of text gain models: AdamW, warm-up, early stopping, the best epoch kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarouter.errors import OptionError
from metarouter.features.checkpoints import import_extra
from metarouter.types import IntArray

__all__ = ["FinetuneLog", "FinetuneSettings", "finetune", "length_batches"]

_POOL = 50  # batches among which rows are sorted by length
_CLIP = 1.0  # of the gradient's norm


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """How to fine-tune.

    Parameters
    ----------
    learning_rate : float, the highest, reached after the warm-up.
    weight_decay : float
    batch_size : int
    epochs : int, at most.
    warmup_share : float, share of all steps; the rate then falls to 0 linearly.
    patience : int, epochs without a better held-out loss before training stops.
    seed : int
    """

    learning_rate: float
    weight_decay: float = 0.01
    batch_size: int = 16
    epochs: int = 3
    warmup_share: float = 0.1
    patience: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise OptionError.of(name, getattr(self, name), "an integer from 1")
        if not self.learning_rate > 0:
            raise OptionError.of("learning_rate", self.learning_rate, "a positive number")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneLog:
    """Held-out loss before training and after each epoch; empty without held-out rows."""

    losses: tuple[float, ...]


def finetune(
    model: Any,
    batches: Callable[[np.random.Generator], Sequence[IntArray]],
    loss_of: Callable[[IntArray], Any],
    held_out_loss: Callable[[], float] | None,
    settings: FinetuneSettings,
) -> FinetuneLog:
    """Train the parameters of `model` that may be trained, in place.

    Parameters
    ----------
    model : torch module
    batches : callable; rows of each step of an epoch, given a generator.
    loss_of : callable; mean loss of some rows, a scalar that can be differentiated.
    held_out_loss : callable, or None when there is nothing to stop by.
    settings : FinetuneSettings

    Returns
    -------
    FinetuneLog
        The model keeps the parameters of its best epoch, which may be the
        start. It is left in evaluation mode.
    """
    torch = import_extra("torch")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        trained.values(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,  # unfused, updating 23 million parameters takes as long as their gradient
    )
    rng = np.random.default_rng(settings.seed)
    n_steps = len(batches(np.random.default_rng(settings.seed))) * settings.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_up(n_steps, settings))
    keeper = _Best(model, trained, held_out_loss)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        for _ in range(settings.epochs):
            model.train()
            for rows in batches(rng):
                optimiser.zero_grad()
                loss_of(rows).backward()
                torch.nn.utils.clip_grad_norm_(trained.values(), _CLIP)
                optimiser.step()
                schedule.step()
            if keeper.epochs_without_gain() >= settings.patience:
                break
    return FinetuneLog(losses=keeper.restore())


def length_batches(
    rows: IntArray, length: IntArray, size: int, rng: np.random.Generator
) -> list[IntArray]:
    """Random batches of rows of similar length, so that little of a batch is padding.

    Parameters
    ----------
    rows : int array, shape (n,)
    length : int array, shape (n,), of each row.
    size : int
    rng : numpy.random.Generator

    Returns
    -------
    list of int arrays that together hold every row once, in random order.
    """
    order = rng.permutation(len(rows))
    found: list[IntArray] = []
    for start in range(0, len(order), _POOL * size):
        pool = order[start : start + _POOL * size]
        pool = pool[np.argsort(length[pool], kind="stable")]
        found += [rows[pool[at : at + size]] for at in range(0, len(pool), size)]
    return [found[i] for i in rng.permutation(len(found))]


def _warm_up(n_steps: int, settings: FinetuneSettings) -> Callable[[int], float]:
    """Share of the highest learning rate at each step."""
    warm = max(1, round(settings.warmup_share * n_steps))

    def share(step: int) -> float:
        return min((step + 1) / warm, (n_steps - step) / max(1, n_steps - warm))

    return share


class _Best:
    """Remembers the parameters with the least held-out loss."""

    def __init__(
        self, model: Any, trained: dict[str, Any], loss: Callable[[], float] | None
    ) -> None:
        self.model, self.trained, self.loss = model, trained, loss
        self.losses: list[float] = []
        self.kept: dict[str, Any] = {}
        self.epochs_without_gain()

    def epochs_without_gain(self) -> int:
        """Evaluate; how many evaluations ago the loss was least."""
        self.model.eval()
        if self.loss is None:
            return 0
        self.losses.append(self.loss())
        # argmin would take NaN, the loss of an epoch that diverged, as the least.
        best = int(np.argmin(np.nan_to_num(self.losses, nan=np.inf, posinf=np.inf)))
        if best == len(self.losses) - 1:
            self.kept = {name: p.detach().clone() for name, p in self.trained.items()}
        return len(self.losses) - 1 - best

    def restore(self) -> tuple[float, ...]:
        """Put the best parameters back."""
        for name, value in self.kept.items():
            self.trained[name].data.copy_(value)
        self.model.eval()
        return tuple(self.losses)


def chunks(rows: IntArray, size: int) -> Iterator[IntArray]:
    """Rows in parts of `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
