"""The wire format of a chat completion, as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from metarouter.errors import shorten
from metarouter.providers.endpoints import Target
from metarouter.providers.failures import CallError

__all__ = ["ChatAnswer", "ChatRequest", "chat_body", "error_text", "is_quota_error", "read_answer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest:
    """What a model is asked.

    Parameters
    ----------
    messages : tuple of mappings, each with `role` and `content`.
    max_tokens : int, at least 1, most tokens of the answer.
    temperature : float, optional; None leaves it to the endpoint.
    """

    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatAnswer:
    """What came back.

    Parameters
    ----------
    text : str, empty when the model said nothing.
    served_model : str, what the endpoint says that answered.
    finish_reason : str, as given: "stop", "length", …
    prompt_tokens, completion_tokens : int or None when the endpoint does not say.
    seconds : float, from sending to the last byte.
    """

    text: str
    served_model: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(msgspec.Struct):
    content: str | list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


def chat_body(target: Target, request: ChatRequest) -> bytes:
    """JSON body of a request, with the target's `options`."""
    body: dict[str, Any] = {"model": target.upstream, "messages": list(request.messages)}
    body[target.endpoint.max_tokens_field] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return msgspec.json.encode(body | dict(target.options))


def read_answer(body: bytes, seconds: float) -> ChatAnswer:
    """Take an answer apart.

    Raises
    ------
    CallError
        Of kind ``malformed`` when the body is no chat completion with a choice.

    Examples
    --------
    >>> body = b'{"choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": 3}}'
    >>> answer = read_answer(body, 0.5)
    >>> answer.text, answer.prompt_tokens, answer.completion_tokens
    ('Hi', 3, None)
    """
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallError(f"answer is no chat completion ({error})", kind="malformed") from None
    if not completion.choices:
        raise CallError("answer has no choices", kind="malformed")
    choice, usage = completion.choices[0], completion.usage or _Usage()
    return ChatAnswer(
        text=_text_of(choice.message.content),
        served_model=completion.model or "",
        finish_reason=choice.finish_reason or "",
        prompt_tokens=_count(usage.prompt_tokens),
        completion_tokens=_count(usage.completion_tokens),
        seconds=seconds,
    )


def error_text(body: bytes, secrets: Iterable[str]) -> str:
    """The message of an error answer, without the secrets, then cut to one short line.

    Parameters
    ----------
    body : bytes, as the endpoint answered.
    secrets : values of headers that were sent, which an endpoint may quote; of
        one like ``Bearer KEY`` the last word is masked too.

    Examples
    --------
    >>> error_text(b'{"error": "unknown key sk-1"}', ["Bearer sk-1"])
    "'unknown key ***'"
    """
    try:
        content = msgspec.json.decode(body)
        error = content.get("error", content)
        text = error if isinstance(error, str) else error["message"]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        text = body.decode("utf-8", "replace")
    return shorten(" ".join(_masked(str(text), secrets).split()), 200)


def is_quota_error(body: bytes) -> bool:
    """Whether a 429 says that the account is empty rather than that it is too fast."""
    return b'"insufficient_quota"' in body


def _masked(text: str, secrets: Iterable[str]) -> str:
    """A text without the secrets, also as JSON escapes them; the longest go first."""
    words = {word for secret in secrets for word in (secret.strip(), *secret.split()[-1:])}
    escaped = {word.replace("\\", r"\\").replace('"', r"\"") for word in words}
    escaped |= {word.replace("/", r"\/") for word in escaped}
    for word in sorted((words | escaped) - {""}, key=len, reverse=True):
        text = text.replace(word, "***")
    return text


def _text_of(content: str | list[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part["text"] for part in content if isinstance(part.get("text"), str))


def _count(tokens: int | None) -> int | None:
    return None if tokens is None or tokens < 0 else tokens
