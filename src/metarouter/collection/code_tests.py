"""Grade code by its tests: many programs at once in the sandbox, each once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Sequence

from metarouter.collection.answers import CodeTests
from metarouter.collection.ledger import Ledger
from metarouter.collection.rows import Response
from metarouter.collection.sandbox import Isolation, Limits, run_program

__all__ = ["grade_code"]


async def grade_code(
    pairs: Sequence[tuple[Response, CodeTests]],
    *,
    ledger: Ledger,
    limits: Limits,
    isolation: Isolation,
    concurrency: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[tuple[bool, str]]:
    """Whether each response passes its tests, and what it said if not.

    Programs that an earlier run of the same ledger ended are not run again,
    unless the clock was what ended them; other limits are another program.

    Parameters
    ----------
    pairs : responses with their tests.
    ledger : keeps the grades.
    limits, isolation : see :func:`run_program`.
    concurrency : int, at least 1, programs at once.
    on_progress : called with the number done and of all.
    """
    programs = [tests.program(response.text) for response, tests in pairs]
    keys = [_key(program, limits) for program in programs]
    grades = ledger.grades()
    todo = {key: p for key, p in zip(keys, programs, strict=True) if key not in grades}
    pending, n_done = iter(todo.items()), len(set(keys)) - len(todo)

    async def work(items: Iterator[tuple[str, str]]) -> None:
        nonlocal n_done
        for key, program in items:
            outcome = await run_program(program, limits, isolation)
            if outcome.is_final:
                ledger.keep_grade(key, passed=outcome.passed, detail=outcome.detail)
            grades[key] = (outcome.passed, outcome.detail)
            n_done += 1
            if on_progress is not None:
                on_progress(n_done, len(set(keys)))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work(pending))
    except ExceptionGroup as group_error:
        raise group_error.exceptions[0] from group_error
    return [grades[key] for key in keys]


def _key(program: str, limits: Limits) -> str:
    content = f"{limits.seconds} {limits.megabytes}\n{program}"
    return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
