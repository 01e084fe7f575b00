"""The report of a benchmark: curves with bands, differences, subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarouter.benchmark.data import Benchmark
from metarouter.benchmark.nway import NwayRun
from metarouter.benchmark.results import (
    RouterResult,
    Scores,
    collected_band,
    measure_router,
    oracle_scores,
)
from metarouter.benchmark.run import BenchmarkRun
from metarouter.evaluation.figures import (
    ACCENT,
    INK,
    MUTED,
    QUIET,
    SECOND,
    ForestPanel,
    Picture,
    Series,
    draw_curves,
    draw_forest,
    forest_row,
    random_series,
)
from metarouter.evaluation.report import write_page
from metarouter.evaluation.tables import Table, interval_cell, number_cell
from metarouter.evaluation.verdict import Verdict, status_of
from metarouter.types import FloatArray

__all__ = ["write_benchmark_report"]

_GRID = np.linspace(0.0, 1.0, 101)
_STYLES = ((ACCENT, "-"), (SECOND, "-."), (INK, "--"), (QUIET, ":"))
_MIN_SUBJECT = 60
_MAX_SUBJECTS = 60
_LIMITS = (
    "How these routers do on other traffic: a benchmark's questions are no sample of anyone's.",
    "Whether the gold labels are right: they are taken as the truth, as they were published.",
    "How the two models do today: the answers were recorded when the benchmark was made.",
)


def write_benchmark_report(runs: Sequence[BenchmarkRun | NwayRun], path: Path | str) -> None:
    """Write one self-contained page about one or more benchmarks.

    Raises
    ------
    InputError
        When the file cannot be written.
    """
    parts = [_nway_part(run) if isinstance(run, NwayRun) else _pair_part(run) for run in runs]
    first = runs[0].benchmark
    context = {
        "title": first.name,
        "lead": f"Protocol {runs[0].protocol}. Everything was fitted on training questions alone; "
        "intervals are 95 %, over questions and repetitions.",
        "verdict": parts[0]["verdict"],
        "parts_by_pair": parts,
        "limits": _LIMITS,
    }
    write_page("benchmark.html", context, path)


def _pair_part(run: BenchmarkRun) -> dict[str, Any]:
    cheap, premium = run.benchmark.models[0], run.benchmark.models[-1]
    return {
        "name": f"{premium} over {cheap}",
        "facts": _facts(run),
        "verdict": _judge(run),
        "table": _table(run),
        "curve": _quality_picture(run),
        "curve_caption": "Mean quality by the share of premium calls. Dashed: a random router. "
        "Dotted: the optimal order, which knows every gain. The band holds the first router's "
        "whole curve with 95 % probability.",
        "dollars": _dollar_picture(run),
        "dollars_caption": "The same over the cost of the calls at list price; lengths in tokens "
        "are characters over four.",
        "differences": _difference_picture(run),
        "differences_caption": f"APGR minus that of {run.results[0].router}, same questions.",
        "subjects": _subject_picture(run),
        "subjects_caption": f"APGR of {run.results[0].router} within each subject of at least "
        f"{_MIN_SUBJECT} questions whose premium model is ahead. Dashed: random.",
        "subject_curves": _subject_curves(run),
    }


def _judge(run: BenchmarkRun) -> Verdict:
    first = run.results[0]
    estimate = first.apgr
    status = status_of(estimate, 0.5)
    headline = {
        "better": f"{first.router} beats a random router",
        "unclear": f"{first.router} is not shown to beat a random router",
        "worse": f"{first.router} is worse than a random router",
    }[status]
    return Verdict(
        status=status,
        headline=headline,
        sentence=(
            f"It recovers {number_cell(estimate)} {interval_cell(estimate)} of the gap between the "
            "models, averaged over the share of premium calls; random 0.5, the optimal order "
            f"{number_cell(run.results[-1].apgr)}."
        ),
        basis=(
            f"{len(run.benchmark):,} questions, {run.n_runs} repetitions of {run.n_folds} folds, "
            f"{run.n_train:,} training questions each."
        ),
    )


def _facts(run: BenchmarkRun) -> list[tuple[str, str]]:
    cheap, premium = run.benchmark.reported_means
    near = int(run.similarity.contaminated.sum())
    return [
        ("questions", f"{len(run.benchmark):,}"),
        ("left out as contaminated", f"{run.benchmark.n_contaminated:,}"),
        ("mean quality, cheap and premium", f"{cheap:.4f}, {premium:.4f}"),
        ("benchmark-training similarity", f"{run.similarity.mean:.3f} ({run.similarity.embedder})"),
        ("test questions near a training one", f"{near:,} (cosine 0.95 or more, or the same text)"),
    ]


def _table(run: BenchmarkRun) -> Table:
    return Table(
        caption="Routers on the same questions. CPT: share of premium calls that reaches a share "
        "of the gap; saved: random's share over it.",
        columns=(
            "router",
            "APGR",
            "interval",
            "CPT 20 %",
            "CPT 50 %",
            "interval",
            "CPT 80 %",
            "saved 50 %",
        ),
        rows=tuple(
            (
                one.router,
                number_cell(one.apgr),
                interval_cell(one.apgr),
                number_cell(one.cpt20),
                number_cell(one.cpt50),
                interval_cell(one.cpt50),
                number_cell(one.cpt80),
                f"{one.saving['saving50']:.2f}",
            )
            for one in run.results
        ),
        strong=frozenset({0}),
    )


def _shown(run: BenchmarkRun) -> list[str]:
    best = sorted(run.results[:-2], key=lambda one: -one.apgr.value)
    names = [run.results[0].router, *(one.router for one in best)]
    return list(dict.fromkeys(names))[: len(_STYLES)]


def _quality_picture(run: BenchmarkRun) -> Picture:
    series = [_series(run, name, _GRID, i) for i, name in enumerate(_shown(run))]
    return draw_curves(
        f"Quality of routers on {run.benchmark.name} by share of premium calls",
        [*series, *_references(run)],
        y_label="mean quality",
    )


def _dollar_picture(run: BenchmarkRun) -> Picture | None:
    benchmark = run.benchmark
    if benchmark.cost is None:
        return None
    extra = 1e3 * (benchmark.cost[:, -1] - benchmark.cost[:, 0])
    base = 1e3 * float(benchmark.cost[:, 0].mean())
    series = []
    for i, name in enumerate(_shown(run)):
        dollars = base + collected_band(benchmark, extra, run.scores[name], _GRID, n_boot=2).value
        series.append(_series(run, name, dollars, i))
    ends = np.array([0.0, 1.0])
    series.append(random_series(base + ends * extra.mean(), _random_quality(benchmark, ends)))
    return draw_curves(
        f"Quality of routers on {benchmark.name} by cost",
        series,
        y_label="mean quality",
        x_label="USD per 1,000 queries",
    )


def _series(run: BenchmarkRun, name: str, x: FloatArray, place: int) -> Series:
    """Quality of a router; the first one's with its band."""
    benchmark = run.benchmark
    band = collected_band(benchmark, benchmark.gain, run.scores[name], _GRID)
    level = benchmark.cheap.mean()
    color, dash = _STYLES[place]
    return Series(
        label=f"{name}, with 95 % band" if place == 0 else name,
        x=x,
        y=level + band.value,
        low=level + band.low if place == 0 else None,
        high=level + band.high if place == 0 else None,
        color=color,
        dash=dash,
    )


