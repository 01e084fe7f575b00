"""What weighing gold labels by the scatter of votes is worth, and what it does to intervals.

    ./run python experiments/scatter.py --data ../shared/data

`auto` beside `auto:scatter=false`, which takes all gold labels as equally noisy, both with their
own posterior. On real prompts (pairs, judges simulated on MMLU with gold at random, and with gold
by subject) the ratio of areas, and the difference of squared errors of ψ̂ against gold labels of
test queries; by default on the splits for choosing. In made worlds, where ψ is known, its squared
error and the share of ψ that 95 % intervals hold. Intervals: bootstrap over seeds, 95 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from doubt import PAIRS, read_range
from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.evaluation.metrics import efficiency_gain_area
from metarouter.labels.table import make_gain_table
from metarouter.types import FloatArray
from nonrandom_gold import JUDGES, mmlu_case
from priors import MMLU_GOLD, pair_tasks
from semi_synthetic import read_mmlu, tasks
from study import Task, markdown, with_interval

MADE = ("exact", "both", "votes", "neither", "sharp")
MADE_GOLD = (50, 200)
N_VOTES, N_TEST, DIM = 1_500, 400, 16

Pair = tuple[FloatArray, FloatArray]  # area, squared error, coverage: weighed, and equal
Found = dict[str, dict[int, list[Pair]]]  # by world and seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pair-seeds", type=read_range, default=range(100, 112))
    parser.add_argument("--mmlu-seeds", type=read_range, default=range(40))
    parser.add_argument("--subject-seeds", type=read_range, default=range(100, 132))
    parser.add_argument("--made-seeds", type=read_range, default=range(100, 120))
    arguments = parser.parse_args()
    made = collect(made_tasks(arguments.made_seeds))
    real: Found = {}
    for folder in sorted(p for p in (arguments.data / PAIRS).iterdir() if p.is_dir()):
        merge(real, collect(pair_tasks(folder, arguments.pair_seeds), by=pair_cell))
        print(folder.name, flush=True)
    prompts = read_mmlu(arguments.data)
    merge(real, collect(mmlu_tasks(prompts, arguments.mmlu_seeds), by=mmlu_cell))
    merge(real, collect(subject_tasks(prompts, arguments.subject_seeds), by=mmlu_cell))
    report(real, made)


def pair_cell(task: Task) -> str:
    """All pairs with as many gold labels."""
    return f"{PAIRS}, {task.cell.split()[-1]}"


def mmlu_cell(task: Task) -> str:
    """All gold sizes of one judge."""
    return f"{task.world}, {'by subject' if task.cell == 'by subject' else 'at random'}"


def mmlu_tasks(prompts: pd.DataFrame, seeds: range) -> Iterator[Task]:
    """Simulated judges with few gold labels, at random."""
    for seed in seeds:
        for task in tasks(prompts, seed):
            if int(task.cell.removeprefix("n_gold=")) in MMLU_GOLD:
                yield task


def subject_tasks(prompts: pd.DataFrame, seeds: range) -> Iterator[Task]:
    """The same with gold by subject."""
    for seed in seeds:
        for judge in JUDGES:
            yield mmlu_case(prompts, judge, seed).task(seed)


def made_tasks(seeds: range) -> Iterator[Task]:
    """Every made world and gold size; the test gain is ψ."""
    for kind in MADE:
        for n_gold in MADE_GOLD:
            for seed in seeds:
                yield made(kind, n_gold, seed)


def made(kind: str, n_gold: int, seed: int) -> Task:
    """Gains along one direction, bias along another, noise or agreement along a third.

    exact: gold gains of −1, 0 and 1, which both noise and ψ leave where the models agree;
    both, votes, neither: whose noise differs over queries; sharp: gold is nearly exact, ψ is large
    where votes scatter, and the judge says the opposite.
    """
    rng = np.random.default_rng(seed)
    n = n_gold + N_VOTES + N_TEST
    X = rng.normal(size=(n, DIM)) / np.sqrt(np.arange(1, DIM + 1))
    along = X @ rng.normal(size=(DIM, 3))
    u, bias, open_ = (along / along.std(axis=0)).T
    is_open = open_ > 0
    psi, error = 0.25 * np.tanh(u), 0.15 * np.tanh(bias)
    loud = 0.27 * np.sqrt(np.where(is_open, 1.6, 0.4))
    gold = psi + np.where(kind == "both", loud, 0.27) * rng.normal(size=n)
    if kind == "sharp":
        psi = 0.25 * np.tanh(2 * u) * np.where(is_open, 1.5, 0.3)
        gold, error = psi + 0.08 * rng.normal(size=n), -2.0 * psi
    if kind == "exact":
        differ, wins = 1.0 / (1.0 + np.exp(-3.0 * open_)), 0.5 + 0.3 * np.tanh(u)
        psi = differ * (2.0 * wins - 1.0)
        gold = np.where(rng.random(n) < wins, 1.0, -1.0) * (rng.random(n) < differ)
    votes = psi + error + np.where(kind == "neither", 0.27, loud) * rng.normal(size=n)
    is_gold = np.arange(n - N_TEST) < n_gold
    table = make_gain_table(
        queries=[str(i) for i in range(len(is_gold))],
        gain=np.where(is_gold, gold[: len(is_gold)], votes[: len(is_gold)]),
        is_gold=is_gold,
        features=X[: len(is_gold)],
    )
    return Task(
        world=f"{kind}, {n_gold}",
        cell="",
        seed=seed,
        table=table,
        test_features=X[len(is_gold) :].astype(np.float32),
        test_gain=psi[len(is_gold) :],
    )


def collect(given: Iterable[Task], by: Callable[[Task], str] = lambda task: task.world) -> Found:
    """Both settings on every task."""
    found: Found = {}
    for task in given:
        pair = measure(task, scatter=True), measure(task, scatter=False)
        found.setdefault(by(task), {}).setdefault(task.seed, []).append(pair)
    return found


def merge(into: Found, found: Found) -> None:
    """Add what was found to the same worlds and seeds."""
    for world, by_seed in found.items():
        for seed, pairs in by_seed.items():
            into.setdefault(world, {}).setdefault(seed, []).extend(pairs)


def measure(task: Task, *, scatter: bool) -> FloatArray:
    """Area, mean squared error, share held by 95 % intervals (of ψ, if the test gain is ψ)."""
    with threadpool_limits(limits=1):
        fitted = EvidenceCorrector(seed=task.seed, scatter=scatter).fit(task.table)
        estimate = fitted.gain_posterior().predict(task.test_features)
    mean, std = estimate.mean.ravel(), estimate.std.ravel()
    off = mean - task.test_gain
    area = efficiency_gain_area(mean, task.test_gain)
    return np.array([100 * area, np.mean(off**2), np.mean(np.abs(off) < 1.96 * std)])


def report(real: Found, known: Found) -> None:
    """Two tables: real prompts, made worlds."""
    head = ["world", "splits", "area, weighed / equal", "squared error × 10⁴, difference"]
    rows = []
    for world, by_seed in real.items():
        values = seeds_of(by_seed)
        row = [world, str(len(values)), with_interval(partial(area_ratio, values))]
        rows.append([*row, with_interval(partial(difference, values))])
    print(markdown(head, rows))
    error = "squared error of ψ̂, weighed / equal"
    head = ["made world, gold labels", error, "ψ held by 95 % intervals, weighed", "equal"]
    rows = []
    for world, by_seed in known.items():
        values = seeds_of(by_seed)
        held = [f"{100 * values[:, i, 2].mean():.0f} %" for i in (0, 1)]
        rows.append([world, with_interval(partial(error_ratio, values)), *held])
    print(markdown(head, rows))


def seeds_of(by_seed: dict[int, list[Pair]]) -> FloatArray:
    """Means over the tasks of a seed, shape (seeds, 2, 3)."""
    return np.array([np.mean(pairs, axis=0) for pairs in by_seed.values()])


def _drawn(values: FloatArray, rng: np.random.Generator | None) -> FloatArray:
    n = len(values)
    at = np.arange(n) if rng is None else rng.integers(n, size=n)
    mean: FloatArray = values[at].mean(axis=0)
    return mean


def area_ratio(values: FloatArray, rng: np.random.Generator | None = None) -> float:
    """Mean area, weighed over equal."""
    mean = _drawn(values, rng)
    return float(mean[0, 0] / mean[1, 0])


def difference(values: FloatArray, rng: np.random.Generator | None = None) -> float:
    """Of mean squared errors, weighed less equal, times 10⁴."""
    mean = _drawn(values, rng)
    return float(1e4 * (mean[0, 1] - mean[1, 1]))


def error_ratio(values: FloatArray, rng: np.random.Generator | None = None) -> float:
    """Mean squared error, weighed over equal."""
    mean = _drawn(values, rng)
    return float(mean[0, 1] / mean[1, 1])


if __name__ == "__main__":
    main()
