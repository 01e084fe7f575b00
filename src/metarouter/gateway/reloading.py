"""Other settings and routers while requests run.

A reload reads and checks everything before it changes anything: settings, routers,
upstreams' keys. Only then the next :class:`Generation` takes the place of the
current one, in one assignment. Requests that are under way end with the
generation they began with. What is wrong leaves the gateway as it is, and is
told in the log, in a metric, and to whoever asked.

A reload is asked for by SIGHUP, by ``POST /admin/reload``, or by a change of the
files where the setting `reload_seconds` says how often to look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from metarouter.errors import MetarouterError, OptionError
from metarouter.gateway.deciding import load_policies
from metarouter.gateway.settings import GatewaySettings
from metarouter.gateway.state import FileStamp, Gateway, Generation, make_generation, make_logger

__all__ = [
    "FIXED_SETTINGS",
    "fixed_settings",
    "reload",
    "reload_all",
    "reload_when_told",
    "try_reload",
    "watch_files",
    "with_fixed",
]

FIXED_SETTINGS = (
    "host",
    "port",
    "workers",
    "auth",
    "store",
    "tracing",
    "limits.read_seconds",
    "limits.drain_seconds",
)
"""Settings that only a restart changes."""

_OFF_SECONDS = 5.0  # until it is seen that a reload switched the watch on


def reload(gateway: Gateway) -> Generation:
    """Read settings and routers again, and serve by them from the next request on.

    Takes as long as loading the routers; call it from a thread. Calls from
    several threads follow each other.

    Parameters
    ----------
    gateway : Gateway

    Returns
    -------
    Generation
        The new one, which is current now.

    Raises
    ------
    InputError
        When a setting or a router is wrong; nothing has changed then.
    OptionError
        When a setting differs that only a restart changes.
    """
    with gateway.reloading:
        gateway.files_read = before = _stamps(gateway)
        try:
            generation = _next(gateway)
        except MetarouterError as error:
            gateway.metrics.note_reload(is_done=False)
            gateway.log.error("reload refused", error=str(error))
            raise
        if generation.settings.log_level != gateway.settings.log_level:
            gateway.log = make_logger(generation.settings.log_level)
        gateway.sticky.seconds = generation.settings.sticky_seconds
        gateway.current = generation
        # a file that changed while it was read will differ from what stood before
        after = _stamps(gateway).items()
        gateway.files_read = {path: before.get(path, stamp) for path, stamp in after}
        gateway.metrics.note_reload(is_done=True)
        versions = {name: p.router.policy.version for name, p in generation.policies.items()}
        gateway.log.info("reloaded", generation=generation.number, policies=versions)
        return generation


def _next(gateway: Gateway) -> Generation:
    before = gateway.current
    settings = gateway.source.read()
    changed = _fixed_changes(before.settings, settings)
    if changed:
        raise OptionError(
            f"{', '.join(changed)} cannot change while the gateway runs; restart it, or set back"
        )
    settings.check_variables()
    after = make_generation(settings, load_policies(settings), gateway.metrics, before)
    after.prices.warm()
    return after


def fixed_settings(settings: GatewaySettings) -> dict[str, Any]:
    """Values of :data:`FIXED_SETTINGS`; they can be pickled, which the settings cannot."""
    return {name: attrgetter(name)(settings) for name in FIXED_SETTINGS}


def with_fixed(settings: GatewaySettings, fixed: Mapping[str, Any]) -> GatewaySettings:
    """The settings with those that only a restart changes as they are where it runs."""
    for name, value in fixed.items():
        head, _, tail = name.partition(".")
        whole = getattr(settings, head).model_copy(update={tail: value}) if tail else value
        settings = settings.model_copy(update={head: whole})
    return settings


def _fixed_changes(old: GatewaySettings, new: GatewaySettings) -> list[str]:
    """Fixed settings that differ, the single ones of a table by their own names."""
    before, after = old.model_dump(), new.model_dump()
    changed = []
    for name in FIXED_SETTINGS:
        head, _, tail = name.partition(".")
        one, other = before[head], after[head]
        names = [tail] if tail else list(one) if isinstance(one, dict) else []
        if names:
            changed += [f"{head}.{key}" for key in names if one[key] != other[key]]
        elif one != other:
            changed.append(name)
    return changed


def try_reload(gateway: Gateway) -> None:
    """Reload where nobody waits for the answer; what is wrong is in the log."""
    try:
        reload(gateway)
    except MetarouterError:
        return  # told by `reload`
    except Exception as error:  # noqa: BLE001 - the boundary: serving outlives a fault in loading
        gateway.metrics.note_reload(is_done=False)
        gateway.log.error("reload failed", error=repr(error))


def reload_all(gateway: Gateway) -> Generation:
    """Reload, and have the other workers on this port do so.

    Raises
    ------
    InputError, OptionError
        As :func:`reload`; the others are not asked then.
    """
    generation = reload(gateway)
    with gateway.reloading:
        gateway.has_told = gateway.tell_siblings()
    return generation


def reload_when_told(gateway: Gateway) -> None:
    """Reload on SIGHUP, unless a worker's own word to all came back and the files stand as read."""
    with gateway.reloading:
        is_own, gateway.has_told = gateway.has_told, False
        if is_own and _stamps(gateway) == gateway.files_read:
            return
    try_reload(gateway)


async def watch_files(gateway: Gateway) -> None:
    """Reload when the settings' file, a router or its queries change; until cancelled.

    A change counts once the files look the same twice, so that a file that is
    being written is left alone. Files that led to a refusal are not read again
    until they change.
    """
    gateway.files_read = before = await asyncio.to_thread(_stamps, gateway)
    while True:
        await asyncio.sleep(gateway.settings.reload_seconds or _OFF_SECONDS)
        if gateway.settings.reload_seconds:
            now = await asyncio.to_thread(_stamps, gateway)
            if now == before and now != gateway.files_read:
                await asyncio.to_thread(try_reload, gateway)
            before = now


def _stamps(gateway: Gateway) -> dict[Path, FileStamp | None]:
    return {path: _stamp(path) for path in _watched(gateway)}


def _watched(gateway: Gateway) -> Iterator[Path]:
    if gateway.source.file is not None:
        yield gateway.source.file
    for policy in gateway.settings.policies.values():
        yield policy.router / "manifest.json"
        if policy.queries is not None:
            yield policy.queries


def _stamp(path: Path) -> FileStamp | None:
    try:
        status = path.stat()
    except OSError:
        return None  # missing for now, which differs from what it was
    return status.st_mtime_ns, status.st_size, status.st_ino
