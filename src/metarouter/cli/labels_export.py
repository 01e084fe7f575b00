"""``metarouter labels export``: feedback as label files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.store import Config, Store
from metarouter.errors import OptionError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["Since", "export", "opened_store", "parsed_time"]

Since = Annotated[
    str | None, typer.Option(metavar="TIME", help="From then on: 2026-11-01, or 7d for a week.")
]

_SECONDS = {"d": 86_400.0, "h": 3_600.0}


def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the label files.")],
    store: Store = None,
    config: Config = None,
    since: Since = None,
    policy: Annotated[str | None, typer.Option(help="Only about decisions of this policy.")] = None,
) -> None:
    """Write label files for `fit` from what callers said to the gateway.

    Audits become gold.jsonl; preferences become preference.jsonl, thumbs and scores of
    prompts that several models answered become scores.jsonl, both for --preference.

    Example: metarouter labels export --store sqlite:///metarouter.db --out labels
    """
    from metarouter.cli.output import json_lines, say, write_text
    from metarouter.cli.serve import require_serve

    require_serve()
    from metarouter.store.exporting import export_labels

    start = parsed_time(since)
    with opened_store(store, config) as engine:
        labels = export_labels(engine, since=start, policy=policy)
    files = {"gold": labels.scores, "preference": labels.votes, "scores": labels.user_scores}
    _refuse_leftovers(out, files)
    for name, rows in files.items():
        if rows:
            write_text(out / f"{name}.jsonl", json_lines(rows))
        say(f"{name}: {len(rows)} rows")
    for reason, count in labels.left_out().items():
        say(f"left out: {count} {reason}")
    if labels.disagreements:
        say(f"kept: {labels.disagreements} answers or pairs on which people disagree")


@contextmanager
def opened_store(store: str | None, config: Path | None) -> Iterator[Engine]:
    """The gateway's database; a mistyped path of a file is an error, and makes no new one.

    Raises
    ------
    OptionError
        When there is no such file.
    """
    from metarouter.cli.store import open_store

    engine = open_store(store, config, must_exist=True)
    try:
        yield engine
    finally:
        engine.dispose()


def parsed_time(text: str | None) -> float | None:
    """Seconds since 1970 of a date, or of so many days (d) or hours (h) ago.

    Raises
    ------
    typer.BadParameter
        When the text is neither.
    """
    import time
    from datetime import UTC, datetime

    if text is None:
        return None
    unit, number = text[-1:], text[:-1]
    if unit in _SECONDS and number.replace(".", "", 1).isdigit():
        return time.time() - float(number) * _SECONDS[unit]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        allowed = "a date such as 2026-11-01 or 2026-11-01T12:00 (UTC), or 7d, or 12h"
        raise typer.BadParameter(f"--since {text!r}; allowed: {allowed}") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _refuse_leftovers(out: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    """A file of an earlier export must not pass for one of this."""
    left = [name for name, rows in files.items() if not rows and (out / f"{name}.jsonl").exists()]
    if left:
        raise OptionError(
            f"`out` {out} holds {left[0]}.jsonl, which this export would not replace; allowed: a "
            "folder without label files"
        )
