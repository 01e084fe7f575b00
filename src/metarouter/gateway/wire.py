"""Request bodies as bytes: one field is replaced, the rest is never re-written.

The body is parsed one level deep, into the bytes of each top-level value. What
the gateway changes (`model`) or takes out (its own field `metarouter`) is cut
out of the original bytes by position, so white space, key order, number
spelling and fields that nobody here has heard of reach the upstream as sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec

from metarouter.errors import InputError, shorten

__all__ = ["OPTIONS_FIELD", "Body", "Usage", "answer_kind", "read_body", "read_usage"]

OPTIONS_FIELD = "metarouter"
"""Top-level field with the gateway's own options; it never reaches an upstream."""

_MOST_FIELDS = 1000  # of the top level; protocols have a few dozen
T = TypeVar("T")

_OURS = frozenset({"model", OPTIONS_FIELD})
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAME = msgspec.json.Decoder(str)
_SPACE = rb"[ \t\n\r]*"
_FIELD = re.compile(_SPACE + rb",?" + _SPACE + rb'("(?:[^"\\]|\\.)*")' + _SPACE + rb":" + _SPACE)
_END = re.compile(_SPACE + rb"\}" + _SPACE + rb"\Z")


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object as bytes, with the place of each top-level field.

    Attributes
    ----------
    content : the bytes as they came.
    spans : for each field, in order: where it starts (with the comma before
        it), where its value starts, and where it ends.
    """

    content: bytes
    spans: Mapping[str, tuple[int, int, int]]

    def value(self, name: str, kind: type[T]) -> T | None:
        """The decoded value of a field, or None where it is absent or null.

        Raises
        ------
        InputError
            When the value is of another kind.
        """
        span = self.spans.get(name)
        if span is None:
            return None
        try:
            decoder = _decoder(kind)  # type: ignore[arg-type]  # mypy takes types for unhashable
            value: T | None = decoder.decode(self.content[span[1] : span[2]])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"field {name}: {error}") from None
        return value

    def with_model(self, model: str) -> bytes:
        """The content with `model`, if it names another, and without the gateway's options."""
        edits = []
        if OPTIONS_FIELD in self.spans:
            edits.append((*self._cut(OPTIONS_FIELD), b""))
        if "model" in self.spans:
            _, start, end = self.spans["model"]
            named = msgspec.json.encode(model)
            # the same name may be spelt otherwise, and stays so
            if self.content[start:end] != named and self.value("model", object) != model:
                edits.append((start, end, named))
        content = self.content
        for start, end, new in sorted(edits, reverse=True):
            content = content[:start] + new + content[end:]
        return content

    def _cut(self, name: str) -> tuple[int, int]:
        """Span to take out so that commas still fit."""
        order = list(self.spans)
        place = order.index(name)
        start, _, end = self.spans[name]
        if place == 0 and len(order) > 1:
            # the first field goes with the comma of the second
            following = self.spans[order[1]][0]
            return start, self.content.index(b",", following) + 1
        return start, end


@lru_cache(64)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """One that takes null too; made once, which takes longer than to use it."""
    return msgspec.json.Decoder(kind | None)


