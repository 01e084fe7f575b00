"""``metarouter judge``: votes and scores that `fit` reads, and the position report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metarouter.cli import run
from metarouter.labels import read_gain_table
from metarouter.testing import FakeProvider

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    rows = [
        {"query_id": i, "query": f"Question {i}?", "model": model, "response": f"{model} says {i}"}
        for i in range(10)
        for model in ("small", "large")
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _arguments(responses: Path, url: str, *more: str) -> list[str]:
    return [
        *("judge", "--responses", str(responses), "--judge-model", "j", "--base-url", url),
        *("--out", str(responses.with_name("labels.jsonl")), *more),
    ]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _prefers_large(body: dict[str, Any]) -> str:
    """Of two, the large model's; but the first place for questions 0 to 2."""
    text = body["messages"][-1]["content"]
    if any(f"Question {i}?" in text for i in range(3)):
        return "VERDICT: A"
    return f"VERDICT: {'A' if text.index('large says') < text.index('small says') else 'B'}"


def test_votes_are_read_by_fit_and_say_how_the_position_decided(
    responses: Path, capsys: Capture
) -> None:
    with FakeProvider(reply=_prefers_large) as provider:
        assert run(_arguments(responses, provider.url, "--json", "-")) == 0
        assert len(provider.requests) == 20
    (record,) = json.loads(capsys.readouterr().out)["results"]
    assert (record["labels"], record["unreadable"], record["n_pairs"]) == (10, 0, 10)
    assert (record["flips"], record["first_preference"]) == (0.3, 0.65)
    assert record["flips_low"] < 0.3 < record["flips_high"]
    out = responses.with_name("labels.jsonl")
    assert [row["p_a"] for row in _lines(out)] == [0.5] * 3 + [0.0] * 7
    table, _ = read_gain_table(preference=out, premium="large", cheap="small")
    assert sorted(table.gain.tolist()) == [0.0] * 3 + [1.0] * 7


def test_verdicts_that_cannot_be_read_are_asked_for_again_and_left_out(
    responses: Path, capsys: Capture
) -> None:
    """They are counted, kept in the ledger and not paid again."""

    def reply(body: dict[str, Any]) -> str:
        text = json.dumps(body["messages"])
        if "Question 4?" in text:
            return "I cannot say."
        if "Question 5?" in text and len(body["messages"]) == 2:
            return "Let me think."
        return "VERDICT: TIE"

    with FakeProvider(reply=reply) as provider:
        assert run(_arguments(responses, provider.url)) == 0
        assert len(provider.requests) == 16 + 2 * 3 + 2 * 2
        told = "1 of 10 could not be read and are left out; the first: 'I cannot say.'"
        assert told in capsys.readouterr().out
        out = responses.with_name("labels.jsonl")
        assert [row["query_id"] for row in _lines(out)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
        assert run(_arguments(responses, provider.url)) == 0
        assert len(provider.requests) == 26
    audit = _lines(responses.with_name("labels.jsonl.audit.jsonl"))
    assert sum(row.get("outcome") == "unreadable" for row in audit) == 8


def test_a_judge_that_nobody_can_read_is_a_failure(
    responses: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty file of labels is no success, and the message says where to look."""
    with FakeProvider(reply=lambda body: "I cannot say.") as provider:
        assert run(_arguments(responses, provider.url)) == 1
    message = capsys.readouterr().err
    assert "none of the 10 could be read" in message
    assert "--max-tokens" in message


def test_equal_responses_are_not_asked_about_and_money_is_counted_once(
    responses: Path, capsys: Capture
) -> None:
    """The costs of the votes sum to what was spent."""
    rows = _lines(responses)
    for row in rows[:6]:
        row["response"] = "42"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prices = responses.with_name("prices.csv")
    prices.write_text("model,input_usd_per_mtok,output_usd_per_mtok\nj,1,2\n")
    with FakeProvider(reply=lambda body: "VERDICT: B") as provider:
        assert run(_arguments(responses, provider.url, "--prices", str(prices))) == 0
        assert len(provider.requests) == 14
    out = capsys.readouterr().out
    assert "3 pairs are of equal responses: a tie, without a question" in out
    assert "position bias over 7 pairs" in out
    votes = _lines(responses.with_name("labels.jsonl"))
    assert [row["p_a"] for row in votes] == [0.5] * 10
    assert f"spent {sum(row['cost_usd'] for row in votes):.4f} USD" in out


def test_a_long_run_of_a_judge_that_nobody_can_read_is_broken_off(
    tmp_path: Path, capsys: Capture
) -> None:
    """The last answer is quoted, and most of the money is left."""
    rows = [
        {"query": f"Q {i}?", "model": model, "response": model} for i in range(60) for model in "ab"
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FakeProvider(reply=lambda body: "I cannot say.") as provider:
        assert run(_arguments(path, provider.url, "--concurrency", "2")) == 1
        assert len(provider.requests) < 60
    line = capsys.readouterr().err
    assert "could not be read, the last one 'I cannot say.'; see --prompt and --max-tokens" in line
    assert "change one of them or the judge first" in line
    assert "the same command goes on" not in line


@pytest.mark.parametrize(("scale", "score"), [("1-5", 0.75), ("1-10", 1 / 3)])
def test_scores_are_read_by_fit(responses: Path, scale: str, score: float) -> None:
    with FakeProvider(
        reply=lambda body: f"SCORE: {4 if 'large' in body['messages'][-1]['content'] else 1}"
    ) as provider:
        arguments = _arguments(responses, provider.url, "--mode", "score", "--scale", scale)
        assert run(arguments) == 0
    table, _ = read_gain_table(
        preference=responses.with_name("labels.jsonl"), premium="large", cheap="small"
    )
    assert table.gain.tolist() == pytest.approx([score] * 10)


def test_prompt_and_rubric_are_the_users(responses: Path, tmp_path: Path) -> None:
    prompt, rubric = tmp_path / "p.toml", tmp_path / "rubric.txt"
    prompt.write_text('user = "{rubric}|{query}|{response_a}|{response_b}"')
    rubric.write_text("Brevity.\n")
    with FakeProvider(reply=lambda body: "VERDICT: A") as provider:
        options = ("--prompt", str(prompt), "--rubric", str(rubric), "--models", "small,large")
        assert run(_arguments(responses, provider.url, *options)) == 0
        sent = {request.body["messages"][0]["content"] for request in provider.requests}
    assert "Brevity.|Question 0?|small says 0|large says 0" in sent
    assert "Brevity.|Question 0?|large says 0|small says 0" in sent


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--models", "small"], "models"),
        (["--models", "small,other"], "models in the file"),
        (["--scale", "1-7"], "scale"),
        (
            ["--scale", "1-5"],
            "--scale = '1-5'; allowed: with --mode score only, and it is pairwise",
        ),
        (["--mode", "score", "--models", "small,large"], "with --mode pairwise only"),
        (["--rubric", "none.txt"], "none.txt"),
        (["--responses", "none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_input_is_one_line(
    responses: Path, capsys: Capture, options: list[str], named: str
) -> None:
    with FakeProvider() as provider:
        assert run(_arguments(responses, provider.url, *options)) in (1, 2)
        assert provider.requests == []
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1
