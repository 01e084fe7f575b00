"""Options of one request: headers ``x-metarouter-…`` or the body's field `metarouter`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from metarouter.errors import InputError, shorten
from metarouter.gateway.wire import OPTIONS_FIELD, Body

__all__ = ["NO_OPTIONS", "RequestOptions", "read_options"]

_PREFIX = "x-metarouter-"


class RequestOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one request changes about its decision.

    Attributes
    ----------
    w : price of cost in place of the policy's.
    premium_share : share of premium calls on the policy's calibration queries.
    models : only these may answer.
    pin : this model answers.
    budget : most dollars that the request may be expected to cost.
    explain : the whole decision comes back in a header.
    conversation : requests with the same id stay with one model.
    """

    w: float | None = None
    premium_share: float | None = None
    models: list[str] | None = None
    pin: str | None = None
    budget: float | None = None
    explain: bool = False
    conversation: str | None = None


NO_OPTIONS = RequestOptions()
"""Those of most requests."""


def read_options(body: Body, headers: Mapping[str, str]) -> RequestOptions:
    """The options of a request; a header goes before the body's field.

    Raises
    ------
    InputError
        When an option is unknown or has a wrong value: none is ignored.

    Examples
    --------
    >>> from metarouter.gateway.wire import read_body
    >>> body = read_body(b'{"metarouter": {"w": 0.5, "explain": true}}')
    >>> options = read_options(body, {"x-metarouter-w": "0.1"})
    >>> options.w, options.explain
    (0.1, True)
    """
    given = [(name, text) for name, text in headers.items() if name.startswith(_PREFIX)]
    if OPTIONS_FIELD not in body.spans and not given:
        return NO_OPTIONS
    fields = dict(body.value(OPTIONS_FIELD, dict[str, object]) or {})
    fields |= {name[len(_PREFIX) :].replace("-", "_"): _value(name, text) for name, text in given}
    try:
        options = msgspec.convert(fields, RequestOptions, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(RequestOptions.__struct_fields__)
        raise InputError(f"{OPTIONS_FIELD}: {error}; options: {known}") from None
    return _checked(options)


def _value(name: str, text: str) -> object:
    if name == "x-metarouter-models":
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _checked(options: RequestOptions) -> RequestOptions:
    if options.w is not None and not abs(options.w) < float("inf"):
        raise InputError(f"{OPTIONS_FIELD}.w = {options.w}; allowed: a finite number")
    share = options.premium_share
    if share is not None and not 0 <= share <= 1:
        raise InputError(f"{OPTIONS_FIELD}.premium_share = {share}; allowed: from 0 to 1")
    if options.budget is not None and not 0 < options.budget < float("inf"):
        raise InputError(f"{OPTIONS_FIELD}.budget = {options.budget}; allowed: dollars above 0")
    given = [name for name in ("w", "premium_share", "pin") if getattr(options, name) is not None]
    if len(given) > 1:
        raise InputError(f"{OPTIONS_FIELD}: {' and '.join(given)} were given; allowed: one of them")
    if options.conversation is not None and not 0 < len(options.conversation) <= 200:
        shown = shorten(options.conversation)
        raise InputError(f"{OPTIONS_FIELD}.conversation = {shown}; allowed: 1 to 200 characters")
    return options
