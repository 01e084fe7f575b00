"""metarouter: learn which queries need the expensive LLM, and prove what it saves.

>>> import metarouter as mr
>>> "fit" in mr.__all__
True

The names below are the public ones; each is imported when it is first used, so
that importing the package does nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarouter.artifact import RouterArtifact
    from metarouter.calibration import calibrate
    from metarouter.correction import CORRECTORS, make_corrector
    from metarouter.errors import (
        ArtifactError,
        DataError,
        InputError,
        LabelError,
        MetarouterError,
        MissingDependencyError,
        OptionError,
        OverlapError,
        ProviderError,
    )
    from metarouter.evaluation.evaluate import Evaluation, evaluate_router
    from metarouter.evaluation.experiment import compare
    from metarouter.evaluation.report import write_compare_report, write_evaluation_report
    from metarouter.features.pipeline import make_pipeline
    from metarouter.fitting import fit
    from metarouter.gain.registry import GAIN_MODELS, make_gain_model
    from metarouter.labels.check import summarise_labels
    from metarouter.labels.read import read_gain_table
    from metarouter.labels.split import split_by_query
    from metarouter.labels.table import GainTable, make_gain_table
    from metarouter.loading import load
    from metarouter.onboarding import onboard
    from metarouter.querying import read_queries
    from metarouter.records import (
        Decision,
        Estimate,
        GainEstimate,
        Message,
        ModelOption,
        ModelSpec,
        PolicyValue,
        Query,
    )
    from metarouter.router import Router

    __version__: str

__all__ = [
    "CORRECTORS",
    "GAIN_MODELS",
    "ArtifactError",
    "DataError",
    "Decision",
    "Estimate",
    "Evaluation",
    "GainEstimate",
    "GainTable",
    "InputError",
    "LabelError",
    "Message",
    "MetarouterError",
    "MissingDependencyError",
    "ModelOption",
    "ModelSpec",
    "OptionError",
    "OverlapError",
    "PolicyValue",
    "ProviderError",
    "Query",
    "Router",
    "RouterArtifact",
    "__version__",
    "calibrate",
    "compare",
    "evaluate_router",
    "fit",
    "load",
    "make_corrector",
    "make_gain_model",
    "make_gain_table",
    "make_pipeline",
    "onboard",
    "read_gain_table",
    "read_queries",
    "split_by_query",
    "summarise_labels",
    "write_compare_report",
    "write_evaluation_report",
]

_HOMES = {
    "artifact": ("RouterArtifact",),
    "calibration": ("calibrate",),
    "correction": ("CORRECTORS", "make_corrector"),
    "errors": (
        "ArtifactError",
        "DataError",
        "InputError",
        "LabelError",
        "MetarouterError",
        "MissingDependencyError",
        "OptionError",
        "OverlapError",
        "ProviderError",
    ),
    "evaluation.evaluate": ("Evaluation", "evaluate_router"),
    "evaluation.experiment": ("compare",),
    "evaluation.report": ("write_compare_report", "write_evaluation_report"),
    "features.pipeline": ("make_pipeline",),
    "fitting": ("fit",),
    "gain.registry": ("GAIN_MODELS", "make_gain_model"),
    "labels.check": ("summarise_labels",),
    "labels.read": ("read_gain_table",),
    "labels.split": ("split_by_query",),
    "labels.table": ("GainTable", "make_gain_table"),
    "loading": ("load",),
    "onboarding": ("onboard",),
    "querying": ("read_queries",),
    "records": (
        "Decision",
        "Estimate",
        "GainEstimate",
        "Message",
        "ModelOption",
        "ModelSpec",
        "PolicyValue",
        "Query",
    ),
    "router": ("Router",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("metarouter")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
