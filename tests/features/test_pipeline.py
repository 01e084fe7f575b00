"""The feature pipeline: what it learns, keeps and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from metarouter.errors import ArtifactError, DataError, NotFittedError, OptionError
from metarouter.features import (
    FeaturePipeline,
    StaticEmbedding,
    SurfaceFeatures,
    load_pipeline,
    make_pipeline,
)
from metarouter.types import FloatArray, ModelState

NAMES = ("default", "static", "hashed", "surface", "static+surface")


@pytest.fixture(scope="module")
def fitted(prompts: list[str]) -> FeaturePipeline:
    return make_pipeline("default", n_components=24).fit(prompts)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_the_training_texts_are_their_principal_components(
    name: str, prompts: list[str]
) -> None:
    """The linear ones: centred, uncorrelated, ordered, their stated variances average 1."""
    pipeline = make_pipeline(name, n_components=10).fit(prompts)
    X = pipeline.transform(prompts)[:, :10].astype(np.float64)
    covariance = np.cov(X.T, bias=True)
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(covariance, np.diag(pipeline.explained_variance_), atol=2e-3)
    assert pipeline.explained_variance_.mean() == pytest.approx(1, abs=1e-5)
    assert (np.diff(pipeline.explained_variance_) <= 0).all()
    assert len(pipeline.explained_variance_) == 10


def test_curved_features_follow_the_linear_ones(prompts: list[str]) -> None:
    """Their blocks are centred and have the stated share of the linear features' variance."""
    pipeline = make_pipeline("static+surface", n_components=10)
    X = pipeline.fit(prompts).transform(prompts).astype(np.float64)
    pipeline.curvature = 0.0
    plain = pipeline.fit(prompts).transform(prompts)
    np.testing.assert_array_equal(X[:, :10], plain)
    assert plain.shape[1] == pipeline.dim == 10
    np.testing.assert_allclose(X[:, 10:].mean(axis=0), 0, atol=1e-5)
    # Two blocks, of kernels on 5 and on 12 components.
    assert X[:, 10:].var(axis=0).sum() == pytest.approx(2 * 0.03 * 10, rel=1e-3)


def test_a_negative_curvature_is_refused(prompts: list[str]) -> None:
    pipeline = FeaturePipeline(
        embedders={"surface": SurfaceFeatures()}, name="surface", curvature=-0.1
    )
    with pytest.raises(OptionError, match="curvature"):
        pipeline.fit(prompts)


def components_by_hand(blocks: list[FloatArray], k: int) -> FloatArray:
    """Each block scaled to total variance 1 along its components, then joint PCA by SVD."""
    scaled = []
    for block in blocks:
        centred = block - block.mean(axis=0)
        scaled.append(centred / np.sqrt(centred.var(axis=0).sum()))
    U, s, _ = np.linalg.svd(np.hstack(scaled), full_matrices=False)
    scores = U[:, :k] * s[:k]
    result: FloatArray = scores / np.sqrt(scores.var(axis=0).mean())
    return result


def test_equals_a_straight_line_computation(prompts: list[str]) -> None:
    """Static and surface blocks, standardised, equalised and rotated in plain NumPy."""
    surface = SurfaceFeatures().embed(prompts).astype(np.float64)
    spread = surface.std(axis=0)
    spread[spread < 1e-6] = 1.0
    surface = np.clip((surface - surface.mean(axis=0)) / spread, -5, 5)
    static = StaticEmbedding().embed(prompts).astype(np.float64)
    # The pipeline keeps 128 components of a block; this few texts about eight words have fewer.
    assert np.linalg.matrix_rank(static - static.mean(axis=0), tol=1e-4) < 128
    expected = components_by_hand([static, surface], 6)
    X = make_pipeline("static+surface", n_components=6).fit(prompts).transform(prompts)[:, :6]
    np.testing.assert_allclose(np.abs(X), np.abs(expected), atol=2e-3)


def test_each_block_matters(prompts: list[str], fitted: FeaturePipeline) -> None:
    """Texts that only one block can tell apart get different features."""
    base, renamed, longer = fitted.transform(
        ["Prove it for a matrix.", "Prove it for a kidney.", "Prove it for a matrix.\n\n\n"]
    )
    assert np.abs(base - renamed).max() > 0.1
    assert np.abs(base - longer).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_pipeline_transforms_identically(
    name: str, prompts: list[str], tmp_path: Path
) -> None:
    """Through JSON-like config and safetensors, and on texts it never saw."""
    pipeline = make_pipeline(name, n_components=12).fit(prompts)
    state = pipeline.state()
    save_file(state.arrays, tmp_path / "arrays.safetensors")
    arrays = load_file(tmp_path / "arrays.safetensors")
    loaded = load_pipeline(ModelState(kind=state.kind, config=state.config, arrays=arrays))
    new = ["Something else entirely?", "", "数学"]
    np.testing.assert_array_equal(loaded.transform(new), pipeline.transform(new))
    assert (loaded.name, loaded.dim) == (name, pipeline.dim)
    assert loaded.state().config == state.config


