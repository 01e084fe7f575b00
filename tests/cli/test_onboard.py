"""A new model from the command line, and what calibrating says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metarouter.cli import run
from metarouter.loading import load
from metarouter.testing import make_world
from metarouter.testing.worlds import gold_records

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onboard")
    gold = folder / "gold.jsonl"
    records = list(gold_records(make_world(n_queries=120, n_gold=120, n_test=0, seed=4).table))
    gold.write_text("\n".join(map(json.dumps, records)))
    probes = [
        {**row, "model": {"premium": "newcomer"}.get(row["model"], row["model"])}
        for row in records[:60]
    ]
    (folder / "probes.jsonl").write_text("\n".join(map(json.dumps, probes)))
    quick = ["--embedder", "surface", "--corrector", "none", "--gain-model", "ridge"]
    assert run(["fit", "--gold", str(gold), "--out", str(folder / "router"), *quick]) == 0
    return folder / "router"


def test_probe_labels_give_a_router_with_one_more_model(
    router: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The record says what was learned, from how many queries."""
    out, probes = tmp_path / "grown", router.parent / "probes.jsonl"
    arguments = ["--gold", str(probes), "--model", "newcomer", "--out", str(out)]
    assert run(["onboard", str(router), *arguments, "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert (row["model"], row["n_labels"]) == ("newcomer", 30)
    assert row["models"] == ",".join(load(out).models)
    assert row["mean_gain_std"] > 0
    assert load(out).models[0] == "cheap"
    assert set(load(out).models) == {"cheap", "premium", "newcomer"}


def test_without_labels_it_says_so(router: Path, tmp_path: Path, capsys: Capture) -> None:
    """A pair that is new as a whole can be served at once."""
    arguments = ["--model", "large", "--baseline", "small", "--out", str(tmp_path / "pair")]
    assert run(["onboard", str(router), *arguments]) == 0
    assert "large is served from what is known of other models" in capsys.readouterr().out
    assert load(tmp_path / "pair").models == ("small", "large")


def test_a_taken_name_is_one_line(router: Path, tmp_path: Path, capsys: Capture) -> None:
    """Exit code 2, the flag's spelling, and what is allowed."""
    assert run(["onboard", str(router), "--model", "premium", "--out", str(tmp_path / "x")]) == 2
    message = capsys.readouterr().err
    assert "premium" in message
    assert message.count("\n") == 1


def test_a_share_is_printed_with_its_interval_and_routellms_name(
    router: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Two models: both; three: no win rate, so no name."""
    probes = str(router.parent / "probes.jsonl")
    arguments = ["--queries", probes, "--premium-share", "0.5", "--out", str(tmp_path / "out")]
    assert run(["calibrate", str(router), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "on new queries of the same source between 0.3" in printed
    assert "as RouteLLM writes it: router-ridge-0." in printed
    grown = tmp_path / "grown"
    assert run(["onboard", str(router), "--model", "newcomer", "--out", str(grown)]) == 0
    assert run(["calibrate", str(grown), *arguments[:4], "--json", "-"]) == 0
    printed = capsys.readouterr().out
    (row,) = json.loads(printed[printed.index("{") :])["results"]
    assert row["router_name"] is None
