"""From feedback in the store to a proposed router, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarouter.artifact import save_artifact
from metarouter.cli import run
from metarouter.cli.refit import NOT_PROPOSED, on_scale
from metarouter.loading import load
from metarouter.store.database import open_database
from metarouter.store.exporting import ExportedLabels
from metarouter.store.feedback import read_feedback, save_feedback
from metarouter.store.tables import decisions
from metarouter.testing import make_world
from metarouter.testing.worlds import WorldOptions, gold_records

Rows = list[dict[str, Any]]
QUICK = ["--gain-model", "ridge", "--embedder", "surface", "--folds", "0"]


def _write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _audit(store: str, rows: Rows) -> None:
    """Decisions with their prompts, each audited."""
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        scores.setdefault(row["query"], {})[row["model"]] = row["score"]
    engine = open_database(store)
    common = dict.fromkeys(column.name for column in decisions.columns) | {
        "endpoint": "chat/completions",
        "asked": "metarouter",
        "policy": "default",
        "model": "cheap",
        "options": [
            {"model": "premium", "gain": 0.1, "gain_std": 0.1, "cost": 1.0},
            {"model": "cheap", "gain": 0.0, "gain_std": 0.0, "cost": 0.0},
        ],
        "answered": "cheap",
        "logging_propensity": 1.0,
        "bound": "gain",
        "reason": "because",
        "outcome": "ok",
    }
    with engine.begin() as connection:
        for number, query in enumerate(scores):
            own = {"decision_id": f"d{number}", "created": float(number), "prompt": query}
            connection.execute(decisions.insert(), common | own)
    for number, found in enumerate(scores.values()):
        content = {"type": "gold", "decision_id": f"d{number}", "scores": found}
        save_feedback(engine, read_feedback(json.dumps(content).encode()), None)
    engine.dispose()


@pytest.fixture
def loop(tmp_path: Path) -> Callable[[bool], list[str]]:
    """A store with 150 audits and a router of bad or of good labels; the command's options."""

    def make(is_bad: bool) -> list[str]:
        options = WorldOptions(bias="null", concentration=40.0)
        n_old = 40 if is_bad else 150
        world = make_world(options, n_queries=n_old, n_gold=n_old, n_test=300)
        old = list(gold_records(world.table))
        if is_bad:
            noise = np.random.default_rng(0).uniform(size=len(old)).tolist()
            old = [{**row, "score": score} for row, score in zip(old, noise, strict=True)]
        gold = _write(tmp_path / "gold.jsonl", old)
        assert run(["fit", "--gold", str(gold), "--out", str(tmp_path / "router"), *QUICK]) == 0
        store = f"sqlite:///{tmp_path}/store.db"
        _audit(store, list(gold_records(world.test)))
        return ["--store", store, "--router", str(tmp_path / "router"), "--gold", str(gold)]

    return make


def test_a_better_router_is_written_and_reported(
    loop: Callable[[bool], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*loop(True), "--out", str(tmp_path / "next"), "--json", str(tmp_path / "r.json")]
    assert run(["refit", *options]) == 0
    assert "proposed: at equal cost" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "r.json").read_text())["results"]
    assert record["is_proposed"]
    assert record["difference_low"] > 0
    assert load(tmp_path / "next").policy.version == record["version"]


def test_a_router_that_is_not_shown_to_be_better_is_not_written(
    loop: Callable[[bool], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a code of its own, so that a job can tell it from a failure."""
    assert run(["refit", *loop(False), "--out", str(tmp_path / "next")]) == NOT_PROPOSED
    assert "not proposed: " in capsys.readouterr().out
    assert not (tmp_path / "next").exists()


def test_audits_off_the_scale_of_the_serving_router_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mistaken audit does not stop the loop."""
    world = make_world(WorldOptions(bias="null"), n_queries=60, n_gold=60, n_test=60)
    old, new = (
        [row | {"score": 1 + 4 * row["score"]} for row in gold_records(table)]
        for table in (world.table, world.test)
    )
    gold = _write(tmp_path / "gold.jsonl", old)
    scale = ["--score-range", "1,5"]
    serving = tmp_path / "router"
    assert run(["fit", "--gold", str(gold), "--out", str(serving), *scale, *QUICK]) == 0
    store = f"sqlite:///{tmp_path}/store.db"
    new[0]["score"] = 0.9
    _audit(store, new)
    capsys.readouterr()
    options = ["--store", store, "--router", str(serving), "--gold", str(gold)]
    assert run(["refit", *options, "--out", str(tmp_path / "next")]) in (0, NOT_PROPOSED)
    shown = capsys.readouterr().out
    assert "left out: 1 gold scores outside 1 to 5" in shown
    assert "of 59 new gold queries" in shown
    thumbs = ExportedLabels(user_scores=[{"score": 0.0}, {"score": 1.0}])
    labels, n_outside = on_scale(thumbs, load(serving))
    assert labels.user_scores == [{"score": 1.0}, {"score": 5.0}]
    assert n_outside == 0


def test_a_router_that_does_not_know_its_queries_is_judged_on_newer_ones(
    loop: Callable[[bool], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Audits of decisions after it was fitted, but for queries that are in its files."""
    options = loop(True)
    serving = load(tmp_path / "router")
    parts = {name: part for name, part in serving.artifact.parts.items() if name != "seen"}
    artifact = replace(serving.artifact, parts=parts, created="1970-01-01T00:01:40+00:00")
    save_artifact(artifact, tmp_path / "router")
    assert run(["refit", *options, "--out", str(tmp_path / "next")]) == 0
    shown = capsys.readouterr().out
    assert "first asked after the serving router was fitted" in shown
    # decisions are at seconds 0 to 299, and the router is of second 100
    assert "of 199 new gold queries" in shown


def test_a_candidate_is_valued_on_the_prompts_of_the_store(
    loop: Callable[[bool], list[str]], tmp_path: Path
) -> None:
    """All was answered by cheap, and audited for both: gold tells what the router's choice adds."""
    store = loop(False)[1]
    router, target = str(tmp_path / "router"), tmp_path / "found.json"
    assert run(["experiments", "--store", store, "--router", router, "--json", str(target)]) == 0
    rows = json.loads(target.read_text())["results"]
    found = {row["measure"]: row for row in rows if row["policy"] == router}
    assert found["agreement"]["value"] + found["premium_share"]["value"] == pytest.approx(1.0)
    assert found["gold_difference_audited"]["low"] > 0


def test_the_router_that_serves_is_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "router")
    assert run(["refit", "--router", folder, "--out", folder]) == 2
    assert "goes on serving" in capsys.readouterr().err


def test_a_share_that_is_none_is_told_as_it_was_typed(
    loop: Callable[[bool], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*loop(True), "--out", str(tmp_path / "n"), "--held-out", "1.5"]
    assert run(["refit", *options]) == 2
    assert "--held-out = 1.5; allowed: a number between 0 and 1" in capsys.readouterr().err


def test_a_mistyped_store_is_no_empty_one(
    loop: Callable[[bool], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        *loop(True),
        "--store",
        f"sqlite:///{tmp_path}/typo.db",
        "--out",
        str(tmp_path / "n"),
    ]
    assert run(["refit", *options]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "typo.db").exists()
