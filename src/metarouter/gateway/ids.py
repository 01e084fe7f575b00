"""Decision ids that sort by time."""

from __future__ import annotations

import secrets
import time

__all__ = ["make_decision_id"]


def make_decision_id() -> str:
    """A UUID of version 7: 48 bits of milliseconds, 74 random bits (RFC 9562).

    Examples
    --------
    >>> import uuid
    >>> uuid.UUID(make_decision_id()).version
    7
    """
    milliseconds = time.time_ns() // 1_000_000
    noise = secrets.randbits(74)
    value = (
        milliseconds << 80 | 0x7 << 76 | (noise >> 62) << 64 | 0b10 << 62 | noise & (1 << 62) - 1
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
