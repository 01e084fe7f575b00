"""Which kernels `auto` averages over: families of them, on the splits for choosing.

    ./run python experiments/kernels.py --data ../shared/data --out results/kernels.jsonl

Each family takes the place of ``metarouter.features.bases.BASES``: corrector `auto`, gain model
ridge, on the fourteen pairs and on the simulated judges of MMLU prompts. Figures are areas over
those of the first family, with the same labels, prompts and features: pairs with the areas
averaged over pairs before the division, MMLU with the mean over its cells. Intervals: bootstrap,
95 %, over pairs and seeds, and over seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from doubt import PAIRS, Cells, pair_ratio, read_range, record, run_mmlu
from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.evaluation.experiment import compare
from metarouter.features.bases import BASES
from study import Log, areas, markdown, with_interval

FORMER = "line, 5, 12, sums"
FAMILIES = {
    FORMER: ("linear", "rbf5", "rbf12", "linear+rbf5", "linear+rbf12"),
    "line": ("linear",),
    "line, 3, 8, 20": ("linear", "rbf3", "rbf8", "rbf20"),
    "line, 3, 8, 20, sums": BASES,
    "and the index": (*BASES, "index"),
}
N_GOLD = (50, 100, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/kernels.jsonl"))
    parser.add_argument("--pair-seeds", type=read_range, default=range(100, 112))
    parser.add_argument("--mmlu-seeds", type=read_range, default=range(8))
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    log = Log(arguments.out)
    makers = {family: OfFamily(family) for family in FAMILIES}
    run_mmlu(log, arguments.data, arguments.mmlu_seeds, makers)
    run_pairs(log, arguments.data, arguments.pair_seeds, arguments.jobs)
    report(log)


@dataclass(frozen=True)
class OfFamily:
    """`auto` with the kernels of a family."""

    family: str

    def __call__(self, seed: int) -> EvidenceCorrector:
        return EvidenceCorrector(bases=FAMILIES[self.family], seed=seed)


def run_pairs(log: Log, data: Path, seeds: range, jobs: int) -> None:
    for folder in sorted(p for p in (data / PAIRS).iterdir() if p.is_dir()):
        cells = {n: f"{folder.name} n_gold={n}" for n in N_GOLD}
        if not any(log.missing(PAIRS, c, s, FAMILIES) for c in cells.values() for s in seeds):
            continue
        premium, cheap = folder.name.split("_vs_")
        result = compare(
            folder / "gold.parquet",
            folder / "preference.parquet",
            n_gold=list(N_GOLD),
            correctors={family: OfFamily(family) for family in FAMILIES},
            seeds=seeds,
            premium=premium,
            cheap=cheap,
            jobs=jobs,
        )
        for found in result.as_records():
            cell, seed = cells[int(str(found["n_gold"]))], int(str(found["seed"]))
            family, area = str(found["corrector"]), float(str(found["efficiency_gain_area"]))
            if log.missing(PAIRS, cell, seed, [family]):
                log.add(record(PAIRS, cell, seed, family, area))
        print(folder.name, flush=True)


def report(log: Log) -> None:
    """Areas of each family over those of the first."""
    cells = areas(log.records)
    judged = {key: by for key, by in cells.items() if key[0] != PAIRS}
    rows = []
    for family in FAMILIES:
        figures = [
            with_interval(partial(pair_ratio, _of_size(cells, n_gold), family, (FORMER,)), 500)
            for n_gold in N_GOLD
        ]
        rows.append([family, *figures, with_interval(partial(mean_ratio, judged, family), 500)])
    print(markdown(["kernels", *(f"pairs, {n} labels" for n in N_GOLD), "MMLU"], rows))


def _of_size(cells: Cells, n_gold: int) -> Cells:
    return {key: by for key, by in cells.items() if key[1].endswith(f" n_gold={n_gold}")}


def mean_ratio(cells: Cells, family: str, rng: np.random.Generator | None = None) -> float:
    """Mean over cells of the area over that of the first family; seeds redrawn."""
    n_seeds = len(next(iter(cells.values()))[family])
    at = np.arange(n_seeds) if rng is None else rng.integers(n_seeds, size=n_seeds)
    ratios = [by[family][at].mean() / by[FORMER][at].mean() for by in cells.values()]
    return float(np.mean(ratios))


if __name__ == "__main__":
    main()
