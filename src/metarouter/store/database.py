"""Opening the store's database, and bringing its tables up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from metarouter.errors import DataError, OptionError

__all__ = ["migrate", "open_database"]

_MIGRATIONS = Path(__file__).with_name("migrations")
_BUSY_SECONDS = 30.0  # one writer at a time: how long the others wait


def open_database(url: str) -> sa.Engine:
    """Open a database and bring its tables up to date.

    Parameters
    ----------
    url : str
        ``sqlite:///PATH``; the file is made where it is missing, for the owner
        alone to read.

    Returns
    -------
    sqlalchemy.Engine

    Raises
    ------
    OptionError
        When the address cannot be opened.
    DataError
        When the tables were made by a newer metarouter.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise OptionError("store.url is no database address; allowed: sqlite:///PATH") from None
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise OptionError.of("store.url", parsed.render_as_string(), "sqlite:///PATH")
    _make_private(Path(parsed.database))
    engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
    sa.event.listen(engine, "connect", _set_pragmas)
    try:
        migrate(engine)
    except sa.exc.DatabaseError as error:
        engine.dispose()
        raise OptionError(f"store.url: {parsed.database}: {error.orig}") from error
    return engine


def migrate(engine: sa.Engine) -> None:
    """Run the migrations that the database has not seen.

    Raises
    ------
    DataError
        When it has seen one that this version does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise DataError(
                f"the store's tables are newer than this metarouter ({error}): upgrade metarouter"
            ) from error


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
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
