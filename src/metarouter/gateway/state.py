"""What the endpoints share: no globals, one object an app.

What settings and routers say is a :class:`Generation`, which never changes. A
reload makes the next one and puts it in the place of the current one. A request
takes the current generation once, at its start, and asks nothing of another: so
no decision mixes two policies, and what an old generation began it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from metarouter.gateway.aside import Aside
from metarouter.gateway.choosing import Allowed, Deciders
from metarouter.gateway.deciding import ServedPolicy
from metarouter.gateway.experiments import Split
from metarouter.gateway.keyring import Keyring
from metarouter.gateway.limits import KeyLimits
from metarouter.gateway.metrics import Metrics
from metarouter.gateway.names import Asked
from metarouter.gateway.owners import Owners
from metarouter.gateway.problems import RefusedError
from metarouter.gateway.recalling import Recall
from metarouter.gateway.settings import GatewaySettings, SettingsSource, SplitSettings
from metarouter.gateway.spending import Prices
from metarouter.gateway.sticky import StickyModels
from metarouter.gateway.tracing import Tracing
from metarouter.gateway.upstream import Dialect, Upstreams
from metarouter.store.keys import ApiKey
from metarouter.store.writer import DecisionWriter

__all__ = ["FileStamp", "Gateway", "Generation", "header_map", "make_generation", "make_logger"]

FileStamp = tuple[int, int, int]
"""When a file changed, its size and its inode: another file differs in one of them."""

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Generation:
    """All that one reading of the settings made; a request uses one, from start to end.

    Attributes
    ----------
    number : 1 for the first, one more after each reload.
    settings : GatewaySettings
    policies : by name, default first.
    upstreams : where models are served.
    prices : of their models.
    splits : names that are shared out among policies.
    models : those of a policy that some upstream of a dialect serves.
    named : models that upstreams name, which go before names of policies.
    """

    number: int
    settings: GatewaySettings
    policies: Mapping[str, ServedPolicy]
    upstreams: Upstreams
    prices: Prices
    splits: Mapping[str, Split]
    models: Mapping[tuple[str, Dialect], tuple[str, ...]]
    named: frozenset[str]

    @property
    def names(self) -> list[str]:
        """What callers may ask to decide: policies, default first, and splits."""
        return list(dict.fromkeys((*self.policies, *self.splits)))

    def check(self, name: str, key: ApiKey | None) -> None:
        """See that the key may ask a policy or a split to decide.

        Raises
        ------
        RefusedError
            With status 403.
        """
        if key is not None and key.policies is not None and name not in key.policies:
            raise RefusedError(403, "permission_error", f"this key may not use policy {name}")

    def deciders(
        self,
        asked: Asked,
        *,
        conversation: str,
        key_id: str | None,
        decision_id: str,
        allowed: Allowed,
    ) -> Deciders:
        """Who decides what was asked for; a threshold is a policy's own."""
        name = asked.policy or ""
        split = None if asked.threshold is not None else self.splits.get(name)
        policy = self.policies[name if split is None else next(iter(split.arms))]
        units = {"conversation": conversation, "key": key_id or "", "request": decision_id}
        return Deciders(
            policies=self.policies,
            policy=policy,
            split=split,
            unit="" if split is None else units[split.by],
            decision_id=decision_id,
            allowed=allowed,
        )


def make_generation(
    settings: GatewaySettings,
    policies: Mapping[str, ServedPolicy],
    metrics: Metrics,
    before: Generation | None = None,
) -> Generation:
    """What checked settings and loaded policies make.

    Parameters
    ----------
    settings : GatewaySettings
    policies : by name, default first.
    metrics : that upstreams and prices count in.
    before : the generation whose upstreams go on, optional.
    """
    places, stand_ins = settings.upstreams, settings.fallbacks
    upstreams = (
        Upstreams(places, stand_ins, on_attempt=metrics.note_attempt)
        if before is None
        else before.upstreams.renewed(places, stand_ins)
    )
    dialects: tuple[Dialect, ...] = ("openai", "anthropic")
    return Generation(
        number=1 if before is None else before.number + 1,
        settings=settings,
        policies=policies,
        upstreams=upstreams,
        prices=Prices(settings, metrics.note_unpriced),
        splits={name: _split(name, entry) for name, entry in settings.splits.items()},
        models={
            (name, dialect): tuple(m for m in policy.models if upstreams.serves(m, dialect))
            for name, policy in policies.items()
            for dialect in dialects
        },
        named=frozenset(upstreams.models),
    )


def _split(name: str, settings: SplitSettings) -> Split:
    arms = {arm: share for arm, share in settings.arms.items() if share > 0}
    return Split(name=name, arms=arms, by=settings.by, salt=settings.salt)


@dataclass(kw_only=True, slots=True, eq=False)
class Gateway:
    """The current generation, and what outlives it.

    Attributes
    ----------
    current : Generation
        Replaced by a reload; code that serves a request takes it once.
    source : where the settings are read again.
    reloading : held by who replaces the current generation.
    files_read : the files of the current generation as they were when last read.
    aside : does what no answer waits for.
    tell_siblings : asks all workers on this port to reload; whether they will be.
    has_told : whether that comes back to this one, which has reloaded.
    """

    current: Generation
    source: SettingsSource
    engine: sa.Engine
    writer: DecisionWriter
    keyring: Keyring
    limits: KeyLimits
    metrics: Metrics
    sticky: StickyModels
    recall: Recall
    log: structlog.typing.FilteringBoundLogger
    owners: Owners = field(default_factory=Owners)
    reloading: threading.Lock = field(default_factory=threading.Lock)
    tracing: Tracing | None = None
    files_read: Mapping[Path, FileStamp | None] = field(default_factory=dict)
    aside: Aside = field(default_factory=Aside)
    tell_siblings: Callable[[], bool] = lambda: False
    has_told: bool = False

    @property
    def settings(self) -> GatewaySettings:
        """Those of the current generation."""
        return self.current.settings

    @property
    def policies(self) -> Mapping[str, ServedPolicy]:
        """Those of the current generation."""
        return self.current.policies

    @property
    def upstreams(self) -> Upstreams:
        """Those of the current generation."""
        return self.current.upstreams

    def authorise(self, headers: Mapping[str, str]) -> ApiKey | None:
        """The caller's key; None where the gateway asks for none.

        Raises
        ------
        RefusedError
            With status 401.
        """
        return None if self.settings.auth == "none" else self.keyring.check(headers)


def header_map(scope: Mapping[str, Any]) -> dict[str, str]:
    """Headers of a request by name in lower case; the last of several wins."""
    return {str(name, "latin-1"): str(value, "latin-1") for name, value in scope["headers"]}


def make_logger(level: str) -> structlog.typing.FilteringBoundLogger:
    """A logger of JSON lines on stderr."""
    import sys

    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(sys.stderr.buffer),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
    )
    # bound once: an unbound logger makes its methods anew for each line
    bound: structlog.typing.FilteringBoundLogger = logger.bind()
    return bound


def _json(event: object, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)
