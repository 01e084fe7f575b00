"""What a comparison of correctors found, and how sure it is.

The unit of replication is a split (a seed). Every method sees the same splits,
so that methods are compared by their differences within a split. Splits of one
data set overlap, which makes their scatter too small a standard error; the
intervals here carry the correction of Nadeau and Bengio (2003).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from metarouter.errors import OptionError
from metarouter.evaluation.intervals import (
    corrected_resampled_ttest,
    ratio_of_means,
    without_interval,
)
from metarouter.records import Estimate, json_value
from metarouter.types import FloatArray

__all__ = [
    "CEILING",
    "YARDSTICKS",
    "Cell",
    "CompareConfig",
    "CompareRecord",
    "CompareResult",
    "MethodSummary",
]

CEILING = "all_gold"

# The methods that others ship or publish: what a new one has to beat.
YARDSTICKS = (
    "gold_only",
    "preference_only",
    "none",
    "mean_shift",
    "r",
    "dr",
    "x",
    "published_r",
    "published_dr",
)

_ONE_SPLIT = "one split has no interval"


class Cell(NamedTuple):
    """One fit of a comparison."""

    seed: int
    n_gold: int
    corrector: str
    gain_model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareRecord:
    """One fitted cell and its worth on held-out gold.

    Attributes
    ----------
    n_gold, seed, corrector, gain_model : the cell.
    n_preference : preference-labelled queries that the fit saw.
    n_test : held-out gold queries.
    efficiency_gain_area : gold gain collected above a random router's, averaged
        over the premium share in [0, 1], in gain units per query.
    efficiency_gain_area_20_80 : the same over [0.2, 0.8].
    apgr, cpt50, cpt80 : RouteLLM's metrics; NaN where the premium model is not
        better on the test queries.
    fit_seconds : corrector and gain model, without embedding.
    """

    n_gold: int
    seed: int
    corrector: str
    gain_model: str
    n_preference: int
    n_test: int
    efficiency_gain_area: float
    efficiency_gain_area_20_80: float
    apgr: float
    cpt50: float
    cpt80: float
    fit_seconds: float

    @property
    def cell(self) -> Cell:
        """Seed, gold size, corrector and gain model."""
        return Cell(self.seed, self.n_gold, self.corrector, self.gain_model)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None."""
        plain: dict[str, Any] = json_value(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, values: object) -> CompareRecord | None:
        """The record of a JSON object, or None where it is not one."""
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            return None
        filled: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items()}
        return cls(**filled)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareConfig:
    """What was compared, on what.

    `n_queries` counts all queries with a label, `fingerprint` identifies data
    and settings; see :func:`metarouter.evaluation.experiment.compare` for the rest.
    """

    n_gold: tuple[int, ...]
    correctors: tuple[str, ...]
    gain_models: tuple[str, ...]
    seeds: tuple[int, ...]
    n_test: int
    embedder: str
    models: tuple[str, ...]
    n_queries: int
    n_gold_queries: int
    n_preference_queries: int
    fingerprint: str

    def cells(self) -> list[Cell]:
        """All cells, seed by seed."""
        return [
            Cell(seed, n_gold, corrector, gain_model)
            for seed in self.seeds
            for n_gold in self.n_gold
            for corrector in self.correctors
            for gain_model in self.gain_models
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSummary:
    """One method at one gold size, over all splits.

    Attributes
    ----------
    area : efficiency-gain area over [0, 1], in gain units per query.
    area_20_80, apgr : the same for the other metrics.
    difference : `area` minus that of the best fixed yardstick, paired.
    ratio : mean `area` over that of the best fixed yardstick, paired.
    hindsight_ratio : over the best yardstick at this gold size.
    ceiling_ratio : over all-gold training.
    best_fixed, hindsight : names of those yardsticks.
    fit_seconds : median.

    The last five are None where there is nothing to compare with.
    """

    n_gold: int
    corrector: str
    gain_model: str
    n_seeds: int
    area: Estimate
    area_20_80: Estimate
    apgr: Estimate
    fit_seconds: float
    best_fixed: str | None = None
    hindsight: str | None = None
    difference: Estimate | None = None
    ratio: Estimate | None = None
    hindsight_ratio: Estimate | None = None
    ceiling_ratio: Estimate | None = None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CompareResult:
    """All records of a comparison, with the questions one asks of them.

    Attributes
    ----------
    records : one for each cell, in the order of ``config.cells()``.
    config : what was compared on what.
    """

    records: tuple[CompareRecord, ...]
    config: CompareConfig

    def __repr__(self) -> str:
        config = self.config
        return (
            f"CompareResult({len(self.records)} records: {', '.join(config.correctors)}; "
            f"{', '.join(config.gain_models)}; n_gold {config.n_gold}; {len(config.seeds)} seeds)"
        )

    def values(
        self,
        corrector: str,
        n_gold: int,
        gain_model: str | None = None,
        metric: str = "efficiency_gain_area",
    ) -> FloatArray:
        """One metric of one method, shape (n_seeds,), in the order of the seeds.

        Raises
        ------
        OptionError
            When the comparison has no such method.
        """
        gain_model = self.config.gain_models[0] if gain_model is None else gain_model
        found = [
            getattr(record, metric)
            for record in self.records
            if (record.corrector, record.n_gold, record.gain_model)
            == (corrector, n_gold, gain_model)
        ]
        if not found:
            cell = f"{corrector} at n_gold {n_gold} with {gain_model}"
            raise OptionError.of("method", cell, "one of those that were compared")
        return np.asarray(found, dtype=np.float64)

    def mean(
        self,
        corrector: str,
        n_gold: int,
        gain_model: str | None = None,
        metric: str = "efficiency_gain_area",
    ) -> Estimate:
        """Mean of a metric over splits, with a corrected resampled interval."""
        return self._interval(self.values(corrector, n_gold, gain_model, metric))

    def paired_difference(
        self, corrector: str, baseline: str, n_gold: int, gain_model: str | None = None
    ) -> Estimate:
        """Mean area of `corrector` minus `baseline`, paired by split.

        Positive: `corrector` is better.
        """
        return self._interval(
            self.values(corrector, n_gold, gain_model) - self.values(baseline, n_gold, gain_model)
        )

    def paired_ratio(
        self, corrector: str, baseline: str, n_gold: int, gain_model: str | None = None
    ) -> Estimate:
        """Mean area of `corrector` over mean area of `baseline`, paired by split.

        Above 1: `corrector` is better. NaN, with a warning, where the baseline
        is not better than a random router: a ratio to it says nothing.
        """
        a = self.values(corrector, n_gold, gain_model)
        b = self.values(baseline, n_gold, gain_model)
        if b.mean() <= 0:
            return without_interval(math.nan, len(b), f"{baseline} is not better than random")
        if len(b) < 2:
            return without_interval(float(a.mean() / b.mean()), len(b), _ONE_SPLIT)
        return ratio_of_means(a, b, self._test_share)

    def best_fixed(self, gain_model: str | None = None) -> str | None:
        """The yardstick with the largest mean area over all gold sizes."""
        return self._best(
            lambda name: np.mean([self._mean_area(name, n, gain_model) for n in self.config.n_gold])
        )

    def hindsight(self, n_gold: int, gain_model: str | None = None) -> str | None:
        """The yardstick with the largest mean area at one gold size.

        It is picked on the very splits it is then compared on, which flatters
        it: a method that reaches it does better than it seems.
        """
        return self._best(lambda name: self._mean_area(name, n_gold, gain_model))

    def summary(self) -> list[MethodSummary]:
        """Every method at every gold size, against the yardsticks."""
        return [
            self._summarise(n_gold, corrector, gain_model)
            for gain_model in self.config.gain_models
            for n_gold in self.config.n_gold
            for corrector in self.config.correctors
        ]

    def as_records(self) -> list[dict[str, Any]]:
        """The flat records of the command line's JSON."""
        return [record.as_dict() for record in self.records]

    def _summarise(self, n_gold: int, corrector: str, gain_model: str) -> MethodSummary:
        fixed, hindsight = self.best_fixed(gain_model), self.hindsight(n_gold, gain_model)
        ceiling = CEILING if CEILING in self.config.correctors else None

        def over(baseline: str | None) -> Estimate | None:
            if baseline is None:
                return None
            return self.paired_ratio(corrector, baseline, n_gold, gain_model)

        return MethodSummary(
            n_gold=n_gold,
            corrector=corrector,
            gain_model=gain_model,
            n_seeds=len(self.config.seeds),
            area=self.mean(corrector, n_gold, gain_model),
            area_20_80=self.mean(corrector, n_gold, gain_model, "efficiency_gain_area_20_80"),
            apgr=self.mean(corrector, n_gold, gain_model, "apgr"),
            fit_seconds=float(np.median(self.values(corrector, n_gold, gain_model, "fit_seconds"))),
            best_fixed=fixed,
            hindsight=hindsight,
            difference=None
            if fixed is None
            else self.paired_difference(corrector, fixed, n_gold, gain_model),
            ratio=over(fixed),
            hindsight_ratio=over(hindsight),
            ceiling_ratio=over(ceiling),
        )

    def _mean_area(self, corrector: str, n_gold: int, gain_model: str | None) -> float:
        return float(self.values(corrector, n_gold, gain_model).mean())

    def _best(self, worth: Callable[[str], Any]) -> str | None:
        names: Iterable[str] = [name for name in self.config.correctors if name in YARDSTICKS]
        return max(names, key=worth, default=None)

    def _interval(self, values: FloatArray) -> Estimate:
        mean = float(values.mean())
        if math.isnan(mean):
            return without_interval(mean, len(values), "undefined in some splits")
        if len(values) < 2:
            return without_interval(mean, len(values), _ONE_SPLIT)
        return corrected_resampled_ttest(values, self._test_share).difference

    @property
    def _test_share(self) -> float:
        # Whatever part of the rest a method trains on, two splits are tied
        # together by their test sets, drawn from one pool of gold queries.
        return self.config.n_test / self.config.n_gold_queries
