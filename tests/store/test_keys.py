"""Keys: limits are checked, changes are in the audit trail, nothing holds the key itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from metarouter.errors import InputError, OptionError
from metarouter.store.database import open_database
from metarouter.store.keys import create_key, list_audit, list_keys, revoke_key, update_key


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


def test_a_key_keeps_its_limits(engine: sa.Engine) -> None:
    _, made = create_key(
        engine,
        "alice",
        is_admin=True,
        requests_per_minute=60,
        tokens_per_minute=10_000,
        budget=25.0,
        budget_days=30,
    )
    assert list_keys(engine) == [made]
    assert (made.requests_per_minute, made.tokens_per_minute) == (60, 10_000)
    assert (made.budget, made.budget_days, made.is_admin) == (25.0, 30, True)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute = 0"),
        ({"tokens_per_minute": 2**31}, "tokens_per_minute = 2147483648"),
        ({"budget": 0.0}, "budget = 0.0"),
        ({"budget": float("nan")}, "budget = nan"),
        ({"budget": 1.0, "budget_days": -1.0}, "budget_days = -1.0"),
        ({"budget_days": 30.0}, "needs `budget`"),
        ({"days": float("inf")}, "days = inf"),
        ({"name": "two\nlines"}, "name"),
        ({"name": "nul\x00"}, "name"),
        ({"name": "n" * 201}, "name"),
    ],
)
def test_limits_that_mean_nothing_are_refused(
    engine: sa.Engine, given: dict[str, Any], named: str
) -> None:
    """The message names the value; no key is made."""
    with pytest.raises(OptionError, match=named):
        create_key(engine, **({"name": "alice"} | given))
    assert list_keys(engine) == []


def test_what_a_key_may_do_is_changed_field_by_field(engine: sa.Engine) -> None:
    """Fields that are not named stay; None takes a limit away."""
    _, made = create_key(engine, "alice", models=["cheap"], requests_per_minute=5, budget=1.0)
    changed = update_key(engine, made.key_id, {"requests_per_minute": 7, "models": None})
    assert list_keys(engine) == [changed]
    assert (changed.requests_per_minute, changed.models, changed.budget) == (7, None, 1.0)
    assert changed.digest == made.digest
    assert update_key(engine, made.key_id, {"budget": None}).budget is None


@pytest.mark.parametrize("changes", [{"digest": "0"}, {"revoked": None}, {"budget": -1.0}])
def test_other_changes_are_refused_and_change_nothing(
    engine: sa.Engine, changes: dict[str, Any]
) -> None:
    _, made = create_key(engine, "alice")
    with pytest.raises(OptionError):
        update_key(engine, made.key_id, changes)
    assert list_keys(engine) == [made]


def test_every_change_is_in_the_audit_trail_with_who_made_it(engine: sa.Engine) -> None:
    """Latest first, read on by number; the key itself is not in it."""
    key, made = create_key(engine, "alice", requests_per_minute=5)
    update_key(engine, made.key_id, {"requests_per_minute": 7}, by="key-boss")
    update_key(engine, made.key_id, {"requests_per_minute": None}, by="key-boss")
    revoke_key(engine, made.key_id, by="key-boss")
    revoke_key(engine, made.key_id, by="key-boss")
    with pytest.raises(InputError, match="keys list"):
        update_key(engine, "key-0", {"name": "x"})
    entries = list_audit(engine)
    assert [entry.action for entry in entries] == [
        "key revoked", "key changed", "key changed", "key created",
    ]  # fmt: skip
    assert {entry.subject for entry in entries} == {made.key_id}
    assert entries[2].content == {"requests_per_minute": 7, "by": "key-boss"}
    assert entries[1].content == {"requests_per_minute": None, "by": "key-boss"}
    assert entries[3].content["by"] == "command line"
    assert key not in str(entries)
    assert made.digest not in str(entries)
    assert list_audit(engine, limit=1, before=entries[0].number) == [entries[1]]
