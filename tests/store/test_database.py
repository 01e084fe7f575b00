"""SQLite and PostgreSQL, opened by one call, with the same tables and the same errors."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from store_makers import count, make_row

from metarouter.errors import DataError, OptionError
from metarouter.store import database
from metarouter.store.database import (
    StoreDownError,
    insert_latest,
    insert_new,
    make_engine,
    make_sibling,
    migrate,
    open_database,
)
from metarouter.store.tables import decisions, metadata, remembered
from metarouter.testing import PostgresServer


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


def test_the_migrations_make_the_tables_that_the_code_knows(empty_store_url: str) -> None:
    engine = open_database(empty_store_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_gateways_that_start_at_once_make_the_tables_once(empty_store_url: str) -> None:
    """Each waits for the one that migrates, and all of them can write."""

    def start(number: int) -> int:
        engine = open_database(empty_store_url)
        with engine.begin() as connection:
            new = insert_new(connection, decisions, [make_row(number)])
        engine.dispose()
        return new

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [1, 1, 1, 1]


def test_tables_of_the_first_version_are_brought_up_to_date(empty_store_url: str) -> None:
    """Rows stay, and JSON's null of that version becomes a missing value."""
    engine = make_engine(empty_store_url)
    config = Config()
    folder = Path(database.__file__).with_name("migrations")
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    names = "decision_id, created, endpoint, asked, model, logging_propensity, bound, reason"
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            f"INSERT INTO decisions ({names}, outcome, options) VALUES "  # noqa: S608
            "('d1', 1.0, 'route', 'm', 'm', 1.0, 'gain', 'why', 'ok', 'null')"
        )
    migrate(engine)
    with engine.connect() as connection:
        found = connection.execute(sa.select(decisions.c.options.is_(None)))
        assert found.scalar_one()
    engine.dispose()


def test_a_database_of_a_newer_version_is_refused(engine: sa.Engine, store_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match="newer"):
        open_database(store_url)


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "postgresql://u:secret@h/d",
        "mysql://u:secret@h/d",
        "sqlite:////no/dir/x.db",
        "postgresql://u@h/d?sslmode=perhaps",
        "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/no/such/file",
    ],
)
def test_an_address_that_cannot_be_opened_is_told_without_its_password(url: str) -> None:
    with pytest.raises(OptionError, match=r"store\.url") as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_others_cannot_read_the_file(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path / 'store.db'}").dispose()
    assert stat.S_IMODE((tmp_path / "store.db").stat().st_mode) == 0o600


def test_only_new_rows_are_inserted_and_come_back_as_they_were(engine: sa.Engine) -> None:
    """Numbers, JSON and text survive; the first of two rows with one key stays."""
    row = make_row(
        1,
        created=1_795_337_920.927_174_6,
        options=[{"model": 'odd "name" \\', "gain": 0.1}],
        is_exploration=False,
        prompt="naïve ☂ 'quoted'\n\ttext",
    )
    other = make_row(2, spent=1e-9, status=200, is_exploration=True)
    with engine.begin() as connection:
        assert insert_new(connection, decisions, [row]) == 1
        assert insert_new(connection, decisions, [row | {"model": "else"}, other]) == 1
        assert insert_new(connection, decisions, []) == 0
        found = connection.execute(sa.select(decisions).order_by("decision_id")).mappings().all()
    assert [dict(one) for one in found] == [row, other]


def test_of_two_new_rows_with_one_key_the_first_stays_whatever_else_they_have(
    engine: sa.Engine,
) -> None:
    rows = [make_row(1), make_row(2, spent=0.5), make_row(1, spent=0.25), make_row(2)]
    with engine.begin() as connection:
        assert insert_new(connection, decisions, rows) == 2
        found = connection.execute(sa.select(decisions.c.decision_id, decisions.c.spent)).all()
    assert sorted(map(tuple, found)) == [("d1", None), ("d2", 0.5)]


def test_the_order_of_a_rows_fields_is_free(engine: sa.Engine) -> None:
    row = make_row(1, spent=0.5, status=200)
    with engine.begin() as connection:
        assert insert_new(connection, decisions, [dict(reversed(row.items()))]) == 1
        (found,) = connection.execute(sa.select(decisions)).mappings()
    assert dict(found) == row


