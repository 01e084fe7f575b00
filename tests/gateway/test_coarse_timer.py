"""Limits over one timer do what those of asyncio do, up to 50 ms later."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable

import pytest

from metarouter.gateway.coarse_timer import CoarseTimer, Handle


def run(work: Callable[[CoarseTimer], Awaitable[object]]) -> object:
    async def main() -> object:
        return await work(CoarseTimer())

    return asyncio.run(main())


def test_a_limit_that_passes_raises_a_timeout_and_leaves_the_task_alone() -> None:
    async def work(timer: CoarseTimer) -> int:
        with pytest.raises(TimeoutError), timer.limit(0.01):
            await asyncio.sleep(30)
        await asyncio.sleep(0)  # the task may wait again
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    start = time.monotonic()
    assert run(work) == 0
    assert time.monotonic() - start < 10


def test_what_is_done_in_time_is_not_disturbed_later() -> None:
    async def work(timer: CoarseTimer) -> str:
        with timer.limit(0.01):
            pass
        await asyncio.sleep(0.15)
        return "undisturbed"

    assert run(work) == "undisturbed"


def test_an_error_goes_through_a_limit() -> None:
    async def work(timer: CoarseTimer) -> None:
        with timer.limit(5):
            raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        run(work)


def test_who_is_cancelled_by_another_is_cancelled_even_when_the_limit_passed_too() -> None:
    """Else a caller who left would look like an upstream that did not answer."""

    async def work(timer: CoarseTimer) -> str:
        async def limited() -> str:
            with timer.limit(0.0):
                try:
                    await asyncio.sleep(30)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()  # another, before the context is left
                    raise
            return "went on"

        task = asyncio.create_task(limited())
        with pytest.raises(asyncio.CancelledError):
            await task
        return "cancelled"

    assert run(work) == "cancelled"


def test_limits_in_each_other_end_where_the_shorter_one_does() -> None:
    async def work(timer: CoarseTimer) -> str:
        with timer.limit(30):
            with pytest.raises(TimeoutError), timer.limit(0.0):
                await asyncio.sleep(30)
            return "the outer goes on"

    assert run(work) == "the outer goes on"


def test_actions_come_in_time_and_not_when_cancelled() -> None:
    async def work(timer: CoarseTimer) -> list[str]:
        done: list[str] = []
        timer.call_later(0.01, lambda: done.append("kept"))
        timer.call_later(0.01, lambda: done.append("cancelled")).cancel()
        timer.call_later(30, lambda: done.append("much later"))
        await asyncio.sleep(0.3)
        return done

    assert run(work) == ["kept"]


def test_an_action_may_cancel_another_that_is_due_as_well() -> None:
    async def work(timer: CoarseTimer) -> int:
        done: list[str] = []
        handles: list[Handle] = []

        def act() -> None:
            done.append("once")
            for handle in handles:
                handle.cancel()

        handles += [timer.call_later(0.0, act) for _ in range(2)]
        await asyncio.sleep(0.2)
        return len(done)

    assert run(work) == 1


def test_nothing_ticks_when_nothing_waits() -> None:
    async def work(timer: CoarseTimer) -> bool:
        with timer.limit(5):
            pass
        await asyncio.sleep(0.2)
        return timer.is_idle

    assert run(work) is True


def test_an_action_that_fails_stops_no_other() -> None:
    async def work(timer: CoarseTimer) -> tuple[list[str], int]:
        loop, failures = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        done: list[str] = []
        timer.call_later(0.0, lambda: done.append(str(1 / 0)))
        timer.call_later(0.0, lambda: done.append("beside"))
        await asyncio.sleep(0.15)
        timer.call_later(0.0, lambda: done.append("later"))
        await asyncio.sleep(0.15)
        return done, len(failures)

    assert run(work) == (["beside", "later"], 1)


def test_a_limit_that_is_over_keeps_nothing_alive() -> None:
    """Else every request would wait for the collector of cycles."""

    class Held:
        pass

    async def work(timer: CoarseTimer) -> bool:
        async def request() -> weakref.ref[Held]:
            held = Held()
            with timer.limit(5):
                await asyncio.sleep(0)
            return weakref.ref(held)

        task = asyncio.create_task(request())
        found, alive = await task, weakref.ref(task)
        del task
        await asyncio.sleep(0)
        return found() is None and alive() is None

    gc.disable()
    try:
        assert run(work) is True
    finally:
        gc.enable()
