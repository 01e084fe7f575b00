"""Run routers through a benchmark: fold by fold, nothing learned outside the training fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from metarouter.benchmark.data import Benchmark
from metarouter.benchmark.results import (
    Difference,
    RouterResult,
    Scores,
    compare_routers,
    join_folds,
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
from metarouter.types import FloatArray, IntArray

__all__ = ["BenchmarkRun", "RunOptions", "run_benchmark", "run_benchmarks"]

Progress = Callable[[int, int], None]
_MOST_PROBES = 500


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
    cache : file of vectors that are slow to compute; by default one for this run alone.
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
    return run_benchmarks([benchmark], options, folder, progress)[0]


def run_benchmarks(
    benchmarks: Sequence[Benchmark],
    options: RunOptions,
    folder: Path,
    progress: Progress | None = None,
) -> list[BenchmarkRun]:
    """:func:`run_benchmark` for several; features of the same questions are made once.

    The pairs of ``data/pairs`` are about the same prompts, so their folds and the
    features of these are the same: only the labels and the fits are each one's own.
    """
    names = [spec.name for spec in options.routers]
    if not names or len(set(names)) < len(names):
        raise OptionError.of("routers", ",".join(names), "at least one, each once")
    together: dict[tuple[object, ...], list[int]] = {}
    for i, each in enumerate(benchmarks):
        together.setdefault((each.prompts, each.subject.tobytes()), []).append(i)
    count = _Count(progress)
    found: dict[int, BenchmarkRun] = {}
    with TemporaryDirectory(prefix="metarouter-benchmark-") as scratch:
        options = replace(options, cache=options.cache or Path(scratch) / "vectors.sqlite")
        jobs = [_Job([benchmarks[i] for i in at], options, folder) for at in together.values()]
        count.total = sum(job.n_fits for job in jobs)
        for at, job in zip(together.values(), jobs, strict=True):
            found |= dict(zip(at, job.run(count), strict=True))
    return [found[i] for i in range(len(benchmarks))]


class _Count:
    """Fits done, told to `progress`."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self.done, self.total = progress, 0, 0

    def add(self) -> None:
        self.done += 1
        if self._progress is not None:
            self._progress(self.done, self.total)


class _Job:
    """Benchmarks of the same questions under one protocol."""

    def __init__(self, benchmarks: Sequence[Benchmark], options: RunOptions, folder: Path) -> None:
        first = benchmarks[0]
        self._benchmarks, self._options = benchmarks, options
        self._runs = make_runs(first, options.protocol, options.seeds, options.n_gold)
        self._embedder = similarity_embedder(options.cache)
        # whole subjects differ from fold to fold, and telling them apart is part of the task
        self._probes = (
            _probes(len(first)) if options.protocol == "subject" else np.zeros(0, dtype=np.int64)
        )
        self._outside = (
            transfer_table(first, folder, self._embedder)
            if options.protocol == "transfer"
            else None
        )

    @property
    def n_fits(self) -> int:
        return sum(map(len, self._runs)) * len(self._options.routers) * len(self._benchmarks)

    def run(self, count: _Count) -> list[BenchmarkRun]:
        """Every benchmark's run, in order."""
        scores = self._score(count)
        similarity = self._similarity()
        return [
            self._measured(benchmark, own, similarity)
            for benchmark, own in zip(self._benchmarks, scores, strict=True)
        ]

    def _score(self, count: _Count) -> list[dict[str, list[Scores]]]:
        """Scores by router in every repetition, of each benchmark."""
        names = [spec.name for spec in self._options.routers]
        found: list[dict[str, list[Scores]]] = [
            {name: [] for name in names} for _ in self._benchmarks
        ]
        for seed, folds in zip(self._options.seeds, self._runs, strict=False):
            parts = [self._fold_scores(fold, seed, count) for fold in folds]
            for i, own in enumerate(found):
                for name in names:
                    folds_of_one = [part[i][name] for part in parts]
                    own[name].append(join_folds(folds_of_one, by_place=not self._probes.size))
        return found

    def _fold_scores(self, fold: Fold, seed: int, count: _Count) -> list[dict[str, Scores]]:
        """Scores by router on one fold, of each benchmark; the features are shared."""
        first = self._benchmarks[0]
        train = _texts(first, fold.train) if self._outside is None else self._outside.queries
        told = np.concatenate([fold.test, self._probes])
        features = FoldFeatures(train, _texts(first, told), self._options.cache)
        found: list[dict[str, Scores]] = []
        for benchmark in self._benchmarks:
            table = self._table(benchmark, fold)
            own: dict[str, Scores] = {}
            for spec in self._options.routers:
                with one_thread():
                    gains = spec.fit_predict(table, features, seed)
                score = _over_probes(gains[:, -1], len(fold.test))
                own[spec.name] = Scores(rows=fold.test, score=score)
                count.add()
            found.append(own)
        return found

    def _table(self, benchmark: Benchmark, fold: Fold) -> GainTable:
        if self._outside is not None:
            return self._outside
        return benchmark.table(fold.train, with_subject=self._options.protocol == "subject")

    def _similarity(self) -> Similarity:
        """Of every test prompt to what its own fold learned from."""
        first, folds = self._benchmarks[0], self._runs[0]
        if self._outside is not None:
            tested = np.concatenate([fold.test for fold in folds])
            return measure_similarity(_texts(first, tested), self._outside.queries, self._embedder)
        parts = [(fold.test, fold.train) for fold in folds]
        return similarity_over_folds(first.prompts, parts, self._embedder)

    def _measured(
        self, benchmark: Benchmark, scores: dict[str, list[Scores]], similarity: Similarity
    ) -> BenchmarkRun:
        results = _measure_all(benchmark, scores, self._options.n_boot)
        return BenchmarkRun(
            benchmark=benchmark,
            protocol=self._options.protocol,
            n_runs=len(self._runs),
            n_folds=len(self._runs[0]),
            n_train=_n_train(self._runs, self._outside),
            scores=scores,
            results=results,
            differences=compare_routers(results, self._options.routers[0].name),
            similarity=similarity,
        )


def _probes(n: int) -> IntArray:
    """Questions on which the levels of the folds' models are compared, the same for all folds."""
    return np.sort(np.random.default_rng(n).permutation(n)[:_MOST_PROBES])


def _over_probes(score: FloatArray, n: int) -> FloatArray:
    """The first n scores over the mean of the others, if there are some."""
    return score[:n] - score[n:].mean() if len(score) > n else score


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


def _texts(benchmark: Benchmark, rows: object) -> list[str]:
    return [benchmark.prompts[i] for i in np.asarray(rows)]
