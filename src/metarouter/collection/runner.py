"""Run calls: concurrent, within the budget, each answer kept once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from metarouter.collection.budget import Budget, BudgetReachedError
from metarouter.collection.calls import Call
from metarouter.collection.ledger import Ledger, SharedCommits
from metarouter.collection.money import cost_of, prompt_token_bound, worst_cost
from metarouter.collection.verdicts import shown
from metarouter.errors import OptionError
from metarouter.providers.chat import ChatAnswer, ChatRequest
from metarouter.providers.client import ProviderClient
from metarouter.providers.failures import CallError
from metarouter.providers.retries import call_with_retries

__all__ = ["Progress", "RunSummary", "Stop", "run_calls"]

_AFTER_UNREAD = (
    "change one of them or the judge first, as the same command would pay for as many again; "
    "answers that are paid are kept, and changed settings ask anew"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run is; money in picodollars, over all runs of the ledger."""

    done: int
    failed: int
    total: int
    spent: int
    held: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """How a run ended.

    Parameters
    ----------
    asked, answered : calls in all, and those with an answer now.
    reused : calls that had their answer before this run.
    failures : label and message of each call that failed for good in this run.
    stopped : why the run ended early, or "".
    next_step : what gets further, where the same command as it is does not; else "".
    unpriced : models whose price is unknown, so that their calls count as nothing.
    """

    asked: int
    answered: int
    reused: int
    failures: tuple[tuple[str, str], ...]
    stopped: str
    next_step: str = ""
    unpriced: tuple[str, ...] = ()


class Stop:
    """A wish to end early: what is in flight is finished, nothing new is sent."""

    def __init__(self) -> None:
        self.reason = self.next_step = ""
        self._asked = asyncio.Event()

    def ask(self, reason: str, next_step: str = "") -> None:
        """Ask for the end; the first reason is kept, with what gets further."""
        if not self.reason:
            self.reason, self.next_step = reason, next_step
        self._asked.set()

    async def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the wish to end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), seconds)


async def run_calls(
    calls: Sequence[Call],
    *,
    client: ProviderClient,
    ledger: Ledger,
    budget: Budget,
    concurrency: int = 16,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Stop | None = None,
    seed: int | None = None,
) -> RunSummary:
    """Get the answers that the ledger does not have yet.

    Parameters
    ----------
    calls : what is wanted, in the order in which it is wanted; calls with the
        same key are made once.
    client, ledger, budget : see there. Where anything is to be sent, a budget with a
        limit needs the price of every model.
    concurrency : int, at least 1, calls in work at once, over all endpoints.
    on_progress : called after each change.
    stop : lets the caller end the run early.
    seed : of the jitter of retries.

    Returns
    -------
    RunSummary
        The answers are in the ledger.

    Raises
    ------
    OptionError
        When there is a limit and a model has no price, a prompt that is to be sent
        holds more than text, or a key is missing.

    Notes
    -----
    A failure that every call to the endpoint would share (wrong key, no such
    model, no credit) ends the run, as do calls that fail one after the other,
    twice as many as are in work at once and at least ten. So do as many answers
    in a row that cannot be read: every further one would be paid for nothing.

    Answers that were paid before their price was known stand in the ledger as
    nothing. Against a limit they count at today's price.
    """
    if concurrency < 1:
        raise OptionError.of("concurrency", concurrency, "an integer from 1")
    unique = {call.key: call for call in calls}
    had = {key: answer for key, answer in ledger.answers().items() if key in unique}
    pending = [call for key, call in unique.items() if key not in had]
    if budget.limit is not None and pending:
        _require_prices(unique.values())
        _require_text(pending)
        budget.spent += sum(_uncounted(unique[key], *answer) for key, answer in had.items())
    run = _Run(client, ledger, budget, stop or Stop(), on_progress, seed)
    run.total, run.done = len(unique), len(had)
    run.patience = max(10, 2 * concurrency)
    run.report()
    for call in pending:
        call.target.endpoint.key()  # a key that is missing is told before anything is sent
    await _work_all(run, pending, concurrency)
    return RunSummary(
        asked=len(unique),
        answered=run.done,
        reused=len(had),
        failures=tuple(run.failures),
        stopped=run.stop.reason,
        next_step=run.stop.next_step,
        unpriced=_unpriced(unique.values()),
    )


async def _work_all(run: _Run, pending: Sequence[Call], concurrency: int) -> None:
    calls = iter(pending)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(pending))):
                group.create_task(run.work(calls))
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from group_error


