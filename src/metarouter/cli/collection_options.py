"""Options, progress and endings that `collect`, `judge` and `grade` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metarouter.collection.calls import Call
    from metarouter.collection.ledger import Ledger
    from metarouter.collection.runner import Progress, RunSummary
    from metarouter.providers.endpoints import Endpoint, Target

__all__ = [
    "ApiKeyEnv",
    "AuditFile",
    "BaseUrl",
    "BudgetUsd",
    "Concurrency",
    "LedgerFile",
    "Paid",
    "Providers",
    "Timeout",
    "live_progress",
    "money_line",
    "money_record",
]

BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", metavar="URL", help="OpenAI-compatible endpoint, ending in /v1."),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option("--api-key-env", metavar="NAME", help="Environment variable with its key."),
]
Providers = Annotated[
    Path | None,
    typer.Option("--providers", metavar="F", help="TOML file of endpoints and models."),
]
BudgetUsd = Annotated[
    float | None,
    typer.Option("--budget", metavar="USD", help="Never passed, over all runs of the ledger."),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests in flight at once.")]
Timeout = Annotated[float, typer.Option(help="Seconds that a request may take.")]
LedgerFile = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="F", help="What was paid for; default OUT.ledger."),
]
AuditFile = Annotated[
    Path | None,
    typer.Option("--audit", metavar="F", help="Every attempt; default OUT.audit.jsonl."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paid:
    """What every command that asks models is told: where, how fast, for how much."""

    out: Path
    base_url: str | None
    api_key_env: str | None
    providers: Path | None
    prices: Path | None
    budget: float | None
    concurrency: int
    timeout: float
    ledger: Path | None
    audit: Path | None
    json_out: str | None

    def keep(self, *inputs: Path | None) -> None:
        """Refuse to write over a file that is read or a folder, or two results into one file.

        Raises
        ------
        OptionError
            When labels, audit, ledger or records would take the place of an
            input or of each other.
        """
        from metarouter.errors import OptionError

        read = {os.path.realpath(path) for path in (*inputs, self.providers, self.prices) if path}
        written: dict[str, Path] = {
            "out": self.out,
            "audit": self.audit_file,
            "ledger": self.ledger_file,
        }
        if self.json_out is not None and self.json_out != "-":
            written["json"] = Path(self.json_out)
        taken: set[str] = set()
        for name, path in written.items():
            if path.is_dir():
                raise OptionError.of(name, str(path), "a file, which a folder is not")
            if os.path.realpath(path) in read | taken:
                allowed = "a file that is neither read nor written otherwise"
                raise OptionError.of(name, str(path), allowed)
            taken.add(os.path.realpath(path))

    def targets(self, models: list[str]) -> list[Target]:
        """The endpoint and price of each model, from flags and files."""
        from metarouter.policy.prices import read_prices
        from metarouter.providers.settings import read_targets

        return read_targets(
            models,
            file=self.providers,
            default=None if self.base_url is None else self._default(self.base_url),
            prices=None if self.prices is None else read_prices(self.prices),
        )

    def opened(self, settings: dict[str, Any]) -> Ledger:
        """The ledger, with the settings of this run in it."""
        from metarouter.collection.ledger import Ledger

        return Ledger(self.ledger_file, {**settings, "budget_usd": self.budget})

    def complete(self, label: str, calls: Sequence[Call], book: Ledger) -> RunSummary:
        """Get the answers that are missing, with progress."""
        from metarouter.collection.session import complete

        with live_progress(label, self.budget) as callback:
            return complete(
                calls,
                book,
                budget_usd=self.budget,
                concurrency=self.concurrency,
                on_progress=callback,
            )

    @property
    def ledger_file(self) -> Path:
        """What was paid for."""
        return self.ledger or Path(f"{self.out}.ledger")

    @property
    def audit_file(self) -> Path:
        """Where every attempt is listed."""
        return self.audit or Path(f"{self.out}.audit.jsonl")

    def write(self, rows: Iterable[Mapping[str, Any]], book: Ledger) -> int:
        """Write the labels and the audit file; returns the number of labels."""
        from metarouter.collection.rows import write_jsonl
        from metarouter.collection.session import write_audit

        n = write_jsonl(self.out, rows)
        write_audit(self.audit_file, book)
        return n

    def end(
        self,
        command: str,
        summary: RunSummary | None,
        records: Sequence[Mapping[str, Any]],
        lines: Sequence[str],
    ) -> None:
        """Print what came of it, and fail when answers are missing.

        Raises
        ------
        ProviderError
            When they are.
        """
        from metarouter.cli.output import emit, say
        from metarouter.errors import ProviderError

        for line in lines:
            say(line, self.json_out)
        emit(self.json_out, command, records, seed=None)
        if summary is None or summary.answered == summary.asked:
            return
        why = summary.stopped or summary.failures[0][1]
        next_step = summary.next_step or "the same command goes on from here"
        raise ProviderError(
            f"{summary.asked - summary.answered} of {summary.asked} answers are missing: {why}; "
            f"what is there is written; {next_step}"
        )

    def _default(self, base_url: str) -> Endpoint:
        from metarouter.providers.endpoints import Endpoint

        return Endpoint(
            name="default",
            base_url=base_url,
            api_key_env=self.api_key_env,
            concurrency=self.concurrency,
            timeout=self.timeout,
        )


@contextmanager
def live_progress(label: str, budget: float | None) -> Iterator[Callable[[Progress], None] | None]:
    """A line with what is done and what it costs; None when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} · failed {task.fields[failed]}"),
        TextColumn("· {task.fields[money]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None, failed=0, money="")

        def show(state: Any) -> None:
            bar.update(
                task,
                completed=state.done,
                total=state.total,
                failed=state.failed,
                money=_money(state, budget),
            )

        yield show


def money_record(ledger: Ledger, summary: RunSummary) -> dict[str, Any]:
    """Fields of the machine output that every paying command has."""
    from metarouter.collection.money import to_usd

    spending = ledger.spending()
    return {
        "asked": summary.asked,
        "answered": summary.answered,
        "reused": summary.reused,
        "failed": len(summary.failures),
        "stopped": summary.stopped or None,
        "unpriced": ", ".join(summary.unpriced) or None,
        "spent_usd": to_usd(spending.known),
        "at_risk_usd": to_usd(spending.at_risk),
    }


def money_line(record: Mapping[str, Any]) -> str:
    """One line about answers and money."""
    text = (
        f"{record['answered']} of {record['asked']} answers ({record['reused']} from earlier "
        f"runs); spent {record['spent_usd']:.4f} USD"
    )
    if record["at_risk_usd"]:
        text += (
            f", and up to {record['at_risk_usd']:.4f} USD more for requests of which it is not "
            "known whether they were charged"
        )
    if record["unpriced"]:
        text += f"; the price of {record['unpriced']} is unknown and counts as 0"
    return text


def _money(state: Any, budget: float | None) -> str:
    from metarouter.collection.money import to_usd

    spent = f"{to_usd(state.spent):.4f} USD"
    return spent if budget is None else f"{spent} of {budget:g}"
