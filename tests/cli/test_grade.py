"""``metarouter grade``: every way of grading, to scores that `fit` reads."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from metarouter import fit
from metarouter.cli import run
from metarouter.collection.sandbox import Outcome, find_isolation
from metarouter.labels import read_gain_table
from metarouter.testing import FakeProvider

Capture = pytest.CaptureFixture[str]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _grade(
    folder: Path, how: str, texts: dict[str, str], answer: dict[str, Any], *more: str
) -> list[dict[str, Any]]:
    """Rows of the grades of one query's responses."""
    rows = [{"query_id": 1, "query": "Q?", "model": m, "response": t} for m, t in texts.items()]
    responses = _write(folder / "r.jsonl", rows)
    answers = _write(folder / "a.jsonl", [{"query_id": 1, **answer}])
    out = folder / "gold.jsonl"
    arguments = ["--responses", str(responses), "--answers", str(answers), "--how", how]
    if how == "tests" and not find_isolation().is_complete:
        arguments.append("--unprotected")
    assert run(["grade", *arguments, "--out", str(out), *more]) == 0
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("how", "answer", "right", "wrong"),
    [
        ("exact", {"answer": ["Paris", "Paris, France"]}, "**paris**.", "London"),
        ("numeric", {"answer": "#### 1,200"}, "so it is $1200.", "1,201"),
        ("regex", {"pattern": r"(?i)\bparis\b"}, "In Paris.", "In Parish."),
        (
            "tests",
            {"tests": ["def check(f):", "    assert f(9) == 3"], "entry_point": "root"},
            "```python\nimport math\ndef root(x):\n    return math.isqrt(x)\n```",
            "```python\ndef root(x):\n    return x\n```",
        ),
    ],
)
def test_right_is_one_and_wrong_is_zero(
    how: str, answer: dict[str, Any], right: str, wrong: str, tmp_path: Path
) -> None:
    rows = _grade(tmp_path, how, {"large": right, "small": wrong}, answer)
    assert [(row["model"], row["score"]) for row in rows] == [("large", 1.0), ("small", 0.0)]
    table, _ = read_gain_table(tmp_path / "gold.jsonl", premium="large", cheap="small")
    assert table.gain.tolist() == [1.0]


def test_code_that_fails_says_why_and_how_it_was_shut_in(tmp_path: Path, capsys: Capture) -> None:
    (row,) = _grade(tmp_path, "tests", {"m": "x = 1"}, {"tests": "assert x == 2, 'not two'"})
    assert "not two" in row["detail"]
    shown = capsys.readouterr().out
    assert "code was run with network" in shown
    assert "mean score" in shown


