"""How far one prior of `auto` can serve two wishes: doubt a useless judge, use a good one.

    ./run python experiments/doubt.py --results results/v3 --out results/doubt.jsonl

The prior weight of gold alone (one for every judge here; 128 by default where he is a
contestant, else 1, beside 16 + 2 + 0.5 for the ways to use him) is swept: on the pairs with 50
gold labels, and on the simulated judges on MMLU. By default over the splits that
docs/results.md reports, where nothing may be chosen: it shows what a choice in hindsight could
have reached. The splits for choosing are

    ./run python experiments/doubt.py --pair-seeds 100:120 --mmlu-seeds 0:8 --results R --out F

The yardsticks are read from the logs that pairs.py and semi_synthetic.py left in --results;
gold_only on the pairs is run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.correction import learn_gain, make_corrector
from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.evaluation.experiment import compare
from metarouter.evaluation.metrics import efficiency_gain_area
from metarouter.evidence import Priors
from metarouter.types import Corrector, FloatArray
from semi_synthetic import read_mmlu, tasks
from study import (
    YARDSTICKS,
    Log,
    Record,
    areas,
    hindsight,
    markdown,
    ratio_to_hindsight,
    read_records,
    with_interval,
)

DOUBTS = (2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0)
N_GOLD = 50
PAIRS = "pairs"
Cells = dict[tuple[str, str], dict[str, FloatArray]]
Makers = Mapping[str, Callable[[int], Corrector]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=Path("results/doubt.jsonl"))
    parser.add_argument("--pair-seeds", type=read_range, default=range(20))
    parser.add_argument("--mmlu-seeds", type=read_range, default=range(100, 106))
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    log = Log(arguments.out)
    doubtful = {name_of(doubt): Doubtful(doubt) for doubt in DOUBTS}
    run_mmlu(log, arguments.data, arguments.mmlu_seeds, doubtful)
    run_pairs(log, arguments.data, arguments.pair_seeds, arguments.jobs)
    report(log, arguments.results, arguments.mmlu_seeds)


def read_range(text: str) -> range:
    """Seeds from ``first:after_the_last``."""
    first, _, stop = text.partition(":")
    return range(int(first), int(stop))


@dataclass(frozen=True)
class Doubtful:
    """`auto` with another prior weight of gold alone."""

    ignore: float

    def __call__(self, seed: int) -> EvidenceCorrector:
        priors = Priors(ignore=self.ignore, ignore_contestant=self.ignore)
        return EvidenceCorrector(priors=priors, seed=seed)


MAKERS: Makers = {
    "gold_only": lambda seed: make_corrector("gold_only", seed=seed),
    **{f"ignore={doubt:g}": Doubtful(doubt) for doubt in DOUBTS},
}


def run_mmlu(log: Log, data: Path, seeds: range, makers: Makers) -> None:
    """Areas of each maker's corrector, with ridge, under the simulated judges."""
    prompts = read_mmlu(data)
    for seed in seeds:
        for task in tasks(prompts, seed):
            for name in log.missing(task.world, task.cell, seed, makers):
                with threadpool_limits(limits=1):
                    corrector = makers[name](seed)
                    gain = learn_gain(task.table, corrector, gain_model="ridge", seed=seed)
                    score = gain.predict(task.test_features).mean.ravel()
                area = efficiency_gain_area(score, task.test_gain)
                log.add(record(task.world, task.cell, seed, name, area))
        print(f"seed {seed} done", flush=True)


def run_pairs(log: Log, data: Path, seeds: range, jobs: int) -> None:
    for folder in sorted(p for p in (data / PAIRS).iterdir() if p.is_dir()):
        cell, names = folder.name, ["gold_only", *map(name_of, DOUBTS)]
        left = [name for name in names if any(log.missing(PAIRS, cell, s, [name]) for s in seeds)]
        if not left:
            continue
        premium, cheap = cell.split("_vs_")
        result = compare(
            folder / "gold.parquet",
            folder / "preference.parquet",
            n_gold=[N_GOLD],
            correctors={name: MAKERS[name] for name in left},
            seeds=seeds,
            premium=premium,
            cheap=cheap,
            jobs=jobs,
        )
        for found in result.as_records():
            area = float(str(found["efficiency_gain_area"]))
            seed, name = int(str(found["seed"])), str(found["corrector"])
            if log.missing(PAIRS, cell, seed, [name]):
                log.add(record(PAIRS, cell, seed, name, area))
        print(cell, flush=True)


def name_of(doubt: float) -> str:
    return f"ignore={doubt:g}"


def record(world: str, cell: str, seed: int, method: str, area: float) -> Record:
    return Record(world=world, cell=cell, seed=seed, method=method, area=area, seconds=0.0)


def report(log: Log, results: Path, mmlu_seeds: range) -> None:
    """Ratios of every prior weight on either side."""
    mmlu = [r for r in read_records(results / "semi_synthetic.jsonl") if r.seed in mmlu_seeds]
    known = [r for r in mmlu if r.method in YARDSTICKS] + read_pairs(results / PAIRS)
    cells = areas([*known, *log.records])
    pairs = {key: by for key, by in cells.items() if key[0] == PAIRS}
    judged = {key: by for key, by in cells.items() if key[0] != PAIRS}
    rows = []
    for name in map(name_of, DOUBTS):
        few = {key: by for key, by in judged.items() if key[1] == f"n_gold={N_GOLD}"}
        figures: list[Callable[[np.random.Generator | None], float]] = [
            partial(pair_ratio, pairs, name, ("gold_only",)),
            partial(pair_ratio, pairs, name, YARDSTICKS),
            partial(cell_ratio, few, name),
            partial(cell_ratio, judged, name),
        ]
        worst = min(ratio_to_hindsight(by, name) for by in judged.values())
        rows.append([name, *(with_interval(each, 500) for each in figures), f"{worst:.2f}"])
    head = ["prior", "pairs / gold_only", "pairs / hindsight", "MMLU at 50", "MMLU", "worst cell"]
    print(markdown(head, rows))


def read_pairs(folder: Path) -> list[Record]:
    """The yardsticks of pairs.py with 50 gold labels, if it was run; gold_only is run here."""
    if not (folder / "records.json").exists():
        return []
    found = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    chosen = [r for r in found if r["n_gold"] == N_GOLD and r["gain_model"] == "ridge"]
    return [
        record(PAIRS, r["pair"], r["seed"], r["corrector"], r["efficiency_gain_area"])
        for r in chosen
        if r["corrector"] in YARDSTICKS and r["corrector"] != "gold_only"
    ]


def pair_ratio(
    cells: Cells, name: str, rivals: tuple[str, ...], rng: np.random.Generator | None = None
) -> float:
    """Areas averaged over pairs before the division, as pairs.py does; pairs and seeds redrawn."""
    by_pair = list(cells.values())
    n_seeds = len(by_pair[0][name])
    seeds = np.arange(n_seeds) if rng is None else rng.integers(n_seeds, size=n_seeds)
    drawn = range(len(by_pair)) if rng is None else rng.integers(len(by_pair), size=len(by_pair))
    chosen = [
        {method: float(values[seeds].mean()) for method, values in by_pair[at].items()}
        for at in drawn
    ]
    ours = float(np.mean([means[name] for means in chosen]))
    return ours / float(np.mean([hindsight(means, rivals) for means in chosen]))


def cell_ratio(cells: Cells, name: str, rng: np.random.Generator | None = None) -> float:
    return float(np.mean([ratio_to_hindsight(by, name, rng) for by in cells.values()]))


if __name__ == "__main__":
    main()