def read_body(content: bytes) -> Body:
    r"""Parse a request body one level deep.

    Parameters
    ----------
    content : bytes, a JSON object in UTF-8.

    Returns
    -------
    Body

    Raises
    ------
    InputError
        When it is no JSON object, is nested too deeply, has too many fields, or
        a top-level field twice: which of the two an upstream would read is
        unknown. Some read names whatever the case of their letters, so `Model`
        beside `model` is twice too.

    Examples
    --------
    >>> body = read_body(b'{"model": "metarouter",  "x": 1.50}')
    >>> body.with_model("gpt-4o")
    b'{"model": "gpt-4o",  "x": 1.50}'
    """
    try:
        fields = _FIELDS.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"body: {error}; allowed: a JSON object") from None
    except RecursionError:
        raise InputError("body: nested too deeply; allowed: about 1,000 levels") from None
    if len(fields) > _MOST_FIELDS:
        raise InputError(f"body: {len(fields)} fields; allowed: at most {_MOST_FIELDS}")
    spans: dict[str, tuple[int, int, int]] = {}
    position = content.index(b"{") + 1
    while found := _FIELD.match(content, position):
        name, start = _NAME.decode(found[1]), found.end()
        value = bytes(fields[name])
        if name in spans or not content.startswith(value, start):
            raise InputError(f"body: field {shorten(name)} is given twice; allowed: once")
        spans[name] = (position, start, start + len(value))
        position = start + len(value)
    if not _END.match(content, position):
        # the last of two values is a prefix of the first
        raise InputError("body: a field is given twice; allowed: once")
    for name in spans:
        if name not in _OURS and name.casefold() in _OURS:
            raise InputError(f"body: field {shorten(name)}; allowed: {name.casefold()}")
    return Body(content=content, spans=spans)


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class _AnyUsage(msgspec.Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None

    def prompt(self) -> tuple[int, int] | None:
        """Tokens of the prompt, and how many of them a cache held."""
        total = self.input_tokens if self.prompt_tokens is None else self.prompt_tokens
        if total is None:
            return None
        details = self.prompt_tokens_details or self.input_tokens_details
        if details is not None:
            return total, min(total, details.cached_tokens or 0)
        # Anthropic counts what a cache read or wrote apart from the input
        read = self.cache_read_input_tokens or 0
        return total + read + (self.cache_creation_input_tokens or 0), read

    def completion(self) -> int | None:
        """Tokens of the answer."""
        return self.output_tokens if self.completion_tokens is None else self.completion_tokens


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that an upstream counted; None where it did not say.

    Attributes
    ----------
    prompt_tokens : all of the prompt, in whichever protocol.
    completion_tokens : of the answer.
    cached_tokens : of the prompt, those that the upstream had in its cache.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0


_USAGE = re.compile(rb'"usage"' + _SPACE + rb":" + _SPACE + rb"(\{)")
_BRACE = re.compile(rb"[{}]")
_USAGE_DECODER = msgspec.json.Decoder(_AnyUsage)


class _Answer(msgspec.Struct):
    usage: _AnyUsage | None = None


_ANSWER_DECODER = msgspec.json.Decoder(_Answer)


def read_usage(head: bytes, tail: bytes) -> Usage:
    """Token counts from the start and the end of an answer.

    Streams count the prompt in their first event (Anthropic) or everything in
    their last ones, so an answer need not be kept whole.

    Parameters
    ----------
    head, tail : bytes, of a JSON answer or of a stream of events; may overlap.

    Examples
    --------
    >>> read_usage(b"", b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}')
    Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=0)
    """
    prompt = completion = None
    for usage in _usages(head, tail):
        prompt = usage.prompt() or prompt
        counted = usage.completion()
        completion = completion if counted is None else counted
    total, cached = prompt or (None, 0)
    return Usage(prompt_tokens=total, completion_tokens=completion, cached_tokens=cached)


def _usages(head: bytes, tail: bytes) -> list[_AnyUsage]:
    if not tail and head.startswith(b"{"):  # most answers: short, and whole
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            usage = _ANSWER_DECODER.decode(head).usage
            if usage is not None and None not in (usage.prompt(), usage.completion()):
                return [usage]
    places = [(part, found.start(1)) for part in (head, tail) for found in _USAGE.finditer(part)]
    return [usage for place in places if (usage := _usage_at(*place)) is not None]


def _usage_at(part: bytes, start: int) -> _AnyUsage | None:
    """The object that starts at `start`, when it is whole and of known form."""
    depth = 0
    for place in _BRACE.finditer(part, start, start + 2000):
        depth += 1 if place[0] == b"{" else -1
        if depth == 0:
            try:
                return _USAGE_DECODER.decode(part[start : place.end()])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
    return None


def answer_kind(content_type: str) -> str:
    """Kind of an answer's body: "stream", "json" or "other"."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return "stream"
    return "json" if kind == "application/json" or kind.endswith("+json") else "other"
