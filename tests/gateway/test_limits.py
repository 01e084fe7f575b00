"""Limits of keys: against a straight-line model, at once, over processes, through clients."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import sqlalchemy as sa
from gateway_makers import HELLO, Served, process_of
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.errors import OptionError
from metarouter.gateway.limits import KeyLimits, LimitedError, Ticket
from metarouter.gateway.settings import PriceSettings, read_settings
from metarouter.gateway.spending import Prices, charged_usage
from metarouter.gateway.wire import Usage, read_usage
from metarouter.store.database import open_database
from metarouter.store.keys import ApiKey, create_key
from metarouter.store.tables import key_usage, metadata
from metarouter.store.usage import Used, list_days
from metarouter.testing import UpstreamReply, UpstreamRequest

START = 1_700_000_000.0  # 20 s into a minute


@dataclass(slots=True)
class Clock:
    """A clock that stands still until it is moved."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Store:
    """A database of its own, in memory, that can be switched off."""

    is_down: bool = False
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = sa.create_engine(
            "sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False}
        )
        metadata.create_all(self.engine, tables=[key_usage])
        sa.event.listen(self.engine, "begin", self._begin)

    def _begin(self, connection: sa.Connection) -> None:
        if self.is_down:
            raise sa.exc.OperationalError("switched off", None, OSError())


@contextmanager
def a_store() -> Iterator[Store]:
    store = Store()
    yield store
    store.engine.dispose()


def a_key(**limits: Any) -> ApiKey:
    return ApiKey(key_id="k", digest="", name="n", created=START - 86_400, **limits)


Operation = tuple[Any, ...]
# Amounts are multiples of a quarter, so that sums are exact in floating point.
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 20), st.integers(0, 8)),
        st.tuples(st.just("close"), st.integers(0, 9), st.integers(0, 30), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 7.0, 41.0, 60.0, 1800.0, 3600.0])),
        st.tuples(st.just("exchange")),
        st.tuples(st.just("switch")),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(
    operations=OPERATIONS, rpm=st.integers(1, 5), tpm=st.integers(1, 60), budget=st.integers(1, 20)
)
def test_one_process_admits_exactly_what_the_rules_say(
    operations: list[Operation], rpm: int, tpm: int, budget: int
) -> None:
    """A list of events is summed anew for each request; exchanges and outages change nothing."""
    key = a_key(
        requests_per_minute=rpm, tokens_per_minute=tpm, budget=budget / 4, budget_days=1 / 24
    )
    clock, minute_made = Clock(), int((START - 86_400) // 60)
    requests: list[int] = []
    charges: list[tuple[int, int, float]] = []
    open_tickets: list[tuple[Ticket, int, float]] = []
    with a_store() as store:
        limits = KeyLimits(store.engine, lambda: [key], clock=clock)
        for name, *values in operations:
            minute = int(clock.now // 60)
            if name == "wait":
                clock.now += values[0]
            elif name == "exchange":
                assert limits.exchange() is not store.is_down
            elif name == "switch":
                store.is_down = not store.is_down
            elif name == "close" and open_tickets:
                ticket, _, _ = open_tickets.pop(values[0] % len(open_tickets))
                limits.close(ticket, tokens=values[1], dollars=values[2] / 4)
                limits.close(ticket, tokens=values[1], dollars=values[2] / 4)
                charges.append((minute, values[1], values[2] / 4))
            elif name == "admit":
                since = minute - (minute - minute_made) % 60
                tokens = sum(t for m, t, _ in charges if m == minute)
                dollars = sum(d for m, _, d in charges if m >= since)
                expected = (
                    requests.count(minute) < rpm
                    and tokens + sum(t for _, t, _ in open_tickets) < tpm
                    and dollars + sum(d for _, _, d in open_tickets) < budget / 4
                )
                try:
                    ticket = limits.admit(key, tokens=values[0], dollars=values[1] / 4)
                except LimitedError:
                    assert not expected
                else:
                    assert expected
                    requests.append(minute)
                    open_tickets.append((ticket, values[0], values[1] / 4))


@settings(max_examples=100)
@given(
    operations=st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["admit", "admit", "exchange", "wait", "down"])
        ),
        max_size=60,
    ),
    rpm=st.integers(1, 6),
)
def test_processes_know_what_the_others_had_told_when_they_last_asked(
    operations: list[tuple[int, str]], rpm: int
) -> None:
    """Three processes over one store admit by their own count and the told counts of others."""
    key, clock = a_key(requests_per_minute=rpm), Clock()
    with a_store() as store:
        processes = [KeyLimits(store.engine, lambda: [key], clock=clock) for _ in range(3)]
        mine = [0, 0, 0]  # admitted in this minute
        told = [0, 0, 0]  # of these, in the store
        seen = [0, 0, 0]  # of the others' told ones, seen here
        for number, what in operations:
            if what == "wait":
                clock.now += 60
                mine, told, seen = [0, 0, 0], [0, 0, 0], [0, 0, 0]
            elif what == "down":
                store.is_down = not store.is_down
            elif what == "exchange":
                if processes[number].exchange():
                    told[number] = mine[number]
                    seen[number] = sum(told) - told[number]
            else:
                is_admitted = mine[number] + seen[number] < rpm
                if is_admitted:
                    processes[number].admit(key)
                    mine[number] += 1
                else:
                    with pytest.raises(LimitedError):
                        processes[number].admit(key)
        store.is_down = False
        for process in processes * 2:
            assert process.exchange()
        assert {process.used(key).requests for process in processes} == {sum(mine)}
        # each process alone stays within the limit, so together they cannot pass 3 of them
        assert sum(mine) <= 3 * rpm


