"""``metarouter labels tiers``: ratings and tiers of the models of label files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import JsonOut

__all__ = ["tiers"]


def tiers(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Votes or gains.")],
    num_tiers: Annotated[int, typer.Option(min=1, help="Most tiers to cut.")] = 10,
    json_out: JsonOut = None,
) -> None:
    """Rate the models of label files (Bradley-Terry) and cut them into tiers, 0 the best.

    Example: metarouter labels tiers votes.jsonl --num-tiers 3
    """
    from metarouter.cli.output import emit, print_table
    from metarouter.gain.tiers import rated_tiers
    from metarouter.labels.read import read_gain_table

    table, _ = read_gain_table(preference=files)
    found = rated_tiers(table, num_tiers)
    print_table(found, ("tier", "model", "elo", "elo_std", "labels"), json_out)
    emit(json_out, "labels tiers", found, seed=None)
