"""Matrix factorisation learns what its formula can say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from metarouter.errors import OptionError
from metarouter.gain import load_gain_model, make_table_gain_model
from metarouter.gain.mf import MFGain
from metarouter.labels.table import GainTable, make_gain_table

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")


def _logit_table(
    n: int, *, seed: int = 0, scale: float = 1.0, noise: bool = False
) -> tuple[GainTable, NDArray[np.float64]]:
    """Wins drawn from σ(1.5 x₀ + 0.5), half of the rows ties; and the true gains."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 8)).astype(np.float32)
    p = 1.0 / (1.0 + np.exp(-(0.0 if noise else 1.5) * X[:, 0] - 0.5))
    won = np.where(rng.uniform(size=n) < p, 1.0, -1.0)
    gain = np.where(rng.uniform(size=n) < 0.5, won, 0.0)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(n)], gain=scale * gain, is_gold=[True] * n, features=X
    )
    return table, 0.5 * scale * (2.0 * p - 1.0)


@pytest.mark.parametrize("options", [{}, {"ties": "drop"}, {"n_members": 1}])
def test_gains_come_out_in_label_units(options: dict[str, object]) -> None:
    """However ties are treated, the prediction estimates E[gain given x], in its units."""
    table, _ = _logit_table(3_000, scale=2.0)
    held_out, truth = _logit_table(2_000, seed=1, scale=2.0)
    model = make_table_gain_model("mf", dim=16, learning_rate=3e-3, **options).fit(table)  # type: ignore[arg-type]
    mean = model.predict(held_out.row_features()).mean[:, 0]
    assert np.corrcoef(mean, truth)[0, 1] > 0.97
    assert abs(np.polyfit(truth, mean, 1)[0] - 1.0) < 0.15
    assert abs(mean.mean() - truth.mean()) < 0.06


def test_noise_alone_teaches_only_its_mean() -> None:
    """Training stops before labels without a pattern are learned by heart."""
    table, truth = _logit_table(1_000, noise=True)
    model = MFGain(dim=16).fit(table)
    assert model.n_epochs_ < model.max_epochs
    assert model.predict(table.row_features()).mean.std() < 0.05
    assert abs(model.predict(table.row_features()).mean.mean() - truth.mean()) < 0.1


def test_the_folded_scorer_is_the_bilinear_model_in_torch() -> None:
    """What NumPy serves equals w₂ᵀ(v_m ⊙ (W₁ᵀx + b)) of the trained parameters."""
    table, _ = _logit_table(300)
    for options in ({"variant": "paper"}, {"variant": "code"}, {"use_proj": False}):
        model = MFGain(dim=8, max_epochs=3, **options).fit(table)
        x = torch.from_numpy(table.row_features().astype(np.float64))
        wins = []
        for member in model.members_:
            hidden = x @ torch.from_numpy(member.projection) + torch.from_numpy(member.bias)
            v = torch.from_numpy(member.models)
            delta = (hidden * (v[1] - v[0])) @ torch.from_numpy(member.output)
            wins.append(torch.sigmoid(delta))
        plain = 2.0 * torch.stack(wins).mean(dim=0).numpy() - 1.0
        arrays = model.state().arrays
        slope, centre, mean = (arrays[name][0] for name in ("slope", "centre", "mean_gain"))
        expected = mean + slope * (plain - centre)
        np.testing.assert_allclose(
            model.predict(table.row_features()).mean[:, 0], expected, atol=1e-5
        )


def test_the_code_variant_has_unit_vectors_and_no_bias() -> None:
    """RouteLLM's program normalises model vectors and projects without a bias."""
    table, _ = _logit_table(200)
    for member in MFGain(variant="code", dim=8, max_epochs=2).fit(table).members_:
        np.testing.assert_allclose(np.linalg.norm(member.models, axis=1), 1.0, atol=1e-5)
        assert not member.bias.any()


