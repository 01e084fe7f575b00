"""Which model a conversation stays with, in memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["StickyModels"]

_LARGEST = 100_000  # conversations; about 30 MB


class StickyModels:
    """Models by conversation, the least recently used forgotten first.

    Parameters
    ----------
    seconds : float
        How long after its last use a conversation is remembered; may be set.
    clock : callable, default ``time.monotonic``

    Examples
    --------
    >>> memory = StickyModels(60.0)
    >>> memory.put("a", "premium")
    >>> memory.get("a"), memory.get("b")
    ('premium', None)
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._models: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def get(self, key: str) -> str | None:
        """The model of a conversation, unless it is forgotten."""
        found = self._models.get(key)
        if found is None or found[1] < self._clock():
            return None
        return found[0]

    def put(self, key: str, model: str) -> None:
        """Remember the model that answered."""
        self._models[key] = (model, self._clock() + self.seconds)
        self._models.move_to_end(key)
        if len(self._models) > _LARGEST:
            self._models.popitem(last=False)
