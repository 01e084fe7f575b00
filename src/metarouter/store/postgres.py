"""PostgreSQL through pg8000: connections that time out, and errors told apart by their kind.

The driver raises one class for whatever the server refuses, and the socket's
own errors where an answer does not come. SQLAlchemy knows a broken connection,
and callers a refused row, by classes of PEP 249: here both are raised as such.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pg8000.dbapi
import sqlalchemy as sa
from pg8000.dbapi import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
)

from metarouter.errors import OptionError, cause_of

__all__ = ["make_postgres_engine"]

# Classes of SQLSTATE, https://www.postgresql.org/docs/current/errcodes-appendix.html
_KINDS = {
    "08": OperationalError,  # connection
    "22": DataError,
    "23": IntegrityError,
    "40": OperationalError,  # rolled back, e.g. by a deadlock
    "42": ProgrammingError,
    "53": OperationalError,  # resources
    "57": OperationalError,  # stopped by an operator, or by a time limit
}
_SSL_MODES = ("disable", "prefer", "require", "verify-full")
_RECYCLE_SECONDS = 1800  # proxies between cut connections that are older
_MARGIN = 0.9  # the server gives up before the client does, so that the connection lives on


_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # length and code, of PostgreSQL's protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tls:
    context: ssl.SSLContext | None
    is_required: bool


class _Connection(pg8000.dbapi.Connection):  # type: ignore[misc]  # pg8000 has no types
    def handle_messages(self, context: Any) -> None:
        try:
            super().handle_messages(context)
        except OSError as error:
            # the words by which SQLAlchemy's dialect knows a broken connection
            raise InterfaceError("network error: no answer in time") from error
        except DatabaseError as error:
            raise _of_its_kind(error) from error

    def close(self) -> None:
        file = self._sock  # of the socket, which the driver closes, but stays open as long as this
        with suppress(InterfaceError):  # nobody is there to say goodbye to
            super().close()
        if file is not None:
            with suppress(OSError):  # likewise
                file.close()


def make_postgres_engine(
    url: sa.URL, *, seconds: float, pool_size: int, **options: Any
) -> sa.Engine:
    """An engine whose connections are made when they are needed.

    Parameters
    ----------
    url : sqlalchemy.URL
        Besides what pg8000 takes, ``sslmode`` (disable, prefer, require,
        verify-full; prefer by default) and ``sslrootcert`` are read.
    seconds : float above 0
        How long to wait for a connection and for a statement.
    pool_size : int, connections that stay open; twice as many may be. 0: none stays.
    options : further ones of ``sqlalchemy.create_engine``.

    Returns
    -------
    sqlalchemy.Engine

    Raises
    ------
    OptionError
        When ``sslmode`` is unknown or a certificate cannot be read.
    """
    query = dict(url.query)
    tls = _read_tls(query.pop("sslmode", "prefer"), query.pop("sslrootcert", None))
    engine = sa.create_engine(
        url,
        **_pool_options(pool_size, seconds),
        **options,
    )

    def connect(dialect: sa.Dialect, record: Any, args: Any, given: dict[str, Any]) -> Any:
        taken = {name: value for name, value in given.items() if name not in url.query}
        return _connect({**taken, **query}, seconds, tls)

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "handle_error", _note_shutdown)
    return engine


def _pool_options(size: int, seconds: float) -> dict[str, Any]:
    if not size:
        return {"poolclass": sa.NullPool}
    return {
        "pool_size": size,
        "max_overflow": size,
        "pool_timeout": seconds,
        "pool_recycle": _RECYCLE_SECONDS,
        "pool_pre_ping": size > 1,  # whoever has a connection to himself notices by himself
    }


def sql_state(error: BaseException | None) -> str:
    """The five characters by which the server names an error; empty where there are none."""
    what = error.args[0] if error is not None and error.args else None
    return str(what.get("C", "")) if isinstance(what, Mapping) else ""


def _connect(given: Mapping[str, Any], seconds: float, tls: _Tls) -> _Connection:
    limit = str(int(1000 * seconds * _MARGIN))  # milliseconds
    options = {"password": "", "application_name": "metarouter", **given, "ssl_context": False}
    # the server's own choice may be SQL_ASCII, and the driver would encode by that
    options["startup_params"] = {"statement_timeout": limit, "client_encoding": "UTF8"}
    with ExitStack() as stack:
        try:
            if "unix_sock" not in options:
                options["sock"] = stack.enter_context(_open_socket(options, seconds, tls))
            connection = _Connection(**options, timeout=seconds)
        except OSError as error:
            raise OperationalError(f"no answer from the server: {error}") from error
        except DatabaseError as error:
            raise _of_its_kind(error) from error
        stack.pop_all()
    return connection


def _open_socket(options: Mapping[str, Any], seconds: float, tls: _Tls) -> socket.socket:
    """One of our own: the driver reads all certificates each time, and leaves it open on errors."""
    host = options.get("host", "localhost")
    with ExitStack() as stack:
        opened = socket.create_connection((host, options.get("port", 5432)), seconds)
        stack.callback(opened.close)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls.context is not None:
            opened.sendall(_SSL_REQUEST)
            if opened.recv(1) == b"S":
                opened = tls.context.wrap_socket(opened, server_hostname=host)
            elif tls.is_required:
                raise OperationalError("the server refuses TLS, which sslmode asks for")
        stack.pop_all()
    return opened


def _of_its_kind(error: DatabaseError) -> Exception:
    kind: type[Exception] = _KINDS.get(sql_state(error)[:2], DatabaseError)
    return kind(*error.args)


def _note_shutdown(context: sa.engine.ExceptionContext) -> None:
    """A server that is going down has closed the connection, though it could still say so."""
    if sql_state(context.original_exception).startswith(("08", "57P0")):
        context.is_disconnect = True


def _read_tls(mode: Any, authorities: Any) -> _Tls:
    if mode not in _SSL_MODES:
        raise OptionError.of("store.url: sslmode", mode, ", ".join(_SSL_MODES))
    if mode == "disable":
        return _Tls(context=None, is_required=False)
    if mode == "verify-full":
        try:
            context = ssl.create_default_context(cafile=authorities)
        except OSError as error:
            raise OptionError(
                f"store.url: sslrootcert = {authorities}: {cause_of(error)}"
            ) from error
        return _Tls(context=context, is_required=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _Tls(context=context, is_required=mode == "require")
