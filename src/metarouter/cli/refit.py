"""``metarouter refit``: feedback to a new router, if it is better."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.labels_export import Since
from metarouter.cli.options import JsonOut, Preference, Seed
from metarouter.cli.store import Config, Store
from metarouter.errors import OptionError

if TYPE_CHECKING:
    from metarouter.refitting import RefitResult
    from metarouter.router import Router
    from metarouter.store.exporting import ExportedLabels

__all__ = ["NOT_PROPOSED", "on_scale", "refit"]

NOT_PROPOSED = 3
"""Exit code of a refit whose router is not shown to be better."""


def refit(
    router: Annotated[Path, typer.Option(metavar="DIR", help="Router that serves now.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the proposed router.")],
    store: Store = None,
    config: Config = None,
    gold: Annotated[
        list[Path] | None, typer.Option(metavar="F", help="Gold labels it was fitted on.")
    ] = None,
    preference: Preference = None,
    since: Since = None,
    policy: Annotated[str | None, typer.Option(help="Only about decisions of this policy.")] = None,
    held_out_share: Annotated[
        float, typer.Option("--held-out", help="Share of the new gold queries that judges.")
    ] = 0.5,
    margin: Annotated[float, typer.Option(help="Gain units it has to be better by.")] = 0.0,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Fit on old labels and new feedback; write the router only if it is shown to be better.

    Judged on gold that neither router saw, at equal cost. Exit code 3: not shown.

    Example: metarouter refit --router router --gold gold.jsonl --preference votes.jsonl --out next
    """
    from metarouter.cli.labels_export import opened_store, parsed_time
    from metarouter.cli.output import emit, require_writable, say
    from metarouter.cli.serve import require_serve
    from metarouter.loading import load

    require_serve()
    from metarouter.store.exporting import export_labels

    if os.path.realpath(out) == os.path.realpath(router):
        raise OptionError.of("out", str(out), "another folder than `router`, which goes on serving")
    files = (gold or [], preference or [])
    require_writable(out / "manifest.json", json_out, inputs=files[0] + files[1])
    serving = load(router)
    start = parsed_time(since)
    with opened_store(store, config) as engine:
        labels = export_labels(engine, since=start, policy=policy)
    labels, n_outside = on_scale(labels, serving)
    found = _refitted(
        serving, labels, files, held_out_share=held_out_share, margin=margin, seed=seed
    )
    for line in _lines(found, labels):
        say(line, json_out)
    if n_outside:
        low, high = serving.facts["score_range"]
        say(
            f"left out: {n_outside} gold scores outside {low:g} to {high:g}, the scale of the "
            "labels that the serving router was fitted on; audits have to use it too",
            json_out,
        )
    emit(json_out, "refit", [found.as_record()], seed=seed)
    if not found.is_proposed or found.candidate is None:
        raise typer.Exit(NOT_PROPOSED)
    found.candidate.save(out)
    say(f"written: {out}", json_out)


def _refitted(
    serving: Router,
    labels: ExportedLabels,
    files: tuple[list[Path], list[Path]],
    *,
    held_out_share: float,
    margin: float,
    seed: int,
) -> RefitResult:
    from tempfile import TemporaryDirectory

    from metarouter.cli.output import progress
    from metarouter.refitting import refit as refit_router

    gold, preference = files
    with TemporaryDirectory() as folder, progress("fitting"):
        new_gold = _written(Path(folder), "feedback.gold", [labels.scores])
        new_preference = _written(Path(folder), "feedback.preference", labels.preference)
        return refit_router(
            serving,
            [*gold, *new_gold] or None,
            [*preference, *new_preference] or None,
            fresh=_fresh(serving, labels, gold + preference),
            conversations=labels.conversations,
            held_out_share=held_out_share,
            margin=margin,
            seed=seed,
        )


def on_scale(labels: ExportedLabels, serving: Router) -> tuple[ExportedLabels, int]:
    """Feedback on the scale of the serving router's labels, and how many audits are not.

    Users' thumbs and scores are from 0 to 1 by contract, and are brought to the range;
    an audit states the true score on the scale of the gold labels.
    """
    from dataclasses import replace

    score_range = serving.facts.get("score_range")
    if score_range is None:
        return labels, 0
    low, high = score_range
    audits = [row for row in labels.scores if low <= row["score"] <= high]
    users = [row | {"score": low + (high - low) * row["score"]} for row in labels.user_scores]
    return replace(labels, scores=audits, user_scores=users), len(labels.scores) - len(audits)


def _written(folder: Path, name: str, sources: list[list[dict[str, Any]]]) -> list[Path]:
    """One file of label rows for each source that has any."""
    from metarouter.cli.output import json_lines, write_text

    paths = []
    for number, rows in enumerate(filter(None, sources)):
        path = folder / f"{name}.{number}.jsonl"
        write_text(path, json_lines(rows))
        paths.append(path)
    return paths


def _fresh(serving: Router, labels: ExportedLabels, files: list[Path]) -> set[str] | None:
    """Queries newer than a router that does not know its own; None where it does."""
    from datetime import datetime

    from metarouter.labels.read import read_gain_table

    if serving.query_hashes is not None or not serving.artifact.created:
        return None
    fitted = datetime.fromisoformat(serving.artifact.created).timestamp()
    fresh = {text for text, first in labels.first_asked.items() if first > fitted}
    if files:
        fresh -= set(read_gain_table(gold=files)[0].queries)
    return fresh


def _lines(found: RefitResult, labels: ExportedLabels) -> list[str]:
    lines = [
        f"feedback: {_count(labels)}",
        *(f"left out: {count} {reason}" for reason, count in labels.left_out().items()),
        f"judged on {found.n_held_out} of {found.n_new} new gold queries ({found.rule})",
    ]
    if found.known_share < 1:
        lines.append(
            f"Mind this: the labels given here have {found.known_share:.0%} of the queries that "
            "the serving router was fitted on; give its label files by --gold and --preference."
        )
    verdict = "proposed" if found.is_proposed else "not proposed"
    return [*lines, f"{verdict}: {found.reason}"]


def _count(labels: ExportedLabels) -> str:
    parts = (labels.scores, "gold rows"), (labels.votes, "votes"), (labels.user_scores, "scores")
    return ", ".join(f"{len(rows)} {name}" for rows, name in parts)
