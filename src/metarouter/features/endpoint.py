"""Embeddings from any endpoint that speaks OpenAI's ``POST /embeddings``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from metarouter.errors import OptionError, ProviderError, shorten

if TYPE_CHECKING:
    import httpx2

__all__ = ["ALLOW_VARIABLE", "EndpointEmbedder", "is_allowed"]

ALLOW_VARIABLE = "METAROUTER_ALLOW_ENDPOINT"
"""Environment variable with the hosts that a loaded router may send query texts to."""

_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_PAUSE = 60.0


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Answer(msgspec.Struct):
    data: list[_Item]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointEmbedder:
    """Vectors from a remote model, in batches, with retries.

    The API key is read from the environment at each call; it is never stored,
    shown or part of the name. An empty text is sent as one space, as most
    services refuse an empty string.

    Parameters
    ----------
    url : str
        Base URL as an OpenAI client takes it, e.g. ``http://localhost:8080/v1``.
    model : str, the model asked for.
    dimensions : int or None, default None
        Length of a vector. None asks the endpoint with one short text.
    key_variable : str, default "METAROUTER_EMBEDDINGS_KEY"
        Environment variable that holds the API key; unset means no key.
    batch_size : int, at least 1, default 64, texts in a request.
    timeout : float, seconds that one request may take, default 30.
    attempts : int, at least 1, default 5
        Tries of a request that fails with a time-out, a broken connection or
        status 408, 409, 425, 429 or 5xx. Pauses grow exponentially; a
        ``Retry-After`` of up to 60 s is obeyed.
    first_pause : float, seconds before the second try, default 0.5.

    Examples
    --------
    >>> EndpointEmbedder(url="http://localhost:8080/v1", model="small", dimensions=8).name
    'endpoint:http://localhost:8080/v1#small'
    """

    url: str
    model: str
    dimensions: int | None = None
    key_variable: str = "METAROUTER_EMBEDDINGS_KEY"
    batch_size: int = 64
    timeout: float = 30.0
    attempts: int = 5
    first_pause: float = 0.5

    def __post_init__(self) -> None:
        """Reject addresses that hold a secret, and sizes out of range."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError.of("embedding endpoint", self.url, "an http or https URL")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise OptionError(
                f"the URL of the embedding endpoint at {parts.hostname} holds a user name, a "
                f"password or a query; put the key in the environment variable {self.key_variable}"
            )
        if not self.model:
            raise OptionError.of("embedding model", self.model, "endpoint:<url>#<model>")
        for option in ("batch_size", "attempts"):
            if getattr(self, option) < 1:
                raise OptionError.of(option, getattr(self, option), "an integer from 1")

    @classmethod
    def from_spec(cls, argument: str) -> EndpointEmbedder:
        """The embedder of the spec ``endpoint:<url>#<model>``, given the part after the colon."""
        url, _, model = argument.partition("#")
        return cls(url=url, model=model)

    @property
    def host(self) -> str:
        """The host that texts are sent to, in lower case."""
        return urlsplit(self.url).hostname or ""

    @property
    def name(self) -> str:
        """Address and model."""
        return f"endpoint:{self.url.rstrip('/')}#{self.model}"

    @property
    def dim(self) -> int:
        """Length of a vector; asks the endpoint once when it was not given.

        Raises
        ------
        ProviderError
            When the endpoint has to be asked and fails.
        """
        return self.dimensions if self.dimensions is not None else _asked_dim(self)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, shape (n_texts, dim), in the order of the texts.

        Raises
        ------
        ProviderError
            When a request fails for good, or an answer is malformed, of another
            length or not finite.
        """
        if not len(texts):
            return np.empty((0, self.dim), dtype=np.float32)
        vectors = np.concatenate(list(self._batches(texts)))
        if self.dimensions is not None and vectors.shape[1] != self.dimensions:
            raise self._error(f"gave {vectors.shape[1]} numbers a text, {self.dimensions} expected")
        return vectors

    def _batches(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        dim: int | None = None
        for start in range(0, len(texts), self.batch_size):
            batch = [_sendable(text) for text in texts[start : start + self.batch_size]]
            vectors = self._parse(self._post(batch), len(batch))
            dim = vectors.shape[1] if dim is None else dim
            if vectors.shape[1] != dim:
                raise self._error(f"gave {vectors.shape[1]} numbers a text after {dim}")
            yield vectors

    def _post(self, batch: list[str]) -> bytes:
        """Body of the answer to one request, retried."""
        import httpx2
        import stamina

        key = os.environ.get(self.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": self.model, "input": batch, "encoding_format": "float"}
        address = f"{self.url.rstrip('/')}/embeddings"
        try:
            for attempt in stamina.retry_context(
                on=_pause_after,
                attempts=self.attempts,
                timeout=None,
                wait_initial=self.first_pause,
                wait_jitter=self.first_pause,
                wait_max=_LONGEST_PAUSE,
            ):
                with attempt:
                    response = _client(self.timeout).post(address, json=body, headers=headers)
                    response.raise_for_status()
        except httpx2.HTTPStatusError as error:
            raise self._error(f"answered with status {error.response.status_code}") from None
        except httpx2.HTTPError as error:
            raise self._error(f"could not be reached ({type(error).__name__})") from None
        return response.content

    def _parse(self, body: bytes, n: int) -> NDArray[np.float32]:
        """Vectors of one answer, put in the order of the request."""
        try:
            items = msgspec.json.decode(body, type=_Answer).data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error(f"gave an answer that is not an embedding list ({error})") from error
        if sorted(item.index for item in items) != list(range(n)):
            raise self._error(f"gave {len(items)} vectors, or wrong indices, for {n} texts")
        items.sort(key=lambda item: item.index)
        lengths = {len(item.embedding) for item in items}
        if len(lengths) != 1 or 0 in lengths:
            raise self._error(f"gave vectors of different or zero length: {sorted(lengths)}")
        with np.errstate(over="ignore"):
            vectors = np.array([item.embedding for item in items], dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise self._error("gave numbers that are not finite in float32")
        return vectors

    def _error(self, what: str) -> ProviderError:
        return ProviderError(
            f"the embedding endpoint {self.url} (model {shorten(self.model)}) {what}: "
            f"check the address, the model and the key in {self.key_variable}"
        )


def is_allowed(host: str) -> bool:
    """Whether texts may be sent to a host that a router folder names, not the user.

    This machine may, and what the environment variable
    ``METAROUTER_ALLOW_ENDPOINT`` lists, separated by commas.

    Examples
    --------
    >>> is_allowed("localhost"), is_allowed("127.0.0.1"), is_allowed("localhost.example.com")
    (True, True, False)
    """
    listed = os.environ.get(ALLOW_VARIABLE, "").lower().split(",")
    return _is_this_machine(host) or host in {name.strip() for name in listed}


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pause_after(error: Exception) -> bool | float:
    """Whether to try again: no, yes, or after so many seconds."""
    import httpx2

    if not isinstance(error, httpx2.HTTPStatusError):
        return isinstance(error, httpx2.TransportError)
    if error.response.status_code not in _RETRIED_STATUS:
        return False
    asked = error.response.headers.get("retry-after", "")
    if not asked.replace(".", "", 1).isdecimal():
        return True
    return float(asked) if float(asked) <= _LONGEST_PAUSE else False


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode() or " "


@lru_cache(maxsize=8)
def _client(timeout: float) -> httpx2.Client:
    """One client for all calls: it keeps connections open and may be shared by threads."""
    import httpx2

    return httpx2.Client(timeout=timeout)


@lru_cache(maxsize=64)
def _asked_dim(embedder: EndpointEmbedder) -> int:
    return int(embedder.embed(["dimension"]).shape[1])
