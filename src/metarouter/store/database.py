"""The store's database, SQLite or PostgreSQL: opening it, its tables, rows that are new."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from metarouter.errors import DataError, MissingDependencyError, OptionError, ProviderError

__all__ = [
    "StoreDownError",
    "disposed_on_error",
    "insert_latest",
    "insert_new",
    "is_down",
    "make_engine",
    "make_sibling",
    "migrate",
    "name_error",
    "open_database",
    "tell_outages",
]

_MIGRATIONS = Path(__file__).with_name("migrations")
_SECONDS = 10.0  # that a statement may take, and that a writer of SQLite waits for another
_POOL_SIZE = 5  # of a gateway: what waits for the store has eight threads
_MIGRATION_SECONDS = 3600.0
_LOCK = 7_233_187_001  # of PostgreSQL, for who migrates; any number that nobody else uses
# Parameters hold prompts, and errors are logged.
_OPTIONS: dict[str, Any] = {
    "hide_parameters": True,
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
}
# Rows of one statement for SQLite's driver, which stops for other threads at each statement.
_AT_ONCE = 256, 64, 16, 4, 1
_ALLOWED = "sqlite:///PATH or postgresql://USER@HOST/DATABASE"


class StoreDownError(ProviderError):
    """The store's database does not answer."""


def open_database(
    url: str, *, password: str | None = None, pool_size: int = _POOL_SIZE
) -> sa.Engine:
    """Open a database and bring its tables up to date.

    Parameters
    ----------
    url : str
        ``sqlite:///PATH``, whose file is made where it is missing, for the
        owner alone to read; or ``postgresql://USER@HOST:PORT/DATABASE``, with
        ``?sslmode=require`` or ``?sslmode=verify-full`` to insist on TLS.
    password : str, optional
        Of PostgreSQL; the environment variable PGPASSWORD by default.
    pool_size : int
        Connections to PostgreSQL that stay open; 0 closes each after its use,
        SQLite's too.

    Returns
    -------
    sqlalchemy.Engine

    Raises
    ------
    OptionError
        When the address cannot be opened.
    StoreDownError
        When the server does not answer.
    DataError
        When the tables were made by a newer metarouter.
    """
    engine = make_engine(url, password=password, pool_size=pool_size)
    with disposed_on_error(engine):
        migrate(engine)
    return engine


@contextmanager
def disposed_on_error(engine: sa.Engine) -> Iterator[None]:
    """A block that closes the connections of an engine when it fails, and only then."""
    try:
        yield
    except BaseException:
        engine.dispose()
        raise


def make_engine(url: str, *, password: str | None = None, pool_size: int = _POOL_SIZE) -> sa.Engine:
    """An engine that has not connected yet; its tables may not be there.

    Raises
    ------
    OptionError
        When the address is of another kind, holds a password, or names a file
        that cannot be made.
    MissingDependencyError
        When the driver of PostgreSQL is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise OptionError(f"store.url is no database address; allowed: {_ALLOWED}") from None
    if parsed.drivername in ("postgresql", "postgresql+pg8000"):
        if parsed.password is not None:
            raise OptionError(
                "store.url holds a password, which others may see; allowed: an address without "
                "one, and the password in PGPASSWORD or in the variable that store.password_env "
                "names"
            )
        secret = password or os.environ.get("PGPASSWORD", "")
        full = parsed.set(drivername="postgresql+pg8000", password=secret)
        return _postgres(full, _SECONDS, pool_size)
    if parsed.drivername != "sqlite" or not parsed.database:
        raise OptionError.of("store.url", parsed.render_as_string(), _ALLOWED)
    return _sqlite(parsed, pool_size)


def make_sibling(engine: sa.Engine, *, seconds: float) -> sa.Engine:
    """An engine to the same database with one connection and a time limit of its own.

    Parameters
    ----------
    engine : of :func:`make_engine`. SQLite's is handed back as it is: it has no
        server that could stop answering.
    seconds : float above 0, that a statement may take.
    """
    if engine.dialect.name != "postgresql":
        return engine
    return _postgres(engine.url, seconds, pool_size=1)


def migrate(engine: sa.Engine) -> None:
    """Run the migrations that the database has not seen; one process at a time does.

    Raises
    ------
    DataError
        When it has seen one that this version does not know.
    OptionError
        When the address leads to something else than a database.
    StoreDownError
        When it does not answer.
    """
    try:
        if _version(engine) != _newest_version():
            _upgrade(engine)
    except sa.exc.DBAPIError as error:
        raise _told(engine, error) from error


def _newest_version() -> str:
    """That of the last migration, by the names of their files."""
    files = (_MIGRATIONS / "versions").glob("[0-9]*.py")
    return max(path.stem.partition("_")[0] for path in files)


def _upgrade(engine: sa.Engine) -> None:
    # half a second of processor time to import: most starts have nothing to migrate
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    try:
        with _alone(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError as error:
        raise DataError(
            f"the store's tables are newer than this metarouter ({error}): upgrade metarouter"
        ) from error


def is_down(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database did not answer, as against having refused what it was asked.

    Examples
    --------
    >>> is_down(sa.exc.TimeoutError()), is_down(sa.exc.IntegrityError("", {}, Exception()))
    (True, False)
    """
    kinds = sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError
    return isinstance(error, kinds)