def test_threads_at_once_pass_no_limit() -> None:
    """Forty requests race for ten places; all the while the store is told."""
    key, stop = a_key(requests_per_minute=10), threading.Event()
    with a_store() as store:
        limits = KeyLimits(store.engine, lambda: [key], clock=Clock())

        def ask(_: int) -> bool:
            try:
                limits.admit(key)
            except LimitedError:
                return False
            return True

        def tell() -> None:
            while not stop.is_set():
                limits.exchange()

        teller = threading.Thread(target=tell)
        teller.start()
        with ThreadPoolExecutor(8) as pool:
            admitted = sum(pool.map(ask, range(40)))
        stop.set()
        teller.join()
        assert admitted == 10
        assert limits.exchange()
        assert list_days(store.engine)[0].requests == 10


def test_processes_that_write_at_once_lose_nothing(store_url: str) -> None:
    """Four of them, each with its own connections, tell the database a hundred requests each."""
    keys = [
        ApiKey(key_id=f"k{n}", digest="", name="n", created=START, budget=1e9) for n in range(3)
    ]
    engines = [open_database(store_url) for _ in range(4)]

    def work(engine: sa.Engine) -> KeyLimits:
        limits = KeyLimits(engine, lambda: keys, clock=Clock())
        for number in range(100):
            key = keys[number % 3]
            limits.close(limits.admit(key), tokens=2, dollars=0.25)
            assert number % 10 or limits.exchange()
        assert limits.exchange()
        return limits

    with ThreadPoolExecutor(4) as pool:
        processes = list(pool.map(work, engines))
    for process in processes:
        assert process.exchange()
        assert [process.used(key).requests for key in keys] == [136, 132, 132]
        assert sum(process.used(key).spent for key in keys) == 100.0
    assert sum(day.tokens for day in list_days(engines[0])) == 800
    for engine in engines:
        engine.dispose()


def test_requests_in_flight_hold_their_estimate() -> None:
    """Ten requests of 30 tokens at once: four pass a limit of 100, the rest wait for their end."""
    key = a_key(tokens_per_minute=100)
    with a_store() as store:
        limits = KeyLimits(store.engine, lambda: [key], clock=Clock())
        tickets = [limits.admit(key, tokens=30) for _ in range(4)]
        with pytest.raises(LimitedError):
            limits.admit(key, tokens=30)
        for ticket in tickets:
            limits.close(ticket, tokens=20)
        assert limits.used(key) == Used(requests=4, tokens=80)
        limits.admit(key)


