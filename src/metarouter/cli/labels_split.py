"""``metarouter labels split``: files to a training and a test side, by query."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import JsonOut, Seed

__all__ = ["split"]


def split(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Queries, responses or labels.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for train/ and test/.")],
    held_out: Annotated[float, typer.Option(help="Share of the queries that test.")] = 0.5,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Share files out to train/ and test/, each query on one side in all of them.

    `evaluate` takes gold labels of queries that the fit did not see, not even in votes.

    Example: metarouter labels split responses.jsonl --out split
    """
    import numpy as np

    from metarouter.cli.output import emit, say
    from metarouter.collection.split import split_files

    records = split_files(files, out, share=held_out, rng=np.random.default_rng(seed))
    for record in records:
        say(f"{record['file']}: {record['rows']} rows of {record['queries']} queries", json_out)
    emit(json_out, "labels split", records, seed=seed)
