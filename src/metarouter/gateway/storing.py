"""The store as the gateway opens it: at its start, whether the database answers or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

import sqlalchemy as sa

from metarouter.errors import MetarouterError
from metarouter.gateway.settings import GatewaySettings
from metarouter.store.database import (
    StoreDownError,
    disposed_on_error,
    make_engine,
    migrate,
    name_error,
)
from metarouter.store.feedback import Feedback, feedback_row, is_of, save_feedback
from metarouter.store.redaction import Redactor
from metarouter.store.retention import Retention
from metarouter.store.spill import Spill, make_instance_name
from metarouter.store.writer import DecisionWriter

__all__ = ["ForeignDecisionError", "keep_feedback", "open_store"]

_LOOK_SECONDS = 0.2  # between two looks whether the store that should answer is down


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
    spill = Spill(store.spill_folder, instance=make_instance_name(), limit=store.spill_bytes)
    spill.make_folder()
    engine = make_engine(store.url, password=store.password())
    with disposed_on_error(engine):
        prepare = _prepare(engine, settings, report)
        return engine, _make_writer(engine, spill, settings, prepare, report)


def _prepare(
    engine: sa.Engine, settings: GatewaySettings, report: Callable[..., object]
) -> Callable[[], None] | None:
    """Bring the tables up to date; what is to do so later, where the database is down."""
    try:
        migrate(engine)
    except StoreDownError as error:
        if settings.auth == "keys":
            raise StoreDownError(f"{error}. auth = keys: without it nobody is known") from error
        report("store is down", error=str(error))
        return partial(migrate, engine)
    return None


def _make_writer(
    engine: sa.Engine,
    spill: Spill,
    settings: GatewaySettings,
    prepare: Callable[[], None] | None,
    report: Callable[..., object],
) -> DecisionWriter:
    store = settings.store
    return DecisionWriter(
        engine,
        spill,
        size=store.queue,
        flush_seconds=store.flush_seconds,
        prepare=prepare,
        redact=Redactor(store.redact, store.redact_patterns),
        retention=Retention(
            prompt_days=store.prompt_days,
            row_days=store.row_days,
            usage_days=store.usage_days,
            memory_seconds=settings.sticky_seconds,
        ),
        report=report,
    )


class ForeignDecisionError(MetarouterError):
    """A decision is not in the store, or another key's."""


async def keep_feedback(
    engine: sa.Engine,
    writer: DecisionWriter,
    given: Feedback,
    key_id: str | None,
    *,
    must_own: bool = False,
    served: Collection[str] | None = None,
) -> tuple[str, bool | None]:
    """Write a statement to the store or, where that does not answer, to the disk.

    What is on the disk goes into the store when that is back. A statement with
    an id that was used for another one is refused here if the store answers;
    else it is dropped then. One about another key's decision is refused here
    too, and else kept, but never used (:func:`~metarouter.store.feedback.may_speak`).

    Parameters
    ----------
    engine, writer : as :func:`open_store` gives them.
    given : Feedback
    key_id : whose key it came with, or None.
    must_own : whether the decision has to be that key's. What is not there is looked
        for once more, as it may have been made at another process just now.
    served : as in :func:`~metarouter.store.feedback.save_feedback`. Models that a decision
        does not offer are refused here if the store has it, and else never used.

    Returns
    -------
    feedback_id, is_new
        `is_new` is None for one that is on the disk.

    Raises
    ------
    FeedbackConflictError
        When the id was used for another statement.
    InputError
        When the statement names a model that the decision did not offer.
    ForeignDecisionError
        When the decision has to be the key's, and is not, or is not known.
    StoreDownError
        When neither took it.
    """
    write = partial(save_feedback, engine, given, key_id, served=served)
    owner = (key_id or "") if must_own else None
    save = partial(_save, engine, writer, write, given.decision_id, owner)
    try:
        saved = await _saved(writer, save)
    except ForeignDecisionError:
        await asyncio.sleep(writer.late_seconds)
        saved = await _saved(writer, save)
    if saved is not None:
        return saved
    row = feedback_row(given, key_id)
    if not await asyncio.to_thread(writer.keep, row):
        raise StoreDownError("neither the store nor the disk took the feedback: send it again")
    return row["feedback_id"], None


_Saved = tuple[str, bool] | None


async def _saved(writer: DecisionWriter, save: Callable[[], _Saved]) -> _Saved:
    """What the store did, unless it is down before that is known."""
    saving = asyncio.get_running_loop().run_in_executor(writer.threads, save)
    while not saving.done() and not writer.is_down:
        await asyncio.wait([saving], timeout=_LOOK_SECONDS)
    if saving.done():
        return saving.result()
    saving.cancel()  # one that has begun may still be written: it is the same row
    return None


def _save(
    engine: sa.Engine,
    writer: DecisionWriter,
    write: Callable[[], tuple[str, bool]],
    decision_id: str,
    owner: str | None,
) -> _Saved:
    """None where the store does not answer; `owner`: whose the decision has to be."""
    if writer.is_down:
        return None
    try:
        if owner is not None and not is_of(engine, decision_id, owner):
            raise ForeignDecisionError(f"decision {decision_id} is not of {owner}")
        with writer.turn:
            return write()
    except sa.exc.SQLAlchemyError as error:
        writer.report("store did not answer", error=name_error(error))
        return None
