"""The store as the gateway opens it: at its start, whether the database answers or not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from metarouter.gateway.settings import GatewaySettings
from metarouter.store.database import StoreDownError, make_engine, migrate
from metarouter.store.redaction import Redactor
from metarouter.store.retention import Retention
from metarouter.store.spill import Spill, make_instance_name
from metarouter.store.writer import DecisionWriter

__all__ = ["open_store"]


def open_store(
    settings: GatewaySettings, report: Callable[..., object] = lambda event, **details: None
) -> tuple[sa.Engine, DecisionWriter]:
    """The database, and who writes to it.

    Without keys the gateway starts while the database is down: it serves, and
    puts what it would write aside (the writer's `state` is "down"). Where
    callers need keys it does not, because nobody could be let in.

    Parameters
    ----------
    settings : GatewaySettings
    report : callable, optional
        Gets what the writer has to say, for the log.

    Raises
    ------
    OptionError
        When the address is wrong, or rows could not be put aside.
    StoreDownError
        When the database does not answer and callers need keys.
    DataError
        When the tables are newer than this version.
    """
    store = settings.store
    engine = make_engine(store.url, password=store.password())
    prepare: Callable[[], None] | None = None
    try:
        migrate(engine)
    except StoreDownError as error:
        if settings.auth == "keys":
            raise StoreDownError(f"{error}. auth = keys: without it nobody is known") from error
        report("store is down", error=str(error))
        prepare = partial(migrate, engine)
    writer = DecisionWriter(
        engine,
        Spill(store.spill_folder, instance=make_instance_name(), limit=store.spill_bytes),
        size=store.queue,
        flush_seconds=store.flush_seconds,
        prepare=prepare,
        redact=Redactor(store.redact, store.redact_patterns),
        retention=Retention(prompt_days=store.prompt_days, row_days=store.row_days),
        report=report,
    )
    return engine, writer
