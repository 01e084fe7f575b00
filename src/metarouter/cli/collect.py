"""``metarouter collect``: queries to the responses of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
from metarouter.cli.options import JsonOut, Prices, names

__all__ = ["collect"]


def collect(
    queries: Annotated[
        Path, typer.Option(metavar="F", help="Queries: text lines, JSONL, CSV, Parquet.")
    ],
    models: Annotated[str, typer.Option(metavar="A,B", help="Models that shall answer.")],
    out: Annotated[Path, typer.Option(metavar="F", help="Responses, JSONL.")],
    base_url: BaseUrl = None,
    api_key_env: ApiKeyEnv = None,
    providers: Providers = None,
    prices: Prices = None,
    budget: BudgetUsd = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a response.")] = 1024,
    temperature: Annotated[float | None, typer.Option(help="Default: the endpoint's.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 180.0,
    ledger: LedgerFile = None,
    audit: AuditFile = None,
    json_out: JsonOut = None,
) -> None:
    """Get the responses of models to queries, each paid once, within a budget.

    Killed or interrupted, the same command goes on where it was.

    Example: metarouter collect --queries q.jsonl --models gpt-4o,gpt-4o-mini
    --base-url https://api.openai.com/v1 --api-key-env OPENAI_API_KEY
    --budget 5 --out responses.jsonl
    """
    from metarouter.collection.responses import response_calls, response_rows
    from metarouter.collection.rows import read_queries

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
    paid.keep(queries)
    targets = paid.targets(names(models))
    asked = read_queries(queries)
    request: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    calls = response_calls(asked, targets, **request, system=system)
    settings = {"command": "collect", "queries": str(queries), "models": models, **request}
    with paid.opened(settings) as book:
        summary = paid.complete("collect", calls, book)
        rows = list(response_rows(asked, targets, calls, book))
        record = money_record(book, summary) | {"responses": paid.write(rows, book)}
    record["cut_off"] = sum(row["finish_reason"] == "length" for row in rows)
    record["empty"] = sum(not row["response"].strip() for row in rows)
    lines = [money_line(record)]
    if record["cut_off"]:
        lines.append(f"{record['cut_off']} responses were cut off at {max_tokens} tokens")
    if record["empty"]:
        lines.append(f"{record['empty']} responses are empty; they count as the model's answer")
    paid.end("collect", summary, [record], lines)
