"""Metrics of routers on a benchmark, with intervals and paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from metarouter.benchmark.data import Benchmark
from metarouter.evaluation.intervals import (
    Band,
    bootstrap_replicates,
    simultaneous_band,
    without_interval,
)
from metarouter.evaluation.metrics import (
    WeightedStatistic,
    apgr_random_std,
    collected_at_statistic,
    gap_statistic,
)
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = [
    "CPT_SHARES",
    "Difference",
    "RouterResult",
    "Scores",
    "collected_band",
    "compare_routers",
    "interval_of",
    "join_folds",
    "measure_router",
    "oracle_scores",
    "random_scores",
    "share_reached",
]

CPT_SHARES = (0.2, 0.5, 0.8)
_METRICS = ("apgr", "cpt20", "cpt50", "cpt80")
_LEAST_P = 1e-16  # so far out a normal tail says nothing, and further out it underflows to 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a router said in one repetition: scores of the questions it was tested on."""

    rows: IntArray  # (k,), each at most once
    score: FloatArray  # (k,)


def join_folds(folds: Sequence[Scores], *, by_place: bool = True) -> Scores:
    """Scores of all folds as one ranking.

    The model of a fold stands at the level of the other folds' labels, which is low where its own
    are high: one ranking of the scores themselves rates a useless router below a random one.

    Parameters
    ----------
    folds : sequence of Scores
    by_place : bool, default True
        Each score becomes its place among those of its fold, in [0, 1]: every fold's router sends
        the same share, as one that was calibrated does. For folds that were drawn at random. False
        for scores of which the model's level was taken away already.

    References
    ----------
    Airola, Pahikkala, Waegeman, De Baets and Salakoski (2011), An experimental comparison of
    cross-validation techniques for estimating the area under the ROC curve,
    https://doi.org/10.1016/j.csda.2010.11.018.

    Examples
    --------
    >>> low = Scores(rows=np.array([0, 1]), score=np.array([1.0, 2.0]))
    >>> high = Scores(rows=np.array([2, 3]), score=np.array([9.0, 7.0]))
    >>> join_folds([low, high]).score.tolist()
    [0.25, 0.75, 0.75, 0.25]
    """
    return Scores(
        rows=np.concatenate([fold.rows for fold in folds]),
        score=np.concatenate([_places(fold.score) if by_place else fold.score for fold in folds]),
    )


