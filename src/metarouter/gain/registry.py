"""Gain models by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from metarouter.errors import OptionError
from metarouter.types import GainModel

__all__ = ["ENTRY_POINT_GROUP", "GAIN_MODELS", "gain_model_names", "make_gain_model"]

ENTRY_POINT_GROUP = "metarouter.gain_models"


def make_gain_model(name: str = "auto", *, seed: int = 0) -> GainModel:
    """Make an unfitted gain model of a registered name.

    Parameters
    ----------
    name : str, default "auto"
        One of `GAIN_MODELS`, or the name of an entry point in the group
        ``metarouter.gain_models``, whose object is called with ``seed=seed``.
        ``"auto"`` is the evidence-weighted Gaussian process, which is ridge
        where the labels show no curvature.
    seed : int, default 0
        Seed of the models that draw (gp, forest, boosting, mlp).

    Raises
    ------
    OptionError
        When no model has that name.
    MissingDependencyError
        From ``fit``, when the model needs a library that is not installed.

    Examples
    --------
    >>> type(make_gain_model("forest", seed=1)).__name__
    'ForestGain'
    """
    make = _BUILT_IN.get(name)
    if make is not None:
        return make(seed)
    for plugin in entry_points(group=ENTRY_POINT_GROUP, name=name):
        model: GainModel = plugin.load()(seed=seed)
        return model
    raise OptionError.of("gain model", name, ", ".join(gain_model_names()))


def gain_model_names() -> tuple[str, ...]:
    """Built-in names, then those that installed packages register."""
    plugins = {plugin.name for plugin in entry_points(group=ENTRY_POINT_GROUP)}
    return GAIN_MODELS + tuple(sorted(plugins - set(GAIN_MODELS)))


def _ridge(seed: int) -> GainModel:
    from metarouter.gain.ridge import RidgeGain

    return RidgeGain()


def _gp(seed: int) -> GainModel:
    from metarouter.gain.gp import GaussianProcessGain

    return GaussianProcessGain(seed=seed)


def _forest(seed: int) -> GainModel:
    from metarouter.gain.forest import ForestGain

    return ForestGain(seed=seed)


def _boosting(seed: int) -> GainModel:
    from metarouter.gain.boosting import BoostingGain

    return BoostingGain(seed=seed)


def _mlp(seed: int) -> GainModel:
    from metarouter.gain.mlp import MLPGain

    return MLPGain(seed=seed)


def _two_fidelity(seed: int) -> GainModel:
    from metarouter.gain.two_fidelity import TwoFidelityGain

    return TwoFidelityGain(seed=seed)


_BUILT_IN: dict[str, Callable[[int], GainModel]] = {
    "auto": _two_fidelity,
    "ridge": _ridge,
    "gp": _gp,
    "forest": _forest,
    "boosting": _boosting,
    "mlp": _mlp,
    "two_fidelity": _two_fidelity,
}
GAIN_MODELS: tuple[str, ...] = tuple(_BUILT_IN)
