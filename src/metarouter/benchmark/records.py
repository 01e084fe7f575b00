"""Flat records of the command line's JSON."""

from __future__ import annotations

import math
from typing import Any

from metarouter.benchmark.data import Benchmark
from metarouter.benchmark.nway import METRICS, NwayRun
from metarouter.benchmark.results import RouterResult, share_reached
from metarouter.benchmark.run import BenchmarkRun
from metarouter.records import Estimate

__all__ = ["nway_records", "pair_records"]


def pair_records(run: BenchmarkRun) -> list[dict[str, Any]]:
    """One record for each router, random and oracle last.

    ``cheap_mean`` and ``premium_mean`` are percentages where answers are right
    or wrong, else mean scores. ``difference`` is in APGR, to ``versus``.
    ``cpt50_reached`` is the share of the resamples that reach half of the gap;
    the others count as +inf in the interval, which is null here.
    """
    differences = {one.router: one for one in run.differences}
    records = []
    for result in run.results:
        record = _head(run.benchmark, len(run.benchmark), result.router, run.protocol)
        record |= _spread("apgr", result.apgr)
        for i, name in enumerate(("cpt20", "cpt50", "cpt80"), start=1):
            record |= _spread(name, getattr(result, name))
            record[f"{name}_reached"] = _reached(result, i)
        found = differences.get(result.router)
        record |= result.saving | {
            "n_runs": run.n_runs,
            "n_train": run.n_train,
            "apgr_run_std": _run_std(result),
            "versus": found.versus if found else None,
            "difference": found.apgr.value if found else None,
            "difference_low": found.apgr.low if found else None,
            "difference_high": found.apgr.high if found else None,
            "p_value": found.p_value if found else None,
            "train_similarity": run.similarity.mean,
            "n_near_training": int(run.similarity.contaminated.sum()),
        }
        records.append(record)
    return records


def nway_records(run: NwayRun) -> list[dict[str, Any]]:
    """One record for each router; see :class:`metarouter.benchmark.nway.NwayRun`.

    ``cheap_mean`` is of the cheapest single model, ``premium_mean`` of the best.
    """
    models, quality = run.benchmark.models, 100.0 * run.benchmark.quality.mean(axis=0)
    records = []
    for result in run.results:
        record = _head(run.benchmark, run.n, result.router, run.protocol)
        record |= {
            "cheap_mean": float(quality[run.cheapest]),
            "premium_mean": float(quality[run.best]),
            "n_models": len(models),
            "cheapest_model": models[run.cheapest],
            "best_model": models[run.best],
        }
        for name in METRICS:
            record |= _spread(name, result.metrics[name])
        record |= {f"{name}_reached": share for name, share in result.reached.items()}
        records.append(record)
    return records


def _head(benchmark: Benchmark, n: int, router: str, protocol: str) -> dict[str, Any]:
    cheap, premium = benchmark.reported_means
    pair = {"pair": benchmark.pair} if benchmark.pair else {}
    return {
        "dataset": benchmark.name,
        **pair,
        "n": n,
        "router": router,
        "protocol": protocol,
        "cheap_mean": cheap,
        "premium_mean": premium,
        "n_contaminated": benchmark.n_contaminated,
    }


def _spread(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _reached(result: RouterResult, column: int) -> float | None:
    """Share of the resamples that reach the target; a random router has none."""
    if result.router == "random":
        return None
    return float(share_reached(result.replicates[:, column]))


def _run_std(result: RouterResult) -> float:
    return float(result.per_run.std(ddof=1)) if len(result.per_run) > 1 else math.nan
