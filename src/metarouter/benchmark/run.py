"""Run routers through a benchmark: fold by fold, nothing learned outside the training fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metarouter.benchmark.data import Benchmark
from metarouter.benchmark.results import (
    Difference,
    RouterResult,
    Scores,
    compare_routers,
    measure_router,
    oracle_scores,
    random_scores,
)
from metarouter.benchmark.routers import FoldFeatures, RouterSpec
from metarouter.benchmark.similarity import (
    Similarity,
    measure_similarity,
    similarity_embedder,
    similarity_over_folds,
)
from metarouter.benchmark.splits import Fold, make_runs
from metarouter.benchmark.transfer import transfer_table
from metarouter.errors import OptionError
from metarouter.gain.extras import one_thread
from metarouter.labels import GainTable
from metarouter.types import Embedder

__all__ = ["BenchmarkRun", "RunOptions", "run_benchmark"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How a benchmark is run.

    Parameters
    ----------
    routers : sequence of RouterSpec, at least one; others are compared with the first.
    protocol : str, one of :data:`metarouter.benchmark.PROTOCOLS`.
    seeds : range, one repetition each.
    n_gold : int, training labels of ``few-gold``.
    n_boot : int, resamples of the questions.
    cache : file of vectors that are slow to compute, or None.
    """

    routers: Sequence[RouterSpec]
    protocol: str = "cv"
    seeds: range = range(1)
    n_gold: int = 1500
    n_boot: int = 500
    cache: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkRun:
    """What came out, for the table, the JSON and the report.

    Attributes
    ----------
    benchmark : Benchmark
    protocol : str
    n_runs, n_folds : int
    n_train : int, median number of training questions.
    scores : mapping of router to its scores in every repetition.
    results : list of RouterResult; random and oracle come last.
    differences : list of Difference, to the first router.
    similarity : Similarity of test prompts to their fold's training prompts, over
        all folds of the first repetition.
    """

    benchmark: Benchmark
    protocol: str
    n_runs: int
    n_folds: int
    n_train: int
    scores: dict[str, list[Scores]]
    results: list[RouterResult]
    differences: list[Difference]
    similarity: Similarity


def run_benchmark(
    benchmark: Benchmark, options: RunOptions, folder: Path, progress: Progress | None = None
) -> BenchmarkRun:
    """Score every question by every router, then measure.

    Parameters
    ----------
    benchmark : Benchmark
    options : RunOptions
    folder : path of the data folder, where ``transfer`` finds its training data.
    progress : callable ``(done, total)`` over fits, optional.

    Raises
    ------
    OptionError
        When a router is named twice, or none is.
    DataError
        When the protocol cannot be run on the benchmark.
    """
    names = [spec.name for spec in options.routers]
    if not names or len(set(names)) < len(names):
        raise OptionError.of("routers", ",".join(names), "at least one, each once")
    runs = make_runs(benchmark, options.protocol, options.seeds, options.n_gold)
    embedder = similarity_embedder(options.cache)
    outside = (
        transfer_table(benchmark, folder, embedder) if options.protocol == "transfer" else None
    )
    scores = _score_runs(benchmark, options, runs, outside, progress)
    results = _measure_all(benchmark, scores, options.n_boot)
    return BenchmarkRun(
        benchmark=benchmark,
        protocol=options.protocol,
        n_runs=len(runs),
        n_folds=len(runs[0]),
        n_train=_n_train(runs, outside),
        scores=scores,
        results=results,
        differences=compare_routers(results, names[0]),
        similarity=_similarity(benchmark, runs[0], outside, embedder),
    )


def _similarity(
    benchmark: Benchmark, folds: list[Fold], outside: GainTable | None, embedder: Embedder
) -> Similarity:
    """Of every test prompt to what its own fold learned from."""
    if outside is not None:
        tested = np.concatenate([fold.test for fold in folds])
        return measure_similarity(_texts(benchmark, tested), outside.queries, embedder)
    parts = [(fold.test, fold.train) for fold in folds]
    return similarity_over_folds(benchmark.prompts, parts, embedder)


def _n_train(runs: list[list[Fold]], outside: GainTable | None) -> int:
    if outside is not None:
        return outside.n_queries
    return int(np.median([len(fold.train) for folds in runs for fold in folds]))


def _measure_all(
    benchmark: Benchmark, scores: dict[str, list[Scores]], n_boot: int
) -> list[RouterResult]:
    some = next(iter(scores.values()))
    everyone = scores | {"random": random_scores(some), "oracle": oracle_scores(benchmark, some)}
    return [
        measure_router(benchmark, name, found, n_boot=n_boot) for name, found in everyone.items()
    ]


def _score_runs(
    benchmark: Benchmark,
    options: RunOptions,
    runs: list[list[Fold]],
    outside: GainTable | None,
    progress: Progress | None,
) -> dict[str, list[Scores]]:
    total = sum(map(len, runs)) * len(options.routers)
    done = 0
    found: dict[str, list[Scores]] = {spec.name: [] for spec in options.routers}
    for seed, folds in zip(options.seeds, runs, strict=False):
        parts: dict[str, list[Scores]] = {spec.name: [] for spec in options.routers}
        for fold in folds:
            table = (
                outside
                if outside is not None
                else benchmark.table(fold.train, with_subject=options.protocol == "subject")
            )
            features = FoldFeatures(table.queries, _texts(benchmark, fold.test), options.cache)
            for spec in options.routers:
                with one_thread():
                    gains = spec.fit_predict(table, features, seed)
                parts[spec.name].append(Scores(rows=fold.test, score=gains[:, -1]))
                done += 1
                if progress is not None:
                    progress(done, total)
        for name, each in parts.items():
            found[name].append(_joined(each))
    return found


def _joined(parts: Sequence[Scores]) -> Scores:
    return Scores(
        rows=np.concatenate([part.rows for part in parts]),
        score=np.concatenate([part.score for part in parts]),
    )


def _texts(benchmark: Benchmark, rows: object) -> list[str]:
    return [benchmark.prompts[i] for i in np.asarray(rows)]
