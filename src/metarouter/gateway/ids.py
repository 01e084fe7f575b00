"""Decision ids that sort by time."""

from __future__ import annotations

import os
import time
from collections import deque

__all__ = ["make_decision_id"]

_NOISE_BYTES = 10  # 74 bits are used
_AT_ONCE = 400  # asking the system for each takes a third of the time
_noise: deque[bytes] = deque()


def make_decision_id() -> str:
    """A UUID of version 7: 48 bits of milliseconds, 74 random bits (RFC 9562).

    Examples
    --------
    >>> import uuid
    >>> uuid.UUID(make_decision_id()).version
    7
    """
    when, noise = f"{time.time_ns() // 1_000_000:012x}", _next_noise()
    text, variant = noise.hex(), "89ab"[noise[-1] & 3]
    return f"{when[:8]}-{when[8:]}-7{text[:3]}-{variant}{text[3:6]}-{text[6:18]}"


def _next_noise() -> bytes:
    try:
        return _noise.popleft()
    except IndexError:
        block = os.urandom(_NOISE_BYTES * _AT_ONCE)
        _noise.extend(block[i : i + _NOISE_BYTES] for i in range(0, len(block), _NOISE_BYTES))
        return os.urandom(_NOISE_BYTES)
