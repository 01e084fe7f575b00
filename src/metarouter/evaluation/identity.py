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
    a class its module, name, methods and plain attributes, its own and inherited;
    any other object its pickled state.
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
    for part in _parts(make, {}):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


_Seen = dict[int, tuple[int, Any]]  # by id: how many came before, and what keeps the id taken


def _parts(thing: Any, seen: _Seen) -> Iterator[bytes]:
    """What tells a thing from others; one that holds itself is marked where it comes again."""
    if isinstance(thing, FunctionType | partial | type | list):
        if id(thing) in seen:
            yield f"again {seen[id(thing)][0]}".encode()
            return
        seen[id(thing)] = len(seen), thing
    if isinstance(thing, FunctionType):
        yield from _function(thing, seen)
    elif isinstance(thing, partial):
        for value in (thing.func, *thing.args, *sorted(thing.keywords.items())):
            yield from _parts(value, seen)
    elif isinstance(thing, type):
        yield from _class(thing, seen)
    elif isinstance(thing, tuple | list):
        yield f"{type(thing).__name__} of {len(thing)}".encode()
        for value in thing:
            yield from _parts(value, seen)
    else:
        yield _state(thing)


def _function(function: FunctionType, seen: _Seen) -> Iterator[bytes]:
    yield _place(function)
    yield from _code(function.__code__)
    named = (function.__kwdefaults__ or {}).items()
    for value in (*(function.__defaults__ or ()), *named):
        yield from _parts(value, seen)
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # of a name that is not assigned yet
            yield b"no value"
        else:
            yield from _parts(value, seen)


def _class(cls: type, seen: _Seen) -> Iterator[bytes]:
    yield _place(cls)
    for name, value in vars(cls).items():
        yield from _attribute(name, value, seen)
    for base in cls.__mro__[1:-1]:  # without object
        yield from _parts(base, seen)


def _attribute(name: str, value: Any, seen: _Seen) -> Iterator[bytes]:
    """Methods and plain values of a class, without what Python adds to it."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    is_plain = isinstance(value, int | float | str | tuple) and not name.startswith("__")
    if isinstance(value, FunctionType) or is_plain:
        yield name.encode()
        yield from _parts(value, seen)


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
