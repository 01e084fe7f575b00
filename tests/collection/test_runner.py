"""Runs against a server that misbehaves: every answer once, and reasons for what is missing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from collection_makers import QUICK, make_asked, make_target

from metarouter.collection import (
    Budget,
    Call,
    Ledger,
    Progress,
    RunSummary,
    make_call,
    run_calls,
)
from metarouter.collection.money import PICO
from metarouter.collection.runner import Stop
from metarouter.errors import OptionError
from metarouter.providers import ChatAnswer, ChatRequest, ProviderClient, RetryPolicy, Target
from metarouter.testing import FakeProvider, Faults

PRICES = {"m": (1.0, 10.0)}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices=PRICES) as server:
        yield server


def _run(
    calls: Sequence[Call], path: Path, limit: int | None = None, **options: Any
) -> tuple[RunSummary, dict[str, tuple[ChatAnswer, int]], int]:
    """Summary, answers, and what the ledger says is spent."""

    async def run() -> RunSummary:
        async with ProviderClient() as client:
            budget = Budget(limit, ledger.spending().total)
            return await run_calls(
                calls, client=client, ledger=ledger, budget=budget, seed=0, **options
            )

    with Ledger(path, {}) as ledger:
        summary = asyncio.run(run())
        return summary, ledger.answers(), ledger.spending().total


def _picture(target: Target) -> Call:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = ({"role": "user", "content": [{"type": "text", "text": "What?"}, part]},)
    return make_call("q7 · m", target, ChatRequest(messages=messages, max_tokens=20))


def test_a_misbehaving_server_costs_retries_and_no_answer(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """All answers come, each once, and the ledger counts at least what the server charged."""
    provider.faults = Faults(
        slow=0.1, rate_limit=0.1, error=0.05, late_error=0.05, cut=0.05, malformed=0.05,
        slow_seconds=0.02, retry_after=0.01,
    )  # fmt: skip
    patient = RetryPolicy(attempts=20, first_pause=0.001, longest_pause=1.0)
    calls = [make_asked(f"q{i}", make_target(provider.url, retries=patient)) for i in range(120)]
    summary, answers, spent = _run(calls, tmp_path / "l")
    assert (summary.answered, summary.failures, summary.stopped) == (120, (), "")
    assert {answers[call.key][0].text for call in calls} == {
        f"m was asked: q{i}" for i in range(120)
    }
    assert sum(provider.delivered.values()) == 120
    assert len(provider.requests) > 140
    assert spent / PICO >= provider.charged_usd


def test_a_second_run_sends_nothing(provider: FakeProvider, tmp_path: Path) -> None:
    calls = [make_asked(f"q{i}", make_target(provider.url)) for i in range(5)]
    _run(calls, tmp_path / "l")
    summary, answers, _ = _run([*calls, calls[0]], tmp_path / "l")
    assert (summary.asked, summary.answered, summary.reused, len(answers)) == (5, 5, 5, 5)
    assert len(provider.requests) == 5


def test_changed_settings_ask_anew(provider: FakeProvider, tmp_path: Path) -> None:
    target = make_target(provider.url)
    _run([make_asked("q", target, max_tokens=20)], tmp_path / "l")
    summary, _, _ = _run([make_asked("q", target, max_tokens=21)], tmp_path / "l")
    assert summary.reused == 0
    assert len(provider.requests) == 2


def test_the_budget_stops_the_run_close_to_its_limit_and_in_order(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """The server has charged at most the limit, and no request more would have fitted."""
    provider.reply = lambda body: "word " * 500  # so that max_tokens is what is charged
    calls = [make_asked(f"q{i}", make_target(provider.url), max_tokens=1000) for i in range(50)]
    limit = 200_000 * 10**6  # 0.2 USD: at 0.005 USD an answer about forty
    summary, answers, spent = _run(calls, tmp_path / "l", limit, concurrency=4)
    n_done, left = summary.answered, 0.2 - spent / PICO
    told = rf"the budget is reached: q{n_done} may cost up to 0\.0101 USD, and {left:.4g} are left"
    assert re.match(told, summary.stopped)
    assert left < 0.0101
    assert spent <= limit
    assert 0.9 * limit / PICO < provider.charged_usd <= limit / PICO
    done = [call.key in answers for call in calls]
    assert done == sorted(done, reverse=True)  # the first ones, not the cheapest
    again, _, _ = _run(calls, tmp_path / "l", limit, concurrency=4)
    assert again.answered == summary.answered  # the limit is over all runs
    enough, _, _ = _run(calls, tmp_path / "l", 2 * limit, concurrency=4)
    assert enough.answered == 50


def test_a_charge_that_may_have_been_made_counts_against_the_budget(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Connections that are cut are held at their worst, although no answer came."""
    provider.faults = Faults(cut=1.0)
    calls = [make_asked(f"q{i}", make_target(provider.url)) for i in range(3)]
    summary, _, spent = _run(calls, tmp_path / "l", 10**10)
    assert summary.answered == 0
    assert provider.charged_usd <= spent / PICO <= 0.01


