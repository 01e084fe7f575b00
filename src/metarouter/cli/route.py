"""``metarouter route``: the decision for a query, and its reasons."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import RouterFolder

if TYPE_CHECKING:
    from metarouter.records import Decision

__all__ = ["route"]


def route(
    folder: RouterFolder,
    query: Annotated[str, typer.Argument(help="The query; - reads stdin, one query a line.")],
    json_out: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which model should answer a query, and why.

    Example: metarouter route router "Prove that the sum of two odd numbers is even."
    """
    from metarouter.cli.output import emit, say
    from metarouter.loading import load

    router = load(folder)
    decisions = map(router.route, _lines(sys.stdin) if query == "-" else [query])
    if json_out:
        emit("-", "route", [record(decision) for decision in decisions], seed=None)
        return
    for decision in decisions:
        say(f"{decision.model}\t{decision.reason}")


def record(decision: Decision) -> dict[str, Any]:
    """A decision as a flat record."""
    return {
        "model": decision.model,
        "predicted_gain": decision.predicted_gain,
        "predicted_gain_std": decision.predicted_gain_std,
        "threshold": decision.threshold,
        "cost": decision.cost,
        "reason": decision.reason,
        "policy_version": decision.policy_version,
    }


def _lines(stream: Iterable[str]) -> Iterator[str]:
    n_blank = 0
    for line in stream:
        if line.strip():
            yield line.rstrip("\r\n")
        else:
            n_blank += 1
    if n_blank:
        # the n-th line of the output is no longer about the n-th of the input
        typer.echo(f"metarouter: {n_blank} blank lines of stdin were left out", err=True)
