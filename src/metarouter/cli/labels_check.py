"""``metarouter labels check``: what label files hold, and what they can support."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from metarouter.cli.options import (
    BadRows,
    Cheap,
    JsonOut,
    OnBadRow,
    Preference,
    Premium,
    ScoreRange,
    SomeGold,
)
from metarouter.cli.options import score_range as parsed_range

__all__ = ["check"]


def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Votes are preference labels, others gold."),
    ] = None,
    gold: SomeGold = None,
    preference: Preference = None,
    premium: Premium = None,
    cheap: Cheap = None,
    on_bad_row: BadRows = OnBadRow.error,
    score_range: ScoreRange = None,
    json_out: JsonOut = None,
) -> None:
    """Check label files row by row and say what they can and cannot support.

    Example: metarouter labels check gold.jsonl votes.jsonl
    """
    from metarouter.cli.output import emit, require_writable, say
    from metarouter.labels.check import summarise_labels
    from metarouter.labels.read import read_gain_table
    from metarouter.labels.summary import render_summary

    golds, votes = [*(gold or ())], [*(preference or ())]
    require_writable(json_out, inputs=[*(files or ()), *golds, *votes])
    for path in files or ():
        (votes if _holds_votes(path) else golds).append(path)
    table, report = read_gain_table(
        golds or None,
        votes or None,
        premium=premium,
        cheap=cheap,
        on_bad_row=on_bad_row.value,
        score_range=parsed_range(score_range),
    )
    summary = summarise_labels(table, report)
    say(render_summary(summary), json_out)
    emit(json_out, "labels check", flat_records(summary.to_dict()), seed=None)


def flat_records(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A label summary as flat records, each with the `section` that it belongs to."""
    report = summary["report"] or {"files": ()}
    sections: list[tuple[str, Sequence[dict[str, Any]]]] = [
        ("file", report["files"]),
        ("source", summary["sources"]),
        ("model", summary["model_counts"]),
        ("judge", summary["judge_counts"]),
        ("domain", summary["domain_counts"]),
        ("agreement", [summary["agreement"]]),
        ("slice", summary["slices"]),
        ("finding", [{"text": text} for text in summary["findings"]]),
    ]
    return [{"section": name} | _flat(row) for name, rows in sections for row in rows]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Estimates become `name`, `name_low` and `name_high`; lists are left out."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {name: value["value"]} | {f"{name}_{k}": value[k] for k in ("low", "high")}
        elif not isinstance(value, list | tuple):
            flat[name] = value
    return flat


def _holds_votes(path: Path) -> bool:
    from metarouter.labels.files import read_file
    from metarouter.labels.validate import find_form

    first = next(iter(read_file(path)), None)
    return first is not None and find_form(first) == "votes"
