"""``metarouter fit``: labels to a router folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metarouter.cli.options import (
    BadRows,
    Cheap,
    Cost,
    EmbedderName,
    JsonOut,
    OnBadRow,
    Preference,
    Premium,
    Prices,
    ScoreRange,
    Seed,
    SomeGold,
    refuse_idle_options,
)
from metarouter.cli.options import score_range as parsed_range

__all__ = ["fit"]


def fit(
    context: typer.Context,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the router.")],
    gold: SomeGold = None,
    preference: Preference = None,
    corrector: Annotated[
        str, typer.Option(help="How preference bias is removed: NAME, or NAME:option=value.")
    ] = "auto",
    gain_model: Annotated[
        str, typer.Option(help="What predicts the quality gain: NAME, or NAME:option=value.")
    ] = "auto",
    embedder: EmbedderName = "default",
    premium: Premium = None,
    cheap: Cheap = None,
    premium_share: Annotated[float | None, typer.Option(help="Calibrate to this share.")] = None,
    budget: Annotated[float | None, typer.Option(help="Calibrate to cost per 1,000.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Calibrate to a mean loss, in gain units.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of --max-loss.")] = 0.95,
    w: Annotated[float | None, typer.Option(help="Gain units a unit of cost must buy.")] = None,
    cost: Annotated[Cost, typer.Option(help="Count calls, or USD of tokens.")] = Cost.unit,
    prices: Prices = None,
    folds: Annotated[
        int, typer.Option(help="Folds of the metrics and the audit; 0 leaves them out.")
    ] = 5,
    on_bad_row: BadRows = OnBadRow.error,
    score_range: ScoreRange = None,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Learn a router from gold and preference labels and write it to a folder.

    Example: metarouter fit --gold gold.jsonl --preference votes.jsonl --out router
    """
    from metarouter.cli.fit_summary import report_fit
    from metarouter.cli.output import progress, require_writable, say
    from metarouter.fitting import fit as fit_router

    refuse_idle_options(context, "cost", {"prices": (Cost.token,)})
    refuse_idle_options(context, "max_loss", {"confidence": ()})
    inputs = [*(gold or ()), *(preference or ()), prices]
    require_writable(out / "manifest.json", json_out, inputs=inputs)
    with progress("fitting") as callback:
        router = fit_router(
            gold or None,
            preference or None,
            premium=premium,
            cheap=cheap,
            corrector=corrector,
            gain_model=gain_model,
            embedder=embedder,
            premium_share=premium_share,
            budget=budget,
            max_loss=max_loss,
            confidence=confidence,
            w=w,
            cost=cost.value,
            prices=prices,
            folds=folds,
            on_bad_row=on_bad_row.value,
            score_range=parsed_range(score_range),
            seed=seed,
            progress=callback,
        )
    router.save(out)
    report_fit(router, out, json_out, seed)
    say(f"next: metarouter evaluate {out} --gold HELD_OUT --report report.html", json_out)