def test_a_budget_that_is_only_held_comes_back() -> None:
    """While requests in flight may spend the rest a client is to try again; then it is final."""
    key = a_key(budget=1.0)
    with a_store() as store:
        limits = KeyLimits(store.engine, lambda: [key], clock=Clock())
        ticket = limits.admit(key, dollars=2.0)
        with pytest.raises(LimitedError, match="in flight") as refused:
            limits.admit(key)
        assert (refused.value.code, refused.value.retry_after) == ("rate_limit_exceeded", 1.0)
        limits.close(ticket, dollars=0.5)
        limits.close(limits.admit(key), dollars=0.5)
        with pytest.raises(LimitedError, match="for good") as refused:
            limits.admit(key)
        assert (refused.value.code, refused.value.retry_after) == ("insufficient_quota", None)


def test_what_was_used_survives_a_restart_and_an_outage() -> None:
    """What the store could not take is added when it is back, in the minutes it belongs to."""
    key, clock = a_key(budget=1.0), Clock()
    with a_store() as store:
        first = KeyLimits(store.engine, lambda: [key], clock=clock)
        first.close(first.admit(key), tokens=5, dollars=0.5)
        store.is_down = True
        assert not first.exchange()
        clock.now += 3600
        first.close(first.admit(key), tokens=7, dollars=0.25)
        assert not first.exchange()
        assert first.used(key) == Used(requests=1, tokens=7, spent=0.75)
        store.is_down = False
        assert first.exchange()
        assert first.exchange()
        assert first.used(key) == Used(requests=1, tokens=7, spent=0.75)
        second = KeyLimits(store.engine, lambda: [key], clock=clock)
        assert second.exchange()
        assert second.used(key) == Used(requests=1, tokens=7, spent=0.75)
        with store.engine.connect() as connection:
            minutes = connection.execute(sa.select(key_usage.c.minute)).scalars().all()
    assert sorted(minutes) == [int(START // 60), int(START // 60) + 60]


def test_a_fault_of_any_kind_costs_no_count() -> None:
    """What was taken out to be told is told the next time, once."""
    key = a_key(requests_per_minute=5)
    with a_store() as store:
        told: list[tuple[str, str]] = []

        def report(event: str, *, error: str) -> None:
            told.append((event, error))

        limits = KeyLimits(store.engine, lambda: [key], report=report, clock=Clock())
        limits.admit(key)
        sa.event.listen(store.engine, "commit", _stumble, once=True)
        assert not limits.exchange()
        assert limits.used(key).requests == 1
        assert limits.exchange()
        assert (limits.used(key).requests, limits.failures) == (1, 1)
        assert list_days(store.engine)[0].requests == 1
    assert told == [("limits are not shared", "RuntimeError")]


def _stumble(connection: sa.Connection) -> None:
    raise RuntimeError("nobody foresaw this")


def test_a_late_count_of_another_process_is_seen_within_half_a_minute() -> None:
    """What another spent during its outage, hours ago, counts once sums are read again."""
    key, clock = a_key(budget=1.0), Clock()
    with a_store() as store:
        one, other = (KeyLimits(store.engine, lambda: [key], clock=clock) for _ in range(2))
        other.close(other.admit(key), dollars=1.0)
        clock.now += 7200
        assert one.exchange()
        assert other.exchange()
        clock.now += 31
        assert one.exchange()
        with pytest.raises(LimitedError, match="1 dollars for good"):
            one.admit(key)


@given(
    days=st.sampled_from([0.01, 1 / 24, 1.0, 7.0, 30.0]),
    made=st.integers(0, 10**6),
    later=st.integers(0, 10**6),
)
def test_periods_of_a_budget_follow_each_other_without_a_gap(
    days: float, made: int, later: int
) -> None:
    """Each minute is in one period, which starts a whole number of lengths after the key."""
    key = ApiKey(key_id="k", digest="", name="n", created=60.0 * made, budget=1.0, budget_days=days)
    length = round(days * 1440)
    start = key.first_minute(made + later)
    assert 0 <= made + later - start < length
    assert (start - made) % length == 0


def test_prices_go_from_the_settings_to_the_list_by_the_upstream_s_name() -> None:
    """Dollars per million tokens; a name that nobody knows has none, and that is counted."""
    unknown: list[None] = []
    given = {
        "upstreams": {
            "a": {"base_url": "http://127.0.0.1:9/v1", "models": {"mine": "x", "small": "gpt-4o"}}
        },
        "prices": {"mine": {"input": 2.0, "output": 8.0}},
    }
    prices = Prices(read_settings(overrides=given), lambda: unknown.append(None))
    used = Usage(prompt_tokens=1000, completion_tokens=500)
    assert prices.dollars("mine", used) == pytest.approx((1000 * 2 + 500 * 8) / 1e6)
    small = prices.dollars("small", used)
    assert small is not None
    assert small > 0
    assert prices.dollars("small", Usage()) is None
    assert unknown == []
    assert prices.dollars("x", used) is None
    assert len(unknown) == 1
    assert (prices.knows("mine"), prices.knows("x")) == (True, False)


def _priced(price: dict[str, float]) -> PriceSettings:
    upstreams = {"a": {"base_url": "http://127.0.0.1:9/v1"}}
    return read_settings(overrides={"upstreams": upstreams, "prices": {"m": price}}).prices["m"]


def test_a_price_goes_by_the_name_it_has_everywhere_or_by_the_short_one() -> None:
    """Files of prices have one name, and settings of gateways that run have the other."""
    long = _priced(
        {"input_usd_per_mtok": 2.0, "cached_input_usd_per_mtok": 0.5, "output_usd_per_mtok": 8.0}
    )
    assert _priced({"input": 2.0, "cached_input": 0.5, "output": 8.0}) == long
    assert _priced({"input": 2.0, "cached_input": 0.5, "output_usd_per_mtok": 8.0}) == long
    assert long.cached_input_usd_per_mtok == 0.5


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ({"input": 1.0, "input_usd_per_mtok": 1.0, "output": 1.0}, "prices.m: input_usd_per_mtok"),
        ({"input": 1.0}, "prices.m.output_usd_per_mtok: Field required"),
        ({"input": -1.0, "output": 1.0}, "prices.m.input_usd_per_mtok = -1.0"),
        ({"input": 1.0, "output": 1.0, "inptu": 1.0}, "prices.m.inptu: no such setting"),
    ],
)
def test_a_price_that_is_wrong_or_given_twice_is_told(price: dict[str, float], told: str) -> None:
    with pytest.raises(OptionError, match=re.escape(told)):
        _priced(price)


