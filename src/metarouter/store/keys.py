"""Virtual API keys: made at random, kept as hashes, scoped, expiring, revocable.

A key has 256 random bits, so a plain SHA-256 cannot be searched; the key itself
is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import sqlalchemy as sa

from metarouter.errors import InputError, OptionError
from metarouter.store.tables import api_keys, audit

__all__ = [
    "CHANGEABLE",
    "ApiKey",
    "AuditEntry",
    "create_key",
    "digest_key",
    "list_audit",
    "list_keys",
    "note_change",
    "read_keys",
    "revoke_key",
    "update_key",
]

CHANGEABLE = (
    "name", "expires", "models", "policies", "is_admin", "requests_per_minute",
    "tokens_per_minute", "budget", "budget_days",
)  # fmt: skip
"""What :func:`update_key` may change of a key."""

_PREFIX = "mr-"
_MOST = 2**31 - 1  # of an integer column
_LONGEST = 100 * 366.0  # days
_LATEST = 32_503_680_000.0  # seconds since 1970: the year 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is known of a key; the key itself is not.

    Attributes
    ----------
    models, policies : what it may ask for; None means all.
    created, expires, revoked : seconds since 1970.
    is_admin : whether it may see and change everything.
    requests_per_minute, tokens_per_minute : limits; None means none.
    budget : dollars that it may spend in `budget_days` days, or ever.
    """

    key_id: str
    digest: str
    name: str
    created: float
    expires: float | None = None
    revoked: float | None = None
    models: tuple[str, ...] | None = None
    policies: tuple[str, ...] | None = None
    is_admin: bool | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    budget: float | None = None
    budget_days: float | None = None

    def is_valid(self, now: float) -> bool:
        """Whether it opens anything at `now`."""
        return self.state(now) == "valid"

    def state(self, now: float) -> Literal["valid", "expired", "revoked"]:
        """What it is at `now`."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.expires is None or now < self.expires else "expired"

    def first_minute(self, minute: int) -> int:
        """First minute of the budget's period that `minute` is in; minutes count from 1970.

        Examples
        --------
        >>> key = ApiKey(key_id="k", digest="", name="n", created=600.0, budget_days=1.0)
        >>> key.first_minute(10), key.first_minute(1449), key.first_minute(1450)
        (10, 10, 1450)
        """
        if self.budget_days is None:
            return 0
        start, length = int(self.created // 60), self._period
        return start + (minute - start) // length * length

    def period_end(self, now: float) -> float | None:
        """When the budget's period ends, in seconds since 1970; None where it never does.

        Examples
        --------
        >>> key = ApiKey(key_id="k", digest="", name="n", created=600.0, budget_days=1.0)
        >>> key.period_end(700.0)
        87000.0
        """
        if self.budget_days is None:
            return None
        return 60.0 * (self.first_minute(int(now // 60)) + self._period)

    @property
    def _period(self) -> int:
        """Minutes; at least one."""
        return max(1, round((self.budget_days or 0.0) * 1440))


def digest_key(key: str) -> str:
    """What the store keeps of a key.

    Examples
    --------
    >>> len(digest_key("mr-example"))
    64
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def create_key(
    engine: sa.Engine,
    name: str,
    *,
    models: Sequence[str] | None = None,
    policies: Sequence[str] | None = None,
    days: float | None = None,
    is_admin: bool = False,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    budget: float | None = None,
    budget_days: float | None = None,
    by: str = "command line",
) -> tuple[str, ApiKey]:
    """Make a key.

    Parameters
    ----------
    engine : the store's database.
    name : str, whose it is.
    models, policies : names, optional; what it may ask for, all by default.
    days : float above 0, optional; until it expires.
    is_admin : bool, whether it may see and change everything.
    requests_per_minute, tokens_per_minute : int of at least 1, optional; no limit by default.
    budget : float above 0, optional; dollars it may spend in `budget_days` days, or for good.
    budget_days : float above 0, optional; needs `budget`.
    by : str, who makes it, for the audit trail.

    Returns
    -------
    key, ApiKey
        The key, which is shown to its owner and not kept.

    Raises
    ------
    OptionError
        When a value is not allowed.
    """
    key, now = _PREFIX + secrets.token_urlsafe(32), time.time()
    record = ApiKey(
        key_id="key-" + secrets.token_hex(6),
        digest=digest_key(key),
        name=name,
        created=now,
        expires=None if days is None else now + _in_range("days", days, _LONGEST) * 86_400,
        models=None if models is None else tuple(models),
        policies=None if policies is None else tuple(policies),
        is_admin=is_admin,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        budget=budget,
        budget_days=budget_days,
    )
    _check(record)
    with engine.begin() as connection:
        connection.execute(sa.insert(api_keys), _row(record))
        given = {name: _row(record)[name] for name in CHANGEABLE}
        noted = {name: value for name, value in given.items() if value is not None}
        note_change(connection, "key created", record.key_id, noted, by)
    return key, record


