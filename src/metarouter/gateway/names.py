"""What a request's `model` asks for: a policy, a router with a threshold, or a model."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from metarouter.errors import InputError, shorten

__all__ = ["Asked", "read_model_name"]

_THRESHOLD_NAME = re.compile(r"router-(.+?)-(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Either a policy, perhaps with a threshold, or the name of a real model."""

    policy: str | None = None
    threshold: float | None = None
    model: str | None = None


def read_model_name(name: str, policies: Collection[str], splits: Collection[str] = ()) -> Asked:
    """Read the `model` of a request.

    Parameters
    ----------
    name : str
        ``metarouter`` (the first policy), ``metarouter:POLICY``,
        ``router-POLICY-THRESHOLD`` as RouteLLM spells it, or a model's name.
    policies : names of the policies, default first.
    splits : further names that decide, though not by a threshold.

    Returns
    -------
    Asked
        The threshold is a win rate in [0, 1], as in RouteLLM.

    Raises
    ------
    InputError
        When the policy does not exist, or the threshold is no win rate.

    Examples
    --------
    >>> read_model_name("router-mf-0.11593", ["mf"])
    Asked(policy='mf', threshold=0.11593, model=None)
    >>> read_model_name("gpt-4o", ["mf"]).model
    'gpt-4o'
    """
    if name == "metarouter":
        if not policies:
            raise InputError(
                f"model = {name!r}; no policy is set up: name a model, or add a router"
            )
        return Asked(policy=next(iter(policies)))
    if name.startswith("metarouter:"):
        return Asked(policy=_known(name.removeprefix("metarouter:"), name, [*policies, *splits]))
    found = _THRESHOLD_NAME.fullmatch(name)
    if found is None:
        return Asked(model=name)
    threshold = float(found[2])
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"model = {shorten(name)}; a threshold is a win rate: 0 to 1")
    if found[1] not in policies and policies:
        known = ", ".join(f"router-{policy}-{found[2]}" for policy in policies)
        raise InputError(f"model = {shorten(name)}; no policy is called so; allowed: {known}")
    return Asked(policy=_known(found[1], name, policies), threshold=threshold)


def _known(policy: str, name: str, policies: Collection[str]) -> str:
    if policy not in policies:
        known = ", ".join(policies) or "none is set up"
        raise InputError(f"model = {shorten(name)}; policies: {known}")
    return policy
