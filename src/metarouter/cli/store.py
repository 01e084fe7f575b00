"""``metarouter store``: the gateway's database, and what waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import JsonOut
from metarouter.errors import OptionError

if TYPE_CHECKING:
    import sqlalchemy

    from metarouter.gateway.settings import StoreSettings

__all__ = ["info", "migrate", "open_store", "prune", "replay", "store_settings"]

Store = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The gateway's database; sqlite:///metarouter.db."),
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The gateway's settings, instead of --store.")
]


def migrate(store: Store = None, config: Config = None) -> None:
    """Bring the tables up to date; a gateway does so itself when it starts.

    By hand it is for databases whose gateways may not change tables.

    Example: metarouter store migrate --store postgresql://owner@db/metarouter
    """
    from metarouter.cli.output import say

    engine = open_store(store, config)
    say(f"{_shown(engine)}: tables are at version {_version(engine)}")


def info(store: Store = None, config: Config = None, json_out: JsonOut = None) -> None:
    """Show what the database holds, and how much waits on this machine to be written.

    Example: metarouter store info
    """
    from metarouter.cli.output import emit, print_table

    engine = open_store(store, config, must_exist=True)
    row = {
        "store": _shown(engine),
        "version": _version(engine),
        **_counts(engine),
        "bytes_waiting": _bytes_waiting(store, config),
    }
    lines = [{"what": name, "value": value} for name, value in row.items()]
    print_table(lines, ("what", "value"), json_out)
    emit(json_out, "store info", [row], seed=None)


def prune(
    prompt_days: Annotated[
        float | None, typer.Option(min=0, help="Erase prompts that are older.")
    ] = None,
    row_days: Annotated[
        float | None, typer.Option(min=0, help="Delete decisions and feedback that are older.")
    ] = None,
    usage_days: Annotated[
        float | None,
        typer.Option(
            min=0, help="Delete what keys used and is older, but for what a budget still counts."
        ),
    ] = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Erase prompts and delete rows that are too old; a gateway does so itself each hour.

    Example: metarouter store prune --prompt-days 30
    """
    from metarouter.cli.output import say

    days = {"prompt_days": prompt_days, "row_days": row_days, "usage_days": usage_days}
    if set(days.values()) == {None} and config is not None:
        kept = store_settings(store, config)
        days = {name: getattr(kept, name) for name in days}
    if set(days.values()) == {None}:
        raise OptionError(
            "none of `prompt_days`, `row_days` and `usage_days` was given; allowed: one or more"
        )
    engine = open_store(store, config, must_exist=True)
    from time import time

    from metarouter.store.retention import Pruned, Retention
    from metarouter.store.retention import prune as prune_some

    retention, done, step = Retention(**days), Pruned(), None
    while step is None or not step.is_all:
        step = prune_some(engine, retention, time())
        done += step
    say(
        f"prompts erased: {done.prompts}; deleted: {done.decisions} decisions, "
        f"{done.feedback} statements, {done.minutes} minutes of keys"
    )


def replay(store: Store = None, config: Config = None) -> None:
    """Write what gateways that are gone put aside on this machine; running ones do so themselves.

    Example: metarouter store replay --config gateway.yaml
    """
    from metarouter.cli.output import say

    engine = open_store(store, config, must_exist=True)
    from metarouter.store.spill import Spill, make_instance_name
    from metarouter.store.writer import DecisionWriter

    spill = Spill(store_settings(store, config).spill_folder, instance=make_instance_name())
    writer = DecisionWriter(engine, spill)
    written = writer.replay_all()
    say(f"rows written: {written}; refused: {writer.refused}; bytes left: {writer.bytes_waiting}")


def open_store(
    store: str | None, config: Path | None, *, must_exist: bool = False
) -> sqlalchemy.Engine:
    """The database of an address, or of a file of settings.

    Raises
    ------
    OptionError
        When it `must_exist` and is a file that does not: a mistyped path is no new database.
        Statements raise it too, where the file is locked; StoreDownError where a server is gone.
    """
    from metarouter.cli.serve import require_serve

    require_serve()
    from metarouter.store.database import open_database, tell_outages

    settings = store_settings(store, config)
    path = settings.url.removeprefix("sqlite:///")
    if must_exist and path != settings.url and not Path(path).exists():
        raise OptionError.of(
            "store", settings.url, "the address of a gateway's database; no such file"
        )
    engine = open_database(settings.url, password=settings.password(), pool_size=0)
    tell_outages(engine)
    return engine


def store_settings(store: str | None, config: Path | None) -> StoreSettings:
    """The gateway's settings of its store: of a file, the environment, or an address."""
    from metarouter.gateway.settings import read_settings

    if config is not None:
        return read_settings(config).store
    # settings need an upstream; nobody asks it
    given: dict[str, Any] = {"upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}}}
    return read_settings(
        overrides=given | ({} if store is None else {"store": {"url": store}})
    ).store


def _shown(engine: sqlalchemy.Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


def _version(engine: sqlalchemy.Engine) -> str:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        return str(found.scalar_one())


def _counts(engine: sqlalchemy.Engine) -> dict[str, Any]:
    import sqlalchemy as sa

    from metarouter.store.tables import decisions, metadata

    with engine.connect() as connection:
        counts = {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
            for table in metadata.sorted_tables
        }
        prompts = sa.select(sa.func.count(decisions.c.prompt))
        return {**counts, "prompts": connection.execute(prompts).scalar()}


def _bytes_waiting(store: str | None, config: Path | None) -> int:
    folder = store_settings(store, config).spill_folder
    return sum(path.stat().st_size for path in folder.glob("*.jsonl"))