def tell_outages(engine: sa.Engine) -> None:
    """Have what the database does not answer raise our own errors, as :func:`migrate` does.

    For commands: who serves on meanwhile tells SQLAlchemy's kinds apart himself.
    """

    def tell(context: sa.engine.ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if isinstance(error, sa.exc.DBAPIError) and is_down(error):
            raise _told(engine, error) from error

    sa.event.listen(engine, "handle_error", tell)


def name_error(error: Exception) -> str:
    """What a log may say of an error: its kind, and not its text, which may quote what was written.

    Examples
    --------
    >>> name_error(sa.exc.OperationalError("", {}, Exception({"C": "57P01", "M": "private"})))
    'OperationalError 57P01'
    """
    original = error.orig if isinstance(error, sa.exc.DBAPIError) else None
    what = original.args[0] if original is not None and original.args else None
    state = what.get("C", "") if isinstance(what, Mapping) else ""
    return f"{type(error).__name__} {state}".rstrip()


def insert_new(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> int:
    """Insert rows in few statements, but for those whose key is there already.

    Parameters
    ----------
    connection : of a transaction.
    table : sqlalchemy.Table
    rows : by column; one that is null may lack, and what is no column is left out.

    Returns
    -------
    int
        How many were new.
    """
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        (key,) = table.primary_key
        # one order in every process: no two of them wait for each other's rows
        insert, given = _insert(connection, table, sorted(rows, key=itemgetter(key.name)))
        return connection.execute(insert.on_conflict_do_nothing(), given).rowcount
    columns = _columns_with_values(table, rows)
    names, given, count = tuple(columns), list(zip(*columns.values(), strict=True)), 0
    most = _most_values(connection) // len(names) or 1
    for size in (n for n in _AT_ONCE if n <= most):
        n_whole = len(given) // size * size
        for start in range(0, n_whole, size):
            values = tuple(chain.from_iterable(given[start : start + size]))
            count += connection.exec_driver_sql(_new_sql(table, names, size), values).rowcount
        given = given[n_whole:]
    return count


def _columns_with_values(
    table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Sequence[Any]]:
    """Values as SQLite's driver takes them, by column, in half the time that the library needs.

    Those of the key, and of columns that some row has a value for: to say null
    takes as long as a value. The work is done by column, which is quicker again.
    """
    names = tuple(column.name for column in table.columns)
    try:
        by_row = list(map(itemgetter(*names), rows))
    except KeyError:  # of another version, or given without what is null
        by_row = [tuple(map(row.get, names)) for row in rows]
    found: dict[str, Sequence[Any]] = {}
    for column, values in zip(table.columns, zip(*by_row, strict=True), strict=True):
        if not column.primary_key and values[0] is None and values.count(None) == len(values):
            continue
        found[column.name] = _as_text(values) if isinstance(column.type, sa.JSON) else values
    return found


def _as_text(values: Iterable[Any]) -> list[str | None]:
    encode = msgspec.json.encode
    return [None if value is None else encode(value).decode() for value in values]


def _most_values(connection: sa.Connection) -> int:
    """Of one statement, as this SQLite was built: before its version 3.32 mostly 999."""
    made: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    return made.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)


@lru_cache(64)
def _new_sql(table: sa.Table, names: tuple[str, ...], n_rows: int) -> str:
    insert = sqlite.insert(table).on_conflict_do_nothing()
    one = str(insert.compile(dialect=sqlite.dialect(), column_keys=names))
    values = f"({', '.join('?' * len(names))})"
    return one.replace(values, ", ".join([values] * n_rows))


def insert_latest(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], *, by: str
) -> None:
    """Insert rows in one statement; of two with one key the later one stays.

    Parameters
    ----------
    connection : of a transaction.
    table : sqlalchemy.Table
    rows : as :func:`insert_new` takes them, with a key of its own each.
    by : str, the column that says which is later.
    """
    if not rows:
        return
    insert, given = _insert(connection, table, rows)
    new = insert.excluded
    statement = insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={column.name: new[column.name] for column in table.c if not column.primary_key},
        where=new[by] > table.c[by],
    )
    connection.execute(statement, given)