def _references(run: BenchmarkRun) -> list[Series]:
    benchmark = run.benchmark
    scores = oracle_scores(benchmark, next(iter(run.scores.values())))
    best = (
        benchmark.cheap.mean()
        + collected_band(benchmark, benchmark.gain, scores, _GRID, n_boot=2).value
    )
    return [
        Series(label="optimal", x=_GRID, y=best, color=SECOND, dash=":"),
        random_series(_GRID, _random_quality(benchmark, _GRID)),
    ]


def _random_quality(benchmark: Benchmark, share: FloatArray) -> FloatArray:
    """Mean quality of a random router at some premium shares."""
    return np.asarray(benchmark.cheap.mean() + share * benchmark.gain.mean())


def _difference_picture(run: BenchmarkRun) -> Picture | None:
    if not run.differences:
        return None
    rows = [
        forest_row(one.router, one.apgr, strong=status_of(one.apgr) != "unclear")
        for one in run.differences
    ]
    return draw_forest(
        f"APGR of the other routers minus that of {run.results[0].router}",
        [ForestPanel(title="", rows=rows)],
        x_label="difference in APGR, 95 % interval",
    )


def _subject_picture(run: BenchmarkRun) -> Picture | None:
    found = _subject_results(run)
    if len(found) < 2:
        return None
    rows = [
        forest_row(f"{name} ({n})", result.apgr, strong=result.apgr.low > 0.5)
        for name, n, result in found
    ]
    return draw_forest(
        f"APGR of {run.results[0].router} by subject",
        [ForestPanel(title="", rows=rows, reference=0.5)],
        x_label="APGR, 95 % interval",
    )


def _subject_results(run: BenchmarkRun) -> list[tuple[str, int, RouterResult]]:
    found = []
    for number, name in enumerate(run.benchmark.subjects):
        part = _of_subject(run, number)
        if part is None or not part[0].gain.mean() > 0:
            continue
        result = measure_router(part[0], run.results[0].router, part[1], n_boot=300)
        found.append((name, len(part[0]), result))
    return sorted(found, key=lambda one: -one[2].apgr.value)[:_MAX_SUBJECTS]