@pytest.mark.parametrize("most", [None, 999, 100])
def test_many_rows_are_inserted_where_a_statement_takes_few_values(
    tmp_path: Path, most: int | None
) -> None:
    """As SQLite before 3.32 is built; of all sizes of a batch each new row is counted once."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    if most is not None:
        with engine.connect() as connection:  # the only one of the pool
            made: Any = connection.connection.driver_connection
            made.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, most)
    have: set[int] = set()
    for start, stop in [(5, 6), (0, 3), (0, 700), (300, 1001), (0, 1001)]:
        rows = [make_row(number, reason=f"{number}") for number in range(start, stop)]
        with engine.begin() as connection:
            assert insert_new(connection, decisions, rows) == len(set(range(start, stop)) - have)
        have.update(range(start, stop))
    with engine.connect() as connection:
        kept = connection.execute(sa.select(decisions.c.decision_id, decisions.c.reason)).all()
    engine.dispose()
    assert sorted(map(tuple, kept)) == sorted((f"d{number}", f"{number}") for number in have)


def test_of_two_rows_with_one_key_the_later_one_stays(engine: sa.Engine) -> None:
    """Also where the earlier one is written last, and for many rows at once."""
    row = {"model": "m", "upstream": "u", "policy": None, "conversation": None}
    old, new = (
        [row | {"name": f"n{n}", "used": used, "model": model} for n in range(50)]
        for used, model in ((1.0, "old"), (2.0, "new"))
    )
    for rows in (old[:25], new, old, []):
        with engine.begin() as connection:
            insert_latest(connection, remembered, rows, by="used")
    with engine.connect() as connection:
        assert connection.execute(sa.select(remembered.c.model)).scalars().all() == ["new"] * 50


def test_a_missing_value_of_json_is_null_in_sql(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_new(connection, decisions, [make_row(1), make_row(2, shadow=[])])
        connection.execute(sa.insert(decisions), make_row(3))
        is_there = sa.select(decisions.c.decision_id).where(decisions.c.shadow.is_not(None))
        assert connection.execute(is_there).scalars().all() == ["d2"]


def test_a_row_without_its_key_is_an_error_of_integrity(engine: sa.Engine) -> None:
    """Callers tell by the class, whichever the database."""
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        insert_new(connection, decisions, [make_row(1, decision_id=None)])


def test_errors_do_not_show_what_was_written(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, engine.begin() as connection:
        connection.execute(sa.insert(decisions), make_row(1, asked=None, prompt="private"))
    assert "private" not in str(caught.value).partition("Failing row")[0]


def test_a_password_comes_from_the_environment(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens the database, and neither errors nor the engine's name show it."""
    postgres.run("DROP ROLE IF EXISTS guarded")
    postgres.run("CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'open sesame'")
    url = postgres.make_database().replace("metarouter@", "guarded@")
    open_database(url, password="open sesame").dispose()
    monkeypatch.setenv("PGPASSWORD", "open sesame")
    engine = open_database(url)
    assert "sesame" not in repr(engine) + str(engine.url)
    engine.dispose()
    monkeypatch.setenv("PGPASSWORD", "open says me")
    with pytest.raises(OptionError, match="password authentication failed") as caught:
        open_database(url)
    assert "open says" not in str(caught.value)
    monkeypatch.delenv("PGPASSWORD")
    with pytest.raises(OptionError, match="password authentication failed"):
        open_database(url)


def test_a_database_that_is_not_there_is_told(postgres: PostgresServer) -> None:
    with pytest.raises(OptionError, match='"nowhere" does not exist'):
        open_database(postgres.url("nowhere"))


def test_any_text_is_kept_where_the_server_knows_no_encoding(postgres: PostgresServer) -> None:
    """As ``initdb`` makes it where no locale is set; rows' reasons hold Greek letters."""
    postgres.run("CREATE DATABASE plain TEMPLATE template0 ENCODING 'SQL_ASCII'")
    url = postgres.url("plain")
    engine = open_database(url)
    with engine.begin() as connection:
        insert_new(connection, decisions, [make_row(1, prompt="Ελλάδα")])
        assert connection.execute(sa.select(decisions.c.prompt)).scalar() == "Ελλάδα"
    engine.dispose()
    postgres.drop_database(url)


