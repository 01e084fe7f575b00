"""``metarouter judge``: responses to votes or scores of a judge model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.collection_options import (
    ApiKeyEnv,
    AuditFile,
    BaseUrl,
    BudgetUsd,
    Concurrency,
    LedgerFile,
    Paid,
    Providers,
    Timeout,
    money_line,
    money_record,
)
from metarouter.cli.options import JsonOut, Prices, names, refuse_idle_options
from metarouter.errors import DataError, OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metarouter.collection.judging import Judge, JudgedPair, JudgedScore
    from metarouter.collection.position import PositionReport
    from metarouter.collection.rows import Response
    from metarouter.collection.runner import RunSummary
    from metarouter.providers.chat import ChatAnswer
    from metarouter.providers.endpoints import Target

__all__ = ["Mode", "Scale", "judge", "make_judge"]


class Mode(StrEnum):
    """What a judge is asked."""

    pairwise = "pairwise"
    score = "score"


class Scale(StrEnum):
    """The numbers that a judge may give."""

    five = "1-5"
    ten = "1-10"


def judge(
    context: typer.Context,
    responses: Annotated[Path, typer.Option(metavar="F", help="What `collect` wrote.")],
    judge_model: Annotated[str, typer.Option(metavar="M", help="The model that judges.")],
    out: Annotated[Path, typer.Option(metavar="F", help="Votes or scores, JSONL.")],
    mode: Annotated[Mode, typer.Option(help="Compare two, or score one.")] = Mode.pairwise,
    scale: Annotated[Scale, typer.Option(help="Of --mode score.")] = Scale.ten,
    models: Annotated[
        str | None, typer.Option(metavar="A,B", help="Compare these two only.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option(metavar="F", help="TOML: system, user.")] = None,
    rubric: Annotated[Path | None, typer.Option(metavar="F", help="Text: what is good.")] = None,
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    providers: Providers = None,
    prices: Prices = None,
    budget: BudgetUsd = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a verdict.")] = 1024,
    temperature: Annotated[float, typer.Option(help="Of the judge.")] = 0.0,
    concurrency: Concurrency = 16,
    timeout: Timeout = 180.0,
    ledger: LedgerFile = None,
    audit: AuditFile = None,
    json_out: JsonOut = None,
) -> None:
    """Have responses judged: pairs in both orders, or each on a scale.

    A verdict that cannot be read is asked for again, then left out; it is never
    guessed. Killed or interrupted, the same command goes on where it was.

    Example: metarouter judge --responses responses.jsonl --judge-model gpt-4o
    --base-url https://api.openai.com/v1 --api-key-env OPENAI_API_KEY
    --out votes.jsonl
    """
    from metarouter.collection.judging import judged_rows
    from metarouter.collection.rows import read_responses

    refuse_idle_options(context, "mode", {"scale": ("score",), "models": ("pairwise",)})
    paid = Paid(
        out=out,
        base_url=base_url,
        api_key_env=api_key_env,
        providers=providers,
        prices=prices,
        budget=budget,
        concurrency=concurrency,
        timeout=timeout,
        ledger=ledger,
        audit=audit,
        json_out=json_out,
    )
    paid.keep(responses, prompt, rubric)
    (target,) = paid.targets([judge_model])
    asked = make_judge(
        target, mode.value, prompt, rubric, max_tokens=max_tokens, temperature=temperature
    )
    judged = _questions(read_responses(responses), asked, mode, scale, models)
    settings = {
        "command": "judge",
        "responses": str(responses),
        "judge_model": judge_model,
        "mode": mode.value,
        "prompt": asked.prompt.user,
        "rubric": asked.rubric,
    }
    with paid.opened(settings) as book:
        calls = [call for item in judged for call in item.calls()]
        summary = paid.complete("judge", calls, book)
        n = paid.write(judged_rows(judged, book), book)
        answers, record = book.answers(), money_record(book, summary) | {"labels": n}
    _end(paid, summary, record, judged, answers, judge_model)


def _end(
    paid: Paid,
    summary: RunSummary,
    record: dict[str, Any],
    judged: Sequence[JudgedPair] | Sequence[JudgedScore],
    answers: Mapping[str, tuple[ChatAnswer, int]],
    judge_model: str,
) -> None:
    """Tell what came of it, and fail where no answer could be read."""
    from metarouter.collection.judging import unread_answers

    put = [item.calls() for item in judged if item.calls()]
    n_asked = sum(all(call.key in answers for call in pair) for pair in put)
    unread = unread_answers(put, answers)
    record |= {"unreadable": len(unread), "equal": len(judged) - len(put)}
    lines = [money_line(record)]
    if record["equal"]:
        lines.append(f"{record['equal']} pairs are of equal responses: a tie, without a question")
    if unread:
        lines.append(
            f"{len(unread)} of {n_asked} could not be read and are left out; the first: {unread[0]}"
        )
    position = _position(judged, answers)
    if position is not None:
        lines.append(position.to_text())
        record |= position.to_record()
    paid.end("judge", summary, [record], lines)
    if n_asked and len(unread) == n_asked:
        raise DataError(
            f"none of the {n_asked} could be read, so that there is no label of {judge_model}; it "
            f"says {unread[0]}; see `prompt` and `max_tokens`"
        )


def make_judge(
    target: Target,
    mode: str,
    prompt: Path | None,
    rubric: Path | None,
    *,
    max_tokens: int,
    temperature: float,
) -> Judge:
    """The judge that the options describe; `mode` names the default prompt."""
    from metarouter.collection import prompts
    from metarouter.collection.judging import Judge

    defaults = {
        "pairwise": prompts.PAIRWISE,
        "score": prompts.SCORE,
        "criterion": prompts.CRITERION,
    }
    needed, known = prompts.PLACES[mode]
    return Judge(
        target=target,
        prompt=defaults[mode]
        if prompt is None
        else prompts.read_prompt(prompt, needed=needed, known=known),
        rubric=prompts.RUBRIC if rubric is None else prompts.read_rubric(rubric),
        max_tokens=max_tokens,
        temperature=temperature,
    )


def _questions(
    responses: Sequence[Response], judge: Judge, mode: Mode, scale: Scale, models: str | None
) -> Sequence[JudgedPair] | Sequence[JudgedScore]:
    from metarouter.collection.judging import judge_pairs, judge_scores, pairs_of

    if mode is Mode.score:
        low, high = map(int, scale.value.split("-"))
        return judge_scores(responses, judge, low=low, high=high)
    pair = None if models is None else tuple(names(models))
    if pair is not None and len(pair) != 2:
        raise OptionError.of("models", models, "two names, separated by a comma")
    return judge_pairs(pairs_of(responses, pair), judge)


def _position(
    judged: Sequence[JudgedPair] | Sequence[JudgedScore],
    answers: Mapping[str, tuple[ChatAnswer, int]],
) -> PositionReport | None:
    """The position report; None where nothing was judged in both orders."""
    from metarouter.collection.judging import JudgedPair
    from metarouter.collection.position import position_report

    orders = [item.order(answers) for item in judged if isinstance(item, JudgedPair)]
    pairs = [order for order in orders if order is not None]
    return position_report(pairs) if pairs else None