def update_key(
    engine: sa.Engine, key_id: str, changes: Mapping[str, Any], *, by: str = "command line"
) -> ApiKey:
    """Change what a key may do.

    Parameters
    ----------
    engine : the store's database.
    key_id : str
    changes : new values of fields named in `CHANGEABLE`; None takes a limit away.
    by : str, who changes it, for the audit trail.

    Returns
    -------
    ApiKey
        The key as it is now.

    Raises
    ------
    InputError
        When there is no such key.
    OptionError
        When a field cannot be changed, or a value is not allowed.
    """
    for name in changes:
        if name not in CHANGEABLE:
            raise OptionError.of("field", name, ", ".join(CHANGEABLE))
    with engine.begin() as connection:
        record = replace(_find(connection, key_id), **changes)
        _check(record)
        new = {name: _row(record)[name] for name in changes}
        if new:
            connection.execute(sa.update(api_keys).where(api_keys.c.key_id == key_id).values(new))
            note_change(connection, "key changed", key_id, new, by)
    return record


def list_keys(engine: sa.Engine) -> list[ApiKey]:
    """Every key, oldest first."""
    with engine.connect() as connection:
        return read_keys(connection)


def read_keys(connection: sa.Connection) -> list[ApiKey]:
    """Every key, oldest first, as a transaction sees them."""
    query = sa.select(api_keys).order_by(api_keys.c.created)
    return [_record(row) for row in connection.execute(query).mappings()]


def revoke_key(engine: sa.Engine, key_id: str, *, by: str = "command line") -> None:
    """Make a key open nothing from now on; a second time changes nothing.

    Raises
    ------
    InputError
        When there is no such key.
    """
    with engine.begin() as connection:
        if _find(connection, key_id).revoked is None:
            update = sa.update(api_keys).where(api_keys.c.key_id == key_id)
            connection.execute(update.values(revoked=time.time()))
            note_change(connection, "key revoked", key_id, {}, by)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEntry:
    """One change: when, what was done, to what, with which values and by whom."""

    number: int
    created: float
    action: str
    subject: str
    content: dict[str, Any]


def note_change(
    connection: sa.Connection, action: str, subject: str, content: Mapping[str, Any], by: str
) -> None:
    """Add to the audit trail, in the transaction that makes the change.

    Parameters
    ----------
    connection : of that transaction.
    action : str, what is done.
    subject : str, to what.
    content : values as JSON has them, no secrets.
    by : str, id of the key that asked for it, or where it came from.
    """
    row = {
        "created": time.time(),
        "action": action,
        "subject": subject,
        "content": {**content, "by": by},
    }
    connection.execute(sa.insert(audit), row)


def list_audit(
    engine: sa.Engine, *, limit: int = 100, before: int | None = None
) -> list[AuditEntry]:
    """Changes, latest first.

    Parameters
    ----------
    engine : the store's database.
    limit : int, most entries.
    before : int, optional; only entries with a lower number, to read on from the last one.
    """
    query = sa.select(audit).order_by(audit.c.number.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.number < before)
    with engine.connect() as connection:
        return [AuditEntry(**row) for row in connection.execute(query).mappings()]


def _find(connection: sa.Connection, key_id: str) -> ApiKey:
    row = connection.execute(sa.select(api_keys).filter_by(key_id=key_id)).mappings().first()
    if row is None:
        raise InputError(f"there is no key {key_id!r}: see metarouter keys list")
    return _record(row)


def _check(key: ApiKey) -> None:
    if not key.name.strip() or not key.name.isprintable() or len(key.name) > 200:
        raise OptionError.of("name", key.name, "up to 200 printable characters, not blank")
    for limit in ("requests_per_minute", "tokens_per_minute"):
        value = getattr(key, limit)
        if value is not None and not 1 <= value <= _MOST:
            raise OptionError.of(limit, value, f"1 to {_MOST}")
    if key.expires is not None:
        _in_range("expires", key.expires, _LATEST)
    if key.budget is not None:
        _in_range("budget", key.budget, float(_MOST))
    if key.budget_days is not None:
        _in_range("budget_days", key.budget_days, _LONGEST)
        if key.budget is None:
            raise OptionError("`budget_days` needs `budget`: dollars to spend in these days")


def _in_range(name: str, value: float, most: float) -> float:
    if not 0 < value <= most:
        raise OptionError.of(name, value, f"a number above 0, up to {most:g}")
    return value


def _row(key: ApiKey) -> dict[str, Any]:
    return {field.name: getattr(key, field.name) for field in fields(key)}


def _record(row: sa.RowMapping) -> ApiKey:
    values = dict(row)
    for name in ("models", "policies"):
        values[name] = None if values[name] is None else tuple(values[name])
    return ApiKey(**values)
