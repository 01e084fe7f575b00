"""The row of a request, completed aside where that takes further decisions."""

from __future__ import annotations

from functools import partial
from typing import Any

from metarouter.errors import MetarouterError
from metarouter.gateway.choosing import Choice, ask_others, ask_shadows
from metarouter.gateway.records import Exchange, decision_row
from metarouter.gateway.state import Gateway

__all__ = ["keep_row"]


def keep_row(gateway: Gateway, exchange: Exchange) -> None:
    """Give the row of a request to the writer, soon or at once.

    The decisions of other arms and of shadow policies are made in a thread of
    their own. Where too many wait, one fails, or the process stops, the row is
    kept without them: with null for its propensities, and the probability of its
    arm and model together as the propensity of its model.

    Parameters
    ----------
    gateway : Gateway
    exchange : of a request that has ended.
    """
    row, choice = decision_row(exchange), exchange.choice
    if choice is None or not (choice.others or choice.shadows):
        gateway.writer.put(row)
    elif not gateway.aside.submit(partial(_complete, gateway, row, choice)):
        gateway.metrics.note_aside("left out")
        gateway.writer.put(row)


def _complete(gateway: Gateway, row: dict[str, Any], choice: Choice) -> None:
    def failed(policy: str, error: str) -> None:
        gateway.metrics.note_aside("failed")
        gateway.log.warning("aside", id=row["decision_id"], policy=policy, error=error)

    try:
        if gateway.aside.is_closing:
            gateway.metrics.note_aside("left out")
            return
        if choice.others:
            row["propensities"] = propensities = ask_others(choice)
            row["logging_propensity"] = propensities[row["model"]]
        if choice.shadows:
            row["shadow"] = ask_shadows(choice, failed)
        gateway.metrics.note_aside("done")
    except MetarouterError as error:
        failed("", str(error))
    except Exception as error:  # noqa: BLE001 - the boundary: whatever fails here, the row is kept
        failed("", repr(error))
    finally:
        gateway.writer.put(row)