@pytest.mark.parametrize(
    ("usage", "prompt", "cached", "dollars"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 10}, 100, 0, 300),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 80},
            },
            100,
            80,
            180,
        ),
        (
            {
                "input_tokens": 100,
                "output_tokens": 10,
                "input_tokens_details": {"cached_tokens": 80},
            },
            100,
            80,
            180,
        ),
        (
            {
                "input_tokens": 15,
                "output_tokens": 10,
                "cache_read_input_tokens": 80,
                "cache_creation_input_tokens": 5,
            },
            100,
            80,
            180,
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": None},
            100,
            0,
            300,
        ),
    ],
)
def test_a_prompt_that_a_cache_held_costs_less(
    usage: dict[str, Any], prompt: int, cached: int, dollars: float
) -> None:
    """The same prompt as three protocols count it; 2, 0.5 and 10 dollars per token here."""
    given = {
        "upstreams": {"a": {"base_url": "http://127.0.0.1:9/v1", "models": {"m": "x"}}},
        "prices": {"m": {"input": 2.0, "cached_input": 0.5, "output": 10.0}},
    }
    found = read_usage(b"", json.dumps({"usage": usage}).encode())
    assert (found.prompt_tokens, found.cached_tokens) == (prompt, cached)
    spent = Prices(read_settings(overrides=given)).dollars("m", found)
    assert spent == pytest.approx(dollars / 1e6)


