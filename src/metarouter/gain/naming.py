"""Options of a gain model inside its name: ``sw_ranking:gamma=100:num_tiers=5``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from inspect import signature
from typing import Any

from metarouter.errors import OptionError

__all__ = ["check_options", "split_name"]

_OPTIONS = re.compile(r"(?::[a-z_]+=[^:]+)+\Z")
_NOT_OPTIONS = frozenset({"seed", "choice"})  # given by the caller, or by the name itself


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """The name without its options, and the options; values are read as JSON where they are.

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
    return name[: found.start()], {key: _value(text) for key, _, text in pairs}


def check_options(name: str, made: object, options: Mapping[str, Any]) -> None:
    """See that a model has the options, and that numbers are given where it has numbers.

    Parameters
    ----------
    name : of the model, for the message.
    made : a model of that name with its defaults.
    options : what is to be given to its class.

    Raises
    ------
    OptionError
        Naming the option and what is allowed.
    """
    known = {
        each.name: each.default
        for each in signature(type(made)).parameters.values()
        if each.name not in _NOT_OPTIONS
    }
    for option, value in options.items():
        if option not in known:
            allowed = ", ".join(known) or "none"
            raise OptionError.of(f"options of {name}", option, allowed)
        if _is_number(known[option]) and not _is_number(value):
            raise OptionError.of(f"{name}:{option}", value, "a number")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
