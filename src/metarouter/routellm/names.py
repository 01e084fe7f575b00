"""RouteLLM's model names: ``router-mf-0.11593`` is router mf at win rate 0.11593."""

from __future__ import annotations

import re
from numbers import Real

from metarouter.errors import InputError, shorten

__all__ = ["RoutingError", "check_threshold", "parse_router_name", "router_name"]

_ALLOWED = "router-NAME-THRESHOLD with a threshold from 0 to 1, e.g. router-mf-0.11593"
_NAME = re.compile(r"router-(.+?)-((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_DIGITS = 5  # RouteLLM rounds thresholds so


class RoutingError(InputError):
    """A request that cannot be routed; a server answers 400."""


def parse_router_name(name: str) -> tuple[str, float]:
    """Router and threshold of a name.

    The threshold is a win rate: queries on which the strong model wins with at
    least that probability go to it, so 0 sends everything there.

    Parameters
    ----------
    name : str, ``router-NAME-THRESHOLD``; NAME may hold dashes.

    Raises
    ------
    RoutingError
        When the name is no such name, or the threshold not from 0 to 1.

    Examples
    --------
    >>> parse_router_name("router-mf-0.11593")
    ('mf', 0.11593)
    >>> parse_router_name("gpt-4")
    Traceback (most recent call last):
    ...
    metarouter.routellm.names.RoutingError: model = 'gpt-4'; allowed: router-NAME-THRESHOLD with \
a threshold from 0 to 1, e.g. router-mf-0.11593
    """
    found = _NAME.fullmatch(name) if isinstance(name, str) else None
    if found is None:
        raise RoutingError(f"model = {shorten(name)}; allowed: {_ALLOWED}")
    return found[1], check_threshold(float(found[2]))


def router_name(router: str, threshold: float) -> str:
    """The name that :func:`parse_router_name` reads, the threshold to five digits.

    Examples
    --------
    >>> router_name("mf", 0.115934)
    'router-mf-0.11593'
    """
    shown = f"{check_threshold(threshold):.{_DIGITS}f}".rstrip("0")
    return f"router-{router}-{shown}0" if shown.endswith(".") else f"router-{router}-{shown}"


def check_threshold(threshold: object) -> float:
    """The threshold as a float.

    Raises
    ------
    RoutingError
        When it is no number from 0 to 1.
    """
    if isinstance(threshold, Real) and 0 <= float(threshold) <= 1:  # NaN is neither
        return float(threshold)
    raise RoutingError(f"threshold = {shorten(threshold)}; allowed: a number from 0 to 1")
