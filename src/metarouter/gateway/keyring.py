"""Who is calling, and what they may ask for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from metarouter.gateway.problems import RefusedError
from metarouter.store.database import name_error
from metarouter.store.keys import ApiKey, digest_key, list_keys

__all__ = ["Keyring", "read_client_key"]

_REFRESH_SECONDS = 2.0  # until a new or a revoked key is known


class Keyring:
    """The store's keys in memory, so that no request waits for the database.

    Parameters
    ----------
    engine : the store's database.
    report : callable, optional
        Gets the name of an event and its details, for the log.
    """

    def __init__(
        self, engine: sa.Engine, report: Callable[..., object] = lambda event, **details: None
    ) -> None:
        self._engine = engine
        self._report = report
        self._keys: dict[str, ApiKey] = {}
        self._reading = threading.Lock()  # nobody puts older keys in the place of newer ones
        self._is_heard = True  # an outage is told once

    def refresh(self) -> None:
        """Read the keys again."""
        with self._reading:
            self._keys = {key.digest: key for key in list_keys(self._engine)}

    def known(self) -> list[ApiKey]:
        """The keys as they were last read."""
        return list(self._keys.values())

    async def keep_fresh(self) -> None:
        """Read the keys every two seconds, until cancelled.

        In a thread that nothing else waits for: a revoked key must not live on
        because decisions take long.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="keys") as thread:
            while True:
                await asyncio.sleep(_REFRESH_SECONDS)
                try:
                    await loop.run_in_executor(thread, self.refresh)
                except Exception as error:  # noqa: BLE001 - whatever it was, the next round may do
                    # the keys known so far stay good while the store is down
                    if self._is_heard:
                        self._report("keys are not read", error=name_error(error))
                    self._is_heard = False
                else:
                    self._is_heard = True

    @property
    def has_valid_key(self) -> bool:
        """Whether any key opens anything."""
        return any(key.is_valid(time.time()) for key in self._keys.values())

    def check(self, headers: Mapping[str, str]) -> ApiKey:
        """The key of a request.

        Raises
        ------
        RefusedError
            With status 401, the same for a missing, unknown, expired and revoked key.
        """
        # looked up by its hash: the time it takes tells nothing of the keys
        key = self._keys.get(digest_key(read_client_key(headers) or ""))
        if key is None or not key.is_valid(time.time()):
            message = "no valid API key: send one of `metarouter keys create` as a bearer token"
            raise RefusedError(401, "authentication_error", message)
        return key


def read_client_key(headers: Mapping[str, str]) -> str | None:
    """The key that a request carries, in either protocol's header.

    Examples
    --------
    >>> read_client_key({"authorization": "Bearer abc"}), read_client_key({"x-api-key": "abc"})
    ('abc', 'abc')
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return headers.get("x-api-key")
