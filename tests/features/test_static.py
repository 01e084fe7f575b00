"""The static embedding against the tokenizer and the vectors it is made of."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from tokenizers import Tokenizer

from metarouter.errors import DataError, MissingDependencyError
from metarouter.features import StaticEmbedding
from metarouter.features.packaged import PackagedFile


@pytest.fixture(scope="module")
def wordllama() -> tuple[Tokenizer, NDArray[np.float16]]:
    """Tokenizer and vectors, read here once more."""
    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
    with safe_open(folder / "weights/l2_supercat_256.safetensors", "numpy") as weights:
        return tokenizer, weights.get_tensor("embedding.weight")


# Control tokens are left out: the tokenizer cuts the text at "<s>".
@given(text=st.text(alphabet="abc XYZ 12.,?!\n\té漢字😀-_▁", max_size=80))
@settings(max_examples=150)
def test_equals_the_mean_over_the_tokens_of_the_whole_text(
    wordllama: tuple[Tokenizer, NDArray[np.float16]], text: str
) -> None:
    """Reading word by word gives the tokens of the whole text."""
    tokenizer, vectors = wordllama
    text = text.rstrip(" ▁")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    expected = vectors[ids].astype(np.float64).sum(axis=0)
    expected /= max(float(np.linalg.norm(expected)), 1e-12)
    np.testing.assert_allclose(StaticEmbedding().embed([text])[0], expected, atol=2e-6)


def test_no_token_crosses_from_a_word_into_the_next_space(
    wordllama: tuple[Tokenizer, NDArray[np.float16]],
) -> None:
    """The property of the vocabulary that reading word by word rests on."""
    assert not [token for token in wordllama[0].get_vocab() if "▁" in token.lstrip("▁")]


def test_a_flood_of_unseen_words_changes_no_vector() -> None:
    """More words than are remembered: what was known before is computed anew, the same."""
    before = StaticEmbedding().embed(["some plain words", "in two texts"])
    flood = [" ".join(f"w{i}x{j}" for j in range(100)) for i in range(700)]
    StaticEmbedding().embed(flood)
    after = StaticEmbedding().embed(["some plain words", "in two texts"])
    np.testing.assert_array_equal(before, after)


def test_the_package_that_holds_the_vectors_is_not_imported() -> None:
    """Its import would configure logging and pull dependencies."""
    code = (
        "import sys; from metarouter.features import make_pipeline;"
        "make_pipeline().fit(['a b', 'c d', 'e?']).transform(['f']);"
        "heavy = {'wordllama', 'sklearn', 'scipy', 'onnxruntime', 'httpx2', 'stamina', 'torch'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    file = PackagedFile(package="no_such_package", path="a", size=1, sha256="", extra="onnx")
    with pytest.raises(MissingDependencyError, match=r"metarouter\[onnx\]"):
        file.locate()


@pytest.mark.parametrize("content", [b"shorter", b"of the same size, other"])
def test_a_file_with_other_content_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Size and SHA-256 are both checked, and the message says what to reinstall."""
    package = tmp_path / "pinned_data_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    file = PackagedFile(package=package.name, path="weights", size=23, sha256="0" * 64)
    with pytest.raises(DataError, match="reinstall the package pinned_data_package"):
        file.verify()
