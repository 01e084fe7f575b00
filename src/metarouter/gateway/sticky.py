"""Which model a conversation was answered by, in the memory of this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Kept", "StickyModels"]

_LARGEST = 100_000  # answers; about 45 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Who answered a request, for those that follow it.

    Attributes
    ----------
    model, upstream : that answered.
    policy : whose decision it was; None where the caller named the model.
    conversation : its identity, as rows of decisions have it.
    """

    model: str
    upstream: str
    policy: str | None = None
    conversation: str | None = None


class StickyModels:
    """Answers by conversation, the least recently used forgotten first.

    Parameters
    ----------
    seconds : float
        How long after its last use a conversation is remembered; may be set.
    clock : callable, default ``time.monotonic``

    Examples
    --------
    >>> memory = StickyModels(60.0)
    >>> memory.put("a", Kept(model="premium", upstream="main"))
    >>> memory.get("a").model, memory.get("b")
    ('premium', None)
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._kept: OrderedDict[str, tuple[Kept, float]] = OrderedDict()

    def get(self, name: str, seconds: float | None = None) -> Kept | None:
        """What was kept, unless it is older than `seconds`, by default than all is kept for."""
        found = self._kept.get(name)
        limit = self.seconds if seconds is None else min(seconds, self.seconds)
        if found is None or self._clock() - found[1] > limit:
            return None
        return found[0]

    def put(self, name: str, kept: Kept, age: float = 0.0) -> None:
        """Remember who answered, `age` seconds ago."""
        self._kept[name] = (kept, self._clock() - age)
        self._kept.move_to_end(name)
        if len(self._kept) > _LARGEST:
            self._kept.popitem(last=False)
