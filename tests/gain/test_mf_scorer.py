"""Matrix factorisation is scored as its formula says, without torch."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from metarouter.errors import DataError, MissingDependencyError, OptionError
from metarouter.gain import load_gain_model, make_table_gain_model
from metarouter.gain.linear_error import linear_error_arrays
from metarouter.gain.mf import MFGain
from metarouter.gain.mf_import import read_routellm_mf
from metarouter.gain.mf_scorer import MFScorer
from metarouter.gain.mf_training import MFMember
from metarouter.gain.pool import PoolGainModel
from metarouter.gain.ridge import RidgeGain
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.types import ModelState


def _member(rng: np.random.Generator, n_models: int, width: int, dim: int) -> MFMember:
    return MFMember(
        models=rng.normal(size=(n_models, dim)),
        projection=rng.normal(size=(width, dim)) / width**0.5,
        bias=rng.normal(size=dim),
        output=rng.normal(size=dim) / dim**0.5,
    )


def _state(members: list[MFMember], **config: float) -> ModelState:
    columns, levels = zip(*(member.over_reference() for member in members), strict=True)
    settings = {"scale": 1.0, "tie_rate": 0.0, "shared_variance": 0.0, "has_labels": False}
    return ModelState(
        kind="mf",
        config=settings | config,
        arrays={
            "columns": np.hstack(columns),
            "level": np.stack(levels),
            "centre": np.zeros(levels[0].shape),
            "mean_gain": np.zeros(levels[0].shape),
            "slope": np.ones(levels[0].shape),
        },
    )


def _bilinear(member: MFMember, x: np.ndarray, model: int) -> float:
    """δ of one model for one query, term by term as the paper prints it."""
    hidden = [
        sum(member.projection[i, j] * x[i] for i in range(len(x))) + member.bias[j]
        for j in range(len(member.bias))
    ]
    return float(
        sum(member.output[j] * member.models[model, j] * hidden[j] for j in range(len(member.bias)))
    )


def test_gains_are_those_of_the_printed_formula() -> None:
    """Mean over members of s (2 σ(δ_m − δ_0) − 1), computed term by term."""
    rng = np.random.default_rng(0)
    members = [_member(rng, 3, 5, 4) for _ in range(3)]
    X = rng.normal(size=(6, 5))
    expected = np.array(
        [
            [
                [
                    2.0 * (2.0 / (1.0 + np.exp(_bilinear(k, x, 0) - _bilinear(k, x, m))) - 1.0)
                    for m in (1, 2)
                ]
                for x in X
            ]
            for k in members
        ]
    )
    estimate = load_gain_model(_state(members, scale=2.0)).predict(X)
    np.testing.assert_allclose(estimate.mean, expected.mean(axis=0), atol=1e-5)
    assert (estimate.std == 0.0).all()  # of parameters that came without labels


def test_win_probability_and_gain_are_tied_by_one_line() -> None:
    """ψ = s (2 P − 1)."""
    rng = np.random.default_rng(1)
    scorer = MFScorer(_state([_member(rng, 3, 5, 4)], scale=3.0))
    X = rng.normal(size=(50, 5))
    np.testing.assert_allclose(scorer.predict(X).mean, 3.0 * (2.0 * scorer.win_probability(X) - 1))


def test_ties_that_were_dropped_shrink_the_gain_by_their_rate() -> None:
    """With P of rows that are no tie, E[g] = s (1 − tie rate) (2 P − 1)."""
    rng = np.random.default_rng(2)
    member = _member(rng, 2, 5, 4)
    X = rng.normal(size=(20, 5))
    whole = MFScorer(_state([member])).predict(X).mean
    np.testing.assert_allclose(
        MFScorer(_state([member], tie_rate=0.4)).predict(X).mean, 0.6 * whole
    )


def test_the_slope_stretches_departures_from_the_centre() -> None:
    """Mean ḡ + b (p − c)."""
    rng = np.random.default_rng(3)
    members = [_member(rng, 2, 5, 4) for _ in range(4)]
    X = rng.normal(size=(20, 5))
    plain = MFScorer(_state(members)).predict(X)
    state = _state(members)
    state.arrays["centre"] += 0.1
    state.arrays["mean_gain"] += 0.3
    state.arrays["slope"] *= 0.5
    np.testing.assert_allclose(MFScorer(state).predict(X).mean, 0.3 + 0.5 * (plain.mean - 0.1))


def _labelled(n: int, rng: np.random.Generator) -> GainTable:
    X = rng.normal(size=(n, 5)).astype(np.float32)
    return make_gain_table(
        queries=[f"q{i}" for i in range(n)],
        gain=X[:, 0] + rng.normal(size=n),
        is_gold=[True] * n,
        features=X,
    )


def test_the_error_stated_is_that_of_the_estimate_under_a_linear_model() -> None:
    """Std² = posterior variance + (mean − posterior mean)² + shared variance."""
    rng = np.random.default_rng(3)
    table = _labelled(200, rng)
    state = _state([_member(rng, 2, 5, 4) for _ in range(4)], has_labels=True, shared_variance=0.25)
    X = rng.normal(size=(20, 5)).astype(np.float32)
    linear = PoolGainModel(RidgeGain).fit(table).predict(X)
    found = MFScorer(replace(state, arrays=state.arrays | linear_error_arrays(table))).predict(X)
    expected = linear.std**2 + (found.mean - linear.mean) ** 2 + 0.25
    np.testing.assert_allclose(found.std**2, expected, rtol=1e-4)


def test_one_number_of_an_earlier_version_is_that_of_each_candidate() -> None:
    """Its state has one for the error that corrected rows share, not one a candidate."""
    rng = np.random.default_rng(3)
    one = _state([_member(rng, 2, 5, 4)], has_labels=True, shared_variance=0.25)
    one = replace(one, arrays=one.arrays | linear_error_arrays(_labelled(200, rng)))
    X = rng.normal(size=(20, 5)).astype(np.float32)
    each = replace(one, config=one.config | {"shared_variance": [0.25]})
    none = replace(one, config=one.config | {"shared_variance": 0.0})
    found, expected, plain = (load_gain_model(state).predict(X) for state in (one, each, none))
    np.testing.assert_array_equal(found.std, expected.std)
    np.testing.assert_allclose(found.std**2, plain.std**2 + 0.25)


def test_a_large_batch_is_scored_as_its_rows() -> None:
    """Chunks do not show."""
    rng = np.random.default_rng(4)
    scorer = MFScorer(_state([_member(rng, 2, 3, 2), _member(rng, 2, 3, 2)]))
    X = rng.normal(size=(20_000, 3))
    part = [0, 8_191, 8_192, 19_999]
    whole = scorer.predict(X)
    np.testing.assert_allclose(whole.mean[part], scorer.predict(X[part]).mean, rtol=1e-6)
    assert whole.std.shape == (20_000, 1)


def test_features_of_another_width_are_refused() -> None:
    scorer = MFScorer(_state([_member(np.random.default_rng(5), 2, 3, 2)]))
    with pytest.raises(DataError, match=r"allowed: \(n, 3\)"):
        scorer.predict(np.zeros((1, 4)))


def test_the_state_is_json_and_arrays() -> None:
    """Nothing in it needs pickle."""
    state = _state([_member(np.random.default_rng(6), 2, 3, 2)])
    assert json.loads(json.dumps(state.config)) == state.config


@pytest.mark.parametrize(
    "option",
    [{"variant": "new"}, {"ties": "keep"}, {"dim": 0}, {"validation_share": 1.0}, {"patience": 0}],
)
def test_an_option_that_is_not_allowed_is_named(option: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        make_table_gain_model("mf", **option).fit(_small_table())


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_the_install_line_is_given() -> None:
    """Training is what needs the extra."""
    with pytest.raises(MissingDependencyError, match=r"metarouter\[torch\]"):
        MFGain().fit(_small_table())


def _routellm_file(folder: Path) -> tuple[Path, dict[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(7)
    arrays = {
        "P.weight": rng.normal(size=(64, 8)).astype(np.float32),
        "text_proj.0.weight": rng.normal(size=(8, 12)).astype(np.float32),
        "classifier.0.weight": rng.normal(size=(1, 8)).astype(np.float32),
    }
    save_file(arrays, folder / "model.safetensors")
    return folder / "model.safetensors", arrays


def test_a_published_checkpoint_gives_routellms_score(tmp_path: Path) -> None:
    """σ of the classifier on (v_strong − v_weak, each of length 1) ⊙ the projected embedding."""
    path, arrays = _routellm_file(tmp_path)
    scorer = MFScorer(read_routellm_mf(path, strong=24, weak=36))
    x = np.random.default_rng(8).normal(size=12).astype(np.float32)
    logits = []
    for row in (24, 36):
        vector = arrays["P.weight"][row]
        fit = vector / np.sqrt((vector**2).sum()) * (arrays["text_proj.0.weight"] @ x)
        logits.append(float(arrays["classifier.0.weight"][0] @ fit))
    expected = 1.0 / (1.0 + np.exp(logits[1] - logits[0]))
    assert scorer.win_probability(x[None])[0, 0] == pytest.approx(expected, abs=1e-5)


def test_a_file_that_is_no_published_checkpoint_is_refused(tmp_path: Path) -> None:
    path, arrays = _routellm_file(tmp_path)
    with pytest.raises(OptionError, match="weak = 64; allowed: a row from 0 to 63"):
        read_routellm_mf(path, weak=64)
    with pytest.raises(OptionError, match="that exists"):
        read_routellm_mf(tmp_path / "nothing")
    save_file({"P.weight": arrays["P.weight"]}, path)
    with pytest.raises(OptionError, match=r"holds no text_proj\.0\.weight"):
        read_routellm_mf(path)


def _small_table() -> GainTable:
    return make_gain_table(
        queries=list("abc"), gain=[1.0, 0.0, -1.0], is_gold=[True] * 3, features=np.eye(3)
    )
