"""``metarouter compare``: correctors and gain models on held-out gold labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from metarouter.cli.options import (
    Cheap,
    EmbedderName,
    Gold,
    JsonOut,
    Preference,
    Premium,
    Report,
    ScoreRange,
    Seed,
    names,
    numbers,
)
from metarouter.cli.options import score_range as parsed_range

__all__ = ["compare"]


def compare(
    gold: Gold,
    preference: Preference = None,
    n_gold: Annotated[str | None, typer.Option(help="Gold sizes, with commas.")] = None,
    correctors: Annotated[
        str | None, typer.Option(help="Names, with commas; NAME:option=value.")
    ] = None,
    gain_models: Annotated[
        str, typer.Option(help="Names, with commas; NAME:option=value.")
    ] = "ridge",
    seeds: Annotated[int, typer.Option(min=1, help="Number of splits.")] = 20,
    n_test: Annotated[int, typer.Option(min=2, help="Held-out gold queries.")] = 500,
    premium: Premium = None,
    cheap: Cheap = None,
    score_range: ScoreRange = None,
    embedder: EmbedderName = "default",
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    resume: Annotated[Path | None, typer.Option(help="Log to go on from.")] = None,
    json_out: JsonOut = None,
    report: Report = None,
    seed: Seed = 0,
) -> None:
    """Compare ways to use the labels of two models, each on the same held-out gold queries.

    Where the labels are about more models, --premium and --cheap name the two.

    Example: metarouter compare --gold g.jsonl --preference p.jsonl --n-gold 50,100 --json out.json
    """
    from metarouter.cli.output import emit, print_table, progress, require_writable, say
    from metarouter.evaluation.experiment import compare as run_compare
    from metarouter.evaluation.report import write_compare_report

    require_writable(report, json_out, inputs=[*gold, *(preference or ()), resume])
    chosen: dict[str, Any] = {} if correctors is None else {"correctors": names(correctors)}
    with progress("comparing") as callback:
        result = run_compare(
            gold,
            preference,
            n_gold=None if n_gold is None else numbers(n_gold),
            gain_models=names(gain_models),
            seeds=range(seed, seed + seeds),
            n_test=n_test,
            premium=premium,
            cheap=cheap,
            score_range=parsed_range(score_range),
            embedder=embedder,
            jobs=jobs,
            resume=resume,
            progress=callback,
            **chosen,
        )
    if report is not None:
        write_compare_report(result, report)
    print_table(*summary_table(result), json_out)
    say(
        "area: gold gain units per query above random, over all premium shares; "
        f"intervals: 95 %, over {len(result.config.seeds)} splits",
        json_out,
    )
    if report is not None:
        say(f"report: {report}", json_out)
    emit(json_out, "compare", result.as_records(), seed=seed)


def summary_table(result: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Mean area of each method with its interval, best first within a gold size."""
    rows = [
        {
            "n_gold": row.n_gold,
            "corrector": row.corrector,
            "gain_model": row.gain_model,
            "area": row.area.value,
            "low": row.area.low,
            "high": row.area.high,
            "ratio_to_best_fixed": None if row.ratio is None else row.ratio.value,
            "fit_seconds": row.fit_seconds,
        }
        for row in sorted(result.summary(), key=lambda row: (row.n_gold, -row.area.value))
    ]
    return rows, list(rows[0])
