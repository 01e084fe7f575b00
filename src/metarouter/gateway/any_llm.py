"""Providers with wire formats of their own, through any-llm (extra ``providers``).

Here nothing is passed on byte for byte: the request is read, any-llm says it to
the provider, and the answer is written in the protocol that the caller spoke. A
field that any-llm or the provider does not know is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import msgspec

from metarouter.errors import MissingDependencyError, OptionError
from metarouter.providers.failures import CallError, kind_of_status
from metarouter.providers.retries import read_retry_after

__all__ = ["ProviderAnswer", "ProviderClient", "ProviderRefusal"]

_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]

# Arguments of any-llm that are no fields of a protocol: they choose where a request goes, and as
# whom. The model, the place and the key are the settings' to choose.
_NEVER = frozenset(
    {
        "api_base",
        "api_key",
        "client_args",
        "extra_body",
        "extra_headers",
        "extra_query",
        "session_label",
        "timeout",
    }
)
# Fields of the protocols that any-llm's methods take without naming them.
_ALSO = {
    "chat/completions": frozenset(
        {
            "audio",
            "metadata",
            "modalities",
            "prediction",
            "safety_identifier",
            "store",
            "verbosity",
            "web_search_options",
        }
    ),
    "embeddings": frozenset({"dimensions", "encoding_format", "user"}),
}
_READ_AS = {"responses": ("input", "input_data"), "embeddings": ("input", "inputs")}

# What any-llm's errors mean where the provider gave no status.
_STATUS = {
    "AuthenticationError": 401,
    "MissingApiKeyError": 401,
    "InsufficientFundsError": 402,
    "ModelNotFoundError": 404,
    "RateLimitError": 429,
    "ContentFilterError": 400,
    "ContextLengthExceededError": 400,
    "InvalidRequestError": 400,
    "UnsupportedParameterError": 400,
    "GatewayTimeoutError": 504,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderAnswer:
    """An answer in the caller's protocol: its first bytes, and what follows (None: nothing)."""

    headers: list[tuple[bytes, bytes]]
    first: bytes
    rest: AsyncGenerator[bytes] | None = None


class ProviderRefusal(CallError):  # noqa: N818 - told apart from other CallErrors by its body
    """The provider answered that it will not; `body` says why in the protocol's own form."""

    def __init__(self, error: CallError, body: bytes) -> None:
        super().__init__(
            str(error), kind=error.kind, status=error.status, retry_after=error.retry_after
        )
        self.body = body


class ProviderClient:
    """One provider of any-llm.

    Parameters
    ----------
    name : str, of the upstream, for messages.
    provider : str, as any-llm spells it, e.g. "bedrock" or "gemini".
    api_key : str, optional; None lets the provider's own library look for credentials.
    base_url : str, optional, where it is not the provider's usual one.

    Raises
    ------
    MissingDependencyError
        When the extra, or the provider's own library, is not installed.
    OptionError
        When any-llm does not know the provider, or it needs a key.
    """

    def __init__(
        self, name: str, provider: str, *, api_key: str | None = None, base_url: str | None = None
    ) -> None:
        try:
            from any_llm import AnyLLM
            from any_llm.exceptions import AnyLLMError
        except ImportError as error:
            raise MissingDependencyError.of("an upstream with `provider`", "providers") from error
        self._name = name
        self._error = AnyLLMError
        try:
            self._llm: Any = AnyLLM.create(
                provider,
                api_key=api_key,
                api_base=base_url,
                unified_exceptions=True,
                max_retries=0,  # the gateway's own retries count and log every try
            )
        except ImportError as error:
            raise MissingDependencyError(
                f"upstreams.{name}: provider {provider} needs its own library: "
                f"pip install 'any-llm-sdk[{provider}]'"
            ) from error
        except AnyLLMError as error:
            raise OptionError(f"upstreams.{name}: {error}") from error

    async def ask(self, path: str, model: str, body: bytes) -> ProviderAnswer:
        """Say a request to the provider; returns with the first bytes of the answer.

        Parameters
        ----------
        path : "chat/completions", "responses", "messages" or "embeddings".
        model : the model's name at the provider.
        body : the request as the caller's protocol has it.

        Raises
        ------
        ProviderRefusal
            When the provider answers with an error.
        CallError
            When it does not answer. Either may also end the stream.
        """
        method = self._method(path)
        fields = msgspec.json.decode(body, type=dict[str, Any]) | {"model": model}
        ours, theirs = _READ_AS.get(path, ("", ""))
        if ours in fields:
            fields[theirs] = fields.pop(ours)
        self._check(fields, method, path)
        try:
            answer = await method(**fields)
            if not fields.get("stream"):
                return ProviderAnswer(headers=_JSON, first=_dumped(answer))
            return await self._streamed(answer, path)
        except self._error as error:
            raise self._refusal(error) from None
        except TypeError as error:  # a field that is missing, or that nobody takes
            raise self._refusal(error, status=400) from None

    def _method(self, path: str) -> Callable[..., Awaitable[Any]]:
        names = {
            "chat/completions": "acompletion",
            "responses": "aresponses",
            "messages": "amessages",
            "embeddings": "aembedding",
        }
        if path not in names:
            failure = CallError(
                f"upstream {self._name}: its provider has no {path}", kind="refused", status=404
            )
            raise ProviderRefusal(failure, _error_body(str(failure), 404))
        method: Callable[..., Awaitable[Any]] = getattr(self._llm, names[path])
        return method

    def _check(self, fields: Mapping[str, Any], method: Callable[..., Any], path: str) -> None:
        named = {
            p.name for p in signature(method).parameters.values() if p.kind is not p.VAR_KEYWORD
        }
        odd = fields.keys() - ((named | _ALSO.get(path, frozenset())) - _NEVER)
        if odd:
            raise self._refusal(
                ValueError(f"field {min(odd)}: upstream {self._name} cannot pass it on"), status=400
            )

    async def _streamed(self, chunks: AsyncIterator[Any], path: str) -> ProviderAnswer:
        pieces = self._events(chunks, path)
        first = await anext(pieces, b"")
        return ProviderAnswer(headers=_EVENTS, first=first, rest=pieces)

    async def _events(self, chunks: AsyncIterator[Any], path: str) -> AsyncGenerator[bytes]:
        """Events of a stream; those of chat completions end with a word of their own."""
        is_chat = path == "chat/completions"
        try:
            async for chunk in chunks:
                name = b"" if is_chat else f"event: {chunk.type}\n".encode()
                yield name + b"data: " + _dumped(chunk) + b"\n\n"
        except self._error as error:
            raise self._refusal(error) from None
        if is_chat:
            yield b"data: [DONE]\n\n"

    def _refusal(self, error: Exception, status: int | None = None) -> CallError:
        told = getattr(error, "status_code", None)
        found = status or told or _STATUS.get(type(error).__name__)
        kind = type(error).__name__
        if found is None or found < 400:
            return CallError(f"upstream {self._name}: no usable answer ({kind})", kind="broken")
        failure = CallError(
            f"upstream {self._name}: status {found} ({kind})",
            kind=kind_of_status(found),
            status=found,
            retry_after=read_retry_after(getattr(error, "retry_after", None)),
        )
        return ProviderRefusal(failure, _error_body(str(error), found))


def _dumped(value: Any) -> bytes:
    text: str = value.model_dump_json(exclude_unset=True)
    return text.encode()


def _error_body(message: str, status: int) -> bytes:
    problem: Mapping[str, object] = {"message": message, "type": "provider_error", "code": status}
    return msgspec.json.encode(
        {"type": "error", "error": problem}
    )  # both protocols' clients read it
