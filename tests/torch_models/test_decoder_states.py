"""The embedder smollm: mean states of half a decoder."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarouter.features import DecoderStates
from metarouter.features.checkpoints import load_decoder, save_decoder
from metarouter.testing import EMBEDDER_CHECKS
from metarouter.types import Embedder

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")

TEXT = "Prove that every bounded monotone sequence converges."


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packaged decoder as a folder of safetensors, which loads faster."""
    folder = tmp_path_factory.mktemp("smollm")
    save_decoder(folder)
    return str(folder)


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(
    tiny_decoder: str, check: Callable[[Callable[[], Embedder]], None]
) -> None:
    """What is promised is the sentence of the check."""
    check(lambda: DecoderStates(tiny_decoder))


def test_equals_the_mean_direction_of_the_fifteenth_hidden_states(smollm: str) -> None:
    """The whole network in float32, its states read off: the same but for bfloat16."""
    network, tokenizer = load_decoder(smollm)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    with torch.no_grad():
        row = torch.tensor([[tokenizer.bos_token_id, *ids]])
        states = network(row, output_hidden_states=True).hidden_states[15][0].numpy()
    each = [state / np.sqrt(np.mean(state**2)) for state in states[1:]]
    expected = np.mean(each, axis=0)
    assert len(expected) == DecoderStates().dim
    found = DecoderStates(smollm).embed([TEXT])[0]
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_what_stands_after_256_tokens_is_not_read(tiny_decoder: str) -> None:
    """A bound on the time that a request can take."""
    long = "prove theorem " * 128
    one, other, within = DecoderStates(tiny_decoder).embed([long, long + "apple", long[:-8]])
    np.testing.assert_array_equal(one, other)
    assert not np.array_equal(one, within)


def test_a_text_cannot_write_a_special_token(smollm: str) -> None:
    """The mark that begins a turn is read as plain text, and so is not the state left out."""
    mark, empty = DecoderStates(smollm).embed(["<|im_start|>", ""])
    assert not np.allclose(mark, empty, atol=0.1)


def test_threads_that_ask_at_once_load_the_decoder_once(
    tiny_decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not half a minute and a gigabyte for each."""
    folder = shutil.copytree(tiny_decoder, tmp_path / "another")
    loads: list[str] = []

    def load(checkpoint: str) -> tuple[Any, Any]:
        loads.append(checkpoint)
        time.sleep(0.2)
        return load_decoder(checkpoint)

    monkeypatch.setattr("metarouter.features.decoder_states.load_decoder", load)
    with ThreadPoolExecutor(4) as pool:
        vectors = list(pool.map(DecoderStates(str(folder)).embed, [[TEXT]] * 4))
    assert loads == [str(folder)]
    assert all((vector == vectors[0]).all() for vector in vectors)


def test_each_checkpoint_has_a_name_of_its_own(tiny_decoder: str) -> None:
    """A cache must not hand out vectors of another decoder."""
    assert DecoderStates(tiny_decoder).name != DecoderStates().name


def test_without_torch_the_install_line_is_given(plain_python: Path) -> None:
    """The name and the width need no torch; a vector does."""
    code = (
        "import json; from metarouter.errors import MissingDependencyError\n"
        "from metarouter.features import make_embedder\n"
        "embedder = make_embedder('smollm')\n"
        "try: embedder.embed(['a'])\n"
        "except MissingDependencyError as error: print(json.dumps([embedder.dim, str(error)]))"
    )
    done = subprocess.run([plain_python, "-c", code], capture_output=True, text=True, check=True)
    dim, message = json.loads(done.stdout)
    assert dim == 576
    assert "pip install 'metarouter[torch]'" in message
