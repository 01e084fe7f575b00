"""Old prompts are erased and old rows deleted, by the writer, once an hour and a few at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from store_makers import count, make_row, make_writer, wait_for

from metarouter.store.database import insert_new, open_database
from metarouter.store.keys import ApiKey, create_key, revoke_key
from metarouter.store.redaction import Redactor
from metarouter.store.remembered import find_remembered, save_remembered
from metarouter.store.retention import Pruned, Retention, prune
from metarouter.store.tables import decisions, feedback, key_usage
from metarouter.store.usage import Used, add_used, read_spent
from metarouter.testing import PostgresServer

_DAY = 86_400.0


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


def _fill(engine: sa.Engine, days: range, now: float) -> None:
    """A decision with its prompt and a statement for each day before now."""
    rows = [make_row(n, created=now - n * _DAY, prompt=f"the marked text {n}") for n in days]
    said = {"key_id": None, "kind": "thumbs", "content": {"value": "up"}}
    statements = [
        said | {"feedback_id": f"f{n}", "created": now - n * _DAY, "decision_id": f"d{n}"}
        for n in days
    ]
    with engine.begin() as connection:
        insert_new(connection, decisions, rows)
        insert_new(connection, feedback, statements)


def _prompts(engine: sa.Engine) -> list[str | None]:
    query = sa.select(decisions.c.prompt).order_by(decisions.c.created.desc())
    with engine.connect() as connection:
        return list(connection.execute(query).scalars())


def test_each_kind_is_kept_for_its_own_time(engine: sa.Engine) -> None:
    """Prompts for two and a half days, rows for four and a half; the oldest go first."""
    _fill(engine, range(7), 1e9)
    retention = Retention(prompt_days=2.5, row_days=4.5)
    steps: list[Pruned] = []
    while not steps or not steps[-1].is_all:
        steps.append(prune(engine, retention, 1e9, step=1))
    done = sum(steps, Pruned())
    assert (done.decisions, done.feedback) == (2, 2)
    assert max(step.decisions for step in steps) == 1
    assert _prompts(engine) == [*(f"the marked text {n}" for n in range(3)), None, None]
    assert count(engine, feedback) == 5


def test_who_answered_what_is_forgotten_after_its_last_use(engine: sa.Engine) -> None:
    """A name that was used again counts from then on, whichever was written last."""
    row = {"model": "m", "upstream": "u", "policy": None, "conversation": None}
    uses = [("a", 10.0), ("b", 10.0), ("c", 30.0), ("a", 25.0), ("c", 5.0)]
    for name, used in uses:
        with engine.begin() as connection:
            save_remembered(connection, [row | {"name": name, "used": used}])
    assert [found["used"] for found in find_remembered(engine, ["a"], 25.0)] == [25.0]
    assert find_remembered(engine, ["a", "b"], 25.5) == []
    assert prune(engine, Retention(memory_seconds=20.0), 40.0).remembered == 1
    assert sorted(found["name"] for found in find_remembered(engine, list("abc"), 0.0)) == [
        "a",
        "c",
    ]


def _use(engine: sa.Engine, key_id: str, days: Iterable[float], now: float) -> None:
    """A dollar in the minute that was so many days ago."""
    for day in days:
        minute = int((now - day * _DAY) // 60)
        with engine.begin() as connection:
            add_used(connection, {key_id: {minute: Used(requests=1, spent=1.0)}})


def _days_left(engine: sa.Engine, key_id: str, now: float) -> list[int]:
    query = sa.select(key_usage.c.minute).filter_by(key_id=key_id)
    with engine.connect() as connection:
        minutes = connection.execute(query.order_by(key_usage.c.minute.desc())).scalars().all()
    return [round((now / 60 - minute) / 1440) for minute in minutes]


def test_what_keys_used_is_kept_as_long_as_a_budget_counts_it(engine: sa.Engine) -> None:
    """For good, for a period, or for the days that are set; of keys that are gone, for these."""
    budgets: dict[str, dict[str, Any]] = {
        "none": {},
        "short": {"budget": 9.0, "budget_days": 1.0},
        "long": {"budget": 9.0, "budget_days": 30.0},
        "for good": {"budget": 9.0},
        "revoked": {"budget": 9.0},
    }
    keys = {name: create_key(engine, name, **given)[1] for name, given in budgets.items()}
    revoke_key(engine, keys["revoked"].key_id)
    now = keys["long"].created + 50 * _DAY  # 20 days into the second period of 30
    ids = {name: key.key_id for name, key in keys.items()} | {"gone": "key-gone"}
    for key_id in ids.values():
        _use(engine, key_id, (1, 9, 15, 19, 25, 45), now)
    spent = {name: _spent(engine, keys[name], now) for name in ("short", "long", "for good")}
    steps = [prune(engine, Retention(usage_days=10.0), now, step=5) for _ in range(9)]
    assert max(step.minutes for step in steps) == 5
    assert steps[-1].is_all
    left = {name: _days_left(engine, key_id, now) for name, key_id in ids.items()}
    assert left.pop("for good") == [1, 9, 15, 19, 25, 45]
    assert left.pop("long") == [1, 9, 15, 19]
    assert set(map(tuple, left.values())) == {(1, 9)}
    assert {name: _spent(engine, keys[name], now) for name in spent} == spent


def _spent(engine: sa.Engine, key: ApiKey, now: float) -> float:
    minute = int(now // 60)
    with engine.connect() as connection:
        starts = {key.key_id: key.first_minute(minute)}
        return read_spent(connection, starts, minute + 1)[key.key_id]


def test_without_a_time_everything_is_kept(engine: sa.Engine) -> None:
    _fill(engine, range(3), 1e9)
    assert prune(engine, Retention(), 1e12).is_all
    assert count(engine) == 3


@pytest.fixture
def rivals(postgres: PostgresServer) -> Iterator[tuple[sa.Engine, sa.Engine]]:
    """Two processes' ways to one PostgreSQL."""
    url = postgres.make_database()
    engines = open_database(url), open_database(url)
    yield engines
    for engine in engines:
        engine.dispose()
    postgres.drop_database(url)


