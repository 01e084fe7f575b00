"""Pauses, their bounds, and what is tried again."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.errors import OptionError
from metarouter.providers import CallError, RetryPolicy, call_with_retries
from metarouter.providers.failures import FailureKind, kind_of_status
from metarouter.providers.retries import read_retry_after

BUSY = CallError("busy", kind="refused", status=429)


@given(tried=st.integers(1, 200), seed=st.integers(0, 10**6))
def test_a_pause_is_positive_and_below_its_exponential_bound(tried: int, seed: int) -> None:
    policy = RetryPolicy(attempts=1000, first_pause=0.5, longest_pause=60)
    pause = policy.pause(BUSY, tried, random.Random(seed))
    assert pause is not None
    bound = 60.0
    if tried < 8:
        bound = 0.5
        for _ in range(tried - 1):
            bound += bound
    assert 0 < pause <= bound


def test_pauses_of_clients_that_failed_together_differ() -> None:
    """Full jitter: they cover the whole range, not its end."""
    policy = RetryPolicy(first_pause=8.0)
    pauses = [policy.pause(BUSY, 1, random.Random(seed)) or 0.0 for seed in range(300)]
    assert min(pauses) < 0.5
    assert max(pauses) > 7.5


def test_a_wish_of_the_endpoint_is_obeyed_up_to_the_longest_pause() -> None:
    policy = RetryPolicy(first_pause=1.0, longest_pause=60.0)
    rng = random.Random(0)
    wished = CallError("busy", kind="refused", status=429, retry_after=20.0)
    assert 20.0 <= (policy.pause(wished, 1, rng) or 0.0) <= 21.0
    too_long = CallError("busy", kind="refused", status=429, retry_after=61.0)
    assert policy.pause(too_long, 1, rng) is None


@pytest.mark.parametrize(
    ("kind", "status", "retried", "charged"),
    [
        ("unsent", None, True, False),
        ("refused", 400, False, False),
        ("refused", 401, False, False),
        ("refused", 429, True, False),
        ("refused", 503, True, False),
        ("broken", 500, True, True),
        ("broken", None, True, True),
        ("timeout", None, True, True),
        ("malformed", None, True, True),
    ],
)
def test_each_failure_is_tried_again_or_not_and_may_be_charged_or_not(
    kind: FailureKind, status: int | None, retried: bool, charged: bool
) -> None:
    error = CallError("x", kind=kind, status=status)
    assert (error.is_retryable, error.may_be_charged) == (retried, charged)


def test_an_empty_account_is_not_waited_for() -> None:
    error = CallError("x", kind="refused", status=429, quota=True)
    assert not error.is_retryable
    assert error.is_fatal


def test_only_statuses_that_come_before_the_work_are_free_of_charge() -> None:
    free = [status for status in range(300, 600) if kind_of_status(status) == "refused"]
    assert free == [*range(300, 500), 503, 529]


def test_attempts_end_with_the_last_error_or_the_first_success() -> None:
    """The number of tries and the pauses are those of the policy."""

    async def run(failures: int, attempts: int) -> tuple[str, list[int], int]:
        seen: list[int] = []
        pauses: list[float] = []

        async def attempt(tried: int) -> str:
            seen.append(tried)
            if tried <= failures:
                raise CallError(f"try {tried}", kind="timeout")
            return "done"

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        policy = RetryPolicy(attempts=attempts)
        try:
            result = await call_with_retries(attempt, policy, rng=random.Random(0), sleep=sleep)
        except CallError as error:
            result = str(error)
        return result, seen, len(pauses)

    assert asyncio.run(run(failures=2, attempts=3)) == ("done", [1, 2, 3], 2)
    assert asyncio.run(run(failures=9, attempts=3)) == ("try 3", [1, 2, 3], 2)


def test_a_date_in_the_past_and_nonsense_ask_for_no_pause() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert read_retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now) == 0.0
    for text in (None, "", "-3", "1e9", "٣", "soon", "1.2.3"):
        assert read_retry_after(text, now) is None


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"first_pause": -1.0}, {"longest_pause": float("nan")}]
)
def test_sizes_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        RetryPolicy(**options)  # type: ignore[arg-type]
