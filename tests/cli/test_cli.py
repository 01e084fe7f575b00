"""The command line: outputs, JSON contract, exit codes and one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metarouter
from metarouter.cli import run
from metarouter.cli.fit_summary import say_fit
from metarouter.errors import OptionError
from metarouter.testing import WorldPaths, make_world

COMMANDS = [
    ["quickstart"],
    ["fit"],
    ["evaluate"],
    ["compare"],
    ["calibrate"],
    ["route"],
    ["onboard"],
    ["benchmark"],
    ["serve"],
    ["experiments"],
    ["refit"],
    ["collect"],
    ["judge"],
    ["grade"],
    ["labels", "check"],
    ["labels", "battles"],
    ["labels", "tiers"],
    ["labels", "hub"],
    ["labels", "export"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
    ["bench", "decision"],
    ["bench", "fit"],
    ["bench", "overhead"],
]

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> WorldPaths:
    world = make_world("topic_bias", n_queries=300, n_gold=120, n_both=30, n_test=150, seed=5)
    return world.write(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def router(paths: WorldPaths, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "router"
    assert run(["fit", *_labels(paths), "--out", str(folder), *QUICK]) == 0
    return folder


MODELS = ("cheap", "premium")
QUICK = ["--embedder", "surface", "--corrector", "none"]


def _labels(paths: WorldPaths) -> list[str]:
    return ["--gold", str(paths.gold), "--preference", str(paths.preference)]


def _json(text: str, command: str) -> list[dict[str, Any]]:
    """The results of a machine output, after checking its envelope."""
    content = json.loads(text)
    assert list(content) == ["schema_version", "command", "environment", "seed", "results"]
    assert content["schema_version"] == 1
    assert content["command"] == command
    assert content["environment"]["python"]
    results: list[dict[str, Any]] = content["results"]
    for row in results:
        assert all(not isinstance(value, dict | list) for value in row.values())
    return results


def _error(capsys: Capture, arguments: list[str], code: int = 2) -> str:
    """The one line on stderr of a command that fails."""
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("metarouter: error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.out + captured.err
    return captured.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: Capture) -> None:
    """`--help` shows what it does and one call that works."""
    assert run([*command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: metarouter {' '.join(command)}" in shown


def test_version(capsys: Capture) -> None:
    """`--version` is the version of the package."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metarouter.__version__


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["fit"],
        ["fit", "--out"],
        ["fit", "--cost", "euro", "--out", "x"],
        ["route", "--colour", "blue"],
        ["labels", "guess"],
        ["compare", "--gold", "g", "--seeds", "0"],
        ["compare", "--gold", "g", "--n-gold", "ten"],
        ["keys", "create", "alice", "--rpm", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], capsys: Capture) -> None:
    """Whatever is wrong with the arguments, the message is one line."""
    _error(capsys, arguments)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["nonsense"], "metarouter"),
        (["fit"], "metarouter fit"),
        (["labels", "guess"], "metarouter labels"),
        (["labels", "check", "--colour"], "metarouter labels check"),
    ],
)
def test_wrong_usage_names_the_help_of_the_command(
    arguments: list[str], command: str, capsys: Capture
) -> None:
    assert _error(capsys, arguments).endswith(f". See: {command} --help\n")


@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        (
            "--prices",
            "p.csv",
            "--prices = 'p.csv'; allowed: with --cost token only, and it is unit",
        ),
        ("--confidence", "0.9", "allowed: with --max-loss only, and it is not given"),
        ("--premium-share", "-1", "--premium-share = -1.0"),
        ("--embedder", "magic", "--embedder = 'magic'"),
        ("--corrector", "magic:n=1", "--corrector = 'magic'; allowed: auto, none, "),
        ("--corrector", "dr:folds=2", "options of dr = 'folds'; allowed: annotation_propensity, "),
        ("--corrector", "dr:n_folds=two", "dr:n_folds = 'two'; allowed: a whole number"),
        ("--corrector", "dr:seed=1", "a name gives no seed; give it as --seed"),
        ("--score-range", "1,0", "--score-range = (1.0, 0.0)"),
        ("--score-range", "10", "--score-range '10'"),
        ("--score-range", "0,ten", "LOW,HIGH"),
    ],
)
def test_a_target_out_of_range_is_wrong_usage(
    paths: WorldPaths, tmp_path: Path, capsys: Capture, option: str, value: str, shown: str
) -> None:
    """`fit` names the option as it was typed and writes nothing."""
    out = tmp_path / "router"
    line = _error(capsys, ["fit", *_labels(paths), "--out", str(out), *QUICK, option, value])
    assert shown in line
    assert not out.exists()


