"""``metarouter grade``: responses to gold scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.collection_options import (
    ApiKeyEnv,
    AuditFile,
    BaseUrl,
    BudgetUsd,
    LedgerFile,
    Paid,
    Providers,
    Timeout,
    money_line,
    money_record,
)
from metarouter.cli.options import JsonOut, Prices, refuse_idle_options
from metarouter.errors import DataError

if TYPE_CHECKING:
    from metarouter.collection.judging import Judge
    from metarouter.collection.rows import Response
    from metarouter.collection.runner import RunSummary
    from metarouter.collection.sandbox import Limits

__all__ = ["How", "grade"]


class How(StrEnum):
    """What decides whether a response is right."""

    exact = "exact"
    numeric = "numeric"
    regex = "regex"
    tests = "tests"
    rubric = "rubric"


_TESTS, _RUBRIC = ("tests",), ("rubric",)
# What is not here is used by every way of grading.
_USERS = {
    "tolerance": ("numeric",),
    **dict.fromkeys(("test_seconds", "test_megabytes", "unprotected"), _TESTS),
    **dict.fromkeys(("judge_model", "prompt", "max_tokens", "temperature"), _RUBRIC),
    **dict.fromkeys(("base_url", "api_key_env", "providers", "timeout"), _RUBRIC),
    **dict.fromkeys(("prices", "budget", "audit"), _RUBRIC),
    **dict.fromkeys(("concurrency", "ledger"), (*_TESTS, *_RUBRIC)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graded:
    """What came of grading: rows, fields of the machine output, lines for people."""

    rows: list[dict[str, Any]]
    record: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    summary: RunSummary | None = None


def grade(
    context: typer.Context,
    responses: Annotated[Path, typer.Option(metavar="F", help="What `collect` wrote.")],
    answers: Annotated[
        Path, typer.Option(metavar="F", help="answer, pattern, tests or rubrics of each query.")
    ],
    how: Annotated[How, typer.Option(help="What decides; tests runs the responses' code.")],
    out: Annotated[Path, typer.Option(metavar="F", help="Scores in [0, 1], JSONL.")],
    extract: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Grade its last match only.")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative, of --how numeric.")] = 1e-6,
    test_seconds: Annotated[int, typer.Option(help="Processor time of a test.")] = 10,
    test_megabytes: Annotated[int, typer.Option(help="Memory of a test.")] = 1024,
    unprotected: Annotated[
        bool, typer.Option("--unprotected", help="Run code even where it cannot be shut in.")
    ] = False,
    judge_model: Annotated[
        str | None, typer.Option(metavar="M", help="Decides the criteria of --how rubric.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option(metavar="F", help="TOML: system, user.")] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    providers: Providers = None,
    prices: Prices = None,
    budget: BudgetUsd = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a decision.")] = 512,
    temperature: Annotated[float, typer.Option(help="Of the judge.")] = 0.0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="At once; default 16 requests, a test per processor.")
    ] = None,
    timeout: Timeout = 180.0,
    ledger: LedgerFile = None,
    audit: AuditFile = None,
    json_out: JsonOut = None,
) -> None:
    """Grade responses by answers, patterns, unit tests or rubrics.

    An option that the chosen way of grading does not use is refused.

    Example: metarouter grade --responses responses.jsonl --answers answers.jsonl
    --how numeric --out gold.jsonl
    """
    from metarouter.collection.answers import read_answers
    from metarouter.collection.grades import answer_rows, extracted
    from metarouter.collection.rows import read_responses
    from metarouter.collection.sandbox import Limits

    refuse_idle_options(context, "how", _USERS)
    paid = Paid(
        out=out,
        base_url=base_url,
        api_key_env=api_key_env,
        providers=providers,
        prices=prices,
        budget=budget,
        concurrency=concurrency or (_n_processors() if how is How.tests else 16),
        timeout=timeout,
        ledger=ledger,
        audit=audit,
        json_out=json_out,
    )
    paid.keep(responses, answers, prompt)
    given = read_responses(responses)
    key = read_answers(answers, how.value)
    pairs, n_without = key.match(given)
    pairs = extracted(pairs, extract)
    if how is How.rubric:
        asked = _judge(paid, judge_model, prompt, max_tokens, temperature)
        graded = _by_rubric(pairs, asked, paid)
    elif how is How.tests:
        limits = Limits(seconds=test_seconds, megabytes=test_megabytes)
        graded = _by_tests(pairs, limits, paid, unprotected=unprotected)
    else:
        graded = _Graded(rows=answer_rows(pairs, how.value, tolerance=tolerance))
    _finish(graded, {"without_answer": n_without, "unused_answers": key.unused(given)}, how, paid)


def _n_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _judge(
    paid: Paid, model: str | None, prompt: Path | None, max_tokens: int, temperature: float
) -> Judge:
    from metarouter.cli.judge import make_judge

    if model is None:
        raise typer.BadParameter("--how rubric needs --judge-model")
    (target,) = paid.targets([model])
    return make_judge(
        target, "criterion", prompt, None, max_tokens=max_tokens, temperature=temperature
    )


def _by_rubric(pairs: Sequence[tuple[Response, Any]], judge: Judge, paid: Paid) -> _Graded:
    from metarouter.collection.judging import unread_answers
    from metarouter.collection.rubric import rubric_grades
    from metarouter.collection.session import write_audit

    grades = rubric_grades(pairs, judge)
    settings = {"command": "grade", "how": "rubric", "judge_model": judge.target.name}
    with paid.opened({**settings, "prompt": judge.prompt.user}) as book:
        summary = paid.complete("grade", [call for g in grades for call in g.calls()], book)
        answers, record = book.answers(), money_record(book, summary)
        write_audit(paid.audit_file, book)
    rows = [row for item in grades if (row := item.row(answers)) is not None]
    put = [item.calls() for item in grades]
    n_asked = sum(all(call.key in answers for call in calls) for calls in put)
    unread = unread_answers(put, answers)
    record["unreadable"] = len(unread)
    lines = [money_line(record)]
    if unread:
        lines.append(
            f"{len(unread)} of {n_asked} could not be read in full and are left out; the first: "
            f"{unread[0]}"
        )
    return _Graded(rows=rows, record=record, lines=lines, summary=summary)


def _by_tests(
    pairs: Sequence[tuple[Response, Any]], limits: Limits, paid: Paid, *, unprotected: bool
) -> _Graded:
    import asyncio

    from metarouter.cli.output import progress
    from metarouter.collection.code_tests import grade_code
    from metarouter.collection.grades import code_rows
    from metarouter.collection.sandbox import find_isolation

    isolation = find_isolation()
    if not isolation.is_complete and not unprotected:
        raise DataError(
            f"code of a model cannot be shut in on this machine ({isolation.to_text()}); run it "
            "in a container or virtual machine that holds nothing of value, with --unprotected"
        )
    settings = {"command": "grade", "how": "tests", "isolation": isolation.to_text()}
    with paid.opened(settings) as book, progress("running tests") as callback:
        grades = asyncio.run(
            grade_code(
                pairs,
                ledger=book,
                limits=limits,
                isolation=isolation,
                concurrency=paid.concurrency,
                on_progress=callback,
            )
        )
    rows = code_rows([response for response, _ in pairs], grades)
    return _Graded(rows=rows, lines=[f"code was run with {isolation.to_text()}"])


def _finish(graded: _Graded, unmatched: dict[str, int], how: How, paid: Paid) -> None:
    from metarouter.cli.output import print_table
    from metarouter.collection.grades import mean_scores
    from metarouter.collection.rows import write_jsonl

    n = write_jsonl(paid.out, graded.rows)
    record = {"how": how.value, **graded.record, "labels": n, **unmatched}
    counted = (
        f"{n} scores; {unmatched['without_answer']} responses have no row in the answers file, "
        f"{unmatched['unused_answers']} of its rows no response"
    )
    lines = [*graded.lines, counted]
    means = mean_scores(graded.rows)
    print_table(means, ("model", "n", "mean_score"), paid.json_out)
    paid.end("grade", graded.summary, [record, *means], lines)
    if not n and graded.record.get("unreadable"):
        raise DataError(
            f"none of the {graded.record['unreadable']} could be read, so that there is no score; "
            "see `prompt` and `max_tokens`"
        )
