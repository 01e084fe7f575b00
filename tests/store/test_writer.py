"""Decisions are written off the path of requests, and none is lost while the store is down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from store_makers import count, make_row, make_writer, wait_for

from metarouter.gateway.upstream import Attempt
from metarouter.store.database import make_engine, migrate, open_database
from metarouter.store.tables import decisions, feedback
from metarouter.store.writer import LONGEST_PROMPT, DecisionWriter
from metarouter.testing import PostgresServer


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    return tmp_path / "spill"


def _put(writer: DecisionWriter, numbers: range) -> None:
    for number in numbers:
        writer.put(make_row(number))


def test_rows_are_written_soon_and_all_at_close(engine: sa.Engine, spill: Path) -> None:
    """Many threads put rows; every row is there once, and nothing is left on the disk."""
    writer = make_writer(engine, spill)
    writer.start()
    numbers = [range(300 * k, 300 * (k + 1)) for k in range(4)]
    threads = [threading.Thread(target=_put, args=(writer, some)) for some in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert count(engine) == writer.written == 1200
    assert (writer.spilled, list(spill.iterdir())) == (0, [])


def test_rows_say_which_process_wrote_them(engine: sa.Engine, spill: Path) -> None:
    writers = [make_writer(engine, spill) for _ in range(2)]
    for number, writer in enumerate(writers):
        writer.start()
        writer.put(make_row(number))
        writer.close()
    with engine.connect() as connection:
        names = connection.execute(sa.select(decisions.c.instance)).scalars().all()
    assert len({name for name in names if name}) == 2


def test_what_does_not_fit_is_put_aside_and_written_next_time(
    engine: sa.Engine, spill: Path
) -> None:
    """A queue that nobody empties loses nothing."""
    writer = make_writer(engine, spill, size=3, is_open=True)
    for number in range(10):
        writer.put(make_row(number, options=[{"gain": 0.5}]))
    writer.close()  # its thread never ran
    assert (writer.spilled, count(engine)) == (10, 0)
    heir = make_writer(engine, spill)
    heir.start()
    wait_for(lambda: count(engine) == 10)
    heir.close()
    assert heir.replayed == 10


def test_rows_of_an_earlier_version_are_written_with_the_columns_they_have(
    engine: sa.Engine, spill: Path
) -> None:
    """A column that they did not know is null; the same row twice is one row."""
    row = {name: value for name, value in make_row(1).items() if name not in ("spent", "shadow")}
    spill.mkdir()
    (spill / "old@000001.jsonl").write_bytes(2 * (msgspec.json.encode(row) + b"\n"))
    writer = make_writer(engine, spill)
    writer.start()
    wait_for(lambda: count(engine) == 1)
    writer.close()
    assert list(spill.iterdir()) == []


def test_rows_of_other_versions_are_written(engine: sa.Engine, spill: Path) -> None:
    """A row without a column, and one with a column that nobody here knows, both get in."""
    writer = make_writer(engine, spill)
    older = make_row(1)
    del older["instance"]
    writer.put(older)
    writer.put(make_row(2, colour="green"))
    writer.start()
    wait_for(lambda: writer.written == 2)
    writer.close()
    assert (count(engine), writer.refused) == (2, 0)


def test_a_row_that_the_store_never_takes_does_not_hold_up_the_others(
    engine: sa.Engine, spill: Path
) -> None:
    """Odd text is mended; what cannot be is set down in a file of its own."""
    writer = make_writer(engine, spill)
    writer.put(make_row(1))
    writer.put(make_row(2, prompt="nul \x00 and half a \ud800", reason="r" * 200))
    writer.put(make_row(3, cost=float("nan"), endpoint="e" * 99, options=[{"x": float("inf")}]))
    writer.put(make_row(4, model=None))
    writer.start()
    wait_for(lambda: count(engine) == 3)
    wait_for(lambda: writer.refused == 1)
    assert writer.state == "ok"
    writer.close()
    (path,) = spill.glob("*.refused")
    assert msgspec.json.decode(path.read_bytes())["decision_id"] == "d4"


def test_odd_text_in_the_records_of_a_row_is_mended(engine: sa.Engine, spill: Path) -> None:
    """A caller may name a model with a NUL: each try has it, and PostgreSQL takes none."""
    odd = "nul \x00"
    attempt = Attempt(upstream="main", model=odd, outcome="ok", seconds=0.1)
    writer = make_writer(engine, spill)
    writer.put(make_row(1, asked=odd, model=odd, attempts=[attempt]))
    writer.start()
    wait_for(lambda: writer.written == 1)
    writer.close()
    assert (count(engine), writer.refused) == (1, 0)


def test_a_store_that_is_locked_for_a_while_loses_nothing(tmp_path: Path, spill: Path) -> None:
    """While another holds SQLite, rows go to the disk; afterwards they are all there."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    impatient = sa.create_engine(engine.url, connect_args={"timeout": 0.05})
    writer = make_writer(impatient, spill)
    writer.start()
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        _put(writer, range(50))
        wait_for(lambda: writer.state == "down" and not writer.waiting)
        holder.exec_driver_sql("ROLLBACK")
    wait_for(lambda: writer.state == "ok")
    writer.close()
    assert count(engine) == 50
    engine.dispose()
    impatient.dispose()


