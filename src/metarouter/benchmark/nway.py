"""Routing among many models: quality at equal cost, and cost at equal quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from metarouter.benchmark.data import Benchmark
from metarouter.benchmark.results import CPT_SHARES, interval_of, share_reached
from metarouter.benchmark.routers import FoldFeatures, RouterSpec
from metarouter.benchmark.splits import Fold, make_runs
from metarouter.errors import DataError
from metarouter.evaluation.intervals import bootstrap_replicates
from metarouter.gain.extras import one_thread
from metarouter.policy.baselines import cost_quality_hull
from metarouter.policy.rule import best_model
from metarouter.records import Estimate
from metarouter.types import FloatArray, IntArray

__all__ = ["METRICS", "NwayResult", "NwayRun", "run_nway"]

Progress = Callable[[int, int], None]
_N_PRICES = 60
_N_BOOT = 500
_GRID = np.linspace(0.0, 1.0, 1001)
METRICS = (
    "quality_at_cost",
    "quality_gain",
    "cost_at_quality",
    "cost_ratio",
    "gain_over_hull",
    "apgr",
    "cpt20",
    "cpt50",
    "cpt80",
)
_TARGETS = ("cost_at_quality", "cost_ratio", "cpt20", "cpt50", "cpt80")


@dataclass(frozen=True, kw_only=True, slots=True)
class NwayResult:
    """One way to choose among the models, at every price of cost.

    Attributes
    ----------
    router : str
    cost, quality : arrays, shape (k,), means over the questions, in USD for
        1,000 queries and in score units; both increase.
    metrics : mapping of name to Estimate; see Notes of :class:`NwayRun`.
    reached : mapping of the metrics that are the cost of a target to the share
        of the resamples in which it was reached.
    """

    router: str
    cost: FloatArray
    quality: FloatArray
    metrics: dict[str, Estimate]
    reached: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class NwayRun:
    """Routers on a pool of models.

    Attributes
    ----------
    benchmark : Benchmark
    protocol : str
    n : int, questions tested.
    cheapest, best : int, the cheapest single model, and that of highest mean
        quality.
    hull : int array, single models on the cost-quality hull.
    results : list of NwayResult: the routers; ``random``, a coin toss between
        the cheapest and the best model; ``hull``, the best coin toss between
        any two; ``oracle``, which knows every answer.

    Notes
    -----
    Metrics of each result:

    * ``quality_at_cost``, ``quality_gain``: quality for the money that the best
      single model takes, and that minus the best model's own.
    * ``cost_at_quality``, ``cost_ratio``: money for the best single model's
      quality, and over the best model's cost; NaN where it is not reached. In
      intervals a resample that does not reach it counts as +inf.
    * ``gain_over_hull``: quality above the hull's, mean over the logarithm of
      cost.
    * ``apgr``, ``cpt20``, ``cpt50``, ``cpt80``: as for a pair, the share of premium
      calls replaced by the share of the way from the cheapest model's cost to
      the best one's.

    Means over test questions draw the frontier from the prices that turned out
    well, which flatters a little; 60 prices are few beside the questions.
    """

    benchmark: Benchmark
    protocol: str
    n: int
    cheapest: int
    best: int
    hull: IntArray
    results: list[NwayResult]


def run_nway(
    benchmark: Benchmark,
    routers: Sequence[RouterSpec],
    protocol: str = "cv",
    *,
    seed: int = 0,
    n_gold: int = 1500,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> NwayRun:
    """Choose a model for every question at a range of prices of cost, out of fold.

    A model's expected cost is its mean cost on the training questions; the cost
    that is charged is that of the call itself.

    Parameters
    ----------
    benchmark : Benchmark with costs.
    routers : sequence of RouterSpec
    protocol : str, see :func:`metarouter.benchmark.make_runs`.
    seed, n_gold : int
    cache : file of slow vectors; by default one for this run alone.
    progress : callable ``(done, total)``, optional.

    Raises
    ------
    DataError
        When the benchmark has no costs, or the protocol is ``transfer``.
    """
    if benchmark.cost is None:
        raise DataError(f"{benchmark.name} has no costs: many models need them")
    if protocol == "transfer":
        raise DataError("no other benchmark has labels of these models: try cv or subject")
    (folds,) = make_runs(benchmark, protocol, range(seed, seed + 1), n_gold)
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    quality, cost = benchmark.quality[tested], 1e3 * benchmark.cost[tested]
    prices = _prices(cost.mean(axis=0))
    with TemporaryDirectory(prefix="metarouter-benchmark-") as scratch:
        cache = cache or Path(scratch) / "vectors.sqlite"
        by_subject = protocol == "subject"
        chosen = _choose_all(benchmark, routers, folds, prices, by_subject, seed, cache, progress)
    choices = {name: choice[tested] for name, choice in chosen.items()}
    judge = _Judge.of(quality, cost)
    choices |= {
        "random": np.tile([judge.cheapest, judge.best], (len(tested), 1)),
        "hull": np.tile(judge.hull, (len(tested), 1)),
        "oracle": np.column_stack([best_model(quality, cost, price) for price in prices]),
    }
    return NwayRun(
        benchmark=benchmark,
        protocol=protocol,
        n=len(tested),
        cheapest=judge.cheapest,
        best=judge.best,
        hull=judge.hull,
        results=[judge.result(name, choice) for name, choice in choices.items()],
    )


def _prices(mean_cost: FloatArray) -> FloatArray:
    """Prices of cost from "cost is no object" to "the cheapest whatever it is worth"."""
    gap = float(np.sort(mean_cost)[1] - np.sort(mean_cost)[0])
    steepest = 1.0 / max(gap, 1e-9)
    prices = np.geomspace(1e-4 / float(mean_cost.max()), steepest, _N_PRICES - 1)
    return np.concatenate([[0.0], prices])


def _choose_all(
    benchmark: Benchmark,
    routers: Sequence[RouterSpec],
    folds: Sequence[Fold],
    prices: FloatArray,
    by_subject: bool,
    seed: int,
    cache: Path,
    progress: Progress | None,
) -> dict[str, IntArray]:
    """The chosen model of each question at each price, (n, n_prices), by router."""
    assert benchmark.cost is not None  # noqa: S101 - run_nway has checked it
    shape = len(benchmark), len(prices)
    found = {spec.name: np.zeros(shape, dtype=np.int64) for spec in routers}
    done, total = 0, len(folds) * len(routers)
    for fold in folds:
        table = benchmark.table(fold.train, with_subject=by_subject)
        features = FoldFeatures(table.queries, [benchmark.prompts[i] for i in fold.test], cache)
        expected = 1e3 * benchmark.cost[fold.train].mean(axis=0)
        for spec in routers:
            with one_thread():
                gains = spec.fit_predict(table, features, seed)
            utility = np.hstack([np.zeros((len(gains), 1)), gains])
            costs = np.tile(expected, (len(utility), 1))
            found[spec.name][fold.test] = np.column_stack(
                [best_model(utility, costs, price) for price in prices]
            )
            done += 1
            if progress is not None:
                progress(done, total)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judge:
    """Measures choices against single models on the same questions."""

    quality: FloatArray  # (n, n_models)
    cost: FloatArray  # (n, n_models), USD for 1,000 queries
    cheapest: int
    best: int
    hull: IntArray

    @classmethod
    def of(cls, quality: FloatArray, cost: FloatArray) -> _Judge:
        hull = cost_quality_hull(cost.mean(axis=0), quality.mean(axis=0))
        return cls(quality=quality, cost=cost, cheapest=int(hull[0]), best=int(hull[-1]), hull=hull)

    def result(self, router: str, choice: IntArray) -> NwayResult:
        """The metrics of choices (n, n_prices), with intervals over questions."""
        taken = np.take_along_axis(self.quality, choice, axis=1)
        paid = np.take_along_axis(self.cost, choice, axis=1)

        def statistic(weights: FloatArray) -> FloatArray:
            share = weights / weights.sum(axis=1, keepdims=True)
            means = share @ paid, share @ taken, share @ self.cost, share @ self.quality
            return np.array([self._metrics(*row) for row in zip(*means, strict=True)])

        n = len(taken)
        value = statistic(np.ones((1, n)))[0]
        # The same seed for every router: the same resamples.
        replicates = bootstrap_replicates(statistic, n, np.random.default_rng(0), _N_BOOT)
        cost, quality = _frontier(paid.mean(axis=0), taken.mean(axis=0))
        reached = dict(zip(METRICS, share_reached(replicates).tolist(), strict=True))
        return NwayResult(
            router=router,
            cost=cost,
            quality=quality,
            metrics={
                name: interval_of(
                    float(value[i]),
                    replicates[:, i],
                    value[i : i + 1],
                    n,
                    is_target=name in _TARGETS,
                )
                for i, name in enumerate(METRICS)
            },
            reached={name: reached[name] for name in _TARGETS},
        )

    def _metrics(
        self,
        paid: FloatArray,
        taken: FloatArray,
        single_cost: FloatArray,
        single_quality: FloatArray,
    ) -> list[float]:
        cost, quality = _frontier(paid, taken)
        low_cost, low = single_cost[self.cheapest], single_quality[self.cheapest]
        high_cost, high = single_cost[self.best], single_quality[self.best]
        at_cost = float(np.interp(high_cost, cost, quality))  # never more than it is worth
        at_quality = _at(high, quality, cost)
        gap, way = high - low, high_cost - low_cost
        budget = low_cost + way * _GRID
        recovered = (np.interp(budget, cost, quality) - low) / gap
        reached = [(_at(low + x * gap, quality, cost) - low_cost) / way for x in CPT_SHARES]
        hull_cost, hull_quality = single_cost[self.hull], single_quality[self.hull]
        grid = np.geomspace(max(cost[0], hull_cost[0]), hull_cost[-1], 50)
        over = np.interp(grid, cost, quality) - np.interp(grid, hull_cost, hull_quality)
        return [
            at_cost,
            at_cost - high,
            at_quality,
            at_quality / high_cost,
            float(over.mean()),
            float(np.trapezoid(recovered, _GRID)),
            *(max(share, 0.0) for share in reached),
        ]


def _at(wanted: float, x: FloatArray, y: FloatArray) -> float:
    """Height of an increasing curve at `wanted`; NaN beyond its right end."""
    return float(np.interp(wanted, x, y)) if _reaches(x, wanted) else float("nan")


def _reaches(x: FloatArray, wanted: float) -> bool:
    return bool(x[-1] >= wanted * (1 - 1e-12) if wanted > 0 else x[-1] >= wanted)


def _frontier(cost: FloatArray, quality: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points that a mixture can hold, by increasing cost and quality."""
    order = np.lexsort((-quality, cost))
    best_so_far = np.maximum.accumulate(quality[order])
    rising = np.flatnonzero(np.diff(best_so_far, prepend=-np.inf) > 0)
    return cost[order][rising], quality[order][rising]
