"""``metarouter labels battles``: arena dumps to votes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import BadRows, JsonOut, OnBadRow

__all__ = ["battles"]


def battles(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Parquet, CSV, JSONL or JSON.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Votes to write, as JSONL.")],
    judge: Annotated[str, typer.Option(help="Who judged, where rows do not say.")] = "",
    min_characters: Annotated[int, typer.Option(min=0, help="Leave out shorter prompts.")] = 16,
    on_bad_row: BadRows = OnBadRow.error,
    json_out: JsonOut = None,
) -> None:
    """Turn arena battles (conversation or prompt, winner or flags) into votes to fit on.

    Example: metarouter labels battles arena.csv --out votes.jsonl
    """
    from metarouter.cli.output import emit, json_lines, require_writable, say, write_text
    from metarouter.labels.battles import battle_votes
    from metarouter.labels.dumps import read_dump

    require_writable(out, json_out, inputs=files)
    rows, records = [], []
    for file in files:
        votes, count = battle_votes(
            read_dump(file),
            judge=judge,
            min_characters=min_characters,
            name=str(file),
            on_bad_row=on_bad_row.value,
        )
        rows += votes
        records.append({"file": str(file), **asdict(count)})
        say(f"{file}: {count.used} of {count.rows} battles, {count.short} too short", json_out)
        if count.bad:
            say(f"  {count.bad} bad rows skipped; the first: {count.first_bad}", json_out)
    write_text(out, json_lines(rows))
    say(f"votes written to {out}", json_out)
    emit(json_out, "labels battles", records, seed=None)
