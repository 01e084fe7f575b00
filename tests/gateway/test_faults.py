"""Time limits, pauses, queues, breakers and chains of upstreams; and a run with many faults."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import time
from collections.abc import Coroutine, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from metarouter.gateway.problems import problem_of
from metarouter.gateway.settings import UpstreamSettings
from metarouter.gateway.upstream import Answer, Attempt, UpstreamCall, Upstreams
from metarouter.providers.failures import CallError
from metarouter.testing import FakeUpstream, UpstreamReply, UpstreamRequest, default_reply

EVENTS = "text/event-stream"
T = TypeVar("T")
Results = list[tuple[int, bytes] | BaseException]


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as running:
        yield running


def error(status: int, **fields: Any) -> UpstreamReply:
    return UpstreamReply(status=status, pieces=[b'{"error": {}}'], **fields)


def place(url: str, **fields: Any) -> UpstreamSettings:
    usual: dict[str, Any] = {"first_pause": 0.01, "breaker_failures": 1000, "attempts": 1}
    return UpstreamSettings(base_url=url, **usual | fields)


class Asking:
    """Upstreams, and what became of calls to them."""

    def __init__(
        self, fallbacks: dict[str, Sequence[str]] | None = None, **places: UpstreamSettings
    ) -> None:
        self.upstreams = Upstreams(places, fallbacks or {}, rng=random.Random(0))
        self.attempts: list[Attempt] = []

    async def open(
        self, model: str = "m", *, stream: bool = False, deadline: float = math.inf
    ) -> Answer:
        call = UpstreamCall(
            path="chat/completions",
            dialect="openai",
            body=lambda name: b'{"model": "%b"}' % name.encode(),
            headers=[],
            is_stream=stream,
            deadline=deadline,
        )
        targets = self.upstreams.targets(model, "openai")
        return await self.upstreams.open(targets, call, self.attempts)

    async def read(self, model: str = "m", **how: Any) -> tuple[int, bytes]:
        """Status and whole body."""
        answer = await self.open(model, **how)
        try:
            rest = [part async for part in answer.rest] if answer.rest else []
        finally:
            answer.close()
        return answer.status, answer.first + b"".join(rest)

    @property
    def outcomes(self) -> list[str]:
        return [f"{attempt.upstream}:{attempt.outcome}" for attempt in self.attempts]


def run(asking: Asking, work: Coroutine[Any, Any, T]) -> T:
    async def inside() -> T:
        async with asking.upstreams:
            return await work

    return asyncio.run(inside())


def test_connecting_has_a_time_of_its_own() -> None:
    """A machine that takes no connection costs the connect time-out, and counts as unsent."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        asking = Asking(main=place(f"http://127.0.0.1:{address[1]}", connect_timeout=0.3))
        started = time.monotonic()
        with pytest.raises(CallError, match="no connection"):
            run(asking, asking.read())
        assert 0.3 <= time.monotonic() - started < 2.0
        for filler in fillers:
            filler.close()
    assert asking.outcomes == ["main:unsent"]


@pytest.mark.parametrize(
    ("reply", "stream", "limits"),
    [
        (UpstreamReply(pieces=[b"{}"], wait=5.0), False, {"total_timeout": 0.3}),
        (UpstreamReply(pieces=[b"{", b"}"], pause=5.0), False, {"total_timeout": 0.3}),
        (
            UpstreamReply(pieces=[b"", b"data: 1\n\n"], content_type=EVENTS, pause=5.0),
            True,
            {"first_token_timeout": 0.3},
        ),
        (
            UpstreamReply(pieces=[b"", b"data: 1\n\n"], content_type=EVENTS, pause=5.0),
            True,
            {"total_timeout": 0.3},
        ),
    ],
)
def test_first_bytes_have_a_time_limit(
    upstream: FakeUpstream, reply: UpstreamReply, stream: bool, limits: dict[str, float]
) -> None:
    """A status alone, or half a body, is no answer; the upstream's work is cancelled."""
    upstream.script.append(reply)
    asking = Asking(main=place(upstream.url, attempts=2, **limits))
    started = time.monotonic()
    status, _ = run(asking, asking.read(stream=stream))
    assert 0.3 <= time.monotonic() - started < 3.0
    assert (status, asking.outcomes) == (200, ["main:timeout", "main:ok"])
    while upstream.requests[0].left is None and time.monotonic() < started + 5:
        time.sleep(0.01)
    assert upstream.requests[0].left is not None


