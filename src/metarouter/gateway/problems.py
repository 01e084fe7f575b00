"""Errors as callers see them: one table from kind to status, one shape a protocol."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from metarouter.errors import InputError, MetarouterError, ProviderError
from metarouter.gateway.upstream import Dialect
from metarouter.providers.failures import CallError
from metarouter.store.feedback import FeedbackConflictError

__all__ = ["Problem", "RefusedError", "error_bytes", "problem_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Status, kind and message of an error answer."""

    status: int
    kind: str
    message: str
    retry_after: float | None = None


class RefusedError(MetarouterError):
    """The gateway itself does not take a request, for a reason with a status of its own."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


_KINDS: tuple[tuple[type[MetarouterError], int, str], ...] = (
    (FeedbackConflictError, 409, "conflict"),
    (InputError, 400, "invalid_request_error"),
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
        return Problem(status=error.status, kind=error.kind, message=message)
    if isinstance(error, CallError) and error.kind == "timeout":
        return Problem(status=504, kind="upstream_timeout", message=message)
    if isinstance(error, CallError) and error.kind == "unsent":
        retry = error.retry_after
        return Problem(status=503, kind="upstream_unavailable", message=message, retry_after=retry)
    status, kind = next((s, k) for cls, s, k in _KINDS if isinstance(error, cls))
    return Problem(status=status, kind=kind, message=message)


def error_bytes(problem: Problem, dialect: Dialect) -> bytes:
    """The body of an error answer, in the form that clients of the protocol read."""
    if dialect == "anthropic":
        error = {"type": problem.kind, "message": problem.message}
        return msgspec.json.encode({"type": "error", "error": error})
    error = {"message": problem.message, "type": problem.kind}
    return msgspec.json.encode({"error": {**error, "param": None, "code": None}})
