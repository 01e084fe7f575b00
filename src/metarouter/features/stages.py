"""What turns texts into features when a router serves, by kind.

Usually the feature pipeline; for routers that read text themselves, a fine-tuned
encoder or decoder whose features are its class probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import ArtifactError
from metarouter.features.endpoint import EndpointEmbedder
from metarouter.types import ModelState

__all__ = ["FeatureStage", "load_stage"]


@runtime_checkable
class FeatureStage(Protocol):
    """Texts to features, fitted."""

    @property
    def name(self) -> str:
        """What the stage is called."""
        ...

    @property
    def dim(self) -> int:
        """Number of features."""
        ...

    @property
    def endpoints(self) -> tuple[EndpointEmbedder, ...]:
        """Its embedders that send texts elsewhere."""
        ...

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features, shape (n_texts, dim), finite float32."""
        ...

    def state(self) -> ModelState:
        """What :func:`load_stage` makes the same stage of."""
        ...


def load_stage(state: ModelState) -> FeatureStage:
    """The stage that a state describes.

    Raises
    ------
    ArtifactError
        When the kind is unknown or something is missing.
    MissingDependencyError
        When the stage needs an extra that is not installed.
    """
    make = _STAGES.get(state.kind)
    if make is None:
        raise ArtifactError(
            f"features kind = {state.kind!r}; allowed: {', '.join(sorted(_STAGES))}; "
            "a newer metarouter may have written it"
        )
    try:
        return make(state)
    except KeyError as error:
        raise ArtifactError(
            f"the state of features kind {state.kind!r} lacks {error.args[0]!r}; "
            "fit and save the router again"
        ) from error


def _of(module: str, name: str) -> Callable[[ModelState], FeatureStage]:
    """Maker of a stage, imported when one is loaded."""

    def make(state: ModelState) -> FeatureStage:
        stage: FeatureStage = getattr(import_module(f"metarouter.features.{module}"), name)(state)
        return stage

    return make


_STAGES: dict[str, Callable[[ModelState], FeatureStage]] = {
    "feature_pipeline": _of("pipeline", "load_pipeline"),
    "encoder_classifier": _of("encoder", "EncoderClassifier"),
    "decoder_classifier": _of("decoder", "load_decoder_stage"),
}
