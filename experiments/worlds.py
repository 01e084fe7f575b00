"""The claim across worlds: `auto` beside every fixed method, each world counting the same.

    ./run python experiments/worlds.py --results results

Reads what pairs.py, semi_synthetic.py and mt_bench_human.py left. A world is the
real pairs taken together, each simulated judge, and the human votes. Its figure
is a method's area over that of the best fixed method in hindsight, cell by cell
(a pair and a gold size; a gold size), averaged over cells; for the pairs, whose
single areas can be near 0, areas are averaged over pairs before the division.
Interval: bootstrap of seeds, and of pairs, in every world; the best fixed
method is chosen anew in every draw, 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from metarouter.types import FloatArray
from study import (
    OWN_POSTERIOR,
    YARDSTICKS,
    Record,
    Statistic,
    areas,
    hindsight,
    markdown,
    read_records,
    with_interval,
)

PAIRS = "real pairs"
OURS = ("two_fidelity", "auto", OWN_POSTERIOR)
Cell = Mapping[str, FloatArray]  # method -> area x 100, shape (n_units, n_seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--pairs", default="pairs", help="folder of pairs.py in the results")
    arguments = parser.parse_args()
    worlds = {}
    records = arguments.results / arguments.pairs / "records.json"
    if records.exists():
        worlds[PAIRS] = pair_cells(json.loads(records.read_text(encoding="utf-8")))
    for name in ("semi_synthetic", "mt_bench_human"):
        log = arguments.results / f"{name}.jsonl"
        if log.exists():
            worlds |= logged_cells(list(read_records(log)))
    report(worlds)


def pair_cells(records: Sequence[Mapping[str, object]]) -> list[Cell]:
    """A cell for each gold size, units are pairs; `auto` with its own gain model if measured."""
    sizes = sorted({int(str(r["n_gold"])) for r in records})
    return [_pair_cell([r for r in records if r["n_gold"] == size]) for size in sizes]


def _pair_cell(records: Sequence[Mapping[str, object]]) -> Cell:
    pairs = sorted({str(r["pair"]) for r in records})
    seeds = sorted({int(str(r["seed"])) for r in records})
    found: dict[str, FloatArray] = {}
    for r in records:
        name = str(r["corrector"]) + ("*auto" if r["gain_model"] == "auto" else "")
        values = found.setdefault(name, np.full((len(pairs), len(seeds)), np.nan))
        area = 100 * float(str(r["efficiency_gain_area"]))
        values[pairs.index(str(r["pair"])), seeds.index(int(str(r["seed"])))] = area
    return {name: values for name, values in found.items() if np.isfinite(values).all()}


def logged_cells(records: Sequence[Record]) -> dict[str, list[Cell]]:
    """Cells of every world of a log, of the seeds that all its methods have."""
    worlds: dict[str, list[Cell]] = {}
    for name in dict.fromkeys(r.world for r in records):
        own = [r for r in records if r.world == name and r.method in (*YARDSTICKS, *OURS)]
        cells = areas(r for r in own if r.seed in _complete(own))
        worlds[name] = [{m: v[None] for m, v in by.items()} for by in cells.values()]
    return worlds


def _complete(records: Sequence[Record]) -> set[int]:
    """Seeds with every cell and method."""
    count: dict[int, int] = {}
    for r in records:
        count[r.seed] = count.get(r.seed, 0) + 1
    return {seed for seed, n in count.items() if n == max(count.values())}


def report(worlds: Mapping[str, list[Cell]]) -> None:
    """Print the ratio of every method in every world, their mean, and auto over the best fixed."""
    rows = []
    for name in (*YARDSTICKS, *OURS):
        ratios = {w: ratio(cells, name) for w, cells in worlds.items() if name in cells[0]}
        shown = [f"{ratios[w]:.3f}" if w in ratios else "" for w in worlds]
        mean = f"{np.mean(list(ratios.values())):.3f}" if len(ratios) == len(worlds) else ""
        rows.append([name, *shown, mean])
    print(markdown(["method", *worlds, "mean"], rows))
    for name in ("auto", OWN_POSTERIOR):
        if all(name in cells[0] for cells in worlds.values()):
            print(f"{name} / best fixed method: {with_interval(_over_best(worlds, name), 300)}")


def ratio(cells: Sequence[Cell], name: str, rng: np.random.Generator | None = None) -> float:
    """Mean over cells of a method's area over the best in hindsight."""
    units, seeds = cells[0][name].shape
    unit = np.arange(units) if rng is None else rng.integers(units, size=units)
    seed = np.arange(seeds) if rng is None else rng.integers(seeds, size=seeds)
    found = []
    for cell in cells:
        means = {m: v[unit][:, seed].mean(axis=1) for m, v in cell.items()}
        best = np.mean([hindsight({m: v[i] for m, v in means.items()}) for i in range(units)])
        found.append(float(means[name].mean() / best))
    return float(np.mean(found))


def _over_best(worlds: Mapping[str, list[Cell]], name: str) -> Statistic:
    def statistic(rng: np.random.Generator | None) -> float:
        key = None if rng is None else int(rng.integers(2**31))

        def mean(method: str) -> float:
            # The same draw for every method: they are paired.
            draw = None if key is None else np.random.default_rng(key)
            return float(np.mean([ratio(cells, method, draw) for cells in worlds.values()]))

        return mean(name) / max(mean(m) for m in YARDSTICKS)

    return statistic


if __name__ == "__main__":
    main()
