"""What admins send and get, as records; the OpenAPI document describes them from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "AuditRow",
    "AuditTrail",
    "CreatedKey",
    "DayRow",
    "Key",
    "KeyChanges",
    "KeyList",
    "KeyUsage",
    "NewKey",
    "Reloaded",
    "Status",
    "UpstreamStatus",
    "UsageReport",
    "WriterStatus",
]


class KeyUsage(msgspec.Struct, kw_only=True, frozen=True):
    """What a key used: requests and tokens of this minute, dollars of this period.

    Requests in flight are included, with an estimate of what they will use.
    """

    requests: int
    tokens: int
    spent: float
    period_ends: float | None


class Key(msgspec.Struct, kw_only=True, frozen=True):
    """A key without the key itself; times are seconds since 1970, null means no limit."""

    key_id: str
    name: str
    state: Literal["valid", "expired", "revoked"]
    created: float
    expires: float | None
    revoked: float | None
    models: list[str] | None
    policies: list[str] | None
    is_admin: bool
    requests_per_minute: int | None
    tokens_per_minute: int | None
    budget: float | None
    budget_days: float | None
    used: KeyUsage


class KeyList(msgspec.Struct, kw_only=True, frozen=True):
    """Keys, oldest first."""

    keys: list[Key]


class CreatedKey(msgspec.Struct, kw_only=True, frozen=True):
    """A new key; `key` is shown this once."""

    key: str
    record: Key


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Names = Annotated[list[Name], msgspec.Meta(max_length=1000)]
PerMinute = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Dollars = Annotated[float, msgspec.Meta(gt=0, le=2**31 - 1)]
Days = Annotated[float, msgspec.Meta(gt=0, le=36_600)]
Time = Annotated[float, msgspec.Meta(ge=0, le=32_503_680_000)]  # until the year 3000


class NewKey(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a new key may do; null or absent means all, or no limit."""

    name: Name
    models: Names | None = None
    policies: Names | None = None
    days: Days | None = None
    is_admin: bool = False
    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None
    budget: Dollars | None = None
    budget_days: Days | None = None


class KeyChanges(
    msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What changes of a key; absent fields stay, null takes a limit away."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    expires: Time | msgspec.UnsetType | None = msgspec.UNSET
    models: Names | msgspec.UnsetType | None = msgspec.UNSET
    policies: Names | msgspec.UnsetType | None = msgspec.UNSET
    is_admin: bool | msgspec.UnsetType = msgspec.UNSET
    requests_per_minute: PerMinute | msgspec.UnsetType | None = msgspec.UNSET
    tokens_per_minute: PerMinute | msgspec.UnsetType | None = msgspec.UNSET
    budget: Dollars | msgspec.UnsetType | None = msgspec.UNSET
    budget_days: Days | msgspec.UnsetType | None = msgspec.UNSET


class DayRow(msgspec.Struct, kw_only=True, frozen=True):
    """What a key used on a day of UTC."""

    key_id: str
    day: str
    requests: int
    tokens: int
    spent: float


class UsageReport(msgspec.Struct, kw_only=True, frozen=True):
    """Usage by day and key, latest day first."""

    usage: list[DayRow]


class AuditRow(msgspec.Struct, kw_only=True, frozen=True):
    """One change and who made it (`by` in its content)."""

    number: int
    created: float
    action: str
    subject: str
    content: dict[str, Any]


class AuditTrail(msgspec.Struct, kw_only=True, frozen=True):
    """Changes, latest first; to read on, ask for those before the last number."""

    audit: list[AuditRow]


class Reloaded(msgspec.Struct, kw_only=True, frozen=True):
    """The generation of settings that requests are served by from now on."""

    generation: int
    policies: dict[str, str]


class UpstreamStatus(msgspec.Struct, kw_only=True, frozen=True):
    """Whether an upstream is asked just now; `rest` is seconds until it is tried again."""

    name: str
    state: Literal["asked", "left alone"]
    rest: float


class WriterStatus(msgspec.Struct, kw_only=True, frozen=True):
    """How writing decisions goes: rows waiting, written, put aside on the disk, written later.

    `state` is ok, down or catching up; `failures` are batches that the store did not take at once.
    """

    state: str
    waiting: int
    written: int
    spilled: int
    replayed: int
    bytes_waiting: int
    failures: int


class Status(msgspec.Struct, kw_only=True, frozen=True):
    """What is served, and how the parts are doing."""

    version: str
    generation: int
    auth: Literal["none", "keys"]
    policies: dict[str, str]
    upstreams: list[UpstreamStatus]
    writer: WriterStatus
    limits_failures: int
    valid_keys: int
