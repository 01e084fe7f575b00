"""What routing saved, from the newest decisions of each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metarouter.dashboard.estimates import PremiumCost, finite, premium_cost, saving_share
from metarouter.errors import DataError

__all__ = ["SAVING_COLUMNS", "saving_view"]

SAVING_COLUMNS = ("policy", "model", "answered", "spent", "options", "propensities")
"""Columns of the table of decisions that :func:`saving_view` reads."""

Row = Mapping[str, Any]


def saving_view(rows: Sequence[Row], premium: Mapping[str, str]) -> dict[str, Any]:
    """Dollars saved against always the premium model, and the policy's own expectation.

    Parameters
    ----------
    rows : mappings with :data:`SAVING_COLUMNS`, of requests that were answered.
    premium : the premium model of each policy that is loaded.

    Returns
    -------
    dict
        `share`: an Estimate or None; see
        :func:`~metarouter.dashboard.estimates.premium_cost` for what it
        assumes. `always`, `spent`: dollars. `problems`: why policies are left
        out. `expected`: for each policy the saving that its own expected costs
        amount to, which needs no price and is no estimate from answers.
    """
    costs: list[PremiumCost] = []
    problems, expected = [], []
    for policy, model in premium.items():
        own = [row for row in rows if row["policy"] == policy]
        weighed = [row for row in own if _cost(row, model)]
        if not weighed:
            continue
        expected.append({"policy": policy, "share": _expected(weighed, model), "n": len(weighed)})
        try:
            costs.append(_premium_cost(weighed, model))
        except DataError as error:
            problems.append(f"{policy}: {error}")
    return {
        "share": saving_share(costs) if costs else None,
        "always": sum(cost.always for cost in costs),
        "spent": sum(cost.spent for cost in costs),
        "n": sum(cost.n for cost in costs),
        "problems": problems,
        "expected": expected,
    }


def _premium_cost(rows: Sequence[Row], model: str) -> PremiumCost:
    priced = [row for row in rows if row["spent"] is not None]
    if not priced:
        raise DataError("the price of no answer is known; the setting prices tells it")
    # a model whose answers all lack a price is often the cheap one: the rest is no sample
    unpriced = {row["answered"] for row in rows} - {row["answered"] for row in priced}
    if unpriced:
        n = sum(row["answered"] in unpriced for row in rows)
        raise DataError(
            f"no price of {', '.join(sorted(unpriced))} is known, which gave {n:,} of "
            f"{len(rows):,} answers; the setting prices tells it"
        )
    return premium_cost(
        finite([row["spent"] for row in priced]),
        finite([_cost(row, model) for row in priced]),
        np.array([row["answered"] == model for row in priced]),
        np.array([_chance(row, model) for row in priced]),
    )


def _chance(row: Row, model: str) -> float:
    """Probability with which a model was to answer; a row without any was left nothing.

    Who stood in for the chosen model was not drawn: that answer stands for no other.
    """
    chances, is_stand_in = row["propensities"], row["answered"] != row["model"]
    if not chances or is_stand_in:
        return float(row["answered"] == model)
    return float(chances.get(model, 0.0))


def _expected(rows: Sequence[Row], model: str) -> float:
    chosen = sum(_cost(row, row["model"]) or 0.0 for row in rows)
    return 1 - chosen / sum(_cost(row, model) or 0.0 for row in rows)


def _cost(row: Row, model: str) -> float | None:
    """Expected cost of a model for a request; None where it was not weighed."""
    return next((o["cost"] for o in row["options"] or () if o["model"] == model), None)
