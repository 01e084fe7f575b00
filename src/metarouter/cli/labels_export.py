"""``metarouter labels export``: feedback as label files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["export"]


def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the label files.")],
    store: Annotated[
        str, typer.Option(metavar="URL", help="The gateway's database.")
    ] = "sqlite:///metarouter.db",
) -> None:
    """Write gold.jsonl and preference.jsonl from what callers said to the gateway.

    Example: metarouter labels export --store sqlite:///metarouter.db --out labels
    """
    from metarouter.cli.output import say, write_text
    from metarouter.cli.serve import require_serve

    require_serve()
    from metarouter.store.database import open_database
    from metarouter.store.exporting import export_labels

    labels = export_labels(open_database(store))
    for name, rows in (("gold", labels.scores), ("preference", labels.votes)):
        if rows:
            write_text(out / f"{name}.jsonl", _lines(rows))
        say(f"{name}: {len(rows)} rows")
    if labels.without_prompt:
        say(f"left out: {labels.without_prompt} without a prompt (store.prompts was off)")
    if labels.without_pair:
        say(f"left out: {labels.without_pair} thumbs and scores, which compare no two models")


def _lines(rows: list[dict[str, Any]]) -> str:
    import json

    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