def test_a_confidence_out_of_range_is_wrong_usage(
    paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    limit = ["--max-loss", "0.1", "--confidence", "1"]
    arguments = ["fit", *_labels(paths), "--out", str(tmp_path / "router"), *QUICK, *limit]
    assert "--confidence = 1.0; allowed: " in _error(capsys, arguments)


@pytest.mark.parametrize(("option", "value"), [("--confidence", "0.9"), ("--gold", "gold.jsonl")])
def test_calibrate_refuses_what_only_a_largest_loss_uses(
    router: Path, capsys: Capture, option: str, value: str
) -> None:
    line = _error(capsys, ["calibrate", str(router), "--premium-share", "0.5", option, value])
    assert f"{option} = " in line
    assert "allowed: with --max-loss only, and it is not given" in line


def test_models_of_equal_quality_give_a_difference_and_valid_json(
    router: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A share of a gain of nothing is not printed, and the output stays JSON."""
    gold, out = tmp_path / "gold.jsonl", tmp_path / "out.json"
    scores = [{"query": f"Question {i}?", "model": m} for i in range(40) for m in MODELS]
    rows = [row | {"score": (i // 2) % 2 - 0.5} for i, row in enumerate(scores)]
    gold.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert run(["evaluate", str(router), "--gold", str(gold), "--json", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "gain units per query against always premium" in shown
    assert "Mind this: premium is not clearly better than cheap on these labels" in shown
    assert _json(out.read_text("utf-8"), "evaluate")


def test_an_empty_query_is_wrong_usage(router: Path, capsys: Capture) -> None:
    """Nothing is decided about nothing."""
    assert "not blank" in _error(capsys, ["route", str(router), ""])


def test_no_command_shows_help(capsys: Capture) -> None:
    """A bare call is a question, answered with exit code 2."""
    run([])
    captured = capsys.readouterr()
    assert "quickstart" in captured.out + captured.err


def test_fit_writes_a_router_and_a_record(
    paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """The record holds what was fitted and the cross-fitted area."""
    out, record = tmp_path / "r", tmp_path / "fit.json"
    arguments = ["fit", *_labels(paths), "--out", str(out), "--json", str(record), *QUICK]
    assert run([*arguments, "--premium-share", "0.25", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "120 gold and 210 preference rows" in shown
    (row,) = _json(record.read_text("utf-8"), "fit")
    assert (row["rows_gold"], row["rows_preference"], row["corrector"]) == (120, 210, "none")
    assert row["efficiency_gain_area_low"] < row["efficiency_gain_area"]
    assert metarouter.load(out).policy.version == row["policy_version"]


def test_options_of_a_corrector_stand_in_its_name(
    paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """They count, `compare` takes them too, and the router keeps them, to be fitted again by."""
    means = []
    for name in ("mean_shift", "mean_shift:alignment=range"):
        out = tmp_path / name
        options = ["--embedder", "surface", "--corrector", name, "--gain-model", "ridge"]
        assert run(["fit", *_labels(paths), "--out", str(out), *options, "--folds", "0"]) == 0
        router = metarouter.load(out)
        assert router.facts["corrector"] == name
        means.append(router.predict_gain(["How many primes are there?"]).mean[0])
    assert means[0] != means[1]
    arguments = ["compare", *_labels(paths), "--n-gold", "20", "--seeds", "1", "--jobs", "1"]
    listed = 'auto:uses=["ignore","inform"]'
    arguments += ["--correctors", f"{listed},{name}", "--n-test", "60", "--embedder", "surface"]
    capsys.readouterr()
    assert run([*arguments, "--json", "-"]) == 0
    rows = _json(capsys.readouterr().out, "compare")
    assert [row["corrector"] for row in rows] == [listed, name]


def _pool(folder: Path, worst: float, best: float) -> str:
    """A gold file of three models; which is better has nothing to do with the query."""
    rng = np.random.default_rng(0)
    rows = [
        {"query": f"Question {i} about {'x' * (i % 7)}?", "model": model, "score": float(score)}
        for i in range(40)
        for model, score in zip(
            ("small", "mid", "large"), rng.uniform(worst, best, 3).round(1), strict=True
        )
    ]
    file = folder / "gold.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def test_fit_says_what_weakens_the_router(tmp_path: Path, capsys: Capture) -> None:
    """Scores without their range, rows left out, and no sign that routing pays."""
    gold, out = _pool(tmp_path, 1.0, 9.0), str(tmp_path / "r")
    pair = ["--premium", "large", "--cheap", "small"]
    assert run(["fit", "--gold", gold, "--out", out, *pair, *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "left out: 40 rows about other models" in shown
    assert "such as --score-range 1,5" in shown
    assert "do not show that the router beats sending queries at random" in shown
    assert f"next: metarouter evaluate {out} --gold" in shown


def test_fit_on_a_handful_of_gold_says_that_nothing_can_be_told(
    tmp_path: Path, capsys: Capture
) -> None:
    gold, out = tmp_path / "gold.csv", str(tmp_path / "r")
    gold.write_text("query,model,score\nHi,a,1\nHi,b,0\nProve it.,a,0\nProve it.,b,1\n")
    assert run(["fit", "--gold", str(gold), "--out", out, *QUICK]) == 0
    assert "too few gold labels to tell" in capsys.readouterr().out


def test_a_pool_with_prices_tells_what_is_spent(tmp_path: Path, capsys: Capture) -> None:
    """A share of premium calls says nothing of it; evaluate goes by the cost too."""
    gold, out = _pool(tmp_path, 0.0, 1.0), str(tmp_path / "r")
    prices, texts = tmp_path / "prices.csv", tmp_path / "queries.txt"
    prices.write_text(
        "model,input_usd_per_mtok,output_usd_per_mtok\nsmall,0.1,0.1\nmid,0.5,1\nlarge,5,15\n"
    )
    texts.write_text("\n".join(f"What is {i}?" for i in range(30)))
    costs = ["--cost", "token", "--prices", str(prices)]
    assert run(["fit", "--gold", gold, "--out", out, "--folds", "0", *costs, *QUICK]) == 0
    assert "every model but" in capsys.readouterr().out
    assert run(["calibrate", out, "--queries", str(texts), "--budget", "1.5"]) == 0
    shown = capsys.readouterr().out
    assert "share of queries that leave" in shown
    assert "expected cost of 1,000 queries: " in shown
    test = tmp_path / "test.jsonl"
    test.write_text((tmp_path / "gold.jsonl").read_text().replace("Question", "Item"))
    assert run(["evaluate", out, "--gold", str(test)]) == 0
    shown = capsys.readouterr().out
    assert "each alone, quality and cost: " in shown
    assert "budget_N: within N %" in shown


def test_fit_says_that_calls_of_a_pool_count_the_same(tmp_path: Path, capsys: Capture) -> None:
    gold, out = _pool(tmp_path, 0.0, 1.0), str(tmp_path / "r")
    assert run(["fit", "--gold", gold, "--out", out, "--folds", "0", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "costs the same; --cost token tells them apart" in shown
    assert "--score-range" not in shown
    assert "left out" not in shown
    assert "too few" not in shown  # nobody asked to be told


def test_fit_keeps_the_old_router_when_it_fails(
    router: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A bad label file leaves the folder as it was, and names file, row and field."""
    before = {path.name: path.read_bytes() for path in router.iterdir()}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"query": "q", "model": "cheap", "score": "high"}\n', encoding="utf-8")
    message = _error(capsys, ["fit", "--gold", str(bad), "--out", str(router)])
    assert "bad.jsonl" in message
    assert "score" in message
    assert {path.name: path.read_bytes() for path in router.iterdir()} == before


def test_route_prints_the_decision_and_its_reason(router: Path, capsys: Capture) -> None:
    """One line: the model, a tab, the reason."""
    assert run(["route", str(router), "Prove it by induction."]) == 0
    model, reason = capsys.readouterr().out.rstrip("\n").split("\t")
    assert model in {"cheap", "premium"}
    assert "threshold" in reason


def test_route_json_has_the_contract_fields(router: Path, capsys: Capture) -> None:
    """The fields are those of the design, in its order."""
    assert run(["route", str(router), "Prove it.", "--json"]) == 0
    (row,) = _json(capsys.readouterr().out, "route")
    assert list(row) == [
        "model",
        "predicted_gain",
        "predicted_gain_std",
        "threshold",
        "cost",
        "reason",
        "policy_version",
    ]


def test_route_reads_one_query_a_line(
    router: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With - each line that is not blank gets a decision."""
    lines = iter(["Hi\n", "\n", "Prove it.\n"])
    monkeypatch.setattr(sys, "stdin", lines)
    assert run(["route", str(router), "-"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 2
    assert "1 blank lines of stdin were left out" in shown.err


def test_evaluate_has_the_contract_fields(
    router: Path, paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """JSON, report and table come from one evaluation."""
    out, report = tmp_path / "e.json", tmp_path / "e.html"
    arguments = ["evaluate", str(router), "--gold", str(paths.test), "--json", str(out)]
    assert run([*arguments, "--report", str(report)]) == 0
    rows = _json(out.read_text("utf-8"), "evaluate")
    fields = {
        "policy",
        "premium_share",
        "quality",
        "quality_low",
        "quality_high",
        "cost_per_1k",
        "saving_share",
    }
    assert all(fields <= row.keys() for row in rows)
    assert "router" in {row["policy"] for row in rows}
    assert "<html" in report.read_text("utf-8")
    shown = capsys.readouterr().out
    assert "premium calls" in shown
    # the sentence alone sounds good of any router: the next line says what it rests on
    assert "sending queries at random. Against a random router" in shown
    assert "cost of 1,000 queries: calls" in shown
    assert f"report: {report}" in shown


def test_compare_has_the_contract_fields_and_resumes(
    paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """Every cell is a record; a second run takes them from the log."""
    out, log, report = tmp_path / "c.json", tmp_path / "log.jsonl", tmp_path / "c.html"
    arguments = ["compare", *_labels(paths), "--n-gold", "20,30", "--seeds", "2", "--jobs", "1"]
    arguments += ["--correctors", "gold_only,none", "--n-test", "60", "--embedder", "surface"]
    arguments += ["--resume", str(log), "--json", str(out), "--report", str(report)]
    assert run(arguments) == 0
    rows = _json(out.read_text("utf-8"), "compare")
    assert len(rows) == 2 * 2 * 2
    fields = {
        "n_gold",
        "seed",
        "corrector",
        "gain_model",
        "n_test",
        "efficiency_gain_area",
        "apgr",
        "cpt50",
        "cpt80",
        "fit_seconds",
    }
    assert all(fields <= row.keys() for row in rows)
    assert "<html" in report.read_text("utf-8")
    assert run(arguments) == 0
    assert _json(out.read_text("utf-8"), "compare") == rows
    assert "gold_only" in capsys.readouterr().out


def test_labels_check_knows_gold_from_votes(paths: WorldPaths, capsys: Capture) -> None:
    """Files without a flag are told apart by their form."""
    assert run(["labels", "check", str(paths.gold), str(paths.preference), "--json", "-"]) == 0
    rows = _json(capsys.readouterr().out, "labels check")
    sources = {row["source"]: row["rows"] for row in rows if row["section"] == "source"}
    assert sources == {"gold": 120, "preference": 210}
    assert any(row["section"] == "finding" for row in rows)


def test_labels_check_skips_bad_rows_when_told_to(
    paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """Skipped rows are counted in the output."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(paths.gold.read_text("utf-8") + '{"query": "q"}\n', encoding="utf-8")
    _error(capsys, ["labels", "check", str(bad)])
    assert run(["labels", "check", str(bad), "--on-bad-row", "skip", "--json", "-"]) == 0
    rows = _json(capsys.readouterr().out, "labels check")
    assert [row["rows_skipped"] for row in rows if row["section"] == "file"] == [1]


@pytest.mark.parametrize(
    ("target", "data"),
    [
        (["--premium-share", "0.3"], "preference"),
        (["--budget", "200"], "preference"),
        (["--max-loss", "0.3", "--confidence", "0.8"], "test"),
    ],
)
def test_calibrate_writes_another_threshold(
    router: Path, paths: WorldPaths, tmp_path: Path, capsys: Capture, target: list[str], data: str
) -> None:
    """The new router has the reported threshold; the old one is untouched with --out."""
    file = str(getattr(paths, data))
    source = ["--gold", file] if data == "test" else ["--queries", file]
    out = tmp_path / "new"
    before = metarouter.load(router).policy.w
    assert run(["calibrate", str(router), *source, *target, "--out", str(out), "--json", "-"]) == 0
    (row,) = _json(capsys.readouterr().out, "calibrate")
    assert metarouter.load(out).policy.w == row["w"] != before
    assert metarouter.load(router).policy.w == before


def test_calibrate_needs_one_target(router: Path, capsys: Capture) -> None:
    """No target, or two, is a usage error."""
    assert "no target" in _error(capsys, ["calibrate", str(router)])
    both = ["--premium-share", "0.3", "--budget", "100"]
    assert "--premium-share and --budget were given" in _error(
        capsys, ["calibrate", str(router), *both]
    )


def test_scores_on_a_declared_scale_go_through_all_commands(
    paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """`fit` keeps the range; `evaluate` and `calibrate` read gold with it, `compare` takes it."""
    for name in ("gold", "test"):
        rows = [json.loads(line) for line in getattr(paths, name).read_text("utf-8").splitlines()]
        lines = [json.dumps(row | {"score": 10 * row["score"]}) for row in rows]
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(lines), encoding="utf-8")
    gold, test, out = (str(tmp_path / name) for name in ("gold.jsonl", "test.jsonl", "router"))
    scale = ["--score-range", "-10,20"]
    assert run(["labels", "check", gold, *scale]) == 0
    _error(capsys, ["labels", "check", gold, "--score-range", "0,1"])
    assert run(["fit", "--gold", gold, "--out", out, *scale, *QUICK]) == 0
    assert run(["evaluate", out, "--gold", test]) == 0
    capsys.readouterr()
    limit = ["--max-loss", "0.3", "--confidence", "0.8", "--json", "-"]
    assert run(["calibrate", out, "--gold", test, *limit]) == 0
    (row,) = _json(capsys.readouterr().out, "calibrate")
    assert row["certified"]
    study = ["compare", "--gold", gold, "--preference", str(paths.preference), "--n-test", "60"]
    study += ["--n-gold", "20", "--seeds", "1", "--jobs", "1", "--embedder", "surface"]
    areas = []
    for options in (scale, []):
        assert run([*study, "--correctors", "gold_only", *options, "--json", "-"]) == 0
        areas.append(_json(capsys.readouterr().out, "compare")[0]["efficiency_gain_area"])
    assert areas[1] == pytest.approx(30 * areas[0])


def test_compare_of_a_pool_asks_for_two_models(tmp_path: Path, capsys: Capture) -> None:
    """The message names the flags and the models there are."""
    gold = tmp_path / "gold.jsonl"
    rows = [
        {"query": f"Question {i}?", "model": m, "score": i % 2} for i in range(9) for m in "abc"
    ]
    gold.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    line = _error(capsys, ["compare", "--gold", str(gold)])
    assert "name them with --premium and --cheap; the labels are about a, b, c" in line


def test_gold_of_one_model_names_the_other(router: Path, tmp_path: Path, capsys: Capture) -> None:
    """`evaluate` says whose labels are missing; the user typed no model."""
    gold = tmp_path / "gold.jsonl"
    rows = [{"query": f"Question {i}?", "model": "cheap", "score": i % 2} for i in range(9)]
    gold.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    line = _error(capsys, ["evaluate", str(router), "--gold", str(gold)])
    assert "no label is about the premium model 'premium': the labels are about cheap" in line


def test_an_error_names_options_of_the_invoked_command_only(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model` is an option of `onboard`; to `fit` it is a field of label rows."""

    def refuse(*sources: object, **options: object) -> None:
        raise OptionError("no row has a `model`; see `folds`")

    monkeypatch.setattr("metarouter.fitting.fit", refuse)
    line = _error(capsys, ["fit", "--gold", "g.jsonl", "--out", str(tmp_path / "router")])
    assert "no row has a `model`; see --folds" in line


def test_bench_decision_has_the_contract_fields(router: Path, capsys: Capture) -> None:
    """Microseconds and decisions a second are positive."""
    assert run(["bench", "decision", str(router), "--n", "100", "--json", "-"]) == 0
    (row,) = _json(capsys.readouterr().out, "bench decision")
    assert 0 < row["p50_us"] <= row["p99_us"]
    assert row["batch_per_second"] > 0
    assert 80 < row["tokens_per_query"] < 200


def test_bench_fit_has_the_contract_fields(capsys: Capture) -> None:
    """Rows, seconds and memory of a fit in its own process."""
    arguments = ["bench", "fit", "--rows", "200", "--gold-rows", "50"]
    assert run([*arguments, "--corrector", "none", "--embedder", "surface", "--json", "-"]) == 0
    (row,) = _json(capsys.readouterr().out, "bench fit")
    assert (row["rows"], row["gold_rows"]) == (200, 50)
    assert row["seconds"] > 0
    assert row["peak_rss_mb"] > 10


def test_json_that_cannot_be_written_is_one_line(
    router: Path, paths: WorldPaths, tmp_path: Path, capsys: Capture
) -> None:
    """A path below a file is a usage error."""
    (tmp_path / "file").write_text("x")
    target = str(tmp_path / "file" / "out.json")
    message = _error(capsys, ["evaluate", str(router), "--gold", str(paths.test), "--json", target])
    assert "cannot be written" in message


def test_a_record_may_go_to_a_device(router: Path, paths: WorldPaths) -> None:
    """A pipe or a device can be written though it is no plain file."""
    assert run(["evaluate", str(router), "--gold", str(paths.test), "--json", os.devnull]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        lambda file: ["fit", "--gold", "none", "--out", file],
        lambda file: ["fit", "--gold", "none", "--out", f"{file}/router"],
        lambda file: ["evaluate", "none", "--gold", "none", "--report", f"{file}/r.html"],
        lambda file: ["compare", "--gold", "none", "--report", f"{file}/r.html"],
        lambda file: ["onboard", "none", "--model", "m", "--out", file],
        lambda file: ["calibrate", "none", "--budget", "1", "--out", file],
        lambda file: ["calibrate", "none", "--json", f"{file}/c.json"],
        lambda file: ["labels", "hub", "none", "--out", f"{file}/votes.jsonl"],
        lambda file: ["labels", "battles", "none", "--out", f"{file}/votes.jsonl"],
        lambda file: ["quickstart", "--out", file],
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    arguments: Callable[[str], list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """The labels are not even looked for."""
    file = tmp_path / "file"
    file.write_text("x")
    assert f"{file} is not a folder" in _error(capsys, arguments(str(file)))


@pytest.mark.parametrize(
    "arguments",
    [
        lambda file: ["fit", "--gold", file, "--out", "r", "--json", file],
        lambda file: ["fit", "--preference", file, "--out", "r", "--json", file],
        lambda file: ["evaluate", "r", "--gold", "g", "--gold", file, "--report", file],
        lambda file: ["evaluate", "r", "--gold", "g", "--report", "new", "--json", "./new"],
        lambda file: ["compare", "--gold", file, "--json", file],
        lambda file: ["calibrate", "r", "--queries", file, "--budget", "1", "--json", file],
        lambda file: ["onboard", "r", "--model", "m", "--gold", file, "--out", "n", "--json", file],
        lambda file: ["labels", "check", file, "--json", f"../{Path(file).parent.name}/labels"],
        lambda file: ["labels", "battles", file, "--out", file],
        lambda file: ["labels", "check", file, "--json", "linked"],
        lambda file: ["evaluate", "r", "--gold", file, "--report", "symlink"],
    ],
)
def test_no_file_that_is_read_is_written_over(
    arguments: Callable[[str], list[str]],
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor are two results written into one file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").write_text("x")
    (tmp_path / "linked").hardlink_to("labels")
    (tmp_path / "symlink").symlink_to("labels")
    shown = _error(capsys, arguments(str(tmp_path / "labels")))
    assert "it is read, or written otherwise" in shown
    assert (tmp_path / "labels").read_text() == "x"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["labels", "check", "circle"],
        ["labels", "check", "labels", "--json", "circle"],
        ["labels", "split", "circle", "--out", "parts"],
        ["fit", "--gold", "circle", "--out", "r"],
        ["judge", "--responses", "labels", "--judge-model", "j", "--out", "circle"],
        ["refit", "--router", "r", "--out", "circle", "--store", "sqlite:///s.db"],
    ],
)
def test_links_in_a_circle_are_told_in_a_line(
    arguments: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether such a file would be read or written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").write_text("x")
    (tmp_path / "circle").symlink_to("circle")
    _error(capsys, arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda folder: ["route", str(folder / "none"), "hi"],
        lambda folder: ["evaluate", str(folder / "none"), "--gold", "x"],
        lambda folder: ["labels", "check", str(folder / "none.jsonl")],
        lambda folder: ["labels", "check"],
        lambda folder: ["fit", "--out", str(folder / "out")],
    ],
)
def test_missing_inputs_are_one_line(
    arguments: Callable[[Path], list[str]], tmp_path: Path, capsys: Capture
) -> None:
    """A folder or file that is not there is bad input, not a traceback."""
    _error(capsys, arguments(tmp_path))


def test_a_closed_pipe_is_no_traceback(router: Path) -> None:
    """`metarouter route - | head -1` ends quietly."""
    route = f"{sys.executable} -m metarouter route {router} -"
    command = f"yes 'a question' | head -20000 | {route} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_bytes_that_are_no_text_are_routed(router: Path) -> None:
    """A query in another encoding, and a terminal that cannot print ±, are no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "metarouter", "route", str(router), "-"],
        input=b"caf\xe9 \xff\n",
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    """What the system refuses is a failure, not a traceback."""
    (tmp_path / "labels").write_text("x")
    _error(capsys, ["quickstart", "--out", str(tmp_path)], code=1)


@pytest.mark.slow
def test_quickstart_writes_all_and_prints_json_alone_where_that_is_asked_for(
    tmp_path: Path, capsys: Capture
) -> None:
    assert run(["quickstart", "--out", str(tmp_path), "--json", "-"]) == 0
    policies = [row["policy"] for row in _json(capsys.readouterr().out, "quickstart")]
    assert policies[:3] == ["always_premium", "always_cheap", "router"]
    assert "<html" in (tmp_path / "report.html").read_text("utf-8")
    assert metarouter.load(tmp_path / "router").models == MODELS


def test_the_lines_about_a_fit_leave_stdout_to_json(router: Path, capsys: Capture) -> None:
    """Printed for people, and not where stdout is for machines."""
    fitted = metarouter.load(router)
    say_fit(fitted, router, None)
    assert "fitted on 120 gold and 210 preference rows" in capsys.readouterr().out
    say_fit(fitted, router, "-")
    assert capsys.readouterr().out == ""
