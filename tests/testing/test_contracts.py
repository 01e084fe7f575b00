"""The checks catch what breaks a promise, and what another package brings is served."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

import metarouter as mr
from metarouter.correction import make_corrector
from metarouter.errors import ArtifactError
from metarouter.gain import make_gain_model, make_table_gain_model
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.testing import (
    CORRECTOR_CHECKS,
    EMBEDDER_CHECKS,
    GAIN_MODEL_CHECKS,
    TABLE_GAIN_MODEL_CHECKS,
    make_world,
)
from metarouter.testing.worlds import gold_records
from metarouter.types import FloatArray, ModelState

ROOT = Path(__file__).resolve().parents[2]


class CountingEmbedder:
    """Counts its calls, so no text has one vector."""

    name = "counting"
    dim = 2

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls += 1
        return np.full((len(texts), 2), self.calls, dtype=np.float32)


class GoldShifter:
    """Moves every row, gold or not."""

    def __init__(self, *, seed: int = 0) -> None:
        self.diagnostics_: dict[str, Any] = {}

    def fit(self, table: GainTable) -> Self:
        return self

    def transform(self, table: GainTable) -> GainTable:
        return table.with_gains(table.gain + 0.1, table.variance)


class GoldShifterThatTells:
    """Has diagnostics_ from fit() on, as learned attributes may."""

    def __init__(self, *, seed: int = 0) -> None:
        pass

    def fit(self, table: GainTable) -> Self:
        self.diagnostics_ = {"rows": len(table)}
        return self

    def transform(self, table: GainTable) -> GainTable:
        return table.with_gains(table.gain + 0.1, table.variance)


class TellsNothing(GoldShifter):
    """Has no diagnostics_ at any time."""

    def __init__(self, *, seed: int = 0) -> None:
        pass


class WeightBlind:
    """A ridge that does not look at weights."""

    def __init__(self, *, seed: int = 0) -> None:
        self.model = make_gain_model("ridge")

    def fit(self, features: NDArray[Any], gain: FloatArray, weight: Any = None) -> Self:
        self.model.fit(features, gain)
        return self

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        return self.model.predict(features)

    def state(self) -> ModelState:
        return self.model.state()


class SureOfItself:
    """A table model with a standard deviation of 0."""

    def __init__(self, *, seed: int = 0) -> None:
        self.model = make_table_gain_model("knn")

    def fit(self, table: GainTable) -> Self:
        self.model.fit(table)
        return self

    def predict(self, features: NDArray[Any]) -> GainEstimate:
        mean = self.model.predict(features).mean
        return GainEstimate(mean=mean, std=np.zeros_like(mean))

    def win_probability(self, features: NDArray[Any]) -> FloatArray:
        return self.model.win_probability(features)

    def state(self) -> ModelState:
        return self.model.state()


@pytest.mark.parametrize(
    ("checks", "make", "broken"),
    [
        (EMBEDDER_CHECKS, CountingEmbedder, {"a_text_has_one_vector"}),
        (CORRECTOR_CHECKS, GoldShifter, {"gold_rows_come_back_untouched"}),
        (CORRECTOR_CHECKS, GoldShifterThatTells, {"gold_rows_come_back_untouched"}),
        (
            CORRECTOR_CHECKS,
            TellsNothing,
            {"gold_rows_come_back_untouched", "a_corrector_learns_and_tells"},
        ),
        (GAIN_MODEL_CHECKS, WeightBlind, {"a_row_without_weight_does_not_teach"}),
        (
            TABLE_GAIN_MODEL_CHECKS,
            SureOfItself,
            {"a_table_model_predicts_finite_gains", "a_table_state_predicts_what_the_model_does"},
        ),
    ],
)
def test_the_broken_promise_is_named(
    checks: Sequence[Callable[[Any], None]], make: Callable[..., Any], broken: set[str]
) -> None:
    """Exactly the checks of that promise fail; threads see an embedder that counts, by the way."""
    failed = set()
    for check in checks:
        try:
            check(make)
        except AssertionError:
            failed.add(check.__name__)
    assert broken <= failed
    assert failed <= broken | {"threads_may_share_an_embedder"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of docs/python_api.md, on the import path as pip would leave it."""
    page = (ROOT / "docs/python_api.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(# my_parts\.py\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    (points,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_parts.py").write_text(code, encoding="utf-8")
    info = tmp_path / "my_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-parts\nVersion: 1.0\n")
    entries = points.replace("project.entry-points.", "").replace('"', "")
    (info / "entry_points.txt").write_text(entries, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_parts_of_another_package_are_fitted_saved_and_served(tmp_path: Path) -> None:
    """An own embedder, corrector, gain model and scorer, found by their entry points."""
    world = make_world("topic_bias", n_queries=120, n_gold=60, n_test=60, seed=1)
    files = world.write(tmp_path / "labels")
    router = mr.fit(
        files.gold,
        files.preference,
        embedder="initials:26",
        corrector="half_shift",
        gain_model="kernel",
        folds=0,
    )
    router.save(tmp_path / "router")
    queries = list(world.test.queries)
    served = mr.load(tmp_path / "router").predict_gain(queries)
    np.testing.assert_array_equal(served.mean, router.predict_gain(queries).mean)
    assert served.mean.std() > 0


@pytest.mark.usefixtures("installed")
def test_parts_of_another_package_keep_the_contract() -> None:
    """The page's own parts pass every check."""
    from metarouter.features import make_embedder

    for check in EMBEDDER_CHECKS:
        check(lambda: make_embedder("initials:26"))
    for check_corrector in CORRECTOR_CHECKS:
        check_corrector(lambda seed: make_corrector("half_shift", seed=seed))
    for check_model in GAIN_MODEL_CHECKS:
        check_model(lambda seed: make_gain_model("kernel", seed=seed))


def test_a_kind_that_nobody_brings_is_told(tmp_path: Path) -> None:
    """The message names the group in which a package would register it."""
    from metarouter.gain import load_gain_model

    with pytest.raises(ArtifactError, match=r"kind = 'strange'.*metarouter\.gain_scorers"):
        load_gain_model(ModelState(kind="strange"))
    world = make_world(n_queries=60, n_gold=60, n_test=0)
    with pytest.raises(mr.OptionError, match="allowed: "):
        mr.fit(gold_records(world.table), gain_model="strange")
