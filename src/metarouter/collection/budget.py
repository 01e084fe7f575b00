"""A budget that is never passed: the most a request can cost is held before it is sent."""

from __future__ import annotations

import asyncio

from metarouter.collection.money import to_usd
from metarouter.errors import MetarouterError

__all__ = ["Budget", "BudgetReachedError"]


class BudgetReachedError(MetarouterError):
    """The next request could pass the budget."""


class Budget:
    """Money that is spent or held, against a limit.

    At every moment `spent` + what is held for requests in flight ≤ `limit`,
    and a request is held at the most that it can cost. Requests are admitted in
    the order in which they ask, so that near the end short ones do not overtake
    long ones: a run that the budget stops has done its first queries, not its
    cheapest.

    Parameters
    ----------
    limit : int or None, picodollars; None is no limit.
    spent : int, picodollars that earlier runs spent or may have spent.
    """

    def __init__(self, limit: int | None, spent: int = 0) -> None:
        self.limit = limit
        self.spent = spent
        self.held = 0
        self._in_flight = 0
        self._turn = asyncio.Lock()
        self._settled = asyncio.Event()

    async def hold(self, amount: int) -> None:
        """Wait until `amount` fits below the limit, and hold it.

        Raises
        ------
        BudgetReachedError
            When it does not fit although nothing is in flight any more.
        """
        async with self._turn:
            while self.limit is not None and self.spent + self.held + amount > self.limit:
                if not self._in_flight:
                    left = max(0, self.limit - self.spent)
                    raise BudgetReachedError(
                        f"may cost up to {to_usd(amount):.4g} USD, and {to_usd(left):.4g} are left"
                    )
                self._settled.clear()
                await self._settled.wait()
            self.held += amount
            self._in_flight += 1

    def settle(self, held: int, charged: int) -> None:
        """Put what a request cost, or may have cost, in place of what was held for it."""
        self.held -= held
        self.spent += charged
        self._in_flight -= 1
        self._settled.set()
