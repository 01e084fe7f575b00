"""Gain models by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Literal

from metarouter.errors import OptionError
from metarouter.gain.naming import check_options, split_name
from metarouter.gain.pool import PoolGainModel
from metarouter.types import GainModel, TableGainModel

__all__ = [
    "ENTRY_POINT_GROUP",
    "GAIN_MODELS",
    "TABLE_ENTRY_POINT_GROUP",
    "TABLE_GAIN_MODELS",
    "TEXT_GAIN_MODELS",
    "gain_model_names",
    "make_gain_model",
    "make_pool_model",
    "make_table_gain_model",
]

ENTRY_POINT_GROUP = "metarouter.gain_models"
TABLE_ENTRY_POINT_GROUP = "metarouter.table_gain_models"


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
    raise OptionError.of("gain model", name, ", ".join(_single_names()))


def make_table_gain_model(name: str, *, seed: int = 0, **options: Any) -> TableGainModel:
    """Make an unfitted model that learns from a whole table.

    Parameters
    ----------
    name : str
        One of `TABLE_GAIN_MODELS`; one of `TEXT_GAIN_MODELS`, alone or with the
        checkpoint that it starts from (``bert:FOLDER``); or the name of an
        entry point in the group ``metarouter.table_gain_models``, whose object
        is called with ``seed=seed`` and the options. Options may stand in the
        name too: ``sw_ranking:gamma=100:num_tiers=5``.
    seed : int, default 0
        Seed of the models that draw.
    **options
        Passed to the model's class.

    Raises
    ------
    OptionError
        When no model has that name, or it has no such option.

    Examples
    --------
    >>> make_table_gain_model("sw_ranking:gamma=100").gamma
    100
    """
    name, named = split_name(name)
    options = named | options
    make = _TABLE_BUILT_IN.get(name)
    if _reads_text(name):
        name, _, checkpoint = name.partition(":")
        make = _TEXT_BUILT_IN[name]
        options |= {"checkpoint": checkpoint} if checkpoint else {}
    if make is not None:
        check_options(name, type(make(seed, {})), options)
        return make(seed, options)
    for plugin in entry_points(group=TABLE_ENTRY_POINT_GROUP, name=name):
        installed = plugin.load()
        check_options(name, installed, options)
        model: TableGainModel = installed(seed=seed, **options)
        return model
    raise OptionError.of("gain model", name, ", ".join(_table_names()))


def make_pool_model(
    name: str = "auto", *, seed: int = 0, **options: Any
) -> PoolGainModel | TableGainModel:
    """Make an unfitted model of all gains of a table, whichever kind `name` is.

    A model of one gain is fitted to contrasts by
    :class:`metarouter.gain.PoolGainModel`; a table gain model stands alone.

    Raises
    ------
    OptionError
        When no model has that name, or one of a single gain gets options.

    Examples
    --------
    >>> type(make_pool_model("ridge")).__name__, type(make_pool_model("knn")).__name__
    ('PoolGainModel', 'NeighbourGain')
    """
    name, named = split_name(name)
    options = named | options
    if name in _table_names() or _reads_text(name):
        return make_table_gain_model(name, seed=seed, **options)
    if options:
        raise OptionError.of(f"options of {name}", sorted(options), "none")
    if name not in _single_names():
        raise OptionError.of("gain model", name, ", ".join(gain_model_names()))
    return PoolGainModel(lambda: make_gain_model(name, seed=seed))


def gain_model_names() -> tuple[str, ...]:
    """Models of one gain, then table gain models; built-in ones first in each."""
    return _single_names() + _table_names()


def _single_names() -> tuple[str, ...]:
    return _with_plugins(GAIN_MODELS, ENTRY_POINT_GROUP)


def _table_names() -> tuple[str, ...]:
    return _with_plugins(TABLE_GAIN_MODELS + TEXT_GAIN_MODELS, TABLE_ENTRY_POINT_GROUP)


def _reads_text(name: str) -> bool:
    return name.partition(":")[0] in TEXT_GAIN_MODELS


def _with_plugins(built_in: tuple[str, ...], group: str) -> tuple[str, ...]:
    plugins = {plugin.name for plugin in entry_points(group=group)}
    return built_in + tuple(sorted(plugins - set(built_in)))


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


def _sw_ranking(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.sw_ranking import SWRanking

    return SWRanking(seed=seed, **options)


def _mf(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.mf import MFGain

    return MFGain(seed=seed, **options)


def _bert(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.text.encoder import EncoderGain

    return EncoderGain(seed=seed, **options)


def _causal_lm(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.text.decoder import DecoderGain

    return DecoderGain(seed=seed, **options)


def _knn(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.neighbours import NeighbourGain

    return NeighbourGain(seed=seed, **options)


def _logistic(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.logistic import LogisticGain

    return LogisticGain(seed=seed, **options)


def _cluster(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.cluster import ClusterGain

    return ClusterGain(seed=seed, **options)


def _random(seed: int, options: dict[str, Any]) -> TableGainModel:
    from metarouter.gain.reference import RandomGain

    return RandomGain(seed=seed, **options)


def _always(choice: Literal["premium", "cheap"]) -> Callable[[int, dict[str, Any]], TableGainModel]:
    def make(seed: int, options: dict[str, Any]) -> TableGainModel:
        from metarouter.gain.reference import AlwaysGain

        return AlwaysGain(choice, **options)

    return make


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

_TABLE_BUILT_IN: dict[str, Callable[[int, dict[str, Any]], TableGainModel]] = {
    "sw_ranking": _sw_ranking,
    "mf": _mf,
    "knn": _knn,
    "cluster": _cluster,
    "logistic": _logistic,
    "random": _random,
    "always_premium": _always("premium"),
    "always_cheap": _always("cheap"),
}
TABLE_GAIN_MODELS: tuple[str, ...] = tuple(_TABLE_BUILT_IN)

_TEXT_BUILT_IN: dict[str, Callable[[int, dict[str, Any]], TableGainModel]] = {
    "bert": _bert,
    "causal_lm": _causal_lm,
}
TEXT_GAIN_MODELS: tuple[str, ...] = tuple(_TEXT_BUILT_IN)
"""Table gain models that read the texts themselves; see :mod:`metarouter.gain.text`."""
