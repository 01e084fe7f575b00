"""Decisions in batches, feedback at once, keys as hashes, labels out again."""

from __future__ import annotations

import json
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from metarouter.errors import DataError, InputError, OptionError
from metarouter.labels.read import read_gain_table
from metarouter.store.database import open_database
from metarouter.store.exporting import export_labels
from metarouter.store.feedback import FeedbackConflictError, read_feedback, save_feedback
from metarouter.store.keys import create_key, digest_key, list_keys, revoke_key
from metarouter.store.tables import decisions, metadata
from metarouter.store.writer import DecisionWriter


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    yield engine
    engine.dispose()


def _row(number: int, **fields: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in decisions.columns)
    return row | {
        "decision_id": f"d{number}",
        "created": float(number),
        "endpoint": "route",
        "asked": "metarouter",
        "model": "cheap",
        "logging_propensity": 1.0,
        "bound": "gain",
        "reason": "because",
        "outcome": "ok",
        **fields,
    }


def _count(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(decisions)).scalar_one()


def test_the_migrations_make_the_tables_that_the_code_knows(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_database_of_a_newer_version_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match="newer"):
        open_database(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:secret@h/d", "sqlite:////no/dir/x.db"])
def test_an_address_that_cannot_be_opened_is_told_without_its_password(url: str) -> None:
    with pytest.raises(OptionError) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_others_cannot_read_the_file(engine: sa.Engine, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / "store.db").stat().st_mode) == 0o600


def test_rows_are_written_soon_and_all_at_close(engine: sa.Engine, tmp_path: Path) -> None:
    """Many threads put rows; every row is there once."""
    writer = DecisionWriter(engine, tmp_path / "spill", flush_seconds=0.01)
    writer.start()
    threads = [
        threading.Thread(target=_put, args=(writer, range(300 * k, 300 * (k + 1))))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert _count(engine) == writer.written == 1200
    assert writer.spilled == 0


def _put(writer: DecisionWriter, numbers: range) -> None:
    for number in numbers:
        writer.put(_row(number))


def test_what_does_not_fit_is_put_aside_and_written_next_time(
    engine: sa.Engine, tmp_path: Path
) -> None:
    """A queue that nobody empties loses nothing; a line cut by a crash does no harm."""
    spill = tmp_path / "spill"
    writer = DecisionWriter(engine, spill, size=3)
    for number in range(10):
        writer.put(_row(number, options=[{"gain": 0.5}]))
    writer.close()  # its thread never ran
    assert (writer.spilled, _count(engine)) == (10, 0)
    assert stat.S_IMODE(spill.stat().st_mode) == 0o600
    with spill.open("ab") as file:
        file.write(b'{"decision_id": "cut')
    again = DecisionWriter(engine, spill)
    assert again.replay() == 10
    assert (_count(engine), spill.exists(), again.replay()) == (10, False, 0)


def test_a_store_that_is_down_for_a_while_loses_nothing(tmp_path: Path) -> None:
    """While another holds the database, batches wait; afterwards they are all there."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    impatient = sa.create_engine(engine.url, connect_args={"timeout": 0.05})
    writer = DecisionWriter(impatient, tmp_path / "spill", flush_seconds=0.01)
    writer.start()
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        for number in range(50):
            writer.put(_row(number))
        _wait_for(lambda: writer.failures > 0)
        holder.exec_driver_sql("ROLLBACK")
    writer.close()
    assert _count(engine) == 50
    engine.dispose()
    impatient.dispose()


def test_a_store_that_stays_down_gets_its_rows_from_a_file(tmp_path: Path) -> None:
    """What cannot be written at the end goes to the spill file, and back the next time."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    impatient = sa.create_engine(engine.url, connect_args={"timeout": 0.05})
    writer = DecisionWriter(impatient, tmp_path / "spill", flush_seconds=0.01)
    writer.start()
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        for number in range(50):
            writer.put(_row(number))
        _wait_for(lambda: writer.failures > 0)
        writer.close()
        holder.exec_driver_sql("ROLLBACK")
    assert _count(engine) == 0
    assert DecisionWriter(engine, tmp_path / "spill").replay() == 50
    assert _count(engine) == 50
    engine.dispose()
    impatient.dispose()


def _wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_keys_are_kept_as_hashes_and_their_states_are_known(engine: sa.Engine) -> None:
    key, made = create_key(engine, "alice", models=["cheap"], days=1)
    (record,) = list_keys(engine)
    assert record == made
    assert record.digest == digest_key(key)
    with engine.connect() as connection:
        everything = str(connection.exec_driver_sql("SELECT * FROM api_keys").all())
    assert key not in everything
    now = made.created
    assert [record.is_valid(now + days * 86_400) for days in (0, 0.9, 1.1)] == [True, True, False]
    revoke_key(engine, record.key_id)
    revoke_key(engine, record.key_id)
    assert not list_keys(engine)[0].is_valid(now)
    with engine.connect() as connection:
        actions = connection.exec_driver_sql("SELECT action FROM audit ORDER BY number").scalars()
        assert list(actions) == ["key created", "key revoked"]


@pytest.mark.parametrize("bad", [{"name": " "}, {"name": "a", "days": 0}])
def test_a_key_needs_a_name_and_a_life(engine: sa.Engine, bad: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        create_key(engine, **bad)


def test_a_key_that_is_not_there_cannot_be_revoked(engine: sa.Engine) -> None:
    with pytest.raises(InputError, match="keys list"):
        revoke_key(engine, "key-0")


def test_feedback_of_two_callers_is_two_statements(engine: sa.Engine) -> None:
    """Repeats are told apart by id, else by content and caller."""
    said = read_feedback(b'{"type": "score", "decision_id": "d", "value": 0.5}')
    names = {save_feedback(engine, said, key)[0] for key in (None, "a", "b", "a")}
    assert len(names) == 3
    named = read_feedback(b'{"type": "score", "decision_id": "d", "value": 1, "feedback_id": "x"}')
    assert save_feedback(engine, named, "a") == ("x", True)
    assert save_feedback(engine, named, "a") == ("x", False)
    with pytest.raises(FeedbackConflictError, match="another statement"):
        save_feedback(engine, named, "b")


def test_exported_labels_are_read_by_fit(engine: sa.Engine, tmp_path: Path) -> None:
    """Preferences become votes, audits gold scores; what compares nothing is counted."""
    writer = DecisionWriter(engine, tmp_path / "spill")
    writer.start()
    for number in range(3):
        writer.put(_row(number, prompt=None if number == 2 else f"question {number}"))
    writer.close()
    votes: dict[str, Any] = {
        "type": "preference",
        "model_a": "premium",
        "model_b": "cheap",
        "winner": "model_a",
    }
    gold: dict[str, Any] = {"type": "gold", "scores": {"premium": 0.9, "cheap": 0.4}}
    thumbs: dict[str, Any] = {"type": "thumbs", "value": "up"}
    statements = [(0, votes), (1, gold), (2, votes), (0, thumbs)]
    for number, said in statements:
        content = json.dumps(said | {"decision_id": f"d{number}"}).encode()
        save_feedback(engine, read_feedback(content), None)
    labels = export_labels(engine)
    assert (labels.without_prompt, labels.without_pair) == (1, 1)
    table, _ = read_gain_table(labels.scores, labels.votes, premium="premium", cheap="cheap")
    assert sorted(table.queries) == ["question 0", "question 1"]
    assert table.gain[table.is_gold].tolist() == pytest.approx([0.5])
