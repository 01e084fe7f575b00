"""What `auto` believes of a judge beforehand: other prior weights, on the splits for choosing.

    ./run python experiments/priors.py --data ../shared/data --out results/priors.jsonl

Every split is fitted once; while `auto` fits, its posterior is also taken under each of the
other priors, which share the features, the preference model f and the kernels. Areas are those
of the posterior itself, which is what ``metarouter fit`` serves. Pairs: ratio to gold_only
(ridge), areas averaged over pairs first. MMLU: ratio to the best of gold_only, none and r in
hindsight, averaged over the judges and gold sizes, and the lowest of them. Intervals: bootstrap,
95 %, over pairs and seeds, and over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from doubt import PAIRS, Cells, pair_ratio, read_range, record
from metarouter.correction.fidelity import EvidenceCorrector
from metarouter.evaluation.experiment import split_queries
from metarouter.evaluation.metrics import efficiency_gain_area
from metarouter.evidence import Evidence, Posterior, Priors, weigh_hypotheses
from metarouter.features import make_pipeline
from metarouter.labels import read_gain_table
from metarouter.labels.repeats import first_of_text
from metarouter.labels.split import take_queries
from metarouter.labels.table import GainTable
from metarouter.types import FloatArray, IntArray
from semi_synthetic import read_mmlu, tasks
from study import Log, Task, areas, markdown, ratio_to_hindsight, with_interval

N_TEST, PAIR_GOLD, MMLU_GOLD = 500, (50, 100), (50, 100, 250)
RIVALS = ("gold_only", "none", "r")
USED = "in use"
PRIORS = {
    USED: Priors(),
    "weights and signal before": Priors(
        ignore_contestant=32, inform=4, oppose=0.5, rescale=0.5, signal=0.03, spread=2
    ),
    "gold alone 2": Priors(ignore=2),
    "gold alone 4": Priors(ignore=4),
    "oppose 1": Priors(oppose=1),
    "oppose 4": Priors(oppose=4),
    "contestant 32": Priors(ignore_contestant=32),
    "contestant 64": Priors(ignore_contestant=64),
    "contestant 256": Priors(ignore_contestant=256),
    "signal 0.03": Priors(signal=0.03),
    "signal 0.05": Priors(signal=0.05),
    "signal 0.05, spread 0.8": Priors(signal=0.05, spread=0.8),
    "spread 2": Priors(spread=2),
    "judge's level 0": Priors(judges_level=0),
    "judge's level 0.67": Priors(judges_level=2 / 3),
    "judge's level 1": Priors(judges_level=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("results/priors.jsonl"))
    parser.add_argument("--pair-seeds", type=read_range, default=range(100, 112))
    parser.add_argument("--mmlu-seeds", type=read_range, default=range(40))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    prompts = read_mmlu(arguments.data)
    for seed in arguments.mmlu_seeds:
        for task in tasks(prompts, seed):
            if int(task.cell.removeprefix("n_gold=")) in MMLU_GOLD:
                run(log, task, RIVALS)
        print(f"seed {seed} done", flush=True)
    for folder in sorted(p for p in (arguments.data / PAIRS).iterdir() if p.is_dir()):
        for task in pair_tasks(folder, arguments.pair_seeds):
            run(log, task, ("gold_only",))
        print(folder.name, flush=True)
    report(log)


def pair_tasks(folder: Path, seeds: range) -> Iterator[Task]:
    """Splits of a pair's gold labels, its votes on the other queries, as pairs.py draws them."""
    premium, cheap = folder.name.split("_vs_")
    files = folder / "gold.parquet", folder / "preference.parquet"
    table = read_gain_table(*files, premium=premium, cheap=cheap)[0]
    table = replace(table, query=first_of_text(table)[table.query])
    gold = np.bincount(table.query[table.is_gold], minlength=table.n_queries) > 0
    voted = np.bincount(table.query[~table.is_gold], minlength=table.n_queries) > 0
    for seed in seeds:
        test = split_queries(gold, voted, n_gold=1, n_test=N_TEST, seed=seed).test
        train = np.setdiff1d(np.flatnonzero(gold | voted), test)
        pipeline = make_pipeline("default", seed=seed).fit([table.queries[i] for i in train])
        features = pipeline.transform(table.queries)
        test_gain = mean_gold_gain(table)[test]
        for n_gold in PAIR_GOLD:
            split = split_queries(gold, voted, n_gold=n_gold, n_test=N_TEST, seed=seed)
            yield Task(
                world=PAIRS,
                cell=f"{folder.name} n_gold={n_gold}",
                seed=seed,
                table=training_table(table, split.gold, split.preference, features),
                test_features=features[test],
                test_gain=test_gain,
            )


