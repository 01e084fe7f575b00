"""Routers of a benchmark by name: a gain model, and the features it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError
from metarouter.features import make_pipeline
from metarouter.features.registry import embedder_names
from metarouter.gain import gain_model_names, make_pool_model
from metarouter.gain.text import stage_of
from metarouter.labels import GainTable
from metarouter.types import FloatArray

__all__ = ["ENSEMBLES", "FoldFeatures", "RouterSpec", "parse_router"]

ENSEMBLES = {
    "ensemble": "hashed|static|minilm|surface",
    "ensemble+use": "hashed|static|minilm|use|surface",
    "ensemble+use+smollm": "hashed|static|minilm|use|smollm|surface",
}
"""Views of the ensembles: words, a static embedding, encoders of sentences, surface."""

_VIEW_COMPONENTS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterSpec:
    """A router's name, the gain model that it fits, and the features it reads.

    `embedder` is a pipeline name, or several separated by ``|`` where each is a
    view of its own.
    """

    name: str
    gain_model: str
    embedder: str

    def fit_predict(self, table: GainTable, features: FoldFeatures, seed: int) -> FloatArray:
        """Gains over the reference model of the test prompts, (n_test, n_models − 1).

        `table` holds the training prompts of `features`, in their order.
        """
        train, test, widths = features.of(self.embedder)
        options: dict[str, Any] = {}
        if len(widths) > 1 and self.gain_model == "logistic":
            options["views"] = widths
        model = make_pool_model(self.gain_model, seed=seed, **options)
        model.fit(table.with_features(train))
        stage = stage_of(model)
        if stage is not None:  # it reads the texts themselves
            test = stage.transform(features.test_texts)
        mean = model.predict(test).mean
        return mean if mean.ndim == 2 else mean[:, None]


def parse_router(text: str, embedder: str = "default") -> RouterSpec:
    """The router that ``name`` or ``name@embedder`` stands for.

    Parameters
    ----------
    text : str
        A gain model, or one of `ENSEMBLES`: logistic regressions on several views.
    embedder : str, for names without one.

    Raises
    ------
    OptionError
        When no gain model or embedder has that name.

    Examples
    --------
    >>> parse_router("ridge@static").embedder, parse_router("ensemble").gain_model
    ('static', 'logistic')
    """
    name, at, own = text.partition("@")
    if name in ENSEMBLES:
        own = _known(own or ENSEMBLES[name])
        return RouterSpec(name=text, gain_model="logistic", embedder=own)
    if name.partition(":")[0] not in gain_model_names():
        allowed = ", ".join([*ENSEMBLES, *gain_model_names()])
        raise OptionError.of("router", text, f"{allowed}; each alone or as name@embedder")
    return RouterSpec(name=text, gain_model=name, embedder=_known(own if at else embedder))


def _known(embedder: str) -> str:
    """The same name, refused now and not when the first fold is embedded."""
    for view in embedder.split("|"):
        for spec in view.split("+"):
            if spec != "default" and spec.partition(":")[0] not in embedder_names():
                allowed = ", ".join(["default", *embedder_names()])
                raise OptionError.of("embedder", embedder, f"{allowed}; joined by + or |")
    return embedder


class FoldFeatures:
    """Features of one fold's prompts, learned on the training prompts alone.

    Parameters
    ----------
    train, test : sequences of str
    cache : file of vectors that are slow to compute, or None.
    """

    def __init__(
        self, train: Sequence[str], test: Sequence[str], cache: Path | str | None = None
    ) -> None:
        self._train, self._test, self._cache = list(train), list(test), cache
        self._found: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    @property
    def test_texts(self) -> list[str]:
        """The test prompts."""
        return self._test

    def of(self, embedder: str) -> tuple[NDArray[np.float32], NDArray[np.float32], list[int]]:
        """Training and test features, and the widths of their views."""
        names = embedder.split("|")
        blocks = [self._block(name, is_view=len(names) > 1) for name in names]
        train, test = (np.hstack(parts) for parts in zip(*blocks, strict=True))
        return train, test, [block[0].shape[1] for block in blocks]

    def _block(
        self, name: str, *, is_view: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        key = f"{is_view}:{name}"
        if key not in self._found:
            pipeline = make_pipeline(name, cache=self._cache)
            if is_view:  # linear models read views: more components, none of them curved
                pipeline = replace(pipeline, n_components=_VIEW_COMPONENTS, curvature=0.0)
            pipeline.fit(self._train)
            self._found[key] = pipeline.transform(self._train), pipeline.transform(self._test)
        return self._found[key]
