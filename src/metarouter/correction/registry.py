"""Correctors by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from metarouter.errors import OptionError
from metarouter.gain.naming import check_options, split_name
from metarouter.types import Corrector

__all__ = ["CORRECTORS", "ENTRY_POINT_GROUP", "corrector_names", "make_corrector"]

ENTRY_POINT_GROUP = "metarouter.correctors"


def make_corrector(name: str = "auto", *, seed: int = 0, **options: Any) -> Corrector:
    """Make an unfitted corrector of a registered name.

    Parameters
    ----------
    name : str, default "auto"
        One of :data:`CORRECTORS`, or an entry point in the group
        ``metarouter.correctors``, whose object is called with ``seed=seed`` and
        the options. Options may stand in the name too: ``mean_shift:alignment=variance``.
    seed : int
        Draws folds and landmarks.
    **options
        Passed to the corrector's class.

    Raises
    ------
    OptionError
        When no corrector has that name, or it has no such option as the name gives.

    Examples
    --------
    >>> type(make_corrector("mean_shift")).__name__
    'MeanShift'
    >>> make_corrector("dr:n_folds=10").n_folds
    10
    """
    name, named = split_name(name)
    make = _BUILT_IN.get(name)
    if make is not None:
        check_options(name, type(make(seed, {})), named)
        return make(seed, named | options)
    for plugin in entry_points(group=ENTRY_POINT_GROUP, name=name):
        installed = plugin.load()
        check_options(name, installed, named)
        corrector: Corrector = installed(seed=seed, **(named | options))
        return corrector
    raise OptionError.of("corrector", name, ", ".join(corrector_names()))


def corrector_names() -> tuple[str, ...]:
    """Built-in names, then those that installed packages register."""
    plugins = {plugin.name for plugin in entry_points(group=ENTRY_POINT_GROUP)}
    return CORRECTORS + tuple(sorted(plugins - set(CORRECTORS)))


def _auto(seed: int, options: dict[str, Any]) -> Corrector:
    from metarouter.correction.fidelity import EvidenceCorrector

    return EvidenceCorrector(seed=seed, **options)


def _two_fidelity(seed: int, options: dict[str, Any]) -> Corrector:
    from metarouter.correction.fidelity import EvidenceCorrector

    settings: dict[str, Any] = {
        "uses": ("rescale",),
        "bases": ("linear",),
        "average": False,
        "scatter": False,
    }
    return EvidenceCorrector(seed=seed, **(settings | options))


def _meta(learner: str) -> Callable[[int, dict[str, Any]], Corrector]:
    def make(seed: int, options: dict[str, Any]) -> Corrector:
        from metarouter.correction.meta import MetaCorrector

        return MetaCorrector(learner=learner, seed=seed, **options)

    return make


def _published(learner: str) -> Callable[[int, dict[str, Any]], Corrector]:
    def make(seed: int, options: dict[str, Any]) -> Corrector:
        from metarouter.correction.published import PublishedCorrector

        return PublishedCorrector(learner=learner, **options)

    return make


def _simple(name: str) -> Callable[[int, dict[str, Any]], Corrector]:
    def make(seed: int, options: dict[str, Any]) -> Corrector:
        from metarouter.correction import simple

        corrector: Corrector = getattr(simple, name)(**options)
        return corrector

    return make


_BUILT_IN: dict[str, Callable[[int, dict[str, Any]], Corrector]] = {
    "auto": _auto,
    "none": _simple("Pooled"),
    "gold_only": _simple("GoldOnly"),
    "preference_only": _simple("PreferenceOnly"),
    "mean_shift": _simple("MeanShift"),
    **{name: _meta(name) for name in ("s", "t", "x", "r", "dr")},
    "two_fidelity": _two_fidelity,
    "published_r": _published("r"),
    "published_dr": _published("dr"),
}
CORRECTORS: tuple[str, ...] = tuple(_BUILT_IN)