def _of_subject(run: BenchmarkRun, number: int) -> tuple[Benchmark, list[Scores]] | None:
    """One subject's questions, and the first router's scores of them."""
    benchmark = run.benchmark
    rows = np.flatnonzero(benchmark.subject == number)
    if len(rows) < _MIN_SUBJECT:
        return None
    part = Benchmark(
        name=benchmark.name,
        prompts=tuple(benchmark.prompts[i] for i in rows),
        models=benchmark.models,
        quality=benchmark.quality[rows],
        subject=np.zeros(len(rows), dtype=np.int64),
        subjects=(benchmark.subjects[number],),
    )
    place = np.full(len(benchmark), -1)
    place[rows] = np.arange(len(rows))
    runs = []
    for each in run.scores[run.results[0].router]:
        inside = place[each.rows] >= 0
        runs.append(Scores(rows=place[each.rows[inside]], score=each.score[inside]))
    return part, [each for each in runs if len(each.rows) > 1]


def _subject_curves(run: BenchmarkRun) -> list[dict[str, Any]]:
    """Quality curves of the four largest subjects."""
    sizes = np.bincount(run.benchmark.subject, minlength=len(run.benchmark.subjects))
    found = []
    for number in np.argsort(-sizes, kind="stable")[:4].tolist():
        part = _of_subject(run, number)
        if part is None or len(run.benchmark.subjects) == 1:
            continue
        benchmark, runs = part
        level = benchmark.cheap.mean()
        band = collected_band(benchmark, benchmark.gain, runs, _GRID)
        series = [
            Series(
                label=f"{run.results[0].router}, with 95 % band",
                x=_GRID,
                y=level + band.value,
                low=level + band.low,
                high=level + band.high,
            ),
            random_series(_GRID, _random_quality(benchmark, _GRID)),
        ]
        name = run.benchmark.subjects[number]
        found.append(
            {
                "name": name,
                "picture": draw_curves(
                    f"Quality on {name} by share of premium calls", series, y_label="mean quality"
                ),
                "caption": f"{len(benchmark):,} questions on {name}.",
            }
        )
    return found


def _nway_part(run: NwayRun) -> dict[str, Any]:
    routers = [one for one in run.results if one.router not in ("random", "hull", "oracle")]
    series = [
        Series(label=one.router, x=one.cost, y=one.quality, color=color, dash=dash)
        for one, (color, dash) in zip(routers, _STYLES, strict=False)
    ]
    hull = next(one for one in run.results if one.router == "hull")
    series.append(
        Series(
            label="single models, hull",
            x=hull.cost,
            y=hull.quality,
            color=MUTED,
            dash="--",
            marker="o",
        )
    )
    return {
        "name": f"{len(run.benchmark.models)} models",
        "facts": [
            ("questions", f"{run.n:,}"),
            ("best single model", run.benchmark.models[run.best]),
            ("cheapest single model", run.benchmark.models[run.cheapest]),
        ],
        "verdict": _judge_nway(run),
        "table": _nway_table(run),
        "curve": draw_curves(
            "Quality by cost of routers among many models",
            series,
            y_label="share of right answers",
            x_label="USD per 1,000 queries",
        ),
        "curve_caption": "Each line is a router at every price of cost. Dashed: single models and "
        "coin tosses between two of them, the hull that a router has to beat.",
        **dict.fromkeys(("dollars", "differences", "subjects")),
    }


def _judge_nway(run: NwayRun) -> Verdict:
    first = run.results[0]
    over = first.metrics["gain_over_hull"]
    status = status_of(over)
    ratio = first.metrics["cost_ratio"]
    return Verdict(
        status=status,
        headline={
            "better": f"{first.router} beats every mixture of single models",
            "unclear": f"{first.router} is not shown to beat mixtures of single models",
            "worse": f"{first.router} is worse than mixtures of single models",
        }[status],
        sentence=(
            f"At equal cost it answers {number_cell(over, 4, sign=True)} {interval_cell(over, 4)} "
            "more right than the hull of single models; the best model's quality takes "
            f"{number_cell(ratio, 2)} {interval_cell(ratio, 2)} of its cost."
        ),
        basis=f"{run.n:,} questions, {len(run.benchmark.models)} models, out of fold.",
    )


def _nway_table(run: NwayRun) -> Table:
    names = ("quality_at_cost", "cost_at_quality", "cost_ratio", "gain_over_hull")
    return Table(
        caption="Against the best single model: quality for its money; money (USD per 1,000) and "
        "share of its cost for its quality; and quality above the hull, mean over log cost.",
        columns=(
            "router",
            *(part for name in names for part in (name.replace("_", " "), "interval")),
        ),
        rows=tuple(
            (
                one.router,
                *(
                    cell
                    for name in names
                    for cell in (
                        number_cell(one.metrics[name], 4),
                        interval_cell(one.metrics[name], 4),
                    )
                ),
            )
            for one in run.results
        ),
        strong=frozenset({0}),
    )
