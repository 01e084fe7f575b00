"""``metarouter labels hub``: public data sets as labels or queries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import JsonOut

__all__ = ["hub"]


def hub(
    name: Annotated[str, typer.Argument(help="Data set; an unknown name lists them all.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Records to write, as JSONL.")],
    split: Annotated[str | None, typer.Option(help="Split; the set's first by default.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Read the repository's files here, do not download."),
    ] = None,
    json_out: JsonOut = None,
) -> None:
    """Download a public data set and write it as labels to fit on, or queries to collect for.

    Example: metarouter labels hub arena-55k --out votes.jsonl
    """
    from metarouter.cli.output import emit, json_lines, require_writable, say, write_text
    from metarouter.labels.hub import HUB, load_hub

    require_writable(out, json_out)
    records = load_hub(name, split=split, folder=folder)
    write_text(out, json_lines(records))
    dataset = HUB[name]
    say(f"{len(records)} {dataset.form} ({dataset.source}) written to {out}", json_out)
    found = {"name": name, "form": dataset.form, "source": dataset.source, "rows": len(records)}
    emit(json_out, "labels hub", [found], seed=None)