def test_a_seed_fixes_everything() -> None:
    table, _ = _logit_table(200)
    X = table.row_features()
    first, again, other = (
        MFGain(dim=8, max_epochs=5, seed=seed).fit(table).predict(X).mean for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_larger_units_give_larger_gains_and_nothing_else() -> None:
    """Labels × 10 give predictions × 10."""
    small, _ = _logit_table(300)
    large, _ = _logit_table(300, scale=10.0)
    X = small.row_features()
    ours, theirs = (MFGain(dim=8, max_epochs=5).fit(table).predict(X) for table in (small, large))
    np.testing.assert_allclose(theirs.mean, 10.0 * ours.mean, rtol=1e-6)
    np.testing.assert_allclose(theirs.std, 10.0 * ours.std, rtol=1e-6)


def test_a_pool_is_learned_from_battles_between_candidates() -> None:
    """Model 2 never meets the reference, and is placed by its battles with model 1."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3_000, 4)).astype(np.float32)
    utility = np.column_stack([np.zeros(3_000), X[:, 0], X[:, 0] + 1.5 * X[:, 1]])
    with_reference = np.arange(3_000) % 2 == 0
    candidate, baseline = np.where(with_reference, 1, 2), np.where(with_reference, 0, 1)
    rows = np.arange(3_000)
    p = 1.0 / (1.0 + np.exp(utility[rows, baseline] - utility[rows, candidate]))
    table = make_gain_table(
        queries=[f"q{i}" for i in rows],
        gain=np.where(rng.uniform(size=3_000) < p, 1.0, -1.0),
        is_gold=[True] * 3_000,
        models=("a", "b", "c"),
        candidate=candidate,
        baseline=baseline,
        features=X,
    )
    model = MFGain(dim=16, learning_rate=3e-3).fit(table)
    win = model.win_probability(X)
    assert win.shape == (3_000, 2)
    assert np.corrcoef(win[:, 1], 1.0 / (1.0 + np.exp(-utility[:, 2])))[0, 1] > 0.95


def test_few_labels_in_many_dimensions_are_stated_as_uncertain() -> None:
    """Early stopping leaves most directions at 0 in all members; the stated error knows of it."""
    held: list[float] = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(1_500, 64)).astype(np.float32)
        truth = np.tanh(0.5 * (X @ rng.normal(size=64) / 8.0 + 0.3))
        gain = np.where(rng.uniform(size=len(X)) < 0.5 + 0.5 * truth, 1.0, -1.0)
        table = make_gain_table(
            queries=[f"q{i}" for i in range(500)], gain=gain[:500], is_gold=[True] * 500,
            features=X[:500],
        )  # fmt: skip
        estimate = make_table_gain_model("mf", seed=seed).fit(table).predict(X[500:])
        error = np.abs(estimate.mean[:, 0] - truth[500:])
        held.append(float((error < 1.96 * estimate.std[:, 0]).mean()))
    assert np.mean(held) > 0.9


def test_rows_without_weight_teach_nothing() -> None:
    """A row of infinite variance may say anything."""
    table, _ = _logit_table(300)
    lies = make_gain_table(
        queries=list(table.queries),
        query=np.concatenate([table.query, table.query]),
        gain=np.concatenate([table.gain, -table.gain]),
        is_gold=np.arange(600) < 300,
        variance=np.where(np.arange(600) < 300, 0.0, np.inf),
        features=table.features,
    )
    X = table.row_features()
    ours, theirs = (MFGain(dim=8, max_epochs=5).fit(rows).predict(X) for rows in (table, lies))
    np.testing.assert_allclose(theirs.mean, ours.mean, atol=1e-6)


def test_training_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """A fit that was cut short is not lost: the next one starts where it stopped."""
    table, _ = _logit_table(1_000)
    file = tmp_path / "mf.safetensors"
    short = MFGain(dim=8, max_epochs=2, checkpoint=file).fit(table)
    assert set(load_file(file)) == {"models", "output", "projection", "bias"}
    longer = MFGain(dim=8, max_epochs=2, checkpoint=file).fit(table)
    assert longer.validation_loss_ < short.validation_loss_


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mf.safetensors"
    save_file({"models": np.zeros((1, 2, 3), dtype=np.float32)}, file)
    with pytest.raises(OptionError, match="checkpoint"):
        MFGain(checkpoint=file).fit(_logit_table(50)[0])


def test_a_checkpoint_of_other_rows_or_another_seed_is_refused(tmp_path: Path) -> None:
    """A member must not know rows that it is taken not to have seen."""
    file, (table, _) = tmp_path / "mf.safetensors", _logit_table(200)
    MFGain(dim=8, max_epochs=1, checkpoint=file).fit(table)
    turned = replace(table, gain=-table.gain)
    for other, seed in ((turned, 0), (table.rows(np.arange(199)), 0), (table, 1)):
        with pytest.raises(OptionError, match="same rows and seed"):
            MFGain(dim=8, max_epochs=1, checkpoint=file, seed=seed).fit(other)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mf.safetensors"
    file.write_bytes(b"not arrays")
    with pytest.raises(OptionError, match="checkpoint"):
        MFGain(checkpoint=file).fit(_logit_table(50)[0])


@pytest.mark.parametrize("n", [1, 2, 30])
def test_few_labels_still_give_finite_gains(n: int) -> None:
    table, _ = _logit_table(n)
    estimate = MFGain().fit(table).predict(table.row_features())
    assert np.isfinite(estimate.mean).all()
    assert np.isfinite(estimate.std).all()


def test_a_saved_state_predicts_the_same() -> None:
    table, _ = _logit_table(100)
    model = MFGain(dim=8, max_epochs=3).fit(table)
    X = table.row_features()
    np.testing.assert_array_equal(
        load_gain_model(model.state()).predict(X).mean, model.predict(X).mean
    )
