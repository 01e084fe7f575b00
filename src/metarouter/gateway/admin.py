"""What admins see and change: keys, usage, status, audit trail, reload.

All of it needs the key of an admin. Where the gateway asks for no keys it only
listens to this machine, and whoever is on it is the admin. Every change is in the
audit trail, with the key that asked for it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

import msgspec
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import metarouter
from metarouter.errors import InputError, MetarouterError, shorten
from metarouter.gateway.admin_records import (
    AuditRow,
    AuditTrail,
    CreatedKey,
    DayRow,
    Key,
    KeyChanges,
    KeyList,
    KeyUsage,
    NewKey,
    Reloaded,
    Status,
    UpstreamStatus,
    UsageReport,
    WriterStatus,
)
from metarouter.gateway.problems import RefusedError, error_bytes, problem_headers, problem_of
from metarouter.gateway.proxy import ClientGoneError, read_content
from metarouter.gateway.reloading import reload_all
from metarouter.gateway.state import Gateway, header_map
from metarouter.store.keys import (
    ApiKey,
    create_key,
    list_audit,
    list_keys,
    note_change,
    revoke_key,
    update_key,
)
from metarouter.store.usage import list_days

__all__ = ["ADMIN_ENDPOINTS", "AdminEndpoint", "admin_routes", "require_admin"]

T = TypeVar("T")
_HERE = "this machine"  # who changes things where no key is asked for
_SECONDS_OF_A_DAY = 86_400


def require_admin(gateway: Gateway, headers: Mapping[str, str]) -> ApiKey | None:
    """The key of an admin; None where the gateway asks for no keys.

    Raises
    ------
    RefusedError
        With status 401 without a valid key, 403 with one of somebody else.
    """
    key = gateway.authorise(headers)
    if key is not None and not key.is_admin:
        message = "this needs the key of an admin: metarouter keys create NAME --admin"
        raise RefusedError(403, "permission_error", message)
    return key


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """What was asked, and by whom."""

    gateway: Gateway
    by: str
    content: bytes
    path: Mapping[str, str]
    query: Mapping[str, str]

    def body(self, kind: type[T]) -> T:
        """The body as a record.

        Raises
        ------
        InputError
            When it is none.
        """
        try:
            return msgspec.json.decode(self.content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"body: {error}; see GET /openapi.json") from None

    def number(self, name: str, default: int | None, most: int) -> int | None:
        """A whole number from the query string.

        Raises
        ------
        InputError
        """
        text = self.query.get(name)
        if text is None:
            return default
        is_whole = text.isascii() and text.isdigit() and len(text) <= len(str(most))
        if not (is_whole and 1 <= int(text) <= most):
            raise InputError(f"{name} = {text[:20]!r}; allowed: 1 to {most}")
        return int(text)

    def key(self) -> ApiKey:
        """The key that the path names.

        Raises
        ------
        RefusedError
            With status 404.
        """
        key_id = self.path["key_id"]
        found = [key for key in list_keys(self.gateway.engine) if key.key_id == key_id]
        if not found:
            raise RefusedError(404, "not_found_error", "there is no such key: see GET /admin/keys")
        return found[0]


def _show(gateway: Gateway, key: ApiKey) -> Key:
    now = time.time()
    used = gateway.limits.used(key)
    usage = KeyUsage(
        requests=used.requests,
        tokens=used.tokens,
        spent=used.spent,
        period_ends=key.period_end(now),
    )
    fields = {name: value for name, value in asdict(key).items() if name != "digest"}
    fields |= {"state": key.state(now), "is_admin": bool(key.is_admin)}
    return msgspec.convert(fields | {"used": usage}, Key)


def _list_keys(call: _Call) -> KeyList:
    keys = list_keys(call.gateway.engine)
    return KeyList(keys=[_show(call.gateway, key) for key in keys])


def _show_key(call: _Call) -> Key:
    return _show(call.gateway, call.key())


def _create_key(call: _Call) -> CreatedKey:
    new = msgspec.structs.asdict(call.body(NewKey))
    with call.gateway.writer.turn:
        key, record = create_key(call.gateway.engine, by=call.by, **new)
    call.gateway.keyring.refresh()
    return CreatedKey(key=key, record=_show(call.gateway, record))


def _change_key(call: _Call) -> Key:
    given = msgspec.structs.asdict(call.body(KeyChanges))
    changes = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    for name in {"models", "policies"} & changes.keys():
        changes[name] = None if changes[name] is None else tuple(changes[name])
    key_id = call.key().key_id
    with call.gateway.writer.turn:
        key = update_key(call.gateway.engine, key_id, changes, by=call.by)
    call.gateway.keyring.refresh()
    return _show(call.gateway, key)


def _revoke_key(call: _Call) -> Key:
    key_id = call.key().key_id
    with call.gateway.writer.turn:
        revoke_key(call.gateway.engine, key_id, by=call.by)
    call.gateway.keyring.refresh()
    return _show(call.gateway, call.key())


def _report_usage(call: _Call) -> UsageReport:
    days = call.number("days", 30, 36_600) or 0
    key_id = call.query.get("key_id")
    if key_id is not None and not re.fullmatch(r"key-[0-9a-f]{1,16}", key_id):
        raise InputError(f"key_id = {shorten(key_id)}; allowed: one of GET /admin/keys")
    rows = list_days(
        call.gateway.engine,
        since=int(time.time()) // _SECONDS_OF_A_DAY - days + 1,
        key_ids=None if key_id is None else [key_id],
    )
    return UsageReport(
        usage=[
            DayRow(
                key_id=row.key_id,
                day=time.strftime("%Y-%m-%d", time.gmtime(row.day * _SECONDS_OF_A_DAY)),
                requests=row.requests,
                tokens=row.tokens,
                spent=row.spent,
            )
            for row in rows
        ]
    )


def _list_audit(call: _Call) -> AuditTrail:
    limit = call.number("limit", 100, 1000) or 0
    before = call.number("before", None, 2**31 - 1)
    entries = list_audit(call.gateway.engine, limit=limit, before=before)
    return AuditTrail(audit=[AuditRow(**asdict(entry)) for entry in entries])


def _reload(call: _Call) -> Reloaded:
    generation = reload_all(call.gateway)
    subject = f"generation {generation.number}"
    try:
        with call.gateway.writer.turn, call.gateway.engine.begin() as connection:
            note_change(connection, "reloaded", subject, {}, call.by)
    except sa.exc.SQLAlchemyError as error:
        call.gateway.log.error("not in the audit trail", reloaded=subject, by=call.by)
        message = f"{subject} serves, but is not in the audit trail: the store does not answer"
        raise RefusedError(503, "store_unavailable", message) from error
    return Reloaded(generation=generation.number, policies=_versions(call.gateway))


def _status(call: _Call) -> Status:
    gateway = call.gateway
    rests, now = gateway.upstreams.rests, time.time()
    return Status(
        version=metarouter.__version__,
        generation=gateway.current.number,
        auth=gateway.settings.auth,
        policies=_versions(gateway),
        upstreams=[
            UpstreamStatus(
                name=name,
                state="left alone" if rest else "asked",
                rest=rest,
            )
            for name, rest in rests.items()
        ],
        writer=WriterStatus(
            state=gateway.writer.state,
            waiting=gateway.writer.waiting,
            written=gateway.writer.written,
            spilled=gateway.writer.spilled,
            replayed=gateway.writer.replayed,
            bytes_waiting=gateway.writer.bytes_waiting,
            failures=gateway.writer.failures,
        ),
        limits_failures=gateway.limits.failures,
        valid_keys=sum(key.is_valid(now) for key in gateway.keyring.known()),
    )


def _versions(gateway: Gateway) -> dict[str, str]:
    return {name: policy.router.policy.version for name, policy in gateway.policies.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminEndpoint:
    """One endpoint: what it takes and gives, for the routes and for the document."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    summary: str
    handler: Callable[[_Call], msgspec.Struct]
    gives: type[msgspec.Struct]
    takes: type[msgspec.Struct] | None = None
    query: tuple[str, ...] = ()
    status: int = 200


