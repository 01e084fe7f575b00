"""What tests of the dashboard share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metarouter.gateway.state import Gateway


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A gateway with traffic: its address, and keys of an admin and of somebody else."""

    gateway: Gateway
    url: str
    sent: list[Any]
    admin: str = ""
    other: str = ""