@pytest.mark.parametrize("count", [-5, 2**31, 1.5, "7"])
def test_a_count_that_is_none_is_no_count(count: Any) -> None:
    """An upstream that says nonsense gives no credit; the answer is charged by its size."""
    usage = {"prompt_tokens": count, "completion_tokens": 1}
    assert read_usage(b"", json.dumps({"usage": usage}).encode()) == Usage()


@pytest.mark.parametrize(
    ("counted", "is_whole", "expected"),
    [
        (Usage(prompt_tokens=3, completion_tokens=2), True, (3, 2)),
        (Usage(prompt_tokens=3), True, (3, None)),
        (Usage(), True, (7, 5)),
        (Usage(prompt_tokens=3, completion_tokens=1), False, (3, 5)),
        (Usage(prompt_tokens=3, completion_tokens=9), False, (3, 9)),
    ],
)
def test_what_is_not_counted_is_estimated(
    counted: Usage, is_whole: bool, expected: tuple[int | None, int | None]
) -> None:
    found = charged_usage(
        counted, prompt_tokens=7, answer_bytes=1000, is_stream=True, is_whole=is_whole
    )
    assert (found.prompt_tokens, found.completion_tokens) == expected


# The fake upstream counts three tokens of prompt and two of answer.
DEAR = {name: {"input": 100_000.0, "output": 100_000.0} for name in ("cheap", "premium")}
ANSWER_TOKENS, ANSWER_DOLLARS = 5, 0.5
Serve = Callable[..., Served]


def _with_key(serve: Serve, respond: Any = None, **limits: Any) -> tuple[Served, dict[str, str]]:
    served = serve(respond=respond, auth="keys", prices=DEAR)
    key, _ = create_key(served.gateway.engine, "limited", **limits)
    served.gateway.keyring.refresh()
    # a clock that stands still: the minute does not end while the test runs
    gateway = served.gateway
    gateway.limits = KeyLimits(gateway.engine, gateway.keyring.known, clock=Clock())
    return served, {"authorization": f"Bearer {key}"}