def test_a_refusal_costs_nothing(provider: FakeProvider, tmp_path: Path) -> None:
    provider.faults = Faults(rate_limit=1.0, retry_after=0.0)
    summary, _, spent = _run([make_asked("q", make_target(provider.url))], tmp_path / "l")
    assert len(provider.requests) == QUICK.attempts
    assert spent == 0
    ((label, message),) = summary.failures
    assert label == "q"
    assert "status 429" in message


def test_a_budget_needs_prices(provider: FakeProvider, tmp_path: Path) -> None:
    target = make_target(provider.url, input_usd_per_mtok=None)
    with pytest.raises(OptionError, match="a budget needs prices, and there is none of m"):
        _run([make_asked("q", target)], tmp_path / "l", 10**12)
    assert _run([make_asked("q", target)], tmp_path / "l")[0].answered == 1


def test_calls_without_a_price_are_named_because_they_count_as_nothing(
    provider: FakeProvider, tmp_path: Path
) -> None:
    unpriced = make_target(provider.url, name="u", input_usd_per_mtok=None)
    calls = [make_asked("q", unpriced), make_asked("q", make_target(provider.url))]
    summary, _, _ = _run(calls, tmp_path / "l")
    assert summary.unpriced == ("u",)


def test_a_picture_is_refused_by_name_where_there_is_a_budget_and_sent_where_there_is_none(
    provider: FakeProvider, tmp_path: Path
) -> None:
    target = make_target(provider.url)
    calls = [make_asked("plain", target), _picture(target)]
    with pytest.raises(OptionError, match="q7 · m: a message holds a part that is not text"):
        _run(calls, tmp_path / "l", PICO)
    assert not provider.requests
    summary, _, _ = _run(calls, tmp_path / "l")
    assert summary.answered == 2


