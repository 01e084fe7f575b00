"""Whose recent decisions are, before the store knows."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["Owners"]


class Owners:
    """Keys of the decisions of this process, the oldest forgotten first.

    Parameters
    ----------
    most : int
        Decisions that are remembered: what is answered while nothing is written.

    Examples
    --------
    >>> owners = Owners(most=1)
    >>> owners.note("d1", "key-1")
    >>> owners.is_of("d1", "key-1"), owners.is_of("d1", "key-2")
    (True, False)
    >>> owners.note("d2", "key-1")
    >>> owners.is_of("d1", "key-1")
    False
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._keys: OrderedDict[str, str] = OrderedDict()

    def note(self, decision_id: str, key_id: str) -> None:
        """Remember whose a decision is."""
        self._keys[decision_id] = key_id
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)

    def is_of(self, decision_id: str, key_id: str) -> bool:
        """Whether the decision is known to be of that key."""
        return self._keys.get(decision_id) == key_id
