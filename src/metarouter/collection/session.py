"""One run of a command that pays for answers: ledger, budget, client, signals, audit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from metarouter.collection.budget import Budget
from metarouter.collection.calls import Call
from metarouter.collection.ledger import Ledger
from metarouter.collection.money import to_pico
from metarouter.collection.rows import write_jsonl
from metarouter.collection.runner import Progress, RunSummary, Stop, run_calls
from metarouter.errors import OptionError
from metarouter.providers.client import ProviderClient

__all__ = ["complete", "write_audit"]


def complete(
    calls: Sequence[Call],
    ledger: Ledger,
    *,
    budget_usd: float | None,
    concurrency: int,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunSummary:
    """Get every answer that is missing, in an event loop of its own.

    Interrupt and termination signals end the run after the requests in flight;
    a second one breaks them off.

    Raises
    ------
    OptionError
        When the budget is negative, a price or a key is missing.
    """
    if budget_usd is not None and not 0 <= budget_usd < float("inf"):
        raise OptionError.of("budget", budget_usd, "USD, at least 0")
    limit = None if budget_usd is None else to_pico(budget_usd)
    budget = Budget(limit, ledger.spending().total)

    async def run() -> RunSummary:
        stop = Stop()
        with _stopping_on_signals(stop):
            async with ProviderClient() as client:
                return await run_calls(
                    calls,
                    client=client,
                    ledger=ledger,
                    budget=budget,
                    concurrency=concurrency,
                    on_progress=on_progress,
                    stop=stop,
                )

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def write_audit(path: Path, ledger: Ledger) -> None:
    """Write every run and attempt of a ledger to a JSONL file, without prompts and answers."""
    write_jsonl(path, ledger.audit())


@contextmanager
def _stopping_on_signals(stop: Stop) -> Iterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal() -> None:
        if stop.reason and task is not None:
            task.cancel()
        stop.ask("interrupted")

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
