"""Where models are served: addresses, keys, limits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from metarouter.errors import OptionError
from metarouter.providers.retries import RetryPolicy
from metarouter.records import ModelSpec

__all__ = ["Endpoint", "Target"]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# These are set by us, or would multiply what a request may cost.
_RESERVED_OPTIONS = frozenset(
    {"best_of", "max_completion_tokens", "max_tokens", "messages", "model", "n", "stream"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One OpenAI-compatible endpoint.

    Parameters
    ----------
    name : str, how messages and audit files call it.
    base_url : str
        As an OpenAI client takes it, e.g. ``https://api.openai.com/v1``.
        Without user name, password, query or fragment.
    api_key_env : str, optional
        Environment variable with the key; None sends no key. The key itself is
        read at each request and is no part of this value.
    headers : mapping of str to str, optional, sent with each request.
    concurrency : int, at least 1, default 16, requests in flight at once.
    connect_timeout, timeout : float, seconds, default 10 and 180
        To get a connection; for one request in all.
    retries : RetryPolicy, optional
    max_tokens_field : str, default "max_tokens"
        Name of the limit in the request body; newer OpenAI models want
        ``max_completion_tokens``.

    Examples
    --------
    >>> Endpoint(name="local", base_url="http://127.0.0.1:8000/v1/").url("chat/completions")
    'http://127.0.0.1:8000/v1/chat/completions'
    """

    name: str
    base_url: str
    api_key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    concurrency: int = 16
    connect_timeout: float = 10.0
    timeout: float = 180.0
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    max_tokens_field: str = "max_tokens"

    def __post_init__(self) -> None:
        """Refuse addresses that hold a secret, and sizes out of range."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
            allowed = "an http or https URL, such as http://127.0.0.1:8000/v1"
            raise OptionError.of(f"base_url of {self.name}", self.base_url, allowed)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise OptionError(
                f"base_url of {self.name} (at {parts.hostname}) holds a user name, a password or "
                "a query; allowed: a plain URL, with the key in an environment variable that "
                "api_key_env names"
            )
        if parts.path.rstrip("/").endswith("/completions"):
            allowed = "the address up to /v1, to which chat/completions is added"
            raise OptionError.of(f"base_url of {self.name}", self.base_url, allowed)
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            # not repeated: who mixes them up has put the key itself here
            raise OptionError(
                f"api_key_env of {self.name} is no name of an environment variable; allowed: the "
                "name of the variable that holds the key, never the key"
            )
        if self.concurrency < 1:
            raise OptionError.of("concurrency", self.concurrency, "an integer from 1")
        for name in ("connect_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise OptionError.of(name, getattr(self, name), "seconds above 0")

        for name, value in self.headers.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise OptionError(
                    f"header {name!r} of {self.name} holds what no header can carry; allowed: "
                    "printable ASCII"
                )

    def url(self, path: str) -> str:
        """Address of a path below the base."""
        return f"{self.base_url.rstrip('/')}/{path}"

    def key(self) -> str | None:
        """The key, from the environment.

        Raises
        ------
        OptionError
            When the variable is not set, or holds what no header can carry.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise OptionError(
                f"the key of endpoint {self.name}: environment variable {self.api_key_env} is "
                "unset or no plain text; allowed: a variable that holds the key"
            )
        return key

    def secret_headers(self) -> dict[str, str]:
        """The headers of each request, with the key; no value may get into a message.

        Raises
        ------
        OptionError
            When the key is not in the environment.
        """
        key = self.key()
        return {**self.headers, **({} if key is None else {"Authorization": f"Bearer {key}"})}


def _has_port(parts: SplitResult) -> bool:
    """Whether the port of an address, if there is one, is a number in range."""
    try:
        return parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A model at an endpoint.

    Parameters
    ----------
    spec : ModelSpec
        Name as it stands in label files, and prices (None when unknown).
    endpoint : Endpoint
    upstream : str, the model's name at the endpoint.
    options : mapping, optional
        Fields added to each request body, such as ``reasoning_effort``.
    """

    spec: ModelSpec
    endpoint: Endpoint
    upstream: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options that would change what a request is, or what it may cost."""
        for name in sorted(_RESERVED_OPTIONS & set(self.options)):
            raise OptionError.of(
                f"options.{name} of model {self.name}",
                self.options[name],
                f"any field of the request but {', '.join(sorted(_RESERVED_OPTIONS))}",
            )

    @property
    def name(self) -> str:
        """Name of the model in label files."""
        return self.spec.name
