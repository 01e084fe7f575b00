"""Compare correctors and gain models on held-out gold labels.

One *cell* is a split (seed), a number of gold labels, a corrector and a gain
model. For each split the queries with gold labels are permuted; the first
`n_test` are the test set, the next `n_gold` keep their gold label, and every
other query that has a preference label is a preference row whose gold label,
if there is one, is hidden. So the gold set of a smaller size is part of that of
a larger one, and all methods see the same rows. Nothing fitted ever sees a test
query: features, scale, propensity and tuning are learned on training rows.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from metarouter.correction import learn_gain
from metarouter.errors import DataError, MissingDependencyError, OptionError
from metarouter.evaluation.comparison import (
    CEILING,
    Cell,
    CompareConfig,
    CompareRecord,
    CompareResult,
)
from metarouter.evaluation.identity import callable_identity, installed_identities
from metarouter.evaluation.metrics import apgr, cpt, efficiency_gain_area
from metarouter.evaluation.studylog import StudyLog
from metarouter.gain import GainScorer, make_pool_model
from metarouter.gain.naming import split_name
from metarouter.gain.text import stage_of
from metarouter.labels.repeats import first_of_text, merge_repeats
from metarouter.labels.split import take_queries
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, Corrector, FloatArray, IntArray

if TYPE_CHECKING:
    from metarouter.features import FeaturePipeline

__all__ = ["DEFAULT_CORRECTORS", "Split", "compare", "split_queries"]

DEFAULT_CORRECTORS = (
    "gold_only",
    "preference_only",
    "none",
    "mean_shift",
    "r",
    "dr",
    "x",
    "two_fidelity",
    "auto",
    CEILING,
)
DEFAULT_N_GOLD = (50, 100, 250, 500)

Correctors = Sequence[str] | Mapping[str, Callable[[int], Corrector]]


class Features(Protocol):
    """A feature pipeline: learned on training texts, applied to any."""

    def fit(self, texts: Sequence[str]) -> Self:
        """Learn from training texts."""
        ...

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features, shape (n_texts, dim)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Query indices of one split; the three sets are disjoint."""

    gold: IntArray
    preference: IntArray
    test: IntArray


def split_queries(
    has_gold: BoolArray, has_preference: BoolArray, *, n_gold: int, n_test: int, seed: int
) -> Split:
    """Draw test, gold and preference queries.

    Parameters
    ----------
    has_gold, has_preference : bool arrays, shape (n_queries,)
    n_gold, n_test : int
        How many gold queries to train on and to test on.
    seed : int
        With the same seed and `n_test`, the test set is the same for every
        `n_gold` and the gold sets are nested.

    Raises
    ------
    DataError
        When there are fewer than ``n_gold + n_test`` queries with gold labels.

    Examples
    --------
    >>> both = np.ones(5, dtype=bool)
    >>> split = split_queries(both, both, n_gold=1, n_test=2, seed=0)
    >>> len(split.gold), len(split.preference), len(split.test)
    (1, 2, 2)
    """
    _check_enough(int(has_gold.sum()), n_gold, n_test)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(has_gold))
    test, gold = order[:n_test], order[n_test : n_test + n_gold]
    free = has_preference.copy()
    free[test] = free[gold] = False
    return Split(gold=gold, preference=np.flatnonzero(free), test=test)