class _Run:
    """State that the workers of one run share."""

    def __init__(
        self,
        client: ProviderClient,
        ledger: Ledger,
        budget: Budget,
        stop: Stop,
        on_progress: Callable[[Progress], None] | None,
        seed: int | None,
    ) -> None:
        self.client = client
        self.commits = SharedCommits(ledger)
        self.budget = budget
        self.stop = stop
        self.failures: list[tuple[str, str]] = []
        self.done = self.total = self.failed_in_row = self.unread_in_row = 0
        self.patience = 10
        self._on_progress = on_progress
        self._rng = random.Random(seed)  # noqa: S311 - jitter, not secrets

    async def work(self, pending: Iterator[Call]) -> None:
        """One worker: calls one after the other until none is left or the run stops."""
        for call in pending:
            if self.stop.reason:
                return
            try:
                answer = await self._answer(call)
            except BudgetReachedError as error:
                reason = f"the budget is reached: {call.label} {error}"
                self.stop.ask(reason, "raise `budget` to go on from here")
            except _Stopped:
                pass
            except CallError as error:
                self._note_failure(call, error)
            else:
                self._note_answer(call, answer)
            self.report()

    def report(self) -> None:
        if self._on_progress is not None:
            progress = Progress(
                done=self.done,
                failed=len(self.failures),
                total=self.total,
                spent=self.budget.spent,
                held=self.budget.held,
            )
            self._on_progress(progress)

    def _note_failure(self, call: Call, error: CallError) -> None:
        self.failures.append((call.label, str(error)))
        self.failed_in_row += 1
        if error.is_fatal:
            self.stop.ask(str(error), "mend that, and the same command goes on from here")
        elif self.failed_in_row >= self.patience:
            self.stop.ask(f"{self.failed_in_row} calls failed one after the other: {error}")

    def _note_answer(self, call: Call, answer: ChatAnswer) -> None:
        self.done += 1
        self.failed_in_row = 0
        self.unread_in_row = 0 if call.is_readable(answer) else self.unread_in_row + 1
        if self.unread_in_row >= self.patience:
            self.stop.ask(
                f"{self.unread_in_row} answers of {call.target.name} one after the other could "
                f"not be read, the last one {shown(answer)}; see `prompt` and `max_tokens`",
                _AFTER_UNREAD,
            )

    async def _answer(self, call: Call) -> ChatAnswer:
        """Ask until an answer can be read; the last reading is kept in any case."""
        answer = await self._retried(call, call.request, 1)
        request = call.request
        for reading in range(2, call.readings + 1):
            if call.is_readable(answer):
                break
            request = call.reminded(request, answer)
            answer = await self._retried(call, request, reading)
        return answer

    async def _retried(self, call: Call, request: ChatRequest, reading: int) -> ChatAnswer:
        async def attempt(tried: int) -> ChatAnswer:
            if self.stop.reason:
                raise _Stopped
            return await self._send(call, request, reading)

        policy = call.target.endpoint.retries
        return await call_with_retries(attempt, policy, rng=self._rng, sleep=self.stop.sleep)

    async def _send(self, call: Call, request: ChatRequest, reading: int) -> ChatAnswer:
        """One request, held against the budget and written down before and after."""
        held = worst_cost(call.target.spec, request) or 0
        await self.budget.hold(held)
        charged = held  # unless it is known to be less
        try:
            attempt = await self.commits.begin(call, held)
            try:
                answer = await self.client.chat(
                    call.target, request, idempotency_key=f"metarouter-{call.key[:40]}-{reading}"
                )
            except CallError as error:
                charged = held if error.may_be_charged else 0
                await self.commits.fail(
                    attempt, kind=error.kind, charged=charged, detail=str(error)
                )
                raise
            charged = _charge(call, answer, held)
            await self._keep(attempt, call, answer, charged, reading)
        finally:
            self.budget.settle(held, charged)
        return answer

    async def _keep(
        self, attempt: int, call: Call, answer: ChatAnswer, charged: int, reading: int
    ) -> None:
        kind = "answered" if call.is_readable(answer) else "unreadable"
        if kind == "answered" or reading == call.readings:
            await self.commits.finish(attempt, call, answer, charged, kind=kind)
        else:
            detail = "asked again, as it cannot be read"
            await self.commits.fail(attempt, kind=kind, charged=charged, detail=detail)


class _Stopped(Exception):  # noqa: N818 - a signal between our own functions, not an error
    """The run is ending, so a call is left for the next run."""


def _charge(call: Call, answer: ChatAnswer, held: int) -> int:
    """What an answer cost; the most it could where the endpoint counts no tokens."""
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return held
    return cost_of(call.target.spec, answer.prompt_tokens, answer.completion_tokens) or 0


def _uncounted(call: Call, answer: ChatAnswer, charged: int) -> int:
    """What an answer cost that was paid before its price was known."""
    return 0 if charged else _charge(call, answer, worst_cost(call.target.spec, call.request) or 0)


def _require_prices(calls: Iterable[Call]) -> None:
    unpriced = _unpriced(calls)
    if unpriced:
        raise OptionError(
            f"a budget needs prices, and there is none of {', '.join(unpriced)}; allowed: a file "
            "for --prices with model, input_usd_per_mtok, output_usd_per_mtok (0 for a model of "
            "your own), or no --budget"
        )


def _unpriced(calls: Iterable[Call]) -> tuple[str, ...]:
    specs = {call.target.name: call.target.spec for call in calls}
    return tuple(sorted(name for name, spec in specs.items() if cost_of(spec, 0, 0) is None))


def _require_text(calls: Iterable[Call]) -> None:
    for call in calls:
        try:
            prompt_token_bound(call.request.messages)
        except OptionError as error:
            raise OptionError(f"{call.label}: {error}") from error
