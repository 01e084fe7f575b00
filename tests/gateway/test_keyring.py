"""Keys in memory: read again and again, by several threads, and while the store is down."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from metarouter.gateway.keyring import Keyring
from metarouter.store.database import open_database
from metarouter.store.keys import create_key


def test_keys_that_were_read_late_do_not_take_the_place_of_newer_ones(tmp_path: Path) -> None:
    """Whoever makes a key knows it at once, though a reading was under way."""
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    keyring, is_read, gate = Keyring(engine), threading.Event(), threading.Event()

    def hold_the_first(*_: Any) -> None:
        if not is_read.is_set():
            is_read.set()
            gate.wait(10)

    sa.event.listen(engine, "after_cursor_execute", hold_the_first)
    early = threading.Thread(target=keyring.refresh)
    early.start()
    assert is_read.wait(10)
    _, made = create_key(engine, "alice")
    late = threading.Thread(target=keyring.refresh)
    late.start()
    late.join(0.5)
    gate.set()
    early.join()
    late.join()
    assert keyring.known() == [made]
    engine.dispose()


def test_a_store_that_is_down_for_long_is_told_once() -> None:
    """Not every two seconds."""
    told: list[str] = []
    engine = sa.create_engine("sqlite:////no/such/folder/store.db")
    keyring = Keyring(engine, lambda event, **_: told.append(event))

    async def wait() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(keyring.keep_fresh(), 5)

    asyncio.run(wait())
    assert told == ["keys are not read"]
    engine.dispose()