def _places(score: FloatArray) -> FloatArray:
    """Share of the scores below each, equal ones counting half."""
    known = np.sort(score)
    below, up_to = (np.searchsorted(known, score, side=side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2.0 * len(known)))


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterResult:
    """A router on a benchmark.

    Attributes
    ----------
    router : str
    apgr, cpt20, cpt50, cpt80 : Estimate
        Mean over repetitions; intervals over questions and training sets.
    replicates : array, shape (n_boot, 4)
        The same four on resampled questions, the same resamples for every
        router of a benchmark.
    per_run : array, shape (n_runs,), APGR of each repetition.
    """

    router: str
    apgr: Estimate
    cpt20: Estimate
    cpt50: Estimate
    cpt80: Estimate
    replicates: FloatArray
    per_run: FloatArray

    @property
    def saving(self) -> dict[str, float]:
        """Times fewer premium calls than a random router, at each share of the gap."""
        return {
            name: x / value.value if value.value > 0 else math.nan
            for name, x, value in zip(
                ("saving20", "saving50", "saving80"),
                CPT_SHARES,
                (self.cpt20, self.cpt50, self.cpt80),
                strict=True,
            )
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """APGR of `router` minus that of `versus`, on the same questions and resamples.

    `p_value` is two-sided, of a normal difference, 1e-16 where it is below that; NaN
    where there is none, or where all resamples give the same difference.
    """

    router: str
    versus: str
    apgr: Estimate
    p_value: float


def oracle_scores(benchmark: Benchmark, runs: Sequence[Scores]) -> list[Scores]:
    """The order that knows every gain, on the questions of each repetition."""
    return [Scores(rows=run.rows, score=benchmark.gain[run.rows]) for run in runs]


def random_scores(runs: Sequence[Scores]) -> list[Scores]:
    """Equal scores, which stand for the mean over all random orders."""
    return [Scores(rows=run.rows, score=np.zeros(len(run.rows))) for run in runs]


def measure_router(
    benchmark: Benchmark,
    router: str,
    runs: Sequence[Scores],
    *,
    n_boot: int = 1000,
    level: float = 0.95,
) -> RouterResult:
    """APGR and CPT of a router with intervals.

    Parameters
    ----------
    benchmark : Benchmark
    router : str
    runs : sequence of Scores, one for each repetition.
    n_boot : int, default 1000, resamples of the questions.
    level : float, default 0.95

    Notes
    -----
    All repetitions are computed on one resample of the benchmark's questions,
    whose spread is the error of a sample of questions. Repetitions train on
    different questions and so differ by s² beyond that; s² / J of their mean
    is added, which widens the percentile interval by ``√(1 + s² / (J·v))``, v
    the bootstrap variance. For ``random`` the interval is that of one random
    order, whose standard deviation is exact. A CPT is infinite where the share
    of the gap is not reached.
    """
    if router == "random":
        return _random_result(benchmark, runs, level, n_boot)
    statistic = _mean_over_runs(
        [
            (run.rows, gap_statistic(run.score, *_qualities(benchmark, run), CPT_SHARES))
            for run in runs
        ]
    )
    n = len(benchmark)
    # The same seed for every router: the same resamples.
    replicates = bootstrap_replicates(statistic, n, np.random.default_rng(0), n_boot)
    value = statistic(np.ones((1, n)))[0]
    per_run = _per_run(benchmark, runs)
    estimates = {
        name: interval_of(
            float(value[i]), replicates[:, i], per_run[:, i], n, level, is_target=i > 0
        )
        for i, name in enumerate(_METRICS)
    }
    return RouterResult(router=router, replicates=replicates, per_run=per_run[:, 0], **estimates)


def compare_routers(results: Sequence[RouterResult], versus: str) -> list[Difference]:
    """Paired differences in APGR of every router to one of them."""
    by_name = {result.router: result for result in results}
    base = by_name[versus]
    return [
        _difference(result, base)
        for result in results
        if result.router not in (versus, "random", "oracle")
    ]


def collected_band(
    benchmark: Benchmark,
    values: FloatArray,
    runs: Sequence[Scores],
    grid: FloatArray,
    *,
    n_boot: int = 400,
) -> Band:
    """Mean of `values` collected at each premium share, with a simultaneous band.

    `values` is what a premium call adds to each question, shape (n,): its gain
    for quality, its extra cost for dollars.
    """
    statistic = _mean_over_runs(
        [(run.rows, collected_at_statistic(run.score, values[run.rows], grid)) for run in runs]
    )
    return simultaneous_band(statistic, len(benchmark), np.random.default_rng(0), n_boot)


def _qualities(benchmark: Benchmark, run: Scores) -> tuple[FloatArray, FloatArray]:
    return benchmark.cheap[run.rows], benchmark.premium[run.rows]


def _mean_over_runs(parts: Sequence[tuple[IntArray, WeightedStatistic]]) -> WeightedStatistic:
    def statistic(weights: FloatArray) -> FloatArray:
        values = [each(weights[:, rows]) for rows, each in parts]
        return np.asarray(np.mean(values, axis=0))

    return statistic


def _per_run(benchmark: Benchmark, runs: Sequence[Scores]) -> FloatArray:
    """The four metrics of each repetition, shape (n_runs, 4)."""
    rows = [
        gap_statistic(run.score, *_qualities(benchmark, run), CPT_SHARES)(
            np.ones((1, len(run.rows)))
        )
        for run in runs
    ]
    return np.concatenate(rows)


def share_reached(replicates: FloatArray) -> FloatArray:
    """Share of the resamples in which a target was reached, of each column if there are some."""
    return np.asarray(np.isfinite(replicates).mean(axis=0))


def interval_of(
    value: float,
    replicates: FloatArray,
    per_run: FloatArray,
    n: int,
    level: float = 0.95,
    *,
    is_target: bool = False,
) -> Estimate:
    """An estimate from its value on all questions, on resamples, and in each repetition.

    Parameters
    ----------
    value : float
    replicates : array, shape (n_boot,); undefined ones are NaN.
    per_run : array, shape (n_runs,); spread beyond one repetition widens the interval.
    n : int, questions.
    level : float, default 0.95
    is_target : bool, default False
        Whether NaN says that a target was not reached, at any cost. Such
        resamples count as +inf, and the standard error is NaN. Other
        undefined resamples are left out.

    Examples
    --------
    >>> interval_of(0.5, np.linspace(0.4, 0.6, 101), np.array([0.5]), 10).low
    0.405
    """
    defined = replicates[np.isfinite(replicates)]
    if is_target and len(defined) < len(replicates):
        return _target_interval(value, replicates, n, level)
    if math.isnan(value) or len(defined) < 2:
        return without_interval(value, n, level=level)
    over_questions = float(defined.std(ddof=1))
    error = math.hypot(over_questions, _training_error(per_run))
    low, high = np.quantile(defined, [0.5 - level / 2, 0.5 + level / 2])
    wider = error / over_questions if over_questions > 0 else 1.0
    return Estimate(
        value=value,
        std_error=error,
        low=value - wider * (value - float(low)),
        high=value + wider * (float(high) - value),
        n=n,
        level=level,
    )


def _target_interval(value: float, replicates: FloatArray, n: int, level: float) -> Estimate:
    """Quantiles of resamples, some of which do not reach the target; no values between two."""
    low, high = np.quantile(
        np.where(np.isnan(replicates), np.inf, replicates),
        [0.5 - level / 2, 0.5 + level / 2],
        method="inverted_cdf",
    )
    return Estimate(
        value=value,
        std_error=math.nan,
        low=float(low),
        high=float(high),
        n=n,
        level=level,
        warnings=(f"reached in {float(share_reached(replicates)):.1%} of the resamples",),
    )


def _training_error(per_run: FloatArray) -> float:
    n_runs = len(per_run)
    return float(per_run.std(ddof=1) / math.sqrt(n_runs)) if n_runs > 1 else 0.0


def _difference(result: RouterResult, base: RouterResult) -> Difference:
    value = result.apgr.value - base.apgr.value
    replicates = result.replicates[:, 0] - base.replicates[:, 0]
    estimate = interval_of(value, replicates, result.per_run - base.per_run, result.apgr.n)
    p_value = _p_value(value, estimate.std_error)
    return Difference(router=result.router, versus=base.router, apgr=estimate, p_value=p_value)


def _p_value(value: float, std_error: float) -> float:
    """Two-sided, of a normal estimate; NaN where the estimate or its error is, or without error."""
    if value == 0:
        return 1.0
    if not std_error > 1e-12 * abs(value):
        return math.nan
    return max(2.0 * NormalDist().cdf(-abs(value) / std_error), _LEAST_P)


def _random_result(
    benchmark: Benchmark, runs: Sequence[Scores], level: float, n_boot: int
) -> RouterResult:
    std = apgr_random_std(benchmark.cheap, benchmark.premium)
    half = NormalDist().inv_cdf(0.5 + level / 2) * std
    exact: Mapping[str, Estimate] = {
        name: without_interval(x, len(benchmark))
        for name, x in zip(_METRICS[1:], CPT_SHARES, strict=True)
    }
    apgr = Estimate(
        value=0.5, std_error=std, low=0.5 - half, high=0.5 + half, n=len(benchmark), level=level
    )
    return RouterResult(
        router="random",
        apgr=apgr,
        replicates=np.full((n_boot, len(_METRICS)), math.nan),
        per_run=np.full(len(runs), 0.5),
        **exact,
    )
