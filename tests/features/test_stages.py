"""What turns texts into features is found by its kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metarouter.errors import ArtifactError
from metarouter.features import make_pipeline
from metarouter.features.encoder import battle_probabilities
from metarouter.features.stages import FeatureStage, load_stage
from metarouter.types import ModelState


def test_a_feature_pipeline_is_a_stage(prompts: list[str]) -> None:
    pipeline = make_pipeline("surface", n_components=5).fit(prompts)
    stage = load_stage(pipeline.state())
    assert isinstance(stage, FeatureStage)
    np.testing.assert_array_equal(stage.transform(prompts), pipeline.transform(prompts))


def test_an_unknown_kind_lists_those_allowed() -> None:
    with pytest.raises(ArtifactError, match="'telepathy'; allowed: decoder_classifier, encoder"):
        load_stage(ModelState(kind="telepathy"))


def test_a_state_without_its_graph_is_damaged() -> None:
    state = ModelState(kind="encoder_classifier", config={"n_models": 2, "max_tokens": 8})
    with pytest.raises(ArtifactError, match="lacks 'onnx'"):
        load_stage(state)


@given(
    logits=arrays(
        np.float64, st.tuples(st.integers(1, 4), st.integers(3, 6)), elements=st.floats(-30, 30)
    ),
    shift=st.floats(-100, 100),
)
def test_battles_are_softmaxes_of_three_logits(logits: np.ndarray, shift: float) -> None:
    """Each candidate's (win, tie, loss) against the reference, written out; a shift is nothing."""
    n, width = logits.shape
    found = battle_probabilities(logits).reshape(n, width - 2, 3)
    for i in range(n):
        for m in range(width - 2):
            three = np.exp(logits[i, [m, width - 2, width - 1]])
            np.testing.assert_allclose(found[i, m], three / three.sum(), atol=1e-6)
    moved = battle_probabilities(logits + shift).reshape(found.shape)
    np.testing.assert_allclose(moved, found, atol=1e-6)
