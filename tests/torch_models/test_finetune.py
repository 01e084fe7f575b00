"""The training loop: the best epoch wins, the rate warms up, batches hold every row once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.errors import OptionError
from metarouter.gain.text.finetune import FinetuneSettings, finetune, length_batches

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")


@given(
    n=st.integers(1, 300), size=st.integers(1, 20), longest=st.integers(1, 50), seed=st.integers(0)
)
def test_an_epoch_holds_every_row_once(n: int, size: int, longest: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(1_000)[:n]
    batches = length_batches(rows, rng.integers(longest, size=n), size, rng)
    assert sorted(np.concatenate(batches).tolist()) == sorted(rows.tolist())
    assert max(len(batch) for batch in batches) <= size


def test_rows_of_a_batch_have_similar_lengths() -> None:
    """Little padding: within a pool of 50 batches, rows are sorted by length."""
    rng = np.random.default_rng(0)
    length = rng.integers(1_000, size=800)
    batches = length_batches(np.arange(800), length, 16, rng)
    assert max(np.ptp(length[batch]) for batch in batches) < 100
    firsts = [length[batch].mean() for batch in batches]
    assert abs(np.corrcoef(firsts, np.arange(50))[0, 1]) < 0.5  # but not batch after batch


def _line(rate: float, epochs: int, patience: int = 1) -> tuple[float, tuple[float, ...]]:
    """Minimise (w − 1)² in training, judged by (w − 0.5)²; the parameter that is kept."""
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    weight = model.weight
    log = finetune(
        model,
        lambda rng: [np.arange(1)],
        lambda rows: (weight - 1.0).square().mean(),
        lambda: float((weight.detach() - 0.5).square()),
        FinetuneSettings(
            learning_rate=rate, weight_decay=0.0, epochs=epochs, patience=patience, batch_size=1
        ),
    )
    assert not model.training
    return float(weight.detach()), log.losses


def test_the_best_epoch_is_kept() -> None:
    """Training walks past the held-out optimum, and comes back to it."""
    kept, losses = _line(rate=0.1, epochs=40, patience=3)
    assert kept == pytest.approx(0.5, abs=0.1)
    assert len(losses) < 41  # it stopped early
    assert losses[-1] > min(losses)


def test_an_epoch_that_diverged_is_not_the_best() -> None:
    """A held-out loss that is not a number is worse than any."""
    losses = iter([2.0, 1.0, float("nan"), float("nan")])
    kept: list[float] = []
    model = torch.nn.Linear(1, 1, bias=False)

    def held_out() -> float:
        kept.append(float(model.weight.detach()))
        return next(losses)

    finetune(
        model,
        lambda rng: [np.arange(1)],
        lambda rows: model.weight.sum(),
        held_out,
        FinetuneSettings(learning_rate=0.1, epochs=3, patience=3, batch_size=1),
    )
    assert float(model.weight.detach()) == kept[1]


def test_training_that_only_harms_leaves_the_start() -> None:
    """The parameters before the first epoch are among the candidates."""
    model = torch.nn.Linear(1, 1, bias=False)
    start = float(model.weight.detach())
    finetune(
        model,
        lambda rng: [np.arange(1)],
        lambda rows: -model.weight.square().mean(),
        lambda: float((model.weight.detach() - start).square()),
        FinetuneSettings(learning_rate=0.1, epochs=5, batch_size=1),
    )
    assert float(model.weight.detach()) == start


def test_without_held_out_rows_all_epochs_run() -> None:
    steps: list[int] = []
    model = torch.nn.Linear(1, 1, bias=False)

    def loss(rows: np.ndarray) -> object:
        steps.extend(rows.tolist())
        return model.weight.square().mean()

    log = finetune(
        model,
        lambda rng: [np.array([1]), np.array([2])],
        loss,
        None,
        FinetuneSettings(learning_rate=0.1, epochs=3, batch_size=1),
    )
    assert steps == [1, 2] * 3
    assert log.losses == ()


def test_the_rate_rises_then_falls_to_nothing() -> None:
    """Steps of SGD-like size: the change of a parameter follows the schedule."""
    from metarouter.gain.text.finetune import _warm_up

    share = _warm_up(100, FinetuneSettings(learning_rate=1.0, warmup_share=0.1))
    assert share(0) == pytest.approx(0.1)
    assert share(9) == pytest.approx(1.0)
    assert [share(step) for step in (10, 55, 99)] == pytest.approx([1.0, 0.5, 1 / 90])
    assert max(share(step) for step in range(100)) == 1.0


@pytest.mark.parametrize("option", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}])
def test_an_option_that_is_not_allowed_is_named(option: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        FinetuneSettings(**({"learning_rate": 0.1} | option))  # type: ignore[arg-type]