def test_requests_per_minute_over_http(serve: Serve) -> None:
    """The limit holds among concurrent requests; what is left stands in headers."""
    served, mine = _with_key(serve, requests_per_minute=3)

    def ask(_: int) -> httpx2.Response:
        return served.post("/v1/chat/completions", HELLO, **mine)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(12)))
    good = [answer for answer in answers if answer.status_code == 200]
    bad = [answer for answer in answers if answer.status_code == 429]
    assert (len(good), len(bad)) == (3, 9)
    assert len(served.upstream.requests) == 3
    assert {answer.headers["x-ratelimit-limit-requests"] for answer in good} == {"3"}
    assert bad[0].headers["x-ratelimit-remaining-requests"] == "0"
    assert bad[0].headers["x-ratelimit-reset-requests"] == "40s"
    assert bad[0].headers["retry-after"] == "40"
    assert bad[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert served.post("/v1/route", b'{"query": "x"}', **mine).status_code == 429
    assert served.client.get("/v1/models", headers=mine).status_code == 200


@pytest.mark.parametrize(
    ("path", "is_stream"),
    [
        ("/v1/chat/completions", False),
        ("/v1/chat/completions", True),
        ("/v1/responses", False),
        ("/v1/messages", False),
        ("/v1/messages", True),
    ],
)
def test_tokens_are_charged_as_the_upstream_counts_them(
    serve: Serve, path: str, is_stream: bool
) -> None:
    """Two answers of five tokens pass a limit of six, the third request does not."""
    served, mine = _with_key(serve, tokens_per_minute=ANSWER_TOKENS + 1)
    body = {"model": "metarouter", "messages": [], "input": "Hi", "stream": is_stream}
    sent = json.dumps(body).encode()
    statuses = [served.post(path, sent, **mine).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    row = served.rows()[0]
    assert row["spent"] == pytest.approx(ANSWER_DOLLARS)


def test_a_stream_that_is_not_counted_is_charged_by_its_size(serve: Serve) -> None:
    """Fifty events of an upstream that says nothing of usage, and the row says nothing either."""

    def respond(request: UpstreamRequest) -> UpstreamReply:
        event = b'data: {"choices": [{"delta": {"content": "word"}}]}' + b" " * 150 + b"\n\n"
        return UpstreamReply(pieces=[event] * 50, content_type="text/event-stream")

    served, mine = _with_key(serve, respond, tokens_per_minute=40)
    body = HELLO[:-1] + b', "stream": true}'
    assert served.post("/v1/chat/completions", body, **mine).status_code == 200
    assert served.post("/v1/chat/completions", body, **mine).status_code == 429
    row = served.rows()[0]
    assert (row["prompt_tokens"], row["completion_tokens"], row["spent"]) == (None, None, None)


def test_what_nobody_answered_is_not_charged(serve: Serve) -> None:
    """Refusals and failures of the upstream cost neither tokens nor dollars, but count."""
    served, mine = _with_key(serve, tokens_per_minute=1, budget=0.01)
    served.upstream.script.extend(
        [
            UpstreamReply(status=400, pieces=[b'{"error": {"message": "no"}}']),
            UpstreamReply(status=404, pieces=[b"{}"]),
        ]
    )
    path, body = "/v1/chat/completions", HELLO
    statuses = [served.post(path, body, **mine).status_code for _ in range(4)]
    assert statuses == [400, 404, 200, 429]
    assert served.post("/v1/messages/count_tokens", HELLO, **mine).status_code == 429


def test_counting_tokens_is_free(serve: Serve) -> None:
    served, mine = _with_key(serve, tokens_per_minute=1, budget=0.01)
    for _ in range(3):
        assert served.post("/v1/messages/count_tokens", HELLO, **mine).status_code == 200


def test_a_spent_budget_is_told_so_that_clients_stop(serve: Serve) -> None:
    """Half a dollar an answer; both SDKs raise at once and do not try again."""
    served, mine = _with_key(serve, budget=ANSWER_DOLLARS * 2, budget_days=30)
    key = mine["authorization"].removeprefix("Bearer ")
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=key)
    other = anthropic.Anthropic(base_url=served.url, api_key=key)
    message: Any = {"role": "user", "content": "Hello you"}
    with client, other:
        for _ in range(2):
            client.chat.completions.create(model="metarouter", messages=[message])
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="metarouter", messages=[message])
        with pytest.raises(anthropic.RateLimitError) as stopped:
            other.messages.create(model="metarouter", messages=[message], max_tokens=5)
    assert refused.value.code == "insufficient_quota"
    assert "may spend 1 dollars in 30 days" in str(stopped.value)
    assert stopped.value.response.json()["type"] == "error"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 30 * 86_400
    text = str(served.gateway.metrics.render(), "utf-8")
    assert (
        'metarouter_requests_total{endpoint="chat/completions",outcome="rejected",status="429"} 1.0'
        in text
    )


def test_a_budget_is_for_models_of_known_price(serve: Serve) -> None:
    """What has no price could not be charged: it is refused, and a policy chooses others."""
    served = serve(auth="keys", prices={"cheap": DEAR["cheap"]})
    key, _ = create_key(served.gateway.engine, "limited", budget=5.0)
    served.gateway.keyring.refresh()
    mine = {"authorization": f"Bearer {key}"}
    named = HELLO.replace(b"metarouter", b"premium")
    refused = served.post("/v1/chat/completions", named, **mine)
    assert refused.status_code == 403
    assert "no known price" in refused.json()["error"]["message"]
    keen = HELLO[:-1] + b', "metarouter": {"w": -1000000}}'
    answer = served.post("/v1/chat/completions", keen, **mine)
    assert answer.headers["x-metarouter-model"] == "cheap"


@pytest.mark.parametrize(("models", "status"), [(None, 404), (["cheap"], 403)])
def test_a_misspelt_model_is_unknown_before_it_is_without_a_price(
    serve: Serve, models: list[str] | None, status: int
) -> None:
    """A key of few models is told of a name that nobody serves what it is told of all others."""
    place = {"base_url": "http://127.0.0.1:9/v1", "models": {"cheap": "a", "premium": "b"}}
    served = serve(auth="keys", upstreams={"main": place})
    key, _ = create_key(served.gateway.engine, "limited", budget=5.0, models=models)
    served.gateway.keyring.refresh()
    mine = {"authorization": f"Bearer {key}"}
    named = HELLO.replace(b"metarouter", b"premum")
    refused = served.post("/v1/chat/completions", named, **mine)
    assert refused.status_code == status
    said = "no upstream serves it" if status == 404 else "may not use model premum"
    assert said in refused.json()["error"]["message"]


