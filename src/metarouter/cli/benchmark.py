"""``metarouter benchmark``: routers on published benchmarks, out of fold."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from metarouter.cli.options import JsonOut, Report, Seed, names
from metarouter.errors import OptionError

__all__ = ["benchmark"]


class Dataset(StrEnum):
    """Benchmarks that can be run."""

    mmlu = "mmlu"
    gsm8k = "gsm8k"
    mt_bench = "mt-bench"
    mmlu_pro = "mmlu-pro"
    healthbench_hard = "healthbench-hard"
    pairs = "pairs"


class Protocol(StrEnum):
    """What a router may learn from."""

    cv = "cv"
    subject = "subject"
    transfer = "transfer"
    few_gold = "few-gold"


def benchmark(
    dataset: Annotated[Dataset, typer.Argument(help="The benchmark.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of benchmark data.")],
    routers: Annotated[
        str, typer.Option(help="Names with commas, each alone or as name@embedder.")
    ] = "ensemble,logistic@minilm+surface,ridge,knn@minilm",
    protocol: Annotated[
        Protocol, typer.Option(help="What is held out: random folds, subjects, all, or most.")
    ] = Protocol.cv,
    embedder: Annotated[str, typer.Option(help="Features of routers named alone.")] = "default",
    splits: Annotated[int, typer.Option(min=1, help="Repetitions, each a seed.")] = 1,
    n_gold: Annotated[int, typer.Option(min=1, help="Training labels of few-gold.")] = 1500,
    pair: Annotated[str | None, typer.Option(help="One pair of `pairs`, premium_vs_cheap.")] = None,
    cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps slow embeddings between runs.")
    ] = None,
    json_out: JsonOut = None,
    report: Report = None,
    seed: Seed = 0,
) -> None:
    """Run routers on a published benchmark, with intervals over its questions.

    Example: metarouter benchmark gsm8k --data ../shared/data --routers ridge,knn --json out.json
    """
    from metarouter.benchmark.nway import NwayRun
    from metarouter.benchmark.records import nway_records, pair_records
    from metarouter.benchmark.routers import parse_router
    from metarouter.cli.output import emit, print_table, progress, require_writable

    require_writable(report, json_out)
    specs = [parse_router(name, embedder) for name in names(routers)]
    with progress("running") as callback:
        runs = _run(
            dataset.value,
            data,
            {
                "routers": specs,
                "protocol": protocol.value,
                "seeds": range(seed, seed + splits),
                "n_gold": n_gold,
                "cache": cache,
            },
            pair,
            callback,
        )
    records = [
        record
        for run in runs
        for record in (nway_records(run) if isinstance(run, NwayRun) else pair_records(run))
    ]
    emit(json_out, "benchmark", records, seed=seed)  # first: a report that fails must not cost it
    print_table(records, _columns(dataset), json_out)
    if report is not None:
        from metarouter.benchmark.view import write_benchmark_report

        write_benchmark_report(runs, report)


def _run(
    dataset: str, data: Path, settings: dict[str, Any], pair: str | None, progress: Any
) -> list[Any]:
    from metarouter.benchmark.data import load_benchmark
    from metarouter.benchmark.nway import run_nway
    from metarouter.benchmark.run import RunOptions, run_benchmarks

    n_splits = len(settings["seeds"])
    if dataset == Dataset.mmlu_pro and pair is not None:
        raise OptionError.of("--pair", pair, "no pair: many models are routed among")
    if dataset == Dataset.mmlu_pro and n_splits > 1:
        raise OptionError.of("--splits", n_splits, "1 with mmlu-pro; give another --seed")
    found = load_benchmark(dataset, data)
    if len(found[0].models) > 2:
        settings["seed"] = settings.pop("seeds")[0]
        return [run_nway(found[0], progress=progress, **settings)]
    return list(run_benchmarks(_chosen(found, pair), RunOptions(**settings), data, progress))


def _chosen(found: list[Any], pair: str | None) -> list[Any]:
    if pair is None:
        return found
    chosen = [each for each in found if each.pair == pair]
    if not chosen:
        allowed = ", ".join(each.pair for each in found if each.pair) or "no pair: there is one"
        raise OptionError.of("--pair", pair, allowed)
    return chosen


def _columns(dataset: Dataset) -> list[str]:
    if dataset is Dataset.mmlu_pro:
        return ["router", "quality_at_cost", "cost_at_quality", "cost_ratio", "gain_over_hull"]
    first = ["pair"] if dataset in (Dataset.pairs, Dataset.healthbench_hard) else []
    return [*first, "router", "n", "apgr", "apgr_low", "apgr_high", "cpt50", "cpt80", "p_value"]