def compare(
    gold: Any,
    preference: Any = None,
    *,
    n_gold: Sequence[int] | None = None,
    correctors: Correctors = DEFAULT_CORRECTORS,
    gain_models: Sequence[str] = ("ridge",),
    seeds: int | Sequence[int] = 20,
    n_test: int = 500,
    premium: str | None = None,
    cheap: str | None = None,
    score_range: tuple[float, float] | None = None,
    embedder: str | Callable[[], Features] = "default",
    jobs: int = 2,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CompareResult:
    """Measure every corrector with every gain model at every number of gold labels.

    Estimates, for queries like those with gold labels, the gain that a router
    trained each way collects above a random router. Gold labels are assumed to
    be a random sample of the queries the router will meet.

    Parameters
    ----------
    gold, preference : path, list of paths, data frame or iterable of dicts
        Label sources as for :func:`metarouter.labels.read_gain_table`. A query
        may be in both. Or `gold` is a :class:`GainTable` that holds both.
    n_gold : ints
        Gold sizes to train on; those of 50, 100, 250 and 500 that the data
        allow by default.
    correctors : names, or mapping of names to ``make(seed)``
        Registered names, or your own. The name ``all_gold`` is the ceiling:
        gold labels for every training row that has one.
    gain_models : names, default ridge alone.
    seeds : int or ints
        Number of splits, or the seeds themselves.
    n_test : int, default 500
        Held-out gold queries of each split.
    premium, cheap : str
        The two models, where the labels know more than two.
    score_range : (low, high), optional
        Range of the scores, which divides gains; see :func:`metarouter.labels.read_gain_table`.
    embedder : str or ``make()``, default "default"
        Feature pipeline, fitted on the training prompts of each split.
    jobs : int, default 2
        Processes, one BLAS thread each. The numbers do not depend on it.
    resume : path, optional
        Log of finished cells: an interrupted comparison goes on from there. Your own parts,
        installed or given, are told apart by their code, as far as their package goes.
    progress : ``progress(done, total)``, optional
        Called after every finished cell.

    Returns
    -------
    CompareResult

    Raises
    ------
    DataError
        When there are too few labelled queries for `n_gold` and `n_test`.
    OptionError
        When an argument is out of its range.

    Notes
    -----
    Intervals are over splits, with the variance of a mean raised for the overlap
    of splits (Nadeau and Bengio 2003, https://doi.org/10.1023/A:1024068626366).

    Examples
    --------
    >>> from metarouter.testing import make_world
    >>> labels = make_world(n_queries=80, n_gold=60, n_test=0).table
    >>> result = compare(labels, n_gold=[20], correctors=["gold_only", "none"], seeds=2, n_test=20,
    ...     embedder="surface", jobs=1)
    >>> [(row["seed"], row["corrector"], row["n_test"]) for row in result.as_records()][:2]
    [(0, 'gold_only', 20), (0, 'none', 20)]
    """
    table = _read(gold, preference, premium=premium, cheap=cheap, score_range=score_range)
    study = _make_study(table, n_test, correctors, gain_models, embedder)
    config = _make_config(study, n_gold, seeds)
    log = None if resume is None else StudyLog(resume, config.fingerprint, _codes(study))
    done = {} if log is None else log.load()
    cells = config.cells()
    todo = [cell for cell in cells if cell not in done]
    found = {cell: done[cell] for cell in cells if cell in done}
    with nullcontext() if log is None or not todo else log.appending() as appender:
        for record in _run(study, todo, jobs):
            found[record.cell] = record
            if appender is not None:
                appender.add(record)
            if progress is not None:
                progress(len(found), len(cells))
    return CompareResult(records=tuple(found[cell] for cell in cells), config=config)


def _read(gold: Any, preference: Any, **options: Any) -> GainTable:
    if isinstance(gold, GainTable):
        table = gold
    else:
        from metarouter.labels import read_gain_table

        table = read_gain_table(gold, preference, **options)[0]
    table = table.rows(table.weight > 0)
    # Queries of equal text are one query, or a split would train on what it tests.
    return replace(table, query=first_of_text(table)[table.query])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Study:
    """All that a worker needs; picklable."""

    table: GainTable
    n_test: int
    correctors: Mapping[str, Callable[[int], Corrector] | None]
    gain_models: tuple[str, ...]
    embedder: str | Callable[[], Features]

    @property
    def has_gold(self) -> BoolArray:
        return _queries_with(self.table, self.table.is_gold)

    @property
    def has_preference(self) -> BoolArray:
        return _queries_with(self.table, ~self.table.is_gold)

    @property
    def embedder_name(self) -> str:
        return self.embedder if isinstance(self.embedder, str) else _name(self.embedder)


def _make_study(
    table: GainTable,
    n_test: int,
    correctors: Correctors,
    gain_models: Sequence[str],
    embedder: str | Callable[[], Features],
) -> _Study:
    if not table.is_pair:
        raise OptionError(
            "a comparison is about two models: name them with `premium` and `cheap`; the labels "
            f"are about {', '.join(table.models)}"
        )
    if n_test < 2:
        raise OptionError.of("n_test", n_test, "at least 2")
    _check_names("gain_models", gain_models)
    _check_names("correctors", correctors)
    study = _Study(
        table=table,
        n_test=n_test,
        correctors=dict(correctors)
        if isinstance(correctors, Mapping)
        else dict.fromkeys(correctors),
        gain_models=tuple(gain_models),
        embedder=embedder,
    )
    _check_registered(study)
    return study


def _check_names(option: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    if not names or isinstance(names, str) or len(set(names)) != len(names):
        raise OptionError.of(option, names, "a list of different names, at least one")


def _check_registered(study: _Study) -> None:
    """Build everything once, so that a typo fails before the work."""
    for name in study.correctors:
        if name != CEILING:
            _make_corrector(study, name, 0)
    for name in study.gain_models:
        make_pool_model(name)


def _make_config(
    study: _Study, n_gold: Sequence[int] | None, seeds: int | Sequence[int]
) -> CompareConfig:
    has_gold, has_preference = study.has_gold, study.has_preference
    sizes = _gold_sizes(n_gold, int(has_gold.sum()), study.n_test)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if len(seeds) < 1 or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise OptionError.of("seeds", seeds, "at least one, different, not negative")
    for seed in seeds:
        _check_preference(has_gold, has_preference, max(sizes), study.n_test, seed)
    return CompareConfig(
        n_gold=sizes,
        correctors=tuple(study.correctors),
        gain_models=study.gain_models,
        seeds=seeds,
        n_test=study.n_test,
        embedder=study.embedder_name,
        models=study.table.models,
        n_queries=int((has_gold | has_preference).sum()),
        n_gold_queries=int(has_gold.sum()),
        n_preference_queries=int(has_preference.sum()),
        fingerprint=_fingerprint(study),
    )


def _gold_sizes(n_gold: Sequence[int] | None, available: int, n_test: int) -> tuple[int, ...]:
    if n_gold is None:
        sizes = tuple(n for n in DEFAULT_N_GOLD if n + n_test <= available)
        if not sizes:
            _check_enough(available, DEFAULT_N_GOLD[0], n_test)
        return sizes
    sizes = tuple(sorted(set(n_gold)))
    if not sizes or sizes[0] < 2:
        raise OptionError.of("n_gold", list(n_gold), "sizes of at least 2")
    _check_enough(available, sizes[-1], n_test)
    return sizes


def _check_enough(available: int, n_gold: int, n_test: int) -> None:
    if available < n_gold + n_test:
        raise DataError(
            f"`n_gold` {n_gold} and `n_test` {n_test} need {n_gold + n_test} queries with gold "
            f"labels, there are {available}: lower `n_gold` or `n_test`, or label more "
            "queries"
        )


def _check_preference(
    has_gold: BoolArray, has_preference: BoolArray, n_gold: int, n_test: int, seed: int
) -> None:
    split = split_queries(has_gold, has_preference, n_gold=n_gold, n_test=n_test, seed=seed)
    if len(split.preference) < 2:
        raise DataError(
            f"of {int(has_preference.sum())} queries with preference labels, "
            f"{len(split.preference)} are left for training beside `n_gold` {n_gold} and `n_test` "
            f"{n_test}: lower one of these, or add preference labels for other queries"
        )


def _run(study: _Study, cells: Sequence[Cell], jobs: int) -> Iterator[CompareRecord]:
    """Records as they are finished; a task is all cells of one seed and gold size."""
    if jobs < 1:
        raise OptionError.of("jobs", jobs, "at least 1")
    tasks: dict[tuple[int, int], list[Cell]] = defaultdict(list)
    # Size by size, so that two tasks of one seed rarely start together: the
    # first leaves the features of the seed for the others.
    for cell in sorted(cells, key=lambda cell: cell.n_gold):
        tasks[cell.n_gold, cell.seed].append(cell)
    with TemporaryDirectory(prefix="metarouter-compare-") as folder:
        if jobs == 1 or len(tasks) < 2:
            for task in tasks.values():
                yield from _run_task(study, task, folder)
            return
        _ask_first(study, Path(folder))
        joblib = _import_train("joblib")
        parallel = joblib.Parallel(n_jobs=jobs, backend="loky", return_as="generator_unordered")
        run = joblib.delayed(_run_list)
        for records in parallel(run(study, task, folder) for task in tasks.values()):
            yield from records


def _run_list(study: _Study, cells: Sequence[Cell], folder: str) -> list[CompareRecord]:
    return list(_run_task(study, cells, folder))


def _run_task(study: _Study, cells: Sequence[Cell], folder: str) -> Iterator[CompareRecord]:
    """Fit and test the cells of one seed and gold size, on the same features."""
    seed, n_gold = cells[0].seed, cells[0].n_gold
    split = split_queries(
        study.has_gold, study.has_preference, n_gold=n_gold, n_test=study.n_test, seed=seed
    )
    with _import_train("threadpoolctl").threadpool_limits(limits=1):
        features = _split_features(study, split, Path(folder, f"{seed}.npy"))
        test_features = features[split.test]
        test_queries = [study.table.queries[i] for i in split.test]
        test_gain = _mean_gold_gain(study.table, split.test)
        tables = [
            _training_table(study.table, split, features, ceiling=ceiling)
            for ceiling in (False, True)
        ]
        for cell in cells:
            table = tables[cell.corrector == CEILING]
            score, seconds = _fit_score(study, cell, table, test_queries, test_features)
            yield _record(cell, score, test_gain, len(split.preference), seconds)


def _split_features(study: _Study, split: Split, path: Path) -> NDArray[np.float32]:
    """Features of all queries from a pipeline that saw no test query.

    They are the same for all gold sizes of a seed, so they are kept at `path`.
    """
    if path.exists():
        kept: NDArray[np.float32] = np.load(path)
        return kept
    queries = study.table.queries
    seen = study.has_gold | study.has_preference
    seen[split.test] = False
    pipeline = _make_features(study.embedder, path.parent)
    pipeline = pipeline.fit([queries[i] for i in np.flatnonzero(seen)])
    features = pipeline.transform(queries)
    part = path.with_suffix(f".{os.getpid()}.npy")
    np.save(part, features)
    part.replace(path)
    return features


def _training_table(
    table: GainTable, split: Split, features: NDArray[np.float32], *, ceiling: bool
) -> GainTable:
    """Rows, queries and features of the training part only.

    With `ceiling`, the preference queries come with their gold label instead.
    """
    in_gold = _mask(table.n_queries, split.gold)
    in_preference = _mask(table.n_queries, split.preference)
    gold_rows = table.is_gold & (in_gold | in_preference if ceiling else in_gold)[table.query]
    preference_rows = ~table.is_gold & in_preference[table.query] & (not ceiling)
    rows = table.rows(gold_rows | preference_rows)
    used = np.unique(rows.query)
    return take_queries(rows, used).with_features(features[used])


def _fit_score(
    study: _Study,
    cell: Cell,
    table: GainTable,
    test_queries: Sequence[str],
    test_features: NDArray[np.float32],
) -> tuple[FloatArray, float]:
    """Predicted gain of the test queries, and the seconds it took to fit."""
    start = time.perf_counter()
    model: GainScorer
    if cell.corrector == CEILING:
        model = make_pool_model(cell.gain_model, seed=cell.seed).fit(merge_repeats(table))
    else:
        corrector = _make_corrector(study, cell.corrector, cell.seed)
        model = learn_gain(table, corrector, gain_model=cell.gain_model, seed=cell.seed)
    seconds = time.perf_counter() - start
    stage = stage_of(model)
    if stage is not None:
        test_features = stage.transform(test_queries)
    return model.predict(test_features).mean.reshape(len(test_features)), seconds


def _record(
    cell: Cell, score: FloatArray, gain: FloatArray, n_preference: int, seconds: float
) -> CompareRecord:
    # Only differences of quality enter PGR, so the cheap model's may be put at 0.
    cheap = np.zeros_like(gain)
    return CompareRecord(
        seed=cell.seed,
        n_gold=cell.n_gold,
        corrector=cell.corrector,
        gain_model=cell.gain_model,
        n_preference=n_preference,
        n_test=len(gain),
        efficiency_gain_area=efficiency_gain_area(score, gain),
        efficiency_gain_area_20_80=efficiency_gain_area(score, gain, 0.2, 0.8),
        apgr=apgr(score, cheap, gain),
        cpt50=cpt(score, cheap, gain, 0.5),
        cpt80=cpt(score, cheap, gain, 0.8),
        fit_seconds=seconds,
    )


def _mean_gold_gain(table: GainTable, queries: IntArray) -> FloatArray:
    """Weighted mean gold gain of each query in `queries`."""
    rows = table.gold()
    total = np.bincount(rows.query, rows.weight * rows.gain, minlength=table.n_queries)
    weight = np.bincount(rows.query, rows.weight, minlength=table.n_queries)
    gain: FloatArray = total[queries] / weight[queries]
    return gain


def _fingerprint(study: _Study) -> str:
    """Identity of everything a cell's record depends on but the cell."""
    table = study.table
    digest = hashlib.sha256()
    if callable(study.embedder):
        made = [f"embedder={callable_identity(study.embedder)}"]
    else:
        made = list(installed_identities(re.split(r"[+:]", study.embedder)).values())
    parts = (version("metarouter"), study.embedder_name, str(study.n_test), *table.models)
    for part in (*parts, *made):
        digest.update(part.encode() + b"\0")
    for text in table.queries:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    for column in (table.query, table.gain, table.is_gold, table.weight, table.judge):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]


def _codes(study: _Study) -> dict[tuple[str, str], str]:
    """Identities of correctors and gain models that are not built in, by kind and name."""
    kinds = {name: split_name(name)[0] for name in (*study.correctors, *study.gain_models)}
    installed = installed_identities(set(kinds.values()))
    given = {
        name: installed.get(kinds[name]) if make is None else callable_identity(make)
        for name, make in study.correctors.items()
    }
    codes = {("corrector", name): code for name, code in given.items() if code}
    codes |= {
        ("gain_model", name): installed[kinds[name]]
        for name in study.gain_models
        if kinds[name] in installed
    }
    return codes


def _queries_with(table: GainTable, rows: BoolArray) -> BoolArray:
    return _mask(table.n_queries, table.query[rows])


def _mask(n: int, indices: IntArray) -> BoolArray:
    mask = np.zeros(n, dtype=np.bool_)
    mask[indices] = True
    return mask


def _name(make: Callable[[], Features]) -> str:
    return str(getattr(make, "__qualname__", type(make).__qualname__))


def _make_features(embedder: str | Callable[[], Features], folder: Path) -> Features:
    if not isinstance(embedder, str):
        return embedder()
    return _make_pipeline(embedder, folder)


def _make_pipeline(embedder: str, folder: Path) -> FeaturePipeline:
    from metarouter.features import make_pipeline

    # every split goes over all texts again, and an endpoint may charge for them
    is_remote = "endpoint:" in embedder
    return make_pipeline(embedder, cache=folder / "vectors.sqlite" if is_remote else None)


def _ask_first(study: _Study, folder: Path) -> None:
    """Fill the cache before processes start, which would each ask an endpoint for all texts."""
    if not isinstance(study.embedder, str):
        return
    from metarouter.features import CachedEmbedder

    for embedder in _make_pipeline(study.embedder, folder).embedders.values():
        if isinstance(embedder, CachedEmbedder):
            embedder.embed(study.table.queries)


def _make_corrector(study: _Study, name: str, seed: int) -> Corrector:
    make = study.correctors[name]
    if make is not None:
        return make(seed)
    from metarouter.correction import make_corrector

    return make_corrector(name, seed=seed)


def _import_train(name: str) -> Any:
    """A library that comes with scikit-learn."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("compare", "train") from error