def test_our_headers_stand_in_place_of_the_upstream_s(serve: Serve) -> None:
    """An upstream's own limits and names do not show where ours do."""
    headers = [("x-ratelimit-limit-requests", "999"), ("x-metarouter-model", "other")]
    served, mine = _with_key(serve, requests_per_minute=3)
    served.upstream.script.append(UpstreamReply(pieces=[b"{}"], headers=headers))
    answer = served.post("/v1/chat/completions", HELLO, **mine)
    assert answer.headers.get_list("x-ratelimit-limit-requests") == ["3"]
    assert answer.headers.get_list("x-metarouter-model") != ["other"]


def test_two_processes_share_a_budget_and_one_that_stops_tells_its_part(
    router_folder: Path, tmp_path: Path, serve: Serve
) -> None:
    """What one process spent the other knows within a second; SIGTERM loses none of it."""
    upstream = serve().upstream
    store = f"sqlite:///{tmp_path / 'shared.db'}"
    engine = open_database(store)
    key, record = create_key(engine, "shared", budget=ANSWER_DOLLARS * 3)
    config = tmp_path / "gateway.json.yaml"
    given = {
        "auth": "keys",
        "upstreams": {"main": {"base_url": upstream.url, "dialect": "any"}},
        "policies": {"default": {"router": str(router_folder)}},
        "prices": DEAR,
        "store": {"url": store},
        "log_level": "error",
    }
    config.write_text(json.dumps(given))
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    def ask(url: str) -> int:
        answer = httpx2.post(
            f"{url}/v1/chat/completions", content=HELLO, headers=headers, timeout=20
        )
        return answer.status_code

    flags = ("--config", str(config))
    with process_of(tmp_path, *flags) as (first, one), process_of(tmp_path, *flags) as (_, two):
        assert [ask(one), ask(two)] == [200, 200]
        time.sleep(1.5)
        assert [ask(one), ask(one)] == [200, 429]
        first.terminate()
        assert first.wait(30) in (0, -signal.SIGTERM)
        time.sleep(1.0)
        assert ask(two) == 429
    (day,) = list_days(engine)
    assert (day.key_id, day.requests, day.tokens) == (record.key_id, 3, 3 * ANSWER_TOKENS)
    engine.dispose()


def test_what_tools_gave_back_is_charged_too(serve: Serve) -> None:
    """A long result of a tool is no part of the text that is routed on, and still costs."""
    served, headers = _with_key(serve, tokens_per_minute=1000)
    turns = [
        {"role": "user", "content": "Hello you"},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]},
        {"role": "tool", "tool_call_id": "c", "content": "word " * 20_000},
    ]
    body = json.dumps({"model": "metarouter", "messages": turns}).encode()
    served.upstream.respond = lambda request: UpstreamReply(pieces=[b'{"choices": []}'])
    statuses = [served.post("/v1/chat/completions", body, **headers).status_code for _ in range(2)]
    assert statuses == [200, 429]


def test_answers_in_flight_count_against_a_budget(serve: Serve) -> None:
    """What they may cost is held, so that many at once cannot all pass."""
    served, headers = _with_key(
        serve, respond=lambda _: UpstreamReply(pieces=[b"{}"], wait=1.0), budget=50.0
    )
    body = HELLO[:-1] + b', "max_tokens": 400}'  # 40 dollars

    def ask(_: int) -> int:
        return served.post("/v1/chat/completions", body, **headers).status_code

    with ThreadPoolExecutor(10) as threads:
        statuses = list(threads.map(ask, range(10)))
    assert statuses.count(200) <= 2
    assert set(statuses) == {200, 429}
