"""The encoder classifier: what it learns, what is exported, and how a router serves it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import metarouter
from metarouter.artifact import load_artifact
from metarouter.errors import OptionError
from metarouter.features.encoder import EncoderClassifier, load_tokenizer
from metarouter.features.stages import load_stage
from metarouter.fitting import FitOptions, fit_table
from metarouter.gain import load_gain_model, make_table_gain_model
from metarouter.gain.text.encoder import EncoderGain
from metarouter.labels.table import GainTable, make_gain_table

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")

PROOF, COLOUR = "prove theorem about manifold", "what colour is the apple"


def _options(checkpoint: str, **options: Any) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint,
        "learning_rate": 4e-3,
        "epochs": 4,
        "precision": "fp32",
        "validation_share": 0.2,
    } | options


@pytest.fixture(scope="module")
def fitted(tiny_encoder: str, easy_table: GainTable) -> EncoderGain:
    return EncoderGain(**_options(tiny_encoder)).fit(easy_table)


def test_gains_are_read_from_the_text_in_label_units(fitted: EncoderGain) -> None:
    """Labels of ±2: the truth is a gain of 1.4 for proofs and −0.6 for colours."""
    features = fitted.stage_.transform([PROOF, COLOUR])
    mean = fitted.predict(features).mean[:, 0]
    assert mean == pytest.approx([1.4, -0.6], abs=0.45)
    assert (fitted.predict(features).std > 0).all()
    assert fitted.losses_[0] > min(fitted.losses_)


def test_the_stage_gives_the_probabilities_of_the_network(fitted: EncoderGain) -> None:
    """The exported graph is the fine-tuned network: softmax of its three logits."""
    text = "what is the number about the apple"
    ids = _tokenizer(fitted).encode(text).ids
    with torch.no_grad():
        logits = fitted.network_(torch.tensor([ids])).logits
    expected = logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(fitted.stage_.transform([text]), expected, atol=1e-5)
    np.testing.assert_allclose(fitted.stage_.transform([text]).sum(), 1.0, atol=1e-6)


def test_ties_count_half_of_a_win(fitted: EncoderGain) -> None:
    probabilities = fitted.stage_.transform([PROOF])
    expected = probabilities[0, 0] + probabilities[0, 1] / 2
    assert fitted.win_probability(probabilities)[0, 0] == pytest.approx(expected)


def test_int8_weights_change_little(
    fitted: EncoderGain, tiny_encoder: str, easy_table: GainTable
) -> None:
    """Quantised by channel, the same training gives nearly the same probabilities."""
    small = EncoderGain(**_options(tiny_encoder, precision="int8")).fit(easy_table)
    texts = list(easy_table.queries[:20])
    np.testing.assert_allclose(
        small.stage_.transform(texts), fitted.stage_.transform(texts), atol=0.05
    )


def test_a_seed_fixes_everything(fitted: EncoderGain, tiny_encoder: str) -> None:
    """Head, dropout, order and split all follow the seed; torch's own generator does not move."""
    table = _small_table()
    before = torch.random.get_rng_state()
    first, again, other = (
        EncoderGain(**_options(tiny_encoder, epochs=1, seed=seed)).fit(table) for seed in (1, 1, 2)
    )
    texts = list(table.queries)
    np.testing.assert_array_equal(first.stage_.transform(texts), again.stage_.transform(texts))
    assert not np.array_equal(first.stage_.transform(texts), other.stage_.transform(texts))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_routellms_own_score_is_an_option(tiny_encoder: str, easy_table: GainTable) -> None:
    """Read from P(win) alone, the gain is a line in P(win)."""
    model = EncoderGain(**_options(tiny_encoder, score="win")).fit(easy_table)
    features = np.array([[0.2, 0.5, 0.3], [0.2, 0.1, 0.7], [0.9, 0.1, 0.0]])
    mean = model.predict(features).mean[:, 0]
    assert mean[0] == pytest.approx(mean[1])
    assert mean[2] > mean[0]


def test_a_pool_has_three_classes_for_each_candidate(tiny_encoder: str) -> None:
    """Of three models, a candidate is learned from battles with another candidate too."""
    rng = np.random.default_rng(0)
    n = 400
    texts = [f"{PROOF if i % 2 else COLOUR} {rng.integers(9)} {i}" for i in range(n)]
    with_reference = rng.uniform(size=n) < 0.5
    table = make_gain_table(
        queries=texts,
        # b beats a always; c beats b on proofs only, else loses
        gain=np.where(with_reference, 1.0, np.where(np.arange(n) % 2 == 1, 1.0, -1.0)),
        is_gold=[True] * n,
        models=("a", "b", "c"),
        candidate=np.where(with_reference, 1, 2),
        baseline=np.where(with_reference, 0, 1),
    )
    model = EncoderGain(**_options(tiny_encoder)).fit(table)
    features = model.stage_.transform([PROOF, COLOUR])
    assert features.shape == (2, 6)
    np.testing.assert_allclose(features.reshape(2, 2, 3).sum(axis=2), 1.0, atol=1e-6)
    gain = model.predict(features).mean
    assert gain.shape == (2, 2)
    assert gain[0, 1] > gain[1, 1]
    assert model.win_probability(features)[:, 0].min() > 0.8


