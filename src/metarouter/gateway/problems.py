"""Errors as callers see them: one table from kind to status, one shape a protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from metarouter.errors import DataError, InputError, MetarouterError, ProviderError
from metarouter.gateway.upstream import Dialect
from metarouter.providers.failures import CallError
from metarouter.store.feedback import FeedbackConflictError

__all__ = ["Problem", "RefusedError", "error_bytes", "problem_headers", "problem_of"]

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Status, kind and message of an error answer."""

    status: int
    kind: str
    message: str
    code: str | None = None
    retry_after: float | None = None
    headers: Headers = ()


class RefusedError(MetarouterError):
    """The gateway itself does not take a request, for a reason with a status of its own.

    Parameters
    ----------
    status : HTTP status of the answer.
    kind : the error's `type` in the answer.
    message : what is wrong and what is allowed.
    code : the error's `code`, which OpenAI's clients act on, optional.
    retry_after : seconds until another try may go well, optional.
    headers : further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.retry_after = retry_after
        self.headers = headers


_KINDS: tuple[tuple[type[MetarouterError], int, str], ...] = (
    (FeedbackConflictError, 409, "conflict"),
    (InputError, 400, "invalid_request_error"),
    (DataError, 422, "not_enough_data"),
    (ProviderError, 502, "upstream_error"),
    (MetarouterError, 500, "internal_error"),
)


def problem_of(error: MetarouterError) -> Problem:
    """The answer that an error becomes.

    Examples
    --------
    >>> problem_of(InputError("no model")).status
    400
    """
    message = str(error)
    if isinstance(error, RefusedError):
        return Problem(
            status=error.status,
            kind=error.kind,
            message=message,
            code=error.code,
            retry_after=error.retry_after,
            headers=error.headers,
        )
    if isinstance(error, CallError) and error.kind == "timeout":
        return Problem(status=504, kind="upstream_timeout", message=message)
    if isinstance(error, CallError) and error.kind == "unsent":
        retry = error.retry_after
        return Problem(status=503, kind="upstream_unavailable", message=message, retry_after=retry)
    status, kind = next((s, k) for cls, s, k in _KINDS if isinstance(error, cls))
    return Problem(status=status, kind=kind, message=message)


def problem_headers(problem: Problem, content: bytes) -> list[tuple[bytes, bytes]]:
    """Headers of an error answer with the body `content`.

    Examples
    --------
    >>> problem_headers(Problem(status=429, kind="", message="", retry_after=2.5), b"{}")[2]
    (b'retry-after', b'3')
    """
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]
    if problem.retry_after:
        headers.append((b"retry-after", str(math.ceil(problem.retry_after)).encode()))
    return [*headers, *problem.headers]


def error_bytes(problem: Problem, dialect: Dialect) -> bytes:
    """The body of an error answer, in the form that clients of the protocol read."""
    if dialect == "anthropic":
        error = {"type": problem.kind, "message": problem.message}
        return msgspec.json.encode({"type": "error", "error": error})
    error = {"message": problem.message, "type": problem.kind}
    return msgspec.json.encode({"error": {**error, "param": None, "code": problem.code}})
