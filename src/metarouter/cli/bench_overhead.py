"""``metarouter bench overhead``: what each router costs beside the calls that it routes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metarouter.cli.options import EmbedderName, JsonOut, Seed, names
from metarouter.errors import MissingDependencyError

if TYPE_CHECKING:
    from metarouter.labels.table import GainTable

__all__ = ["bench_overhead", "generation_usd_per_million", "overhead_usd_per_million"]

# The premium call of RouteLLM's accounting: GPT-4 Turbo at mean lengths of its traffic.
_PROMPT_TOKENS, _ANSWER_TOKENS = 95, 264
_INPUT_USD_PER_MTOK, _OUTPUT_USD_PER_MTOK = 10.0, 30.0
_N_MODELS = 20  # of the made-up arena
_SHOWN = (
    "router", "decisions_per_second", "p50_us", "p99_us", "cpu_us", "peak_rss_mb",
    "usd_per_million", "share_of_premium",
)  # fmt: skip


def bench_overhead(
    routers: Annotated[
        str | None, typer.Option(metavar="A,B", help="Gain models; all that train here.")
    ] = None,
    n: Annotated[int, typer.Option(min=100, help="Queries to time for each router.")] = 2000,
    battles: Annotated[int, typer.Option(min=200, help="Battles that sw_ranking keeps.")] = 10_000,
    embedder: EmbedderName = "default",
    usd_per_hour: Annotated[
        float, typer.Option(min=0, help="Price of the machine; n2-standard-8 in RouteLLM.")
    ] = 0.39,
    json_out: JsonOut = None,
    seed: Seed = 0,
) -> None:
    """Time every router, one decision after the other, in a process of its own.

    The dollars are those of a whole machine that makes one decision at a time, as RouteLLM counts
    them. The premium call is RouteLLM's too: 95 tokens in, 264 out, at $10 and $30 a million.

    Example: metarouter bench overhead --routers ridge,sw_ranking --battles 55000
    """
    from metarouter.cli.output import emit, print_table, progress, say

    wanted = _all_routers() if routers is None else names(routers)
    records = []
    with progress("timing routers") as tick:
        for name in wanted:
            records.append(_measured(name, n, battles, embedder, usd_per_hour, seed))
            if tick is not None:
                tick(len(records), len(wanted))
    print_table([row for row in records if row["skipped"] is None], _SHOWN, json_out)
    for row in records:
        if row["skipped"] is not None:
            say(f"  {row['router']} left out: {row['skipped']}", json_out)
    emit(json_out, "bench overhead", records, seed=seed)


def overhead_usd_per_million(
    decisions_per_second: float, usd_per_hour: float, embedding_usd_per_million: float = 0.0
) -> float:
    """Dollars of a million decisions on a machine that makes one after the other.

    Parameters
    ----------
    decisions_per_second : float, above 0
    usd_per_hour : float, price of the machine.
    embedding_usd_per_million : float, default 0
        What an embedding endpoint charges for a million queries.

    Examples
    --------
    >>> round(overhead_usd_per_million(2.9, 0.39, 95 * 0.02), 2)  # RouteLLM's sw_ranking
    39.26
    """
    return usd_per_hour * 1e6 / (3600.0 * decisions_per_second) + embedding_usd_per_million


def generation_usd_per_million() -> float:
    """Dollars of a million premium calls of 95 tokens in and 264 out at $10 and $30.

    Examples
    --------
    >>> generation_usd_per_million()
    8870.0
    """
    return _PROMPT_TOKENS * _INPUT_USD_PER_MTOK + _ANSWER_TOKENS * _OUTPUT_USD_PER_MTOK


def _all_routers() -> list[str]:
    from metarouter.gain.registry import GAIN_MODELS, TABLE_GAIN_MODELS

    # two_fidelity is what auto fits where there are gold labels alone.
    return [name for name in GAIN_MODELS if name != "two_fidelity"] + list(TABLE_GAIN_MODELS)


def _measured(
    name: str, n: int, battles: int, embedder: str, usd_per_hour: float, seed: int
) -> dict[str, Any]:
    from metarouter.cli.bench_decision import small_table
    from metarouter.cli.bench_fit import run_apart
    from metarouter.fitting import FitOptions, fit_table

    # sw_ranking alone has all its training data at hand for every query
    table = _arena(battles, seed) if name == "sw_ranking" else small_table(seed)
    options = FitOptions(
        gain_model=name, corrector=_corrector(name), embedder=embedder, folds=0, seed=seed
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            router = fit_table(table, options)
        except MissingDependencyError as error:
            return {"router": name, "skipped": str(error)}
        router.save(folder)
        found = run_apart("bench_overhead_worker", [folder, str(n), str(seed)])
        found["artifact_mb"] = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
    usd = overhead_usd_per_million(found["decisions_per_second"], usd_per_hour)
    return {
        "router": name,
        "skipped": None,
        "rows": len(table),
        "models": len(table.models),
        "embedder": embedder,
        **found,
        "usd_per_hour": usd_per_hour,
        "usd_per_million": usd,
        "premium_usd_per_million": generation_usd_per_million(),
        "share_of_premium": usd / generation_usd_per_million(),
    }


def _corrector(name: str) -> str:
    """The evidence corrector is a gain model itself; others learn from rows as they are."""
    return "auto" if name == "auto" else "none"


def _arena(battles: int, seed: int) -> GainTable:
    """Battles of models whose strength is their number, on queries of all kinds."""
    import numpy as np

    from metarouter.labels.table import make_gain_table
    from metarouter.testing import make_queries

    rng = np.random.default_rng(seed)
    baseline = rng.integers(0, _N_MODELS - 1, size=battles)
    candidate = rng.integers(baseline + 1, _N_MODELS)
    edge = (candidate - baseline) / _N_MODELS
    return make_gain_table(
        queries=make_queries(battles, rng).texts,
        gain=np.sign(edge + rng.normal(size=battles)),
        is_gold=np.zeros(battles, dtype=np.bool_),
        models=[f"model {i}" for i in range(_N_MODELS)],
        candidate=candidate,
        baseline=baseline,
    )