def _insert(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
) -> tuple[postgresql.Insert | sqlite.Insert, Any]:
    """A statement that inserts all rows, and what it is executed with."""
    if connection.dialect.name != "postgresql":
        names = table.columns.keys()
        return sqlite.insert(table), [{name: row.get(name) for name in names} for row in rows]
    # One value holds all rows: the driver sends a row of its own in 0.3 ms, this in 6 µs.
    content = msgspec.json.encode(rows).decode()
    return _insert_from_json(table), {"content": content}


@lru_cache(16)
def _insert_from_json(table: sa.Table) -> postgresql.Insert:
    names = [column.name for column in table.columns]
    kind = sa.text(f"CAST(NULL AS {table.name})")
    content = sa.cast(sa.bindparam("content", type_=sa.Text), postgresql.JSON)
    rows = sa.func.json_populate_recordset(kind, content).table_valued(*names)
    chosen = sa.select(*(rows.c[name] for name in names))
    insert: postgresql.Insert = postgresql.insert(table).from_select(names, chosen)
    return insert


def _sqlite(url: sa.URL, pool_size: int) -> sa.Engine:
    path = Path(str(url.database))
    _make_private(path)
    pool = None if pool_size else sa.NullPool
    engine = sa.create_engine(url, connect_args={"timeout": _SECONDS}, poolclass=pool, **_OPTIONS)
    sa.event.listen(engine, "connect", _set_pragmas)
    return engine


def _postgres(url: sa.URL, seconds: float, pool_size: int) -> sa.Engine:
    try:
        from metarouter.store.postgres import make_postgres_engine
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("a store in PostgreSQL", "postgres") from error
    return make_postgres_engine(url, seconds=seconds, pool_size=pool_size, **_OPTIONS)


def _version(engine: sa.Engine) -> str | None:
    """The last migration that the database has seen; None for an empty one."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that no other process migrates in."""
    patient = make_sibling(engine, seconds=_MIGRATION_SECONDS)
    try:
        with patient.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection
    finally:
        if patient is not engine:
            patient.dispose()


def _told(engine: sa.Engine, error: sa.exc.DBAPIError) -> OptionError | StoreDownError:
    """What the database said, without the statement and without a password."""
    what = error.orig.args[0] if error.orig is not None and error.orig.args else error.orig
    text = what.get("M") if isinstance(what, Mapping) else what
    if engine.dialect.name == "sqlite":
        is_locked = "locked" in str(text)
        hint = "; another process has been writing to it for long: try again" if is_locked else ""
        return OptionError(f"store.url: {engine.url.database}: {text}{hint}")
    place = engine.url.set(password=None).render_as_string()
    if is_down(error):
        return StoreDownError(f"the store {place} does not answer: {text}; see that it runs")
    return OptionError(f"store.url: {place}: {text}")


def _make_private(path: Path) -> None:
    """An empty file that others cannot read: SQLite keeps the mode for its side files."""
    try:
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"store.url: {path}: cannot be opened: {error.strerror or error}"
        ) from error


def _set_pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # secure_delete: what is erased is overwritten, not only unlinked
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
