"""How one request can fail, and what each failure means for retries and for money."""

from __future__ import annotations

from typing import Literal

from metarouter.errors import ProviderError

__all__ = ["CallError", "FailureKind", "kind_of_status"]

FailureKind = Literal["unsent", "refused", "broken", "timeout", "malformed"]

_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_FATAL_STATUS = frozenset({401, 402, 404})
# A provider that is overloaded says so before it starts the model.
_REFUSED_SERVER_STATUS = frozenset({503, 529})


class CallError(ProviderError):
    """One request failed.

    Parameters
    ----------
    message : str, one line, without secrets.
    kind : str
        ``unsent``: no connection was made. ``refused``: the endpoint answered
        that it did not do the work (4xx, 503, 529). ``broken``: any other
        status, or the connection ended early. ``timeout``: no answer in time.
        ``malformed``: an answer that is no chat completion.
    status : int, optional, HTTP status.
    retry_after : float, optional, seconds that the endpoint asks to wait.
    quota : bool, default False
        The account has no credit left, which waiting does not mend.

    Examples
    --------
    >>> error = CallError("status 429", kind="refused", status=429)
    >>> error.is_retryable, error.may_be_charged, error.is_fatal
    (True, False, False)
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        status: int | None = None,
        retry_after: float | None = None,
        quota: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.status = status
        self.retry_after = retry_after
        self.quota = quota

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed later."""
        if self.kind != "refused":
            return True
        status = self.status or 0
        return not self.quota and (status in _RETRIED_STATUS or status >= 500)

    @property
    def may_be_charged(self) -> bool:
        """Whether the provider may have done the work, and so may charge for it."""
        return self.kind not in ("unsent", "refused")

    @property
    def is_fatal(self) -> bool:
        """Whether every other request to this endpoint would fail too."""
        return self.quota or self.status in _FATAL_STATUS


def kind_of_status(status: int) -> FailureKind:
    """Kind of a failure from the HTTP status of a complete answer.

    Examples
    --------
    >>> kind_of_status(400), kind_of_status(503), kind_of_status(500)
    ('refused', 'refused', 'broken')
    """
    refused = 300 <= status < 500 or status in _REFUSED_SERVER_STATUS
    return "refused" if refused else "broken"
