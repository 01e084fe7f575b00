"""Splits and shadows as the pages show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from metarouter.records import Estimate
from metarouter.store.experiments import (
    ArmResult,
    CandidateResult,
    DecisionLog,
    arm_results,
    shadow_results,
)
from metarouter.store.offpolicy import clustered_mean
from metarouter.types import FloatArray

__all__ = ["comparison_view"]


def comparison_view(log: DecisionLog) -> dict[str, Any]:
    """Arms of splits against their control, and shadow policies against who acted.

    Parameters
    ----------
    log : DecisionLog

    Returns
    -------
    dict
        `arms` and `shadows`; `unknown`, gold scores of models that no decision offers, which
        are left out. What each number is and assumes, say
        :func:`metarouter.store.experiments.arm_results` and
        :func:`metarouter.store.experiments.candidate_result`.
    """
    shadows = shadow_results(log)
    return {
        "n": len(log),
        "unknown": log.unknown_gold,
        "arms": [_arm(arm) for arm in arm_results(log)],
        "shadows": [_shadow(result, log) for result in shadows],
        "drawn": int(np.isfinite(log.propensities).all(axis=1).sum()) if len(log) else 0,
    }


def _arm(arm: ArmResult) -> dict[str, Any]:
    return {
        "experiment": arm.experiment,
        "policy": arm.policy,
        "requests": arm.requests,
        "units": arm.units,
        "measures": _plain(arm.measures),
        "differences": _plain(arm.differences),
    }


def _shadow(result: CandidateResult, log: DecisionLog) -> dict[str, Any]:
    return {
        "policy": result.policy,
        "requests": result.requests,
        "measures": _plain(result.measures),
        **_cost(log, result.policy),
        "audit": result.audit,
        "values": {name: asdict(value) for name, value in result.values.items()},
        "refusals": dict(result.refusals),
    }


def _cost(log: DecisionLog, policy: str) -> dict[str, Any]:
    """Expected cost of a shadow policy's choices minus that of what was chosen, and its unit.

    Both are the acting policies' expectations. No difference where no decision knows
    both, or where the acting policies count in several units, of which there is no mean.
    """
    index = {model: number for number, model in enumerate(log.models)}
    choice = np.array([index.get(one.get(policy, ""), -1) for one in log.shadows], dtype=np.int64)
    rows = np.flatnonzero(choice >= 0)
    difference: FloatArray = log.costs[rows, choice[rows]] - log.costs[rows, log.chosen[rows]]
    rows, difference = rows[np.isfinite(difference)], difference[np.isfinite(difference)]
    units = sorted({str(unit) for unit in log.cost_unit[rows]})
    if len(units) != 1:
        return {"cost_difference": None, "cost_unit": None}
    return {"cost_difference": clustered_mean(difference, log.unit[rows]), "cost_unit": units[0]}


def _plain(measures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in measures.items()}