_KEY = "/admin/keys/{key_id}"
ADMIN_ENDPOINTS = (
    AdminEndpoint(
        method="GET",
        path="/admin/keys",
        summary="Keys with their limits and what they used.",
        handler=_list_keys,
        gives=KeyList,
    ),
    AdminEndpoint(
        method="POST",
        path="/admin/keys",
        summary="Make a key; it is shown this once.",
        handler=_create_key,
        gives=CreatedKey,
        takes=NewKey,
        status=201,
    ),
    AdminEndpoint(method="GET", path=_KEY, summary="One key.", handler=_show_key, gives=Key),
    AdminEndpoint(
        method="PATCH",
        path=_KEY,
        summary="Change what a key may do; this process knows at once, others in two seconds.",
        handler=_change_key,
        gives=Key,
        takes=KeyChanges,
    ),
    AdminEndpoint(
        method="DELETE",
        path=_KEY,
        summary="Revoke a key; again changes nothing.",
        handler=_revoke_key,
        gives=Key,
    ),
    AdminEndpoint(
        method="GET",
        path="/admin/usage",
        summary="What keys used, by day.",
        handler=_report_usage,
        gives=UsageReport,
        query=("days", "key_id"),
    ),
    AdminEndpoint(
        method="GET",
        path="/admin/audit",
        summary="Who changed what.",
        handler=_list_audit,
        gives=AuditTrail,
        query=("limit", "before"),
    ),
    AdminEndpoint(
        method="GET",
        path="/admin/status",
        summary="What is served, and how the parts are doing.",
        handler=_status,
        gives=Status,
    ),
    AdminEndpoint(
        method="POST",
        path="/admin/reload",
        summary="Read settings and routers again; a wrong file changes nothing.",
        handler=_reload,
        gives=Reloaded,
        takes=None,
    ),
)
"""Everything under ``/admin``."""


