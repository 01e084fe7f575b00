"""Whether a callable of the user is the one that made a record, in another process too."""

from __future__ import annotations

import hashlib
import pickle
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from importlib.metadata import entry_points
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ["callable_identity", "installed_identities"]

_GROUPS = (
    "metarouter.correctors",
    "metarouter.embedders",
    "metarouter.gain_models",
    "metarouter.table_gain_models",
)
_PLAIN = (int, float, str, bytes, tuple)
_HOLDERS = (dict, list, set, frozenset, partial, np.ndarray)
_CACHED = type(lru_cache(len))


def callable_identity(make: Callable[..., Any]) -> str:
    """A name that two callables share only if they do the same, as far as can be seen.

    A function is its module, name, byte code, defaults, what it closes over, and
    the functions, classes, objects and constants of its own package that it names; a
    class its module, name, methods and plain attributes, its own and inherited; any
    other object its pickled state. What cannot be told gets a name of its own at
    every call, so that nothing is taken for the same by mistake. Other packages,
    and objects of their classes that a module of its own holds, are not looked at.

    Examples
    --------
    >>> def make(x): return lambda: x
    >>> callable_identity(make(1)) == callable_identity(make(1))
    True
    >>> callable_identity(make(1)) == callable_identity(make(2))
    False
    """
    digest = hashlib.sha256()
    for part in _parts(make, _Walk(own=frozenset(_packages(make)) - {"metarouter"})):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def installed_identities(names: Collection[str]) -> dict[str, str]:
    """What installed packages register under these names: the identity of each that there is.

    Examples
    --------
    >>> installed_identities({"ridge", "auto"})
    {}
    """
    found: dict[str, str] = {}
    for group in _GROUPS:
        for point in sorted(entry_points(group=group)):
            if point.name in names:
                known = found.get(point.name, "")
                found[point.name] = f"{known}{group} {callable_identity(point.load())} "
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Walk:
    """Packages whose names are followed; things that were seen, by id, in their order."""

    own: frozenset[str]
    seen: dict[int, tuple[int, Any]] = field(default_factory=dict)


def _packages(make: Callable[..., Any]) -> Iterator[str]:
    """Of the callable itself; of a partial one, of its function and arguments too."""
    if isinstance(make, partial):
        for value in (make.func, *make.args, *make.keywords.values()):
            if callable(value):
                yield from _packages(value)
    else:
        yield _package(make if hasattr(make, "__module__") else type(make))


def _package(thing: Any) -> str:
    return str(thing.__module__).partition(".")[0]


def _parts(thing: Any, walk: _Walk) -> Iterator[bytes]:
    """What tells a thing from others; one that holds itself is marked where it comes again."""
    if isinstance(thing, FunctionType | partial | type | list | dict):
        if id(thing) in walk.seen:
            yield f"again {walk.seen[id(thing)][0]}".encode()
            return
        walk.seen[id(thing)] = len(walk.seen), thing
    if isinstance(thing, FunctionType):
        yield from _function(thing, walk)
    elif isinstance(thing, type):
        yield from _class(thing, walk)
    elif isinstance(thing, _CACHED):
        yield from _parts(thing.__wrapped__, walk)
    elif isinstance(thing, set | frozenset):
        yield repr(sorted(map(repr, thing))).encode()  # their order is of the process
    elif isinstance(thing, partial | MethodType | tuple | list | dict):
        values = _held(thing)
        yield f"{type(thing).__name__} of {len(values)}".encode()
        for value in values:
            yield from _parts(value, walk)
    else:
        yield _state(thing)
        if _package(type(thing)) in walk.own:
            yield from _parts(type(thing), walk)


def _held(thing: Any) -> Sequence[Any]:
    if isinstance(thing, partial):
        return thing.func, *thing.args, *sorted(thing.keywords.items())
    if isinstance(thing, dict):
        return tuple(thing.items())
    return (thing.__func__, thing.__self__) if isinstance(thing, MethodType) else thing


def _function(function: FunctionType, walk: _Walk) -> Iterator[bytes]:
    yield _place(function)
    yield from _code(function.__code__)
    named = (function.__kwdefaults__ or {}).items()
    for value in (*(function.__defaults__ or ()), *named):
        yield from _parts(value, walk)
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # of a name that is not assigned yet
            yield b"no value"
        else:
            yield from _parts(value, walk)
    if _package(function) in walk.own:
        yield from _named(function, walk)


def _named(function: FunctionType, walk: _Walk) -> Iterator[bytes]:
    """What a function names in the packages that are followed, through their modules too."""
    names = sorted(_names(function.__code__))
    found = [function.__globals__.get(name) for name in names]
    modules = [value for value in found if isinstance(value, ModuleType)]
    places = [vars(each) for each in modules if each.__name__.partition(".")[0] in walk.own]
    for name in names:
        for place in (function.__globals__, *places):
            value = place.get(name)
            if _is_told(value, walk):
                yield name.encode()
                yield from _parts(value, walk)


def _is_told(value: Any, walk: _Walk) -> bool:
    """Whether what a package's code names is its own: code, a constant, or an object of it."""
    if isinstance(value, FunctionType | type | _CACHED):
        return _package(value) in walk.own
    return isinstance(value, (*_PLAIN, *_HOLDERS)) or _package(type(value)) in walk.own


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _class(cls: type, walk: _Walk) -> Iterator[bytes]:
    yield _place(cls)
    for name, value in vars(cls).items():
        yield from _attribute(name, value, walk, is_own=_package(cls) in walk.own)
    for base in cls.__mro__[1:-1]:  # without object
        yield from _parts(base, walk)


def _attribute(name: str, value: Any, walk: _Walk, *, is_own: bool) -> Iterator[bytes]:
    """Methods and values of a class, of another package's plain ones; not what Python adds."""
    if isinstance(value, cached_property):
        value = value.func
    value = getattr(value, "__func__", getattr(value, "fget", value))
    kinds = (*_PLAIN, *_HOLDERS) if is_own else _PLAIN
    is_plain = isinstance(value, kinds) and not name.startswith("__")
    if isinstance(value, FunctionType) or is_plain:
        yield name.encode()
        yield from _parts(value, walk)


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
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RuntimeError):
        return secrets.token_bytes(16)
