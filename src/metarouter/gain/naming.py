"""Options of a gain model or a corrector inside its name: ``sw_ranking:gamma=100:num_tiers=5``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any

import numpy as np

from metarouter.errors import OptionError

__all__ = ["check_options", "split_name"]

_WORDS = re.compile(r"(?:typing\.)?Literal\['[^']*'(?:, '[^']*')*\](?: \| None)?")
_OPTIONS = re.compile(r"(?::[a-z_]+=[^:]+)+\Z")
# given by the caller, by the name itself, or only in Python
_NOT_OPTIONS = frozenset({"seed", "choice", "learner", "priors"})
_LISTS = {"str": '["a","b"]', "int": "[1,2]", "float": "[0.1,1]"}


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """The name without its options, and the options; values are read as JSON where they are.

    Raises
    ------
    OptionError
        When the seed is among them, which is not the name's to give.

    Examples
    --------
    >>> split_name("sw_ranking:gamma=100:num_tiers=5")
    ('sw_ranking', {'gamma': 100, 'num_tiers': 5})
    >>> split_name("bert:folder/of/a/checkpoint:epochs=2")
    ('bert:folder/of/a/checkpoint', {'epochs': 2})
    """
    found = _OPTIONS.search(name)
    if found is None:
        return name, {}
    pairs = (pair.partition("=") for pair in found[0][1:].split(":"))
    options = {key: _value(text) for key, _, text in pairs}
    if "seed" in options:
        raise OptionError(f"{name}: a name gives no seed; give it as `seed`")
    return name[: found.start()], options


def check_options(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """See that a model has the options, and that each value is of the kind that it asks for.

    Parameters
    ----------
    name : of the model, for the message.
    make : the class or function that makes it.
    options : what is to be given to that.

    Raises
    ------
    OptionError
        Naming the option and what is allowed.
    """
    found = signature(make).parameters
    if any(each.kind is Parameter.VAR_KEYWORD for each in found.values()):
        return  # what it takes is its own to say
    known = {each: found[each] for each in found if each not in _NOT_OPTIONS}
    for option, value in options.items():
        if option not in known:
            allowed = ", ".join(known) or "none"
            raise OptionError.of(f"options of {name}", option, allowed)
        wanted = _wanted(known[option], value)
        if wanted is not None:
            raise OptionError.of(f"{name}:{option}", value, wanted)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _wanted(option: Parameter, value: Any) -> str | None:
    """What the annotation asks for in the place of a value, where that is not of its type."""
    annotation = str(getattr(option.annotation, "__name__", option.annotation))
    kinds = set(re.findall(r"\w+", annotation))
    if value is None and "None" in kinds:
        return None
    if _WORDS.fullmatch(annotation):
        words = re.findall(r"'([^']*)'", annotation)
        return None if value in words else ", ".join(words)
    kind = "".join(kinds - {"None", "Sequence", "FloatArray"})
    if "Sequence" in kinds and kind in _LISTS:
        return None if _is_list(kind, value) else f"a list such as {_LISTS[kind]}"
    return None if "FloatArray" in kinds and np.ndim(value) > 0 else _misfit(kind, value)


def _is_list(kind: str, value: Any) -> bool:
    """A list as JSON has them, of one kind; or another that holds several, as it is."""
    if not isinstance(value, list | tuple):
        return isinstance(value, Iterable) and not isinstance(value, str)
    return len(value) > 0 and all(_misfit(kind, each) is None for each in value)


def _misfit(kind: str, value: object) -> str | None:
    """What a kind of value is, where this is none; kinds that are not known fit all."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_number = is_whole or (isinstance(value, float) and math.isfinite(value))
    allowed = {
        "bool": ("true or false", isinstance(value, bool)),
        "int": ("a whole number", is_whole),
        "float": ("a number", is_number),
        "str": ("a text", isinstance(value, str)),
    }
    text, fits = allowed.get(kind, ("", True))
    return None if fits else text
