"""``metarouter calibrate``: another threshold for a fitted router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import JsonOut, RouterFolder, Seed

__all__ = ["calibrate"]


def calibrate(
    folder: RouterFolder,
    queries: Annotated[
        Path | None, typer.Option(metavar="F", help="Queries: text lines, JSONL, CSV, Parquet.")
    ] = None,
    gold: Annotated[
        list[Path] | None, typer.Option(metavar="F", help="Held-out gold, for --max-loss.")
    ] = None,
    premium_share: Annotated[float | None, typer.Option(help="Share of premium calls.")] = None,
    budget: Annotated[float | None, typer.Option(help="Cost of 1,000 queries.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Largest mean loss, in gain units.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of --max-loss.")] = 0.95,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: DIR itself.")] = None,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Set the threshold to a premium share, a budget, or a largest quality loss.

    Example: metarouter calibrate router --queries traffic.txt --premium-share 0.3
    """
    from metarouter.calibration import calibrate as calibrate_router
    from metarouter.cli.output import emit, say
    from metarouter.loading import load
    from metarouter.querying import read_queries

    router, found = calibrate_router(
        load(folder),
        None if queries is None else read_queries(queries),
        gold=gold,
        premium_share=premium_share,
        budget=budget,
        max_loss=max_loss,
        confidence=confidence,
        seed=seed,
    )
    router.save(folder if out is None else out)
    record = {
        "w": found.w,
        "premium_share": found.premium_share.value,
        "premium_share_low": found.premium_share.low,
        "premium_share_high": found.premium_share.high,
        "cost_per_1k": found.cost_per_1k.value,
        "certified": found.certified,
        "reason": found.reason,
        "policy_version": router.policy.version,
    }
    say(f"{found.reason}; premium share {found.premium_share.value:.3f}", json_out)
    emit(json_out, "calibrate", [record], seed=seed)