_NAMED = {"model": "m", "upstream": "u", "policy": None, "conversation": None}


def test_a_row_that_another_process_writes_is_left_to_it(
    rivals: tuple[sa.Engine, sa.Engine],
) -> None:
    """Who prunes waits for nobody while he holds rows that others wait for; it is in use again."""
    writing, pruning = rivals
    names = [_NAMED | {"name": name, "used": 1.0} for name in "ab"]
    with writing.begin() as connection:
        save_remembered(connection, names)
    retention = Retention(memory_seconds=20.0)
    with writing.begin() as connection:
        save_remembered(connection, [names[0] | {"used": 99.0}])
        start = time.monotonic()
        assert prune(pruning, retention, 100.0).remembered == 1
        assert time.monotonic() - start < 5  # statements may take 10 s
        save_remembered(connection, [names[1] | {"used": 99.0}])
    assert prune(pruning, retention, 100.0).is_all
    assert len(find_remembered(writing, list("ab"), 99.0)) == 2


def test_processes_that_prune_at_once_share_the_work(rivals: tuple[sa.Engine, sa.Engine]) -> None:
    """Of all kinds, in steps of a few rows; nothing twice, and nobody is told of a deadlock."""
    _fill(rivals[0], range(200), 1e9)
    keys = [create_key(rivals[0], name)[1].key_id for name in ("a", "b")]
    for key_id in keys:
        _use(rivals[0], key_id, range(1, 51), 1e9)
    with rivals[0].begin() as connection:
        save_remembered(connection, [_NAMED | {"name": f"{n}", "used": n} for n in range(200)])
    retention = Retention(row_days=99.5, prompt_days=50.5, usage_days=10.5, memory_seconds=20.0)

    def work(engine: sa.Engine) -> Pruned:
        steps = [prune(engine, retention, 1e9, step=7)]
        while not steps[-1].is_all:
            steps.append(prune(engine, retention, 1e9, step=7))
        return sum(steps, Pruned())

    with ThreadPoolExecutor(2) as threads:
        one, two = threads.map(work, rivals)
    done = one + two + work(rivals[0])  # both may have left the other's last rows
    assert (done.decisions, done.feedback, done.minutes, done.remembered) == (100, 100, 80, 200)
    assert [prompt is None for prompt in _prompts(rivals[0])] == [False] * 51 + [True] * 49


def test_who_writes_the_same_feedback_in_another_order_waits_and_no_more(
    rivals: tuple[sa.Engine, sa.Engine],
) -> None:
    """As two processes do to which a caller sent it twice while the store was down."""
    said = {"key_id": None, "kind": "thumbs", "content": {"value": "up"}, "decision_id": "d"}
    rows = [said | {"feedback_id": f"f{n:05}", "created": 1.0} for n in range(5000)]

    def write(engine: sa.Engine, order: int) -> int:
        with engine.begin() as connection:
            return insert_new(connection, feedback, rows[::order])

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(write, rivals, (1, -1))) == 5000


def test_the_writer_prunes_in_its_turn(tmp_path: Path) -> None:
    """SQLite has one writer at a time, and who waits for it without a turn starves others."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    _fill(engine, range(5), time.time())
    writer = make_writer(engine, tmp_path / "spill", retention=Retention(row_days=2.5))
    with writer.turn:
        writer.start()
        time.sleep(0.3)
        assert count(engine) == 5
    wait_for(lambda: count(engine) == 3)
    writer.close()
    engine.dispose()


def test_the_writer_prunes_by_itself(engine: sa.Engine, tmp_path: Path) -> None:
    _fill(engine, range(5), time.time())
    writer = make_writer(engine, tmp_path / "spill", retention=Retention(row_days=2.5))
    writer.start()
    wait_for(lambda: count(engine) == 3)
    writer.close()


def test_an_erased_prompt_is_not_in_the_file_of_sqlite(tmp_path: Path) -> None:
    """Nor is a deleted one, once the log is folded into the file."""
    path = tmp_path / "store.db"
    engine = open_database(f"sqlite:///{path}")
    _fill(engine, range(50), 1e9)
    prune(engine, Retention(prompt_days=10, row_days=30), 1e9)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    content = path.read_bytes()
    assert b"the marked text 7" in content
    assert not any(b"the marked text %d" % n in content for n in range(11, 50))


def test_prompts_are_redacted_before_they_are_written_anywhere(
    engine: sa.Engine, tmp_path: Path
) -> None:
    """Neither the store nor a file has the address, though one row did not fit into the queue."""
    spill = tmp_path / "spill"
    writer = make_writer(engine, spill, is_open=True, size=1, redact=Redactor(["email"]))
    for number in range(2):
        writer.put(make_row(number, prompt="I am ann@example.org"))
    writer.put(make_row(2))
    writer.close()
    files = b"".join(path.read_bytes() for path in spill.glob("*.jsonl"))
    assert files.count(b"I am [email]") == 2
    assert b"example.org" not in files