def test_a_finished_run_needs_nothing_of_a_budget_and_a_part_of_it_what_is_missing(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Neither a price, nor room, nor text alone, where nothing is sent any more."""
    unpriced = make_target(provider.url, name="u", input_usd_per_mtok=None)
    target = make_target(provider.url)
    calls = [_picture(target), make_asked("q", target)]
    _run([*calls, make_asked("q", unpriced)], tmp_path / "l")
    done, _, spent = _run([*calls, make_asked("q", unpriced)], tmp_path / "l", 1)
    assert (done.answered, done.reused, done.stopped) == (3, 3, "")
    assert spent > 1
    more = make_asked("more", target)
    assert _run([*calls, more], tmp_path / "l", PICO)[0].answered == 3
    assert len(provider.requests) == 4
    another = make_asked("another", target)
    # what the answer without a price cost is not known, and so not what is left
    with pytest.raises(OptionError, match="there is none of u"):
        _run([another, make_asked("q", unpriced)], tmp_path / "l", PICO)
    assert len(provider.requests) == 4


def test_answers_paid_before_their_price_was_known_count_against_a_budget(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Else the budget would be passed by what they cost."""
    provider.reply = lambda body: "word " * 500
    texts = [f"q{i}" for i in range(8)]
    unpriced = make_target(provider.url, input_usd_per_mtok=None)
    _run([make_asked(q, unpriced, max_tokens=1000) for q in texts[:4]], tmp_path / "l")
    before = provider.charged_usd
    limit = int(before * PICO * 1.9)  # room for less than four more
    calls = [make_asked(q, make_target(provider.url), max_tokens=1000) for q in texts]
    summary, _, _ = _run(calls, tmp_path / "l", limit, concurrency=1)
    assert 4 < summary.answered < 8
    assert "the budget is reached" in summary.stopped
    assert before < provider.charged_usd <= limit / PICO


def test_answers_in_a_row_that_cannot_be_read_end_the_run(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """A judge with a wrong prompt is not paid for every question, and is quoted."""
    provider.reply = lambda body: "As a language model,\nI cannot."
    asked: dict[str, Any] = {
        "is_readable": lambda answer: "yes" in answer.text,
        "readings": 2,
        "reminder": "?",
    }
    calls = [make_asked(f"q{i}", make_target(provider.url), **asked) for i in range(60)]
    summary, _, _ = _run(calls, tmp_path / "l", concurrency=2)
    assert "answers of m one after the other could not be read" in summary.stopped
    assert "'As a language model, I cannot.'" in summary.stopped
    assert "the same command would pay for as many again" in summary.next_step
    assert 10 <= summary.answered <= 12
    n_paid = len(provider.requests)
    again, _, _ = _run(calls, tmp_path / "l", concurrency=2)
    assert again.answered - again.reused >= 10  # what the next step warns of
    assert len(provider.requests) - n_paid >= 2 * 10
    provider.reply = lambda body: "no" if "9" in body["messages"][0]["content"] else "yes"
    summary, _, _ = _run(calls, tmp_path / "l", concurrency=2)
    assert (summary.answered, summary.stopped) == (60, "")


def test_a_failure_that_all_would_share_ends_the_run(tmp_path: Path) -> None:
    """A wrong address of a model is told once, not once a query."""
    with FakeProvider() as provider:
        wrong = make_target(provider.url.replace("/v1", "/v2"))
        calls = [make_asked(f"q{i}", wrong) for i in range(50)]
        summary, _, _ = _run(calls, tmp_path / "l", concurrency=2)
        assert "status 404" in summary.stopped
        assert len(provider.requests) <= 4


def test_failures_one_after_the_other_end_the_run(tmp_path: Path) -> None:
    """A server that is down is not asked ten thousand times."""
    down = make_target("http://127.0.0.1:9/v1", retries=RetryPolicy(attempts=1))
    calls = [make_asked(f"q{i}", down) for i in range(100)]
    summary, _, _ = _run(calls, tmp_path / "l", concurrency=2)
    assert summary.stopped.startswith("1")
    assert "calls failed one after the other" in summary.stopped
    assert len(summary.failures) <= 12


def test_a_wish_to_end_finishes_what_is_in_flight(provider: FakeProvider, tmp_path: Path) -> None:
    """Nothing that was sent is thrown away."""
    provider.faults = Faults(slow=1.0, slow_seconds=0.05)
    stop = Stop()

    def on_progress(progress: Progress) -> None:
        if progress.done == 3:
            stop.ask("interrupted")

    calls = [make_asked(f"q{i}", make_target(provider.url)) for i in range(40)]
    summary, answers, _ = _run(
        calls, tmp_path / "l", concurrency=4, stop=stop, on_progress=on_progress
    )
    assert summary.stopped == "interrupted"
    assert len(answers) == len(provider.requests) == summary.answered < 12


def test_progress_counts_up_to_all(provider: FakeProvider, tmp_path: Path) -> None:
    seen: list[Progress] = []
    calls = [make_asked(f"q{i}", make_target(provider.url)) for i in range(6)]
    _, _, spent = _run(calls, tmp_path / "l", on_progress=seen.append)
    assert [progress.done for progress in seen] == list(range(7))
    assert {progress.total for progress in seen} == {6}
    assert (seen[-1].spent, seen[-1].held) == (spent, 0)


def test_an_answer_that_cannot_be_read_is_asked_for_again_with_a_reminder(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """The reminder is the next turn of the conversation; the last reading is kept."""
    provider.reply = lambda body: "yes" if len(body["messages"]) == 5 else "mumble"

    def is_readable(answer: ChatAnswer) -> bool:
        return answer.text == "yes"

    reading: dict[str, Any] = {"is_readable": is_readable, "reminder": "Yes or no?"}
    target = make_target(provider.url)
    patient = make_asked("q", target, readings=3, **reading)
    hasty = make_asked("other", target, readings=2, **reading)
    summary, answers, spent = _run([patient, hasty], tmp_path / "l", concurrency=1)
    assert summary.answered == 2
    assert answers[patient.key][0].text == "yes"
    assert answers[hasty.key][0].text == "mumble"
    turns = [(m["role"], m["content"]) for m in provider.requests[2].body["messages"]]
    assert turns == [
        ("user", "q"),
        ("assistant", "mumble"),
        ("user", "Yes or no?"),
        ("assistant", "mumble"),
        ("user", "Yes or no?"),
    ]
    assert spent / PICO == pytest.approx(provider.charged_usd)  # every reading is paid
    keys = [request.headers["Idempotency-Key"] for request in provider.requests]
    assert len(set(keys)) == len(keys) == 5


def test_tries_of_one_request_have_one_idempotency_key(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.script.extend(["cut", "late_error"])
    _run([make_asked("q", make_target(provider.url))], tmp_path / "l")
    assert len(provider.requests) == 3
    assert len({request.headers["Idempotency-Key"] for request in provider.requests}) == 1


def test_a_missing_key_is_told_before_anything_is_sent(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    target = make_target(provider.url)
    keyed = replace(target, endpoint=replace(target.endpoint, api_key_env="NO_SUCH_KEY"))
    with pytest.raises(OptionError, match="NO_SUCH_KEY"):
        _run([make_asked("q", target), make_asked("r", keyed)], tmp_path / "l", concurrency=1)
    assert provider.requests == []