def test_a_file_is_closed_after_each_use_where_none_is_to_stay_open(tmp_path: Path) -> None:
    """SQLite removes its log of writes when the last connection to the file is closed."""
    url, log = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "store.db-wal"
    engine = open_database(url, pool_size=0)
    with engine.begin() as connection:
        insert_new(connection, decisions, [make_row(1)])
        assert log.exists()
    assert not log.exists()
    assert count(engine) == 1


def test_a_server_that_is_not_there_is_down() -> None:
    with pytest.raises(StoreDownError, match="does not answer"):
        open_database("postgresql://u@127.0.0.1:1/d")


def test_a_frozen_server_costs_no_more_than_the_time_limit(postgres: PostgresServer) -> None:
    """A statement on an open connection ends, as does a new connection; both work again later."""
    engine = open_database(postgres.make_database())
    quick = make_sibling(engine, seconds=0.3)
    assert count(quick) == 0
    postgres.pause()
    start = time.monotonic()
    try:
        with pytest.raises((sa.exc.OperationalError, sa.exc.InterfaceError)):
            count(quick)
    finally:
        postgres.resume()
    assert time.monotonic() - start < 2.0
    assert count(quick) == 0
    for one in (quick, engine):
        one.dispose()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(postgres: PostgresServer) -> None:
    engine = make_engine(postgres.make_database())
    quick = make_sibling(engine, seconds=3.0)
    with quick.connect() as connection:
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
            connection.exec_driver_sql("SELECT pg_sleep(20)")
        connection.rollback()
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    quick.dispose()


def test_a_server_that_was_started_again_is_used_again(postgres: PostgresServer) -> None:
    """Connections of before are not handed out."""
    engine = open_database(postgres.make_database())
    assert count(engine) == 0
    postgres.stop()
    postgres.start()
    assert count(engine) == 0
    engine.dispose()


def test_the_socket_of_a_broken_connection_is_closed_with_it(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not when the garbage is collected."""
    made: list[socket.socket] = []

    def connect(*given: Any) -> socket.socket:
        made.append(socket_of(*given))
        return made[-1]

    socket_of = socket.create_connection
    engine = make_engine(postgres.make_database())
    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_connection", connect)
        connection = engine.connect()
    postgres.stop()
    try:
        with pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql("SELECT 1")
    finally:
        postgres.start()
    assert [one.fileno() for one in made] == [-1]
    connection.close()
    engine.dispose()


def test_a_server_without_tls_is_refused_where_tls_is_asked_for(postgres: PostgresServer) -> None:
    url = postgres.make_database()
    for mode in ("require", "verify-full"):
        with pytest.raises((OptionError, StoreDownError), match="refuses TLS"):
            open_database(f"{url}?sslmode={mode}")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl for a certificate")
def test_tls_is_used_where_the_server_has_it(postgres: PostgresServer, tmp_path: Path) -> None:
    """Unasked; and only a server that the certificate names is taken where that is asked for."""
    if not postgres.run("SHOW ssl_library")[0][0]:
        pytest.skip("this PostgreSQL was built without TLS; METAROUTER_POSTGRES names another")
    folder = Path(postgres.run("SHOW data_directory")[0][0])
    certificate = _make_certificate(folder)
    shutil.copy(certificate, tmp_path / "root.crt")
    postgres.run("ALTER SYSTEM SET ssl = on")
    postgres.run("SELECT pg_reload_conf()")
    url = postgres.make_database()
    try:
        for mode in ("prefer", "require", f"verify-full&sslrootcert={tmp_path / 'root.crt'}"):
            assert _is_encrypted(f"{url}?sslmode={mode}"), mode
        assert not _is_encrypted(f"{url}?sslmode=disable")
        with pytest.raises(StoreDownError, match="certificate"):
            open_database(f"{url}?sslmode=verify-full")
    finally:
        postgres.run("ALTER SYSTEM RESET ssl")
        postgres.run("SELECT pg_reload_conf()")


def _make_certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 for the server in a folder, which owns it."""
    key, certificate = folder / "server.key", folder / "server.crt"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=test"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *made, *names, *files], check=True, capture_output=True)
    for path in (key, certificate):
        path.chmod(0o600)
        os.chown(path, folder.stat().st_uid, folder.stat().st_gid)
    return certificate


def _is_encrypted(url: str) -> bool:
    engine = open_database(url)
    with engine.connect() as connection:
        own = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        found = bool(connection.exec_driver_sql(own).scalar_one())
    engine.dispose()
    return found
