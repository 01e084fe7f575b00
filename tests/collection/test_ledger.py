"""The ledger: what is written when, what counts, and what it refuses."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from collection_makers import make_answer, make_asked, make_target

from metarouter.collection import Ledger
from metarouter.collection.ledger import SharedCommits
from metarouter.errors import DataError, InputError

CALL = make_asked("What?", make_target())


def test_an_attempt_without_outcome_counts_at_its_worst_for_ever(tmp_path: Path) -> None:
    """As after a kill: the next run finds it and cannot know whether it was charged."""
    path = tmp_path / "l"
    with Ledger(path, {}) as ledger:
        ledger.begin(CALL, 700)
    with Ledger(path, {}) as ledger:
        assert (ledger.spending().known, ledger.spending().at_risk) == (0, 700)
        ledger.finish(ledger.begin(CALL, 700), CALL, make_answer("so"), 90)
        assert (ledger.spending().known, ledger.spending().at_risk) == (90, 700)
        assert ledger.spending().total == 790


def test_outcomes_count_as_what_was_charged(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l", {}) as ledger:
        ledger.fail(ledger.begin(CALL, 700), kind="refused", charged=0, detail="429")
        ledger.fail(ledger.begin(CALL, 700), kind="broken", charged=700, detail="cut")
        ledger.fail(ledger.begin(CALL, 700), kind="unreadable", charged=80, detail="?")
        assert (ledger.spending().known, ledger.spending().at_risk) == (80, 700)
        assert ledger.answers() == {}


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    answer = make_answer("ünï\u2028 \U0001f600")
    with Ledger(tmp_path / "l", {}) as ledger:
        ledger.finish(ledger.begin(CALL, 9), CALL, answer, 5)
    with Ledger(tmp_path / "l", {}) as ledger:
        assert ledger.answers() == {CALL.key: (answer, 5)}


def test_one_answer_a_key(tmp_path: Path) -> None:
    """A second one is refused, and the transaction with it."""
    with Ledger(tmp_path / "l", {}) as ledger:
        ledger.finish(ledger.begin(CALL, 9), CALL, make_answer("one"), 5)
        second = ledger.begin(CALL, 9)
        with pytest.raises(DataError, match="cannot be written"):
            ledger.finish(second, CALL, make_answer("two"), 5)
        assert ledger.answers()[CALL.key][0].text == "one"
        assert ledger.spending().at_risk == 9


def test_writes_of_many_tasks_share_commits_and_each_waits_for_its_own(tmp_path: Path) -> None:
    """When `begin` returns, the row is in the file that another process would find."""
    n_commits = 0

    class Counted(Ledger):
        def write(self, statements: Sequence[Callable[[], int]]) -> list[int]:
            nonlocal n_commits
            n_commits += 1
            return super().write(statements)

    async def task(commits: SharedCommits, i: int) -> None:
        call = make_asked(f"q{i}", make_target())
        attempt = await commits.begin(call, 10)
        await commits.finish(attempt, call, make_answer(f"a{i}"), i, kind="answered")

    async def run(ledger: Ledger) -> None:
        commits = SharedCommits(ledger)
        await asyncio.gather(*(task(commits, i) for i in range(50)))

    with Counted(tmp_path / "l", {}) as ledger:
        asyncio.run(run(ledger))
        texts = {answer.text: charged for answer, charged in ledger.answers().values()}
    assert texts == {f"a{i}": i for i in range(50)}
    assert n_commits < 30


def test_a_write_that_fails_reaches_every_task_that_waits(tmp_path: Path) -> None:
    """None hangs, whatever the failure is."""

    class Broken(Ledger):
        def write(self, statements: Sequence[Callable[[], int]]) -> list[int]:
            raise failure

    async def run(ledger: Ledger) -> list[object]:
        commits = SharedCommits(ledger)
        begun = (commits.begin(CALL, 1) for _ in range(3))
        return await asyncio.wait_for(asyncio.gather(*begun, return_exceptions=True), 10)

    for failure in (DataError("disk full"), MemoryError("none")):
        with Broken(tmp_path / "l", {}) as ledger:
            assert asyncio.run(run(ledger)) == [failure] * 3


def test_two_processes_cannot_use_one_ledger(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l", {}), pytest.raises(InputError, match="is in use"):
        Ledger(tmp_path / "l", {})
    with Ledger(tmp_path / "l", {}):
        pass  # free again


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a database, but long enough to be taken for one " * 30)
    newer = tmp_path / "newer"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for path in (text, newer):
        with pytest.raises(InputError, match=path.name):
            Ledger(path, {})


def test_the_audit_has_every_run_and_attempt_and_no_text(tmp_path: Path) -> None:
    """Prompts and answers stay in the ledger and the responses."""
    call = make_asked("a private question", make_target())
    labelled = type(call)(key=call.key, label="q7 · m", target=call.target, request=call.request)
    with Ledger(tmp_path / "l", {"command": "collect"}) as ledger:
        ledger.finish(ledger.begin(labelled, 9), labelled, make_answer("a private answer"), 5)
        ledger.begin(labelled, 9)
        run, first, second = ledger.audit()
    assert (run["record"], run["command"]) == ("run", "collect")
    assert (first["outcome"], first["charged_usd"], first["held_usd"]) == ("answered", 5e-12, 9e-12)
    assert second["outcome"].startswith("unknown")
    assert second["charged_usd"] == 9e-12
    assert first["label"] == "q7 · m"
    assert "private" not in str([run, first, second])


def test_commits_reach_the_disk_before_the_request_is_sent(tmp_path: Path) -> None:
    """SQLite is told to wait for the disk at every commit."""
    with Ledger(tmp_path / "l", {}) as ledger:
        (mode,) = ledger._db.execute("PRAGMA synchronous").fetchone()
        (journal,) = ledger._db.execute("PRAGMA journal_mode").fetchone()
    assert (mode, journal) == (2, "wal")