def mean_gold_gain(table: GainTable) -> FloatArray:
    """Of each query, 0 where it has no gold."""
    rows, n = table.gold(), table.n_queries
    total = np.bincount(rows.query, rows.weight * rows.gain, minlength=n)
    return total / np.maximum(np.bincount(rows.query, rows.weight, minlength=n), 1e-300)


def training_table(
    table: GainTable, gold: IntArray, preference: IntArray, features: NDArray[np.float32]
) -> GainTable:
    """Gold rows of some queries and preference rows of others, with their features."""
    is_used = np.where(table.is_gold, np.isin(table.query, gold), np.isin(table.query, preference))
    rows = table.rows(is_used)
    queries = np.unique(rows.query)
    return take_queries(rows, queries).with_features(features[queries])


@dataclass
class Recorder:
    """Takes the posterior mean under other priors while `auto` fits."""

    evidence: dict[str, Evidence] = field(default_factory=dict)
    mean: dict[str, FloatArray] = field(default_factory=dict)

    def weigh(self, *arguments: Any, priors: Priors, **options: Any) -> Evidence:
        """In the place of ``weigh_hypotheses``."""
        usual = Priors()
        contestants = (priors.ignore - usual.ignore) / (usual.ignore_contestant - usual.ignore)
        self.evidence = {
            name: weigh_hypotheses(*arguments, priors=other.of_judges(contestants), **options)
            for name, other in PRIORS.items()
        }
        return self.evidence[USED]

    def posterior(self, evidence: Evidence, *arguments: Any) -> Posterior:
        """In the place of ``Evidence.posterior``."""
        found = {name: POSTERIOR(each, *arguments) for name, each in self.evidence.items()}
        self.mean = {name: each.mean for name, each in found.items()}
        return found[USED]


POSTERIOR = Evidence.posterior


def run(log: Log, task: Task, rivals: Sequence[str]) -> None:
    """Areas of one split under all priors, and of its rivals."""
    log.run(task, rivals)
    if not log.missing(task.world, task.cell, task.seed, PRIORS):
        return
    recorder = Recorder()

    def replaced(evidence: Evidence, *arguments: Any) -> Posterior:
        return recorder.posterior(evidence, *arguments)

    corrector = EvidenceCorrector(seed=task.seed)
    with (
        threadpool_limits(limits=1),
        patch("metarouter.correction.fidelity.weigh_hypotheses", recorder.weigh),
        patch.object(Evidence, "posterior", replaced),
    ):
        corrector.fit(task.table)
    mapped = corrector.gain_posterior().query_map.transform(task.test_features)
    for name in log.missing(task.world, task.cell, task.seed, PRIORS):
        area = efficiency_gain_area(mapped @ recorder.mean[name], task.test_gain)
        log.add(record(task.world, task.cell, task.seed, name, area))


def report(log: Log) -> None:
    """A row for each prior."""
    cells = areas(log.records)
    judged = {key: by for key, by in cells.items() if key[0] != PAIRS}
    rows = []
    for name in PRIORS:
        figures = [
            with_interval(partial(pair_ratio, _of_size(cells, n), name, ("gold_only",)), 500)
            for n in PAIR_GOLD
        ]
        worst = min(judged, key=lambda key: ratio_to_hindsight(judged[key], name))
        figures += [
            with_interval(partial(mean_ratio, judged, name), 500),
            with_interval(partial(ratio_to_hindsight, judged[worst], name), 500),
            " ".join(worst),
        ]
        rows.append([name, *figures])
    sizes = (f"pairs, {n} labels" for n in PAIR_GOLD)
    print(markdown(["prior", *sizes, "MMLU", "worst MMLU cell", "which"], rows))


def _of_size(cells: Cells, n_gold: int) -> Cells:
    return {
        key: by
        for key, by in cells.items()
        if key[0] == PAIRS and key[1].endswith(f" n_gold={n_gold}")
    }


def mean_ratio(cells: Cells, name: str, rng: np.random.Generator | None = None) -> float:
    """Mean over cells, each with seeds of its own."""
    return float(np.mean([ratio_to_hindsight(by, name, rng) for by in cells.values()]))


if __name__ == "__main__":
    main()