def test_special_tokens_in_a_query_are_text(fitted: EncoderGain) -> None:
    """Nobody ends the sequence early by writing the separator."""
    ids = _tokenizer(fitted).encode("prove [SEP] theorem").ids
    assert ids.count(3) == 1  # the one that the tokenizer adds


def test_a_text_does_not_depend_on_its_batch(fitted: EncoderGain) -> None:
    texts = [PROOF, COLOUR, f"{PROOF} " * 200, "?"]
    together = fitted.stage_.transform(texts)
    assert together.shape == (4, fitted.stage_.dim)
    for i, text in enumerate(texts):
        np.testing.assert_array_equal(fitted.stage_.transform([text])[0], together[i])


def test_equal_texts_are_one_query_on_one_side(tiny_encoder: str) -> None:
    """Under two ids, the same text is not both trained on and held out."""
    from metarouter.gain.text.rows import prepare_texts

    table = make_gain_table(
        queries=["x", "y", "x", "y"] * 10,
        gain=[1.0, 0.0, -1.0, 1.0] * 10,
        is_gold=[True] * 40,
    )
    data = prepare_texts(table, 0.5, np.random.default_rng(0))
    assert data.texts == ("x", "y")
    assert len(np.unique(data.rows.query[data.held_out])) == 1
    assert not set(data.rows.query[data.held_out]) & set(data.rows.query[~data.held_out])


def test_a_router_is_saved_and_served_without_torch(
    fitted: EncoderGain, tiny_encoder: str, tmp_path: Path, plain_python: Path
) -> None:
    """Fitted with a corrector and cross-fitted folds, loaded where torch does not exist."""
    rng = np.random.default_rng(0)
    texts = [f"{(PROOF, COLOUR)[i % 2]} number {i}" for i in range(80)]
    gain = np.where(np.arange(80) % 2 == 0, 1.0, 0.0)
    table = make_gain_table(
        queries=texts,
        query=np.concatenate([np.arange(80), np.arange(80)]),
        gain=np.concatenate([gain, np.clip(gain + rng.choice([0.0, -1.0], 80), -1, 1)]),
        is_gold=np.arange(160) < 80,
    )
    options = FitOptions(
        gain_model=f"bert:{tiny_encoder}", corrector="mean_shift", embedder="static", folds=2
    )
    router = fit_table(table, options)
    router.save(tmp_path / "router")
    assert router.artifact.metrics["mean_gold_gain"] == pytest.approx(0.5)
    program = (
        "import importlib.util, json, sys, metarouter\n"
        "router = metarouter.load(sys.argv[1])\n"
        "decisions = router.route_batch(json.loads(sys.argv[2]))\n"
        "print(json.dumps({'torch': importlib.util.find_spec('torch') is not None,"
        " 'version': router.policy.version,"
        " 'gain': [d.predicted_gain for d in decisions]}))"
    )
    asked = [PROOF, COLOUR, "theorem of the apple"]
    done = subprocess.run(
        [plain_python, "-c", program, str(tmp_path / "router"), json.dumps(asked)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["torch"] is False
    assert told["version"] == router.policy.version
    assert told["gain"] == pytest.approx([d.predicted_gain for d in router.route_batch(asked)])


def test_the_folder_holds_safetensors_and_json_alone(
    fitted: EncoderGain, tiny_encoder: str, tmp_path: Path
) -> None:
    """No pickle, and the same stage comes back."""
    router = fit_table(
        _small_table(), FitOptions(gain_model=f"bert:{tiny_encoder}", embedder="surface", folds=0)
    )
    router.save(tmp_path / "router")
    suffixes = {path.suffix for path in (tmp_path / "router").iterdir()}
    assert suffixes == {".json", ".safetensors"}
    parts = load_artifact(tmp_path / "router").parts
    stage = load_stage(parts["features"])
    assert isinstance(stage, EncoderClassifier)
    assert stage.name == router.features.name
    texts = [PROOF, COLOUR]
    np.testing.assert_array_equal(stage.transform(texts), router.features.transform(texts))
    mean = load_gain_model(parts["gain"]).predict(stage.transform(texts)).mean[:, 0]
    np.testing.assert_allclose(mean, router.predict_gain(texts).mean)
    assert metarouter.load(tmp_path / "router").route(PROOF).model in router.models


def test_a_pickled_checkpoint_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    """A folder whose weights are a pickle is not opened."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(Path(tiny_encoder, name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OptionError, match="safetensors"):
        EncoderGain(checkpoint=str(tmp_path)).fit(_small_table())


def test_an_unknown_checkpoint_is_named() -> None:
    """Without a network the hub cannot be asked; the error says what was looked for."""
    with pytest.raises(OptionError, match="checkpoint = 'nobody/nothing'"):
        make_table_gain_model("bert:nobody/nothing").fit(_small_table())


@pytest.mark.parametrize("option", [{"score": "loss"}, {"precision": "int4"}, {"epochs": 0}])
def test_an_option_that_is_not_allowed_is_named(option: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(option))):
        make_table_gain_model("bert", **option).fit(_small_table())


def _tokenizer(model: EncoderGain) -> Tokenizer:
    return load_tokenizer(model.stage_.state().arrays["tokenizer"].tobytes(), 128)


def _small_table() -> GainTable:
    texts = [f"{(PROOF, COLOUR)[i % 2]} number {i}" for i in range(40)]
    return make_gain_table(queries=texts, gain=[1.0, 0.0] * 19 + [-1.0, 0.0], is_gold=[True] * 40)