def test_a_stream_ends_with_the_time_of_the_whole_request(upstream: FakeUpstream) -> None:
    """Pieces that keep coming do not prolong it."""
    upstream.script.append(
        UpstreamReply(pieces=[b"data: 1\n\n"] * 50, content_type=EVENTS, pause=0.1)
    )
    asking = Asking(main=place(upstream.url, total_timeout=0.5))
    started = time.monotonic()
    with pytest.raises(CallError, match="longer than a request may"):
        run(asking, asking.read(stream=True))
    assert 0.5 <= time.monotonic() - started < 2.0
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_an_upstream_is_not_asked_before_it_wishes(upstream: FakeUpstream, form: str) -> None:
    """``Retry-After`` in seconds, or as a date, which is exact to the second."""
    wish = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    upstream.script.append(error(429, headers=[("Retry-After", {"seconds": "1"}.get(form, wish))]))
    asking = Asking(main=place(upstream.url, attempts=2))
    assert run(asking, asking.read())[0] == 200
    waited = upstream.requests[1].arrived - upstream.requests[0].arrived
    assert 0.9 <= waited < 3.0


def test_who_asks_for_a_long_pause_is_passed_over(upstream: FakeUpstream) -> None:
    """The next upstream is asked at once; without one the wish goes back to the caller."""
    busy = error(503, headers=[("Retry-After", "60")])
    with FakeUpstream(lambda _: busy) as other:
        asking = Asking(busy=place(other.url, attempts=3), good=place(upstream.url))
        started = time.monotonic()
        assert run(asking, asking.read())[0] == 200
        assert time.monotonic() - started < 1.0
        assert asking.outcomes == ["busy:status 503", "good:ok"]
        alone = Asking(busy=place(other.url, attempts=3))
        answer = run(alone, alone.open())
        assert (b"retry-after", b"60") in answer.headers


def test_pauses_double_and_vary(upstream: FakeUpstream) -> None:
    """Between two tries lies at most the pause of that try, and not always the same."""
    upstream.respond = lambda request: error(500)
    waits: list[float] = []
    for _ in range(6):
        del upstream.requests[:]
        asking = Asking(main=place(upstream.url, attempts=3, first_pause=0.1, longest_pause=0.15))
        asking.upstreams._rng.seed(len(waits))
        run(asking, asking.read())
        times = [request.arrived for request in upstream.requests]
        waits += [b - a for a, b in pairwise(times)]
    slack = 0.1  # of a busy machine
    assert all(wait < 0.1 + slack for wait in waits[::2])
    assert all(wait < 0.15 + slack for wait in waits[1::2])
    assert max(waits) - min(waits) > 0.02


def test_a_breaker_that_opens_again_lets_one_request_through(upstream: FakeUpstream) -> None:
    """Of many at once, one is the trial; the others are refused until it succeeded."""
    upstream.script.extend([error(500)] * 2)
    asking = Asking(main=place(upstream.url, breaker_failures=2, breaker_seconds=0.3))

    async def work() -> tuple[Results, Results]:
        for _ in range(2):
            await asking.read()
        await asyncio.sleep(0.35)
        upstream.script.append(UpstreamReply(pieces=[b"{}"], wait=0.2))
        first = await asyncio.gather(*(asking.read() for _ in range(8)), return_exceptions=True)
        then = await asyncio.gather(*(asking.read() for _ in range(8)), return_exceptions=True)
        return first, then

    first, then = run(asking, work())
    assert sum(isinstance(result, CallError) for result in first) == 7
    assert not any(isinstance(result, CallError) for result in then)
    assert len(upstream.requests) == 2 + 1 + 8


def test_requests_above_the_limit_wait_their_turn() -> None:
    """No more than `concurrency` are in flight; who would wait too long goes elsewhere."""
    slow = UpstreamReply(pieces=[b"{}"], wait=0.2)
    with FakeUpstream(lambda _: slow) as narrow, FakeUpstream() as wide:
        asking = Asking(narrow=place(narrow.url, concurrency=2))

        async def together(asking: Asking) -> list[tuple[int, bytes]]:
            return await asyncio.gather(*(asking.read() for _ in range(6)))

        run(asking, together(asking))
        starts = sorted(request.arrived for request in narrow.requests)
        assert all(b - a > 0.15 for a, b in zip(starts, starts[2:], strict=False))
        hasty = Asking(
            narrow=place(narrow.url, concurrency=2, connect_timeout=0.05), wide=place(wide.url)
        )
        run(hasty, together(hasty))
    assert len(wide.requests) == 4
    assert hasty.outcomes.count("narrow:passed over") == 4