def test_code_is_not_run_where_it_cannot_be_shut_in(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the user says that nothing of value is here."""
    monkeypatch.setenv("PATH", "/nowhere")  # so that unshare is not found
    row = {"query_id": 1, "query": "Q?", "model": "m", "response": "x = 1"}
    responses = _write(tmp_path / "r.jsonl", [row])
    answers = _write(tmp_path / "a.jsonl", [{"query_id": 1, "tests": "assert x == 1"}])
    arguments = ["grade", "--responses", str(responses), "--answers", str(answers)]
    arguments += ["--how", "tests", "--out", str(tmp_path / "g.jsonl")]
    assert run(arguments) == 1
    assert "network OPEN" in capsys.readouterr().err
    assert run([*arguments, "--unprotected"]) == 0
    assert json.loads((tmp_path / "g.jsonl").read_text())["score"] == 1.0


def test_only_what_is_extracted_is_graded(tmp_path: Path) -> None:
    texts = {"a": "Answer: 4 (of 5)", "b": "Answer: 5 (of 4)"}
    rows = _grade(tmp_path, "numeric", texts, {"answer": 4}, "--extract", r"Answer: (\d+)")
    assert [row["score"] for row in rows] == [1.0, 0.0]


def test_a_rubric_is_decided_criterion_by_criterion(tmp_path: Path, capsys: Capture) -> None:
    """Two of three positive points, less one for what should not be there."""

    def reply(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        return "MET: NO" if "names a doctor" in text else "MET: YES"

    rubric = [
        {"criterion": "is kind", "points": 2},
        {"criterion": "names a doctor", "points": 2},
        {"criterion": "is long", "points": -1},
    ]
    with FakeProvider(reply=reply) as provider:
        options = ("--judge-model", "j", "--base-url", provider.url)
        (row,) = _grade(tmp_path, "rubric", {"m": "text"}, {"rubrics": rubric}, *options)
        assert len(provider.requests) == 3
        assert "3 of 3 answers" in capsys.readouterr().out
        _grade(tmp_path, "rubric", {"m": "text"}, {"rubrics": rubric}, *options)
        assert len(provider.requests) == 3
    assert (row["score"], row["met"], row["judge"]) == (0.25, [True, False, True], "j")


def test_a_judge_of_rubrics_that_nobody_can_read_is_no_success(
    tmp_path: Path, capsys: Capture
) -> None:
    """A script that goes on with an empty gold file would fit on nothing."""
    row = {"query_id": 1, "query": "Q?", "model": "m", "response": "text"}
    responses = _write(tmp_path / "r.jsonl", [row])
    rubric = {"query_id": 1, "rubrics": [{"criterion": "is kind", "points": 1}]}
    answers = _write(tmp_path / "a.jsonl", [rubric])
    arguments = ["--responses", str(responses), "--answers", str(answers), "--how", "rubric"]
    with FakeProvider(reply=lambda body: "Perhaps.") as provider:
        arguments += ["--judge-model", "j", "--base-url", provider.url]
        assert run(["grade", *arguments, "--out", str(tmp_path / "g.jsonl")]) != 0
    told = capsys.readouterr()
    assert "1 of 1 could not be read in full and are left out; the first: 'Perhaps.'" in told.out
    assert "there is no score; see --prompt and --max-tokens" in told.err


@pytest.mark.parametrize("how", ["numeric", "rubric"])
def test_costs_are_those_of_the_responses_that_were_collected(how: str, tmp_path: Path) -> None:
    """What `collect` counted reaches the cost model through `grade`, not a constant length."""
    rows = [{"query": f"What is {i} times two?"} for i in range(40)]
    queries = _write(tmp_path / "q.jsonl", rows)
    answer = {"answer": 7} if how == "numeric" else {"rubrics": [{"criterion": "x", "points": 1}]}
    answers = _write(tmp_path / "a.jsonl", [row | answer for row in rows])
    prices = tmp_path / "prices.csv"
    prices.write_text("model,input_usd_per_mtok,output_usd_per_mtok\nsmall,0,2\nlarge,0,20\n")

    def reply(body: dict[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        if "MET:" in asked:
            return "MET: YES" if "large" in asked else "MET: NO"
        return f"{body['model']} says " + ("so it is 7" if body["model"] == "large" else "8")

    r, g = tmp_path / "r.jsonl", tmp_path / "g.jsonl"
    with FakeProvider(reply=reply) as provider:
        at = ("--base-url", provider.url, "--prices", str(prices))
        files = ("--queries", str(queries), "--models", "small,large", "--out", str(r))
        assert run(["collect", *files, *at]) == 0
        graded = ("--responses", str(r), "--answers", str(answers), "--out", str(g))
        judge = ("--judge-model", "judge", *at) if how == "rubric" else ()
        assert run(["grade", *graded, "--how", how, *judge]) == 0
    router = fit(
        gold=g, cost="token", prices=prices, embedder="surface", gain_model="ridge",
        corrector="gold_only", folds=0,
    )  # fmt: skip
    spent = sum(row["cost_usd"] for row in map(json.loads, r.read_text().splitlines()))
    assert router.models == ("small", "large")
    expected = router.expected_costs([row["query"] for row in rows]).sum()
    assert expected == pytest.approx(spent, rel=0.01)


def test_responses_without_an_answer_are_counted(tmp_path: Path, capsys: Capture) -> None:
    """So are answers without a response, which a mistyped query_id makes."""
    rows = [{"query_id": i, "query": "Q?", "model": "m", "response": "4"} for i in (1, 2)]
    responses = _write(tmp_path / "r.jsonl", rows)
    given: list[dict[str, Any]] = [{"query_id": 1}, {"query_id": "l"}, {"query": "R?"}]
    answers = _write(tmp_path / "a.jsonl", [row | {"answer": 4} for row in given])
    arguments = ["--responses", str(responses), "--answers", str(answers), "--how", "exact"]
    assert run(["grade", *arguments, "--out", str(tmp_path / "g.jsonl"), "--json", "-"]) == 0
    record, mean = json.loads(capsys.readouterr().out)["results"]
    assert (record["labels"], record["without_answer"], record["unused_answers"]) == (1, 1, 2)
    assert mean == {"model": "m", "n": 1, "mean_score": 1.0}


@pytest.mark.parametrize(
    ("how", "answer", "named"),
    [
        ("rubric", {"rubrics": [{"criterion": "x", "points": 1}]}, "--judge-model"),
        ("exact", {"pattern": "x"}, "row 1: answer = None"),
        ("guess", {"answer": "x"}, "guess"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    how: str, answer: dict[str, Any], named: str, tmp_path: Path, capsys: Capture
) -> None:
    row = {"query_id": 1, "query": "Q?", "model": "m", "response": "4"}
    responses = _write(tmp_path / "r.jsonl", [row])
    answers = _write(tmp_path / "a.jsonl", [{"query_id": 1, **answer}])
    arguments = ["--responses", str(responses), "--answers", str(answers), "--how", how]
    assert run(["grade", *arguments, "--out", str(tmp_path / "g.jsonl")]) == 2
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("name", ["r.jsonl", "a.jsonl", "g.jsonl"])
def test_an_audit_takes_no_other_files_place(name: str, tmp_path: Path, capsys: Capture) -> None:
    row = {"query_id": 1, "query": "Q?", "model": "m", "response": "4"}
    responses = _write(tmp_path / "r.jsonl", [row])
    rubric = {"query_id": 1, "rubrics": [{"criterion": "x", "points": 1}]}
    answers = _write(tmp_path / "a.jsonl", [rubric])
    arguments = ["--responses", str(responses), "--answers", str(answers), "--how", "rubric"]
    arguments += ["--out", str(tmp_path / "g.jsonl"), "--audit", str(tmp_path / name)]
    assert run(["grade", *arguments]) == 2
    told = capsys.readouterr().err
    assert "--audit = " in told
    assert "neither read nor written otherwise" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "r.jsonl"]


_OPTIONS = {
    "tolerance": ("0.1", {"numeric"}),
    "test-seconds": ("5", {"tests"}),
    "test-megabytes": ("512", {"tests"}),
    "unprotected": (None, {"tests"}),
    "judge-model": ("j", {"rubric"}),
    "prompt": ("p.toml", {"rubric"}),
    "base-url": ("http://127.0.0.1:9/v1", {"rubric"}),
    "api-key-env": ("NO_SUCH_KEY", {"rubric"}),
    "providers": ("p.toml", {"rubric"}),
    "prices": ("p.csv", {"rubric"}),
    "budget": ("1", {"rubric"}),
    "max-tokens": ("512", {"rubric"}),  # the default, and given all the same
    "temperature": ("0.5", {"rubric"}),
    "timeout": ("10", {"rubric"}),
    "audit": ("audit.jsonl", {"rubric"}),
    "concurrency": ("2", {"tests", "rubric"}),
    "ledger": ("ledger", {"tests", "rubric"}),
    "extract": ("x", {"exact", "numeric", "regex", "tests", "rubric"}),
}


@pytest.mark.parametrize("option", _OPTIONS)
@pytest.mark.parametrize("how", ["exact", "numeric", "regex", "tests", "rubric"])
def test_an_option_that_would_do_nothing_is_refused_with_what_it_belongs_to(
    option: str, how: str, tmp_path: Path, capsys: Capture
) -> None:
    """Before a file is read; what belongs there gets as far as the missing file."""
    value, users = _OPTIONS[option]
    given = [f"--{option}"] if value is None else [f"--{option}", value]
    files = ["--responses", str(tmp_path / "none.jsonl"), "--answers", str(tmp_path / "a.jsonl")]
    assert run(["grade", *files, "--how", how, "--out", str(tmp_path / "g.jsonl"), *given]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    if how in users:
        assert "none.jsonl: cannot be read" in told
    else:
        assert f"--{option} = {True if value is None else ''}" in told
        assert f"only, and it is {how}" in told
        assert all(user in told for user in users)
    assert list(tmp_path.iterdir()) == []


def test_tests_run_one_to_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More would take each other's time; the user may still say how many."""
    running = peak = 0

    async def run_program(*_: Any) -> Outcome:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Outcome(passed=True, detail="")

    monkeypatch.setattr("metarouter.collection.code_tests.run_program", run_program)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    texts = {f"m{i}": f"x = {i}" for i in range(20)}
    for more, allowed in (((), 3), (("--concurrency", "5"), 5)):
        peak = 0
        _grade(tmp_path, "tests", texts, {"tests": f"assert {allowed}"}, *more)
        assert peak == allowed
