"""Chat completions that pass through: the request but its model, the answer as it came."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from metarouter.errors import ProviderError
from metarouter.labels.messages import render_messages
from metarouter.providers import Endpoint, ProviderClient, RetryPolicy, call_with_retries
from metarouter.routellm.names import RoutingError

__all__ = ["Completion", "Upstream", "is_in_loop", "last_user_text", "wait_for"]

_OPENAI = "https://api.openai.com/v1"
_KEY = "OPENAI_API_KEY"
# What the protocol lets an answer, its message or its pieces leave out.
_OPTIONAL = frozenset(
    {
        "annotations", "audio", "content", "finish_reason", "function_call", "logprobs",
        "reasoning_content", "refusal", "role", "service_tier", "system_fingerprint", "tool_calls",
        "usage",
    }
)  # fmt: skip
T = TypeVar("T")


class Completion(dict[str, Any]):
    """The JSON of an answer, whose fields are attributes too.

    As in OpenAI's client, the attribute of a field that an answer may leave out is
    None where it does: the last piece of a stream has no `content`.

    Examples
    --------
    >>> answer = Completion({"choices": [{"message": {"content": "Hi"}}]})
    >>> answer.choices[0].message.content, answer["choices"][0]["message"]["content"]
    ('Hi', 'Hi')
    >>> answer.choices[0].message.tool_calls is None
    True
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__({key: _wrapped(value) for key, value in content.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            if name in _OPTIONAL:
                return None
            raise AttributeError(f"the answer holds no {name!r}") from None

    def model_dump(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(dict(self))
        return plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Upstream:
    """Where both models are asked.

    Parameters
    ----------
    base_url : str, optional; OpenAI's by default.
    api_key : str, optional
        By default what ``OPENAI_API_KEY`` holds when a request is sent to
        OpenAI; to any other address no key is sent but this one.
    retries : RetryPolicy
    """

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    async def ask(self, request: Mapping[str, Any]) -> Completion:
        """Send a request and return its answer.

        Raises
        ------
        CallError
            When it failed, after retries.
        OptionError
            When OpenAI is asked and there is no key.
        """
        endpoint, body = self.endpoint(), msgspec.json.encode(request)
        async with ProviderClient() as client:
            reply = await call_with_retries(
                lambda _: client.post(endpoint, "chat/completions", body),
                self.retries,
                rng=random.Random(),  # noqa: S311 - jitter, not secrets
            )
        try:
            return Completion(msgspec.json.decode(reply.body, type=dict[str, Any]))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProviderError(f"{endpoint.base_url}: answer is no JSON object: {error}") from None

    def endpoint(self) -> Endpoint:
        """The endpoint; OpenAI's key goes to OpenAI alone."""
        base_url = self.base_url or _OPENAI
        parts = urlsplit(base_url)
        is_openai = (parts.scheme, parts.netloc) == ("https", urlsplit(_OPENAI).netloc)
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return Endpoint(
            name="models",
            base_url=base_url,
            api_key_env=_KEY if is_openai and self.api_key is None else None,
            headers=headers,
            retries=self.retries,
        )


def last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """Text of the last user turn, which is what a query is routed by.

    Parameters
    ----------
    messages : sequence of mappings
        With `content` a text or a list of parts; parts that are no text are
        left out.

    Raises
    ------
    RoutingError
        When there is no user turn with text.

    Examples
    --------
    >>> last_user_text([{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1"},
    ...     {"role": "user", "content": [{"type": "text", "text": "Two?"}]}])
    'Two?'
    """
    users = [turn for turn in messages if turn["role"] == "user"]
    text = render_messages(users[-1:])
    if not text:
        raise RoutingError("messages: no user turn with text; allowed: at least one")
    return text


def is_in_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop runs already (a notebook)."""
    if not is_in_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _wrapped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Completion(value)
    return [_wrapped(item) for item in value] if isinstance(value, list) else value