def test_fitting_twice_gives_the_same_bits(prompts: list[str], fitted: FeaturePipeline) -> None:
    again = make_pipeline("default", n_components=24).fit(prompts)
    np.testing.assert_array_equal(again.transform(prompts), fitted.transform(prompts))


def test_fitting_again_forgets_the_first_fit(prompts: list[str]) -> None:
    pipeline = make_pipeline("surface", n_components=4).fit(prompts[:50]).fit(prompts)
    fresh = make_pipeline("surface", n_components=4).fit(prompts)
    np.testing.assert_array_equal(pipeline.transform(prompts), fresh.transform(prompts))


def test_chunks_and_single_texts_agree(prompts: list[str], fitted: FeaturePipeline) -> None:
    """More texts than a chunk holds, and one at a time."""
    many = prompts * 8
    assert len(many) > 2_048
    X = fitted.transform(many)
    np.testing.assert_allclose(X, np.tile(fitted.transform(prompts), (8, 1)), atol=1e-4)
    np.testing.assert_allclose(X[7], fitted.transform([many[7]])[0], atol=1e-4)


def test_no_texts_give_no_rows(fitted: FeaturePipeline) -> None:
    assert fitted.transform([]).shape == (0, fitted.dim)


def test_features_stay_bounded_far_from_the_training_texts(fitted: FeaturePipeline) -> None:
    """A text unlike any seen gets large features, not unbounded ones."""
    X = fitted.transform(["?" * 100_000, "漢" * 50_000, "\n" * 10_000, "<>" * 9_999])
    assert np.isfinite(X).all()
    assert np.abs(X).max() < 200


def test_only_a_sample_of_many_texts_is_used_to_fit(prompts: list[str]) -> None:
    pipeline = FeaturePipeline(
        embedders={"surface": SurfaceFeatures()}, name="surface", max_fit_texts=50
    )
    few = pipeline.fit(prompts).explained_variance_
    pipeline.max_fit_texts = len(prompts)
    assert not np.array_equal(few, pipeline.fit(prompts).explained_variance_)


def test_no_more_linear_features_than_the_texts_can_tell(prompts: list[str]) -> None:
    assert len(make_pipeline("default").fit(prompts[:5]).explained_variance_) == 4


@pytest.mark.parametrize("texts", [[], ["one"], ["same"] * 9, ["", " "]])
@pytest.mark.parametrize("name", ["default", "hashed"])
def test_texts_that_all_look_the_same_cannot_be_fitted(name: str, texts: list[str]) -> None:
    if name == "default" and texts == ["", " "]:
        pytest.skip("surface features tell them apart")
    with pytest.raises(DataError, match="at least two texts that differ"):
        make_pipeline(name).fit(texts)


def test_a_pipeline_that_is_not_fitted_says_so() -> None:
    with pytest.raises(NotFittedError, match="FeaturePipeline"):
        make_pipeline("surface").transform(["a"])


@pytest.mark.parametrize("name", ["", "nosuch", "static+nosuch", "static+static", "default+static"])
def test_unknown_or_repeated_names_are_refused(name: str) -> None:
    with pytest.raises(OptionError):
        make_pipeline(name)


def test_a_component_count_of_zero_is_refused(prompts: list[str]) -> None:
    with pytest.raises(OptionError, match="n_components"):
        make_pipeline("surface", n_components=0).fit(prompts)


def broken(state: ModelState, how: str) -> ModelState:
    config: dict[str, Any] = dict(state.config)
    arrays: dict[str, NDArray[Any]] = dict(state.arrays)
    if how == "kind":
        return replace(state, kind="other")
    if how == "version":
        config["version"] = 99
    if how == "array":
        del arrays["block0.projection"]
    if how == "offset":
        del arrays["offset"]
    if how == "shape":
        arrays["block1.projection"] = arrays["block1.projection"][:-1]
    if how == "embedder":
        config["blocks"] = [block | {"embedder": "static-v0"} for block in config["blocks"]]
    if how == "config":
        del config["seed"]
    return replace(state, config=config, arrays=arrays)


@pytest.mark.parametrize(
    "how", ["kind", "version", "array", "offset", "shape", "embedder", "config"]
)
def test_a_state_that_does_not_fit_is_refused(fitted: FeaturePipeline, how: str) -> None:
    with pytest.raises(ArtifactError):
        load_pipeline(broken(fitted.state(), how))


def test_vectors_of_slow_embedders_are_kept_when_a_cache_is_named(tmp_path: Path) -> None:
    """Local embedders that are faster than a look-up are not cached."""
    pipeline = make_pipeline("static+surface", cache=tmp_path / "vectors.sqlite")
    pipeline.fit(["one", "two", "three?"])
    assert not (tmp_path / "vectors.sqlite").exists()
