"""What the studies in this folder share: methods, records, a resumable log, intervals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from metarouter.correction import FittedGain, learn_gain, make_corrector
from metarouter.evaluation import mean_interval
from metarouter.evaluation.metrics import efficiency_gain_area
from metarouter.gain import PoolGainModel, make_gain_model
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray, IntArray

YARDSTICKS = ("gold_only", "preference_only", "none", "mean_shift", "r", "dr", "x")
PUBLISHED = ("published_r", "published_dr")
CEILING = "all_gold"  # ridge on gold labels for every training row
OWN_POSTERIOR = "auto*auto"  # corrector auto, gain model auto: what `metarouter fit` does
METHODS = (*YARDSTICKS, "two_fidelity", "auto", OWN_POSTERIOR)


Statistic = Callable[[np.random.Generator | None], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The area of efficiency gain (gain units per query) of one fit."""

    world: str
    cell: str
    seed: int
    method: str
    area: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Labels to learn from, and the gold gain of the rows to rank afterwards.

    `rank` turns predicted gains over the reference model, shape (n, n_models − 1),
    into one score a test row; for a pair they are the score.
    """

    world: str
    cell: str
    seed: int
    table: GainTable
    test_features: NDArray[np.float32]
    test_gain: FloatArray
    rank: Callable[[FloatArray], FloatArray] = np.ravel


def measure(task: Task, method: str) -> Record:
    """Fit and test one method on one BLAS thread."""
    started = time.perf_counter()
    with threadpool_limits(limits=1):
        predicted = learn(task.table, method, task.seed).predict(task.test_features).mean
    return Record(
        world=task.world,
        cell=task.cell,
        seed=task.seed,
        method=method,
        area=efficiency_gain_area(task.rank(predicted), task.test_gain),
        seconds=round(time.perf_counter() - started, 3),
    )


def learn(table: GainTable, method: str, seed: int) -> FittedGain:
    """A corrector with ridge, or with the gain model behind the star."""
    corrector, _, gain_model = method.partition("*")
    if method == CEILING:
        return PoolGainModel(lambda: make_gain_model("ridge", seed=seed)).fit(table)
    return learn_gain(
        table, make_corrector(corrector, seed=seed), gain_model=gain_model or "ridge", seed=seed
    )


class Log:
    """Finished records, one JSON object a line; a study goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_text(encoding="utf-8").endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")  # the last line was cut off when the study was stopped
        self.records = list(read_records(path)) if path.exists() else []
        self._done = {(r.world, r.cell, r.seed, r.method) for r in self.records}

    def missing(self, world: str, cell: str, seed: int, methods: Iterable[str]) -> list[str]:
        """Methods of a cell that are still to be run."""
        return [m for m in methods if (world, cell, seed, m) not in self._done]

    def run(self, task: Task, methods: Iterable[str]) -> None:
        """Measure the methods that are missing."""
        for method in self.missing(task.world, task.cell, task.seed, methods):
            self.add(measure(task, method))

    def add(self, record: Record) -> None:
        """Write a record to disk."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        self.records.append(record)
        self._done.add((record.world, record.cell, record.seed, record.method))


def read_records(path: Path) -> Iterator[Record]:
    """Records of a log; a line that was cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.endswith("}"):
            yield Record(**json.loads(line))


def areas(records: Iterable[Record]) -> dict[tuple[str, str], dict[str, FloatArray]]:
    """Area × 100 by (world, cell) and method, one value a seed, seeds common to the cell."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for r in records:
        found.setdefault((r.world, r.cell), {}).setdefault(r.method, {})[r.seed] = 100 * r.area
    return {
        key: {name: np.array([v for _, v in sorted(values.items())]) for name, values in by.items()}
        for key, by in found.items()
    }


def hindsight(means: Mapping[str, float], rivals: Sequence[str] = YARDSTICKS) -> float:
    """The best rival of a cell, chosen when its mean over seeds is known."""
    return max(means[name] for name in rivals if name in means)


def ratio_to_hindsight(
    by: Mapping[str, FloatArray],
    name: str,
    rng: np.random.Generator | None = None,
    units: int = 1,
) -> float:
    """Mean area of a method over that of the best rival; redrawn with `rng`.

    Values are those of all units (pairs of models) of the first seed, then of the
    second; units are redrawn, then the seeds, which they share.
    """
    n = len(by[name])
    at = np.arange(n) if rng is None else _redraw(n // units, units, rng)
    means = {method: float(values[at].mean()) for method, values in by.items()}
    return means[name] / hindsight(means)


def _redraw(seeds: int, units: int, rng: np.random.Generator) -> IntArray:
    unit = rng.integers(units, size=units)
    seed = rng.integers(seeds, size=seeds)
    return (units * seed[:, None] + unit).ravel()


def interval(statistic: Statistic, n_boot: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic of bootstrap draws."""
    rng = np.random.default_rng(0)
    low, high = np.quantile([statistic(rng) for _ in range(n_boot)], [0.025, 0.975])
    return float(low), float(high)


def with_interval(statistic: Statistic, n_boot: int = 1000, digits: int = 3) -> str:
    """A statistic of all seeds (None) and its interval over redrawn seeds."""
    low, high = interval(statistic, n_boot)
    return f"{statistic(None):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def over_units(values: FloatArray, digits: int = 2) -> str:
    """Mean over units (pairs, models, seeds) and its 95 % Student's t interval."""
    found = mean_interval(values)
    return f"{found.value:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
