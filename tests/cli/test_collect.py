"""``metarouter collect``: files, output, resuming, errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metarouter.cli import run
from metarouter.testing import FakeProvider, Faults

Capture = pytest.CaptureFixture[str]
SECRET = "sk-canary-41cd"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices={"small": (1.0, 2.0), "large": (10.0, 20.0)}) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with queries and prices."""
    rows = [{"query_id": f"q{i}", "query": f"Question {i}?"} for i in range(6)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prices.csv").write_text(
        "model,input_usd_per_mtok,output_usd_per_mtok\nsmall,1,2\nlarge,10,20\n"
    )
    return tmp_path


def _arguments(files: Path, url: str, *more: str) -> list[str]:
    return [
        *("collect", "--queries", str(files / "q.jsonl"), "--models", "small,large"),
        *("--base-url", url, "--prices", str(files / "prices.csv")),
        *("--out", str(files / "r.jsonl"), *more),
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_model_answers_every_query_in_order(
    provider: FakeProvider, files: Path, capsys: Capture
) -> None:
    assert run(_arguments(files, provider.url, "--system", "Be brief.")) == 0
    rows = _lines(files / "r.jsonl")
    assert [(row["query_id"], row["model"]) for row in rows] == [
        (f"q{i}", model) for i in range(6) for model in ("small", "large")
    ]
    assert rows[1]["response"] == "large was asked: Question 0?"
    assert (rows[1]["prompt_tokens"], rows[1]["completion_tokens"]) == (14, 5)
    assert rows[1]["cost_usd"] == pytest.approx((14 * 10 + 5 * 20) / 1e6)
    assert provider.requests[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
    shown = capsys.readouterr()
    assert "12 of 12 answers (0 from earlier runs); spent 0.0" in shown.out
    assert shown.err == ""


def test_running_again_pays_nothing(provider: FakeProvider, files: Path, capsys: Capture) -> None:
    assert run(_arguments(files, provider.url)) == 0
    first = (files / "r.jsonl").read_bytes()
    capsys.readouterr()
    assert run(_arguments(files, provider.url, "--json", "-")) == 0
    (record,) = json.loads(capsys.readouterr().out)["results"]
    assert (record["asked"], record["answered"], record["reused"]) == (12, 12, 12)
    assert record["spent_usd"] == pytest.approx(provider.charged_usd)
    assert (files / "r.jsonl").read_bytes() == first
    assert len(provider.requests) == 12


def test_a_budget_that_is_reached_ends_with_code_1_and_what_is_there(
    provider: FakeProvider, files: Path, capsys: Capture
) -> None:
    """A higher one goes on from there."""
    # held for one answer of the dear model: 127 prompt tokens at most and 20 more, 0.0017 USD
    options = ("--max-tokens", "20", "--budget", "0.002")
    assert run(_arguments(files, provider.url, *options)) == 1
    line = capsys.readouterr().err
    assert line.startswith("metarouter: error: ")
    assert "the budget is reached: q" in line
    assert "may cost up to 0.001" in line
    assert "raise --budget to go on" in line
    assert "the same command goes on" not in line
    assert line.count("\n") == 1
    assert 0 < len(_lines(files / "r.jsonl")) < 12
    assert provider.charged_usd <= 0.002
    assert run(_arguments(files, provider.url, "--max-tokens", "20", "--budget", "1")) == 0
    assert len(_lines(files / "r.jsonl")) == 12
    assert sum(provider.delivered.values()) == 12


def test_the_audit_lists_every_attempt_and_neither_key_nor_text(
    provider: FakeProvider, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is nowhere at all: not in any file, nor on the screen."""
    monkeypatch.setenv("CANARY_KEY", SECRET)
    provider.script.extend(["rate_limit", "error"])
    assert run(_arguments(files, provider.url, "--api-key-env", "CANARY_KEY")) == 0
    audit = _lines(files / "r.jsonl.audit.jsonl")
    assert audit[0]["command"] == "collect"
    attempts = [row for row in audit if row["record"] == "attempt"]
    assert len(attempts) == len(provider.requests) == 14
    assert sorted({row["outcome"] for row in attempts}) == ["answered", "broken", "refused"]
    assert "Question" not in (files / "r.jsonl.audit.jsonl").read_text("utf-8")
    assert provider.requests[0].headers["Authorization"] == f"Bearer {SECRET}"
    for path in files.iterdir():
        assert SECRET.encode() not in path.read_bytes(), path


def test_answers_that_were_cut_off_are_told(
    provider: FakeProvider, files: Path, capsys: Capture
) -> None:
    assert run(_arguments(files, provider.url, "--max-tokens", "3")) == 0
    assert "12 responses were cut off at 3 tokens" in capsys.readouterr().out


def test_answers_without_text_are_told_and_so_is_a_model_without_a_price(
    files: Path, capsys: Capture
) -> None:
    """Silence is an answer, and money that nobody can count is not "0.0000 USD"."""
    (files / "prices.csv").write_text("model,input_usd_per_mtok,output_usd_per_mtok\nsmall,1,2\n")
    with FakeProvider(reply=lambda body: " " if body["model"] == "large" else "x") as provider:
        assert run(_arguments(files, provider.url)) == 0
    out = capsys.readouterr().out
    assert "6 responses are empty" in out
    assert "the price of large is unknown and counts as 0" in out


def test_a_providers_file_gives_each_model_its_endpoint(files: Path) -> None:
    with FakeProvider() as one, FakeProvider() as two:
        (files / "p.toml").write_text(
            f'[providers.one]\nbase_url = "{one.url}"\n[providers.two]\nbase_url = "{two.url}"\n'
            '[models.small]\nprovider = "one"\n[models.large]\nprovider = "two"\nname = "large-2"\n'
        )
        arguments = [
            *("collect", "--queries", str(files / "q.jsonl"), "--models", "small,large"),
            *("--providers", str(files / "p.toml"), "--out", str(files / "r.jsonl")),
        ]
        assert run(arguments) == 0
        assert {request.body["model"] for request in one.requests} == {"small"}
        assert {request.body["model"] for request in two.requests} == {"large-2"}
    assert {row["model"] for row in _lines(files / "r.jsonl")} == {"small", "large"}


@pytest.mark.parametrize(
    ("options", "named", "code"),
    [
        (["--models", "small", "--base-url", "nonsense"], "base_url", 2),
        (["--budget", "-1"], "budget = -1.0", 2),
        (["--models", "small,unpriced-x", "--budget", "1"], "no", 2),
        (["--api-key-env", "METAROUTER_NO_SUCH"], "METAROUTER_NO_SUCH", 2),
        (["--queries", "none.jsonl"], "none.jsonl", 2),
        (["--concurrency", "0"], "concurrency", 2),
        (["--api-key-env", SECRET], "the name of the variable that holds the key", 2),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_sent(
    provider: FakeProvider,
    files: Path,
    capsys: Capture,
    options: list[str],
    named: str,
    code: int,
) -> None:
    assert run(_arguments(files, provider.url, *options)) == code
    line = capsys.readouterr().err
    assert line.startswith("metarouter: error: ")
    assert line.count("\n") == 1
    assert named in line
    assert SECRET not in line  # a key given in place of its variable is not repeated
    assert provider.requests == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--out", "."], "out"),
        (["--out", "./q.jsonl"], "out"),
        (["--audit", "q.jsonl"], "audit"),
        (["--audit", "prices.csv"], "audit"),
        (["--audit", "r.jsonl"], "audit"),
        (["--ledger", "q.jsonl"], "ledger"),
        (["--audit", "l", "--ledger", "l"], "ledger"),
        (["--json", "q.jsonl"], "json"),
        (["--json", "r.jsonl"], "json"),
    ],
)
def test_no_file_is_written_over_that_is_read_or_written_otherwise(
    provider: FakeProvider,
    files: Path,
    capsys: Capture,
    options: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told before anything is paid for."""
    monkeypatch.chdir(files)
    before = {path.name: path.read_bytes() for path in files.iterdir()}
    assert run(_arguments(files, provider.url, *options)) == 2
    line = capsys.readouterr().err
    assert f"{named} = " in line
    assert line.count("\n") == 1
    assert {path.name: path.read_bytes() for path in files.iterdir()} == before
    assert provider.requests == []


def test_an_interrupt_finishes_what_is_in_flight_and_writes_what_is_there(files: Path) -> None:
    """Nothing that was paid is lost, and the same command goes on."""
    with FakeProvider(faults=Faults(slow=1.0, slow_seconds=0.3)) as provider:
        arguments = _arguments(files, provider.url, "--concurrency", "2")
        command = [sys.executable, "-m", "metarouter", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while len(provider.requests) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert b"interrupted" in errors
        n_written = len(_lines(files / "r.jsonl"))
        assert n_written == len(provider.requests) == sum(provider.delivered.values())
        provider.faults = Faults()
        assert run(arguments) == 0
        assert set(provider.delivered.values()) == {1}
