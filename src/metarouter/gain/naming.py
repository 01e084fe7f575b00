"""Options of a gain model inside its name: ``sw_ranking:gamma=100:num_tiers=5``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from metarouter.errors import OptionError

__all__ = ["check_options", "split_name"]

_OPTIONS = re.compile(r"(?::[a-z_]+=[^:]+)+\Z")
_NOT_OPTIONS = frozenset({"seed", "choice"})  # given by the caller, or by the name itself


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
    """See that a model has the options, and that numbers and switches are given as such.

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


def _wanted(option: Parameter, value: object) -> str | None:
    """What the annotation asks for in the place of a value, where that is not of its type."""
    annotation = option.annotation
    kinds = set(re.findall(r"\w+", str(getattr(annotation, "__name__", annotation))))
    if value is None and "None" in kinds:
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    is_number = is_whole or (isinstance(value, float) and math.isfinite(value))
    allowed = {
        "bool": ("true or false", isinstance(value, bool)),
        "int": ("a whole number", is_whole),
        "float": ("a number", is_number),
    }
    text, fits = allowed.get("".join(kinds - {"None"}), ("", True))
    return None if fits else text
