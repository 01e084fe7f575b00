"""Table gain models in a router: fitted, saved, loaded, compared, and on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import metarouter
from metarouter.artifact import save_artifact
from metarouter.cli import run
from metarouter.correction import learn_gain, make_corrector
from metarouter.errors import OptionError
from metarouter.evaluation.experiment import compare
from metarouter.gain import TABLE_GAIN_MODELS, load_gain_model
from metarouter.labels.table import make_gain_table
from metarouter.testing import make_world
from metarouter.testing.worlds import gold_records, preference_records

NUMPY_MODELS = [name for name in TABLE_GAIN_MODELS if name not in ("mf", "bert", "causal_lm")]
QUESTIONS = ["What is 17 times 23?", "Write a sonnet about a lighthouse.", "def f(x): return"]


@pytest.mark.parametrize("name", NUMPY_MODELS)
def test_a_saved_router_decides_as_the_fitted_one(name: str, tmp_path: Path) -> None:
    """The folder holds all of it, for every table gain model."""
    world = make_world(n_queries=80, n_gold=40, n_test=0)
    router = metarouter.fit(
        gold=gold_records(world.table),
        preference=preference_records(world.table),
        corrector="mean_shift",
        gain_model=name,
        embedder="surface",
        folds=0,
    )
    router.save(tmp_path / "router")
    loaded = metarouter.load(tmp_path / "router")
    assert loaded.route_batch(QUESTIONS) == router.route_batch(QUESTIONS)
    gain = loaded.predict_gain(QUESTIONS)
    np.testing.assert_array_equal(gain.mean, router.predict_gain(QUESTIONS).mean)


@pytest.mark.parametrize("name", ["ridge", "knn", "logistic", "sw_ranking"])
def test_a_router_of_an_earlier_version_decides_as_it_did(name: str, tmp_path: Path) -> None:
    """Its state has one number for the error that corrected rows share, not one a candidate."""
    world = make_world(n_queries=80, n_gold=40, n_test=0)
    router = metarouter.fit(
        gold=gold_records(world.table),
        preference=preference_records(world.table),
        corrector="mean_shift",
        gain_model=name,
        embedder="surface",
        folds=0,
    )
    state = router.artifact.parts["gain"]
    (shared,) = state.config["shared_variance"]
    earlier = replace(state, config=state.config | {"shared_variance": shared})
    parts = {**router.artifact.parts, "gain": earlier}
    save_artifact(replace(router.artifact, parts=parts), tmp_path / "router")
    loaded = metarouter.load(tmp_path / "router")
    assert shared > 0
    assert loaded.route_batch(QUESTIONS) == router.route_batch(QUESTIONS)
    found, expected = loaded.predict_gain(QUESTIONS), router.predict_gain(QUESTIONS)
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)


@pytest.mark.parametrize("name", ["ridge", "knn", "logistic", "sw_ranking"])
def test_one_number_of_an_earlier_pool_is_that_of_each_candidate(name: str) -> None:
    rng = np.random.default_rng(0)
    table = make_gain_table(
        queries=[f"q{i}" for i in range(60)],
        models=("a", "b", "c"),
        candidate=np.repeat([1, 2], 30),
        gain=rng.choice([-1.0, 0.0, 1.0], 60),
        is_gold=np.ones(60, dtype=np.bool_),
        features=rng.normal(size=(60, 3)),
    )
    state = learn_gain(table, make_corrector("none"), gain_model=name).state()
    assert state.config["shared_variance"] == [0.0, 0.0]
    features = rng.normal(size=(5, 3)).astype(np.float32)
    plain = load_gain_model(state).predict(features)
    earlier = replace(state, config=state.config | {"shared_variance": 0.25})
    found = load_gain_model(earlier).predict(features)
    np.testing.assert_array_equal(found.mean, plain.mean)
    np.testing.assert_allclose(found.std**2, plain.std**2 + 0.25)


def test_compare_takes_table_gain_models() -> None:
    """A study has a row for every corrector and table gain model, the ceiling among them."""
    world = make_world(n_queries=300, n_gold=140, n_test=0)
    result = compare(
        world.table,
        n_gold=[40],
        correctors=["none", "mean_shift"],
        gain_models=["knn", "sw_ranking"],
        seeds=1,
        n_test=60,
        embedder="surface",
        jobs=1,
    )
    found = {(record.corrector, record.gain_model) for record in result.records}
    assert {(c, g) for c in ("none", "mean_shift") for g in ("knn", "sw_ranking")} <= found


def test_a_name_that_does_not_exist_is_told_with_all_that_do() -> None:
    """Both kinds of gain model are listed."""
    with pytest.raises(OptionError, match=r"gain model = 'knnn'.*ridge.*sw_ranking"):
        metarouter.fit(gold=[], gain_model="knnn")


def test_the_command_line_fits_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`metarouter fit --gain-model knn` writes a router that routes."""
    world = make_world(n_queries=60, n_gold=60, n_test=0)
    gold = tmp_path / "gold.jsonl"
    gold.write_text("\n".join(json.dumps(row) for row in gold_records(world.table)))
    out = str(tmp_path / "router")
    options = ["--gain-model", "knn", "--embedder", "surface", "--corrector", "none"]
    assert run(["fit", "--gold", str(gold), "--out", out, *options]) == 0
    assert run(["route", out, QUESTIONS[0], "--json"]) == 0
    assert '"model"' in capsys.readouterr().out