def admin_routes(gateway: Gateway) -> list[Route]:
    """Routes of everything under ``/admin``."""
    return [
        Route(endpoint.path, _bound(gateway, endpoint), methods=[endpoint.method])
        for endpoint in ADMIN_ENDPOINTS
    ]


def _bound(gateway: Gateway, endpoint: AdminEndpoint) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            call = await _read(gateway, endpoint, request)
            found = await _run(gateway, endpoint, call)
        except ClientGoneError:
            return Response(status_code=400)
        except sa.exc.SQLAlchemyError as error:
            gateway.log.error("store", error=type(error).__name__)
            return _refused(RefusedError(503, "store_unavailable", "the store does not answer"))
        except MetarouterError as error:
            return _refused(error)
        content = msgspec.json.encode(found)
        headers = {"cache-control": "no-store"}  # a new key is in one of them
        return Response(content, endpoint.status, headers, "application/json")

    return answer


async def _run(gateway: Gateway, endpoint: AdminEndpoint, call: _Call) -> msgspec.Struct:
    """Do it in a thread of those that may wait for the store; loading routers is not theirs."""
    threads = None if endpoint.handler is _reload else gateway.writer.threads
    return await asyncio.get_running_loop().run_in_executor(threads, endpoint.handler, call)


async def _read(gateway: Gateway, endpoint: AdminEndpoint, request: Request) -> _Call:
    headers = header_map(request.scope)
    key = require_admin(gateway, headers)
    content = b""
    if endpoint.method in ("POST", "PATCH"):
        limit = gateway.settings.limits.body_bytes
        content = await read_content(headers, request.receive, limit)  # type: ignore[arg-type]
    unknown = [name for name in request.query_params if name not in endpoint.query]
    if unknown:
        allowed = ", ".join(endpoint.query) or "none"
        raise InputError(f"query parameter {unknown[0][:40]!r}; allowed: {allowed}")
    return _Call(
        gateway=gateway,
        by=_HERE if key is None else key.key_id,
        content=content,
        path=request.path_params,
        query=request.query_params,
    )


def _refused(error: MetarouterError) -> Response:
    problem = problem_of(error)
    response = Response(error_bytes(problem, "openai"), problem.status)
    response.raw_headers = problem_headers(problem, bytes(response.body))
    return response