@pytest.mark.parametrize("how", ["stopped", "crashed", "frozen"])
def test_a_server_that_goes_away_and_comes_back_gets_every_row(
    postgres: PostgresServer, spill: Path, how: str
) -> None:
    """Rows of before, of meanwhile and of after, each once, without a new start."""
    engine = open_database(postgres.make_database())
    writer = make_writer(engine, spill)
    writer.start()
    _put(writer, range(100))
    if how == "frozen":
        postgres.pause()
    else:
        postgres.stop(signal.SIGINT if how == "stopped" else signal.SIGQUIT)
    _put(writer, range(100, 300))
    wait_for(lambda: writer.state == "down" and not writer.waiting)
    _put(writer, range(300, 400))
    wait_for(lambda: writer.spilled >= 100)
    if how == "frozen":
        postgres.resume()
    else:
        postgres.start()
    wait_for(lambda: writer.state == "ok")
    _put(writer, range(400, 500))
    writer.close()
    assert (count(engine), writer.dropped, list(spill.iterdir())) == (500, 0, [])
    engine.dispose()


def test_a_writer_that_ends_while_the_store_is_down_leaves_its_rows_on_the_disk(
    postgres: PostgresServer, spill: Path
) -> None:
    """The next process writes them."""
    engine = open_database(postgres.make_database())
    writer = make_writer(engine, spill)
    writer.start()
    postgres.stop()
    try:
        _put(writer, range(2500))
        writer.close()
    finally:
        postgres.start()
    assert (writer.spilled, count(engine)) == (2500, 0)
    heir = make_writer(engine, spill)
    heir.start()
    wait_for(lambda: count(engine) == 2500)
    heir.close()
    engine.dispose()


def test_a_store_that_was_down_at_the_start_is_prepared_when_it_comes(
    postgres: PostgresServer, spill: Path
) -> None:
    """The tables are made late; what was decided before them is there."""
    engine = make_engine(postgres.make_database())
    postgres.stop()
    writer = make_writer(engine, spill, prepare=partial(migrate, engine))
    try:
        writer.start()
        assert writer.state == "down"
        _put(writer, range(10))
        wait_for(lambda: writer.spilled == 10)
    finally:
        postgres.start()
    wait_for(lambda: writer.state == "ok")
    writer.close()
    assert count(engine) == 10
    engine.dispose()


def test_rows_above_the_limit_are_dropped_counted_and_told(
    postgres: PostgresServer, spill: Path
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    engine = open_database(postgres.make_database())
    writer = make_writer(
        engine, spill, limit=5000, report=lambda event, **details: told.append((event, details))
    )
    writer.start()
    postgres.stop()
    try:
        _put(writer, range(100))
        wait_for(lambda: writer.dropped)
        wait_for(lambda: not writer.waiting)
        writer.close()
    finally:
        postgres.start()
    assert writer.dropped + writer.spilled == 100
    assert [event for event, _ in told] == ["store is down", "decisions dropped"]
    engine.dispose()


def test_feedback_that_was_kept_on_the_disk_is_written(engine: sa.Engine, spill: Path) -> None:
    """It survives the process, and is there once however often it comes."""
    row = {
        "feedback_id": "f",
        "created": 1.0,
        "decision_id": "d1",
        "key_id": None,
        "kind": "thumbs",
        "content": {"value": "up"},
    }
    writer = make_writer(engine, spill, is_open=True)
    assert writer.keep(row)
    assert writer.keep(row)
    writer.close()
    heir = make_writer(engine, spill)
    heir.start()
    wait_for(lambda: count(engine, feedback) == 1)
    heir.close()


def test_an_idle_writer_sees_that_the_store_is_gone(postgres: PostgresServer, spill: Path) -> None:
    engine = open_database(postgres.make_database())
    writer = make_writer(engine, spill)
    writer.start()
    wait_for(lambda: writer.state == "ok")
    postgres.stop()
    try:
        wait_for(lambda: writer.state == "down")
    finally:
        postgres.start()
    wait_for(lambda: writer.state == "ok")
    writer.close()
    engine.dispose()


def test_long_prompts_are_written_a_few_at_a_time(engine: sa.Engine, spill: Path) -> None:
    """Fifteen million characters are no batch that takes too long; nothing is put aside."""
    writer = make_writer(engine, spill)
    for number in range(30):
        writer.put(make_row(number, prompt="x" * 500_000))
    writer.start()
    wait_for(lambda: count(engine) == 30)
    writer.close()
    assert (writer.spilled, writer.failures) == (0, 0)


def test_a_prompt_without_end_is_cut(engine: sa.Engine, tmp_path: Path) -> None:
    """What is left out is said; patterns over more would hold up requests."""
    writer = make_writer(engine, tmp_path)
    writer.start()
    writer.put({**make_row(7), "prompt": "x" * (LONGEST_PROMPT + 5)})
    writer.close()
    with engine.connect() as connection:
        kept = connection.execute(sa.select(decisions.c.prompt)).scalar_one()
    assert kept == "x" * LONGEST_PROMPT + " [5 characters left out]"