def test_a_request_that_is_cancelled_gives_its_place_back(upstream: FakeUpstream) -> None:
    """While it waits for an answer, for a pause or for a place."""
    upstream.respond = lambda request: UpstreamReply(pieces=[b"{}"], wait=30.0)
    asking = Asking(main=place(upstream.url, concurrency=1))

    async def work() -> int:
        for _ in range(3):
            tasks = [asyncio.create_task(asking.read()) for _ in range(3)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        upstream.respond = default_reply
        status, _ = await asking.read()
        return status

    assert run(asking, work()) == 200


def test_chains_go_over_upstreams_first_and_models_then() -> None:
    """Every upstream of the chosen model, then those of each model that stands in, in order."""
    asked: list[tuple[str, bytes]] = []

    def respond(name: str) -> Any:
        def reply(request: UpstreamRequest) -> UpstreamReply:
            asked.append((name, request.body))
            return default_reply(request) if b"third" in request.body else error(502)

        return reply

    with FakeUpstream(respond("a")) as a, FakeUpstream(respond("b")) as b:
        models = {"first": "first-at-a", "second": "second"}
        asking = Asking(
            {"first": ["second", "third"]},
            a=place(a.url, models=models),
            b=place(b.url, models={"first": "first-at-b", "third": "third"}),
        )
        answer = run(asking, asking.open("first"))
    assert (answer.target.upstream, answer.target.model) == ("b", "third")
    assert asked == [
        ("a", b'{"model": "first-at-a"}'),
        ("b", b'{"model": "first-at-b"}'),
        ("a", b'{"model": "second"}'),
        ("b", b'{"model": "third"}'),
    ]


@pytest.mark.parametrize(("status", "asked"), [(400, 1), (422, 1), (401, 2), (404, 2), (402, 2)])
def test_a_refusal_goes_on_only_where_another_may_answer(
    upstream: FakeUpstream, status: int, asked: int
) -> None:
    """A caller's mistake is one everywhere; a key, a credit or a model is one upstream's."""
    with FakeUpstream(lambda _: error(status)) as strict:
        asking = Asking(strict=place(strict.url, attempts=3), good=place(upstream.url))
        found, _ = run(asking, asking.read())
    assert len(strict.requests) + len(upstream.requests) == asked
    assert found == (status if asked == 1 else 200)


def test_requests_succeed_while_one_try_in_five_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study on a small scale: all that can succeed do, as sent, and none is sent twice."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    from gateway_faults import measure

    found = measure(300, 16, 0.2, patience=2.0)
    assert found.requests == 300
    assert sum(found.faults.values()) > 30
    assert (found.succeeded, found.failures) == (found.can_succeed, {})
    assert (found.sent_twice, found.wrong_bytes) == (0, 0)
    assert found.can_succeed >= 285


def test_tries_together_have_a_limit_too(upstream: FakeUpstream) -> None:
    """No further try begins after it, and the one that is under way ends with it."""
    upstream.respond = lambda _: UpstreamReply(pieces=[b"{}"], wait=5.0)
    asking = Asking(main=place(upstream.url, total_timeout=0.4, attempts=20))
    started = time.monotonic()
    with pytest.raises(CallError, match="no answer"):
        run(asking, asking.read(deadline=started + 1.0))
    assert 0.9 <= time.monotonic() - started < 2.0
    assert 2 <= len(upstream.requests) <= 4


def test_a_caller_who_reads_slowly_is_no_failure_of_the_upstream(upstream: FakeUpstream) -> None:
    """The answer ends with its time, and the upstream is asked again at once."""
    upstream.script.append(
        UpstreamReply(pieces=[b"data: 1\n\n"] * 50, content_type=EVENTS, pause=0.05)
    )
    asking = Asking(main=place(upstream.url, total_timeout=0.3, breaker_failures=1))

    async def work() -> None:
        answer = await asking.open(stream=True)
        assert answer.rest is not None
        await asyncio.sleep(0.5)
        with pytest.raises(CallError, match="longer than a request may"):
            async for _ in answer.rest:
                pass
        await asking.read()

    run(asking, work())
    assert asking.outcomes == ["main:ok", "main:ok"]


def test_an_upstream_that_answers_anything_is_alive(upstream: FakeUpstream) -> None:
    """A trial that a caller's mistake or a limit ends closes the breaker."""
    upstream.script += [error(500), error(400)]
    limits = {"attempts": 1, "breaker_failures": 1, "breaker_seconds": 0.2}
    asking = Asking(main=place(upstream.url, **limits))

    async def work() -> None:
        await asking.read()
        assert asking.upstreams.open_breakers == ["main"]
        await asyncio.sleep(0.25)
        assert asking.upstreams.open_breakers == []  # a trial may go: the gateway is ready
        await asking.read()
        await asking.read()

    run(asking, work())
    assert asking.outcomes == ["main:status 500", "main:status 400", "main:ok"]


def test_a_key_that_an_upstream_does_not_take_is_the_gateways_matter(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller learns neither part of it, nor that his own is wrong."""
    monkeypatch.setenv("UPSTREAM_KEY", "sk-secret")
    upstream.script.append(error(401))
    asking = Asking(main=place(upstream.url, api_key_env="UPSTREAM_KEY"))
    with pytest.raises(CallError, match="does not take the gateway's key") as found:
        run(asking, asking.open())
    assert problem_of(found.value).status == 502


def test_an_answer_that_leads_elsewhere_is_none(upstream: FakeUpstream) -> None:
    """Its address is inside; the next upstream is asked."""
    upstream.script.append(error(302, headers=[("Location", "http://10.0.0.1/secret")]))
    asking = Asking(main=place(upstream.url, attempts=1))
    with pytest.raises(CallError, match="status 302") as found:
        run(asking, asking.open())
    assert problem_of(found.value).status == 502
