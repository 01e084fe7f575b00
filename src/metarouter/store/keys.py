"""Virtual API keys: made at random, kept as hashes, scoped, expiring, revocable.

A key has 256 random bits, so a plain SHA-256 cannot be searched; the key itself
is shown once and kept nowhere.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from metarouter.errors import InputError, OptionError
from metarouter.store.tables import api_keys, audit

__all__ = ["ApiKey", "create_key", "digest_key", "list_keys", "revoke_key"]

_PREFIX = "mr-"


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
        return self.revoked is None and (self.expires is None or now < self.expires)


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
) -> tuple[str, ApiKey]:
    """Make a key.

    Parameters
    ----------
    engine : the store's database.
    name : str, whose it is.
    models, policies : names, optional; what it may ask for, all by default.
    days : float above 0, optional; until it expires.

    Returns
    -------
    key, ApiKey
        The key, which is shown to its owner and not kept.

    Raises
    ------
    OptionError
        When the name is blank or `days` is not above 0.
    """
    if not name.strip():
        raise OptionError.of("name", name, "a name that is not blank")
    if days is not None and not 0 < days < float("inf"):
        raise OptionError.of("days", days, "a number above 0")
    key, now = _PREFIX + secrets.token_urlsafe(32), time.time()
    record = ApiKey(
        key_id="key-" + secrets.token_hex(6),
        digest=digest_key(key),
        name=name,
        created=now,
        expires=None if days is None else now + days * 86_400,
        models=None if models is None else tuple(models),
        policies=None if policies is None else tuple(policies),
    )
    row = {column.name: getattr(record, column.name) for column in api_keys.columns}
    with engine.begin() as connection:
        connection.execute(sa.insert(api_keys), row)
        _note(connection, "key created", record.key_id, {"name": name})
    return key, record


def list_keys(engine: sa.Engine) -> list[ApiKey]:
    """Every key, oldest first."""
    query = sa.select(api_keys).order_by(api_keys.c.created)
    with engine.connect() as connection:
        return [_record(row) for row in connection.execute(query).mappings()]


def revoke_key(engine: sa.Engine, key_id: str) -> None:
    """Make a key open nothing from now on; a second time changes nothing.

    Raises
    ------
    InputError
        When there is no such key.
    """
    with engine.begin() as connection:
        known = connection.execute(sa.select(api_keys.c.revoked).filter_by(key_id=key_id)).first()
        if known is None:
            raise InputError(f"there is no key {key_id!r}: see metarouter keys list")
        if known.revoked is None:
            update = sa.update(api_keys).where(api_keys.c.key_id == key_id)
            connection.execute(update.values(revoked=time.time()))
            _note(connection, "key revoked", key_id, {})


def _note(connection: sa.Connection, action: str, subject: str, content: dict[str, Any]) -> None:
    row = {"created": time.time(), "action": action, "subject": subject, "content": content}
    connection.execute(sa.insert(audit), row)


def _record(row: sa.RowMapping) -> ApiKey:
    fields = dict(row)
    for name in ("models", "policies"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return ApiKey(**fields)
