"""Whether a callable of the user is the one that made a record, in another process too."""

from __future__ import annotations

import hashlib
import pickle
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType
from typing import Any

__all__ = ["callable_identity"]


def callable_identity(make: Callable[..., Any]) -> str:
    """A name that two callables share only if they do the same, as far as can be seen.

    A function is its module, name, byte code, defaults and what it closes over;
    a class its module, name, methods and plain attributes; any other object its
    pickled state.
    What cannot be told gets a name of its own at every call, so that nothing
    is taken for the same by mistake. What the callable calls in turn is not
    looked at.

    Examples
    --------
    >>> def make(x): return lambda: x
    >>> callable_identity(make(1)) == callable_identity(make(1))
    True
    >>> callable_identity(make(1)) == callable_identity(make(2))
    False
    """
    digest = hashlib.sha256()
    for part in _parts(make):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def _parts(thing: Any) -> Iterator[bytes]:
    if isinstance(thing, FunctionType):
        yield _place(thing)
        yield from _code(thing.__code__)
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        for value in (*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).items(), *cells):
            yield from _parts(value)
    elif isinstance(thing, partial):
        for value in (thing.func, *thing.args, *sorted(thing.keywords.items())):
            yield from _parts(value)
    elif isinstance(thing, type):
        yield _place(thing)
        for name, value in vars(thing).items():
            yield from _attribute(name, value)
    elif isinstance(thing, tuple | list):
        yield f"{type(thing).__name__} of {len(thing)}".encode()
        for value in thing:
            yield from _parts(value)
    else:
        yield _state(thing)


def _attribute(name: str, value: Any) -> Iterator[bytes]:
    """Methods and plain values of a class, without what Python adds to it."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    is_plain = isinstance(value, int | float | str | tuple) and not name.startswith("__")
    if isinstance(value, FunctionType) or is_plain:
        yield name.encode()
        yield from _parts(value)


def _place(thing: Any) -> bytes:
    return f"{thing.__module__}.{thing.__qualname__}".encode()


def _code(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant))).encode()
        else:
            yield repr(constant).encode()


def _state(thing: Any) -> bytes:
    """Pickled, to be compared only; never read back."""
    try:
        return pickle.dumps(thing)
    except (pickle.PicklingError, TypeError, AttributeError):
        return secrets.token_bytes(16)
