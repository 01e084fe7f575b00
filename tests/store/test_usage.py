"""The table of what keys used: sums are exact, whoever adds to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from metarouter.store.database import open_database
from metarouter.store.usage import Used, add_used, list_days, read_minutes, read_spent


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


def _add(engine: sa.Engine, key_id: str, minute: int, used: Used) -> None:
    with engine.begin() as connection:
        add_used(connection, {key_id: {minute: used}})


def test_what_is_added_twice_counts_twice(engine: sa.Engine) -> None:
    _add(engine, "a", 5, Used(requests=1, tokens=10, spent=0.5))
    _add(engine, "a", 5, Used(requests=2, tokens=1, spent=0.25))
    _add(engine, "a", 6, Used(requests=1))
    _add(engine, "b", 5, Used(tokens=7))
    with engine.connect() as connection:
        assert read_minutes(connection, 5) == {
            "a": {5: Used(requests=3, tokens=11, spent=0.75), 6: Used(requests=1)},
            "b": {5: Used(tokens=7)},
        }
        assert read_minutes(connection, 6) == {"a": {6: Used(requests=1)}}


def test_many_writers_lose_nothing(engine: sa.Engine) -> None:
    """Four threads add to the same rows at once, in transactions of their own."""

    def work() -> None:
        for number in range(25):
            _add(engine, "a", number % 2, Used(requests=1, tokens=3, spent=0.5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        minutes = read_minutes(connection, 0)["a"]
    assert minutes[0] + minutes[1] == Used(requests=100, tokens=300, spent=50.0)


def test_what_was_spent_is_summed_from_each_key_s_own_start(engine: sa.Engine) -> None:
    for minute in range(10):
        _add(engine, "a", minute, Used(spent=1.0))
        _add(engine, "b", minute, Used(spent=10.0))
    with engine.connect() as connection:
        found = read_spent(connection, {"a": 0, "b": 7, "c": 0}, 9)
    assert found == {"a": 9.0, "b": 20.0, "c": 0.0}


def test_days_are_those_of_utc(engine: sa.Engine) -> None:
    """1440 minutes a day, latest day first, of some keys or all."""
    for minute in (0, 1439, 1440, 3000):
        _add(engine, "a", minute, Used(requests=1, tokens=2, spent=0.5))
    _add(engine, "b", 1440, Used(requests=1))
    days = [(row.day, row.key_id, row.requests, row.tokens) for row in list_days(engine)]
    assert days == [(2, "a", 1, 2), (1, "a", 1, 2), (1, "b", 1, 0), (0, "a", 2, 4)]
    assert [row.day for row in list_days(engine, since=2)] == [2]
    assert [row.key_id for row in list_days(engine, key_ids=["b"])] == ["b"]
    assert list_days(engine)[3].spent == 1.0
