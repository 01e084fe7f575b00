"""``metarouter experiments``: what splits, shadows and a candidate are worth, from the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.labels_export import Since
from metarouter.cli.options import JsonOut
from metarouter.cli.store import Config, Store
from metarouter.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine

    from metarouter.records import Estimate
    from metarouter.router import Router
    from metarouter.store.experiments import ArmResult, CandidateResult, DecisionLog
    from metarouter.types import BoolArray

__all__ = ["experiments"]

_COLUMNS = ["experiment", "policy", "measure", "n", "value", "low", "high"]


def experiments(
    store: Store = None,
    config: Config = None,
    since: Since = None,
    control: Annotated[
        str | None, typer.Option(metavar="P", help="Policy that arms are compared with.")
    ] = None,
    router: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A candidate, to be valued on the stored prompts."),
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Compare the arms of splits, and value policies that did not act.

    Example: metarouter experiments --store sqlite:///metarouter.db --since 7d
    """
    from metarouter.cli.labels_export import opened_store, parsed_time
    from metarouter.cli.output import emit, print_table, say
    from metarouter.cli.serve import require_serve

    require_serve()
    from metarouter.store.experiments import arm_results, read_log, shadow_results

    start = parsed_time(since)
    with opened_store(store, config) as engine:
        log = read_log(engine, since=start, with_prompts=router is not None)
        candidate = None if router is None else _candidate(engine, log, router)
    arms = arm_results(log, control=control)
    others = shadow_results(log)
    notes: list[str] = []
    if candidate is not None:
        others.append(candidate[0])
        notes.append(candidate[1])
    records = [row for arm in arms for row in _arm_rows(arm)]
    records += [row for other in others for row in _candidate_rows(other)]
    say(f"{len(log)} requests, {len(arms)} arms, {len(others)} policies that did not act", json_out)
    if log.unknown_gold:
        left_out = f"{log.unknown_gold} gold scores name a model that none of them offers"
        say(f"{left_out}; they are left out", json_out)
    if records:
        print_table(records, _COLUMNS, json_out)
    for line in [*notes, *_warnings(records), *_refusals(others)]:
        say(line, json_out)
    emit(json_out, "experiments", records, seed=None)


def _candidate(engine: Engine, log: DecisionLog, folder: Path) -> tuple[CandidateResult, str]:
    """A router's value on the requests that it was not fitted on, and what was left out."""
    import numpy as np

    from metarouter.loading import load
    from metarouter.store.experiments import candidate_result

    router = load(folder)
    kept = [prompt is not None and bool(prompt.strip()) for prompt in log.prompts]
    log = log.take(np.array(kept, dtype=np.bool_))
    if not len(log):
        raise DataError("no prompt was kept (store.prompts was off): `router` cannot be valued")
    log, note = _unseen(engine, log, router)
    prompts = [prompt or "" for prompt in log.prompts]
    choices = [decision.model for decision in router.route_batch(prompts)]
    return candidate_result(log, str(folder), choices), note


def _unseen(engine: Engine, log: DecisionLog, router: Router) -> tuple[DecisionLog, str]:
    """Requests of which the router saw no turn: later turns hold the earlier ones."""
    import numpy as np

    from metarouter.labels.queries import hash_queries
    from metarouter.store.experiments import conversations_with

    known = router.query_hashes
    if known is None:
        return log, (
            "Mind this: the router does not know what it was fitted on. On requests that it was "
            "fitted on it looks better than it is: fit it again with this version"
        )

    def is_seen(texts: Sequence[str]) -> BoolArray:
        return np.isin(hash_queries(texts), known)

    seen = is_seen([prompt or "" for prompt in log.prompts])
    seen |= log.of_conversations(conversations_with(engine, is_seen))
    count = f"{int(seen.sum())} of the {len(log)} requests with a prompt"
    if seen.all():
        raise DataError(
            f"the router was fitted on {count}, or on a turn of their conversation: they cannot "
            "tell what it is worth; wait for new requests, or fit a router on labels of older ones"
        )
    note = f"{count} are left out: the router was fitted on them, or on a turn of the conversation"
    return log.take(~seen), note


def _arm_rows(arm: ArmResult) -> list[dict[str, Any]]:
    head = {"experiment": arm.experiment, "policy": arm.policy}
    rows = [_row(head, name, found) for name, found in arm.measures.items()]
    return rows + [_row(head, f"{name}_difference", v) for name, v in arm.differences.items()]


def _candidate_rows(found: CandidateResult) -> list[dict[str, Any]]:
    head = {"experiment": "", "policy": found.policy}
    rows = [_row(head, name, value) for name, value in found.measures.items()]
    if found.audit is not None:
        rows.append(_row(head, "gold_difference_audited", found.audit))
    for name, value in found.values.items():
        extra = {"effective_n": value.effective_n, "largest_ratio": value.largest_ratio}
        kinds = ("ips", "dr", "logged", "difference")
        rows += [_row(head, f"{name}_{kind}", getattr(value, kind)) | extra for kind in kinds]
    return rows


def _row(head: dict[str, str], measure: str, found: Estimate) -> dict[str, Any]:
    from dataclasses import asdict

    return head | {"measure": measure} | asdict(found)


def _warnings(records: list[dict[str, Any]]) -> list[str]:
    """Each warning once, with the numbers that it is about."""
    about: dict[str, list[str]] = {}
    for row in records:
        for warning in row["warnings"]:
            about.setdefault(warning, []).append(f"{row['policy']} {row['measure']}")
    return [f"Mind this: {warning} ({', '.join(names)})" for warning, names in about.items()]


def _refusals(found: list[CandidateResult]) -> list[str]:
    return [
        f"no value of {candidate.policy} by {reward}: {reason}"
        for candidate in found
        for reward, reason in candidate.refusals.items()
    ]
