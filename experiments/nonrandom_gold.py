"""Gold labels that are not a random sample: chosen by topic and difficulty, or by subject.

    ./run python experiments/nonrandom_gold.py --data ../shared/data --seeds 10

Generated worlds choose 200 of 2,000 queries with a probability that depends on
topic, difficulty and length ("covariate", "weak_overlap" of
``metarouter.testing``). On MMLU, 200 of 2,200 prompts get a gold label, 95 % of
them in a third of the subjects; a simulated judge votes on the rest. Both label
files name the subject as the query's domain, which warnings may use and the
router, which sees the text alone, may not. The test
set is always a random sample of all queries. Yardstick: the better of pooled
and gold-only, by their means over the seeds. The warnings are those of the audit
that every fit makes and its report shows. Intervals: bootstrap over seeds, 95 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metarouter.correction.audit import audit_labels
from metarouter.features import make_pipeline
from metarouter.labels.table import GainTable, make_gain_table
from metarouter.testing import WorldOptions, make_world, semi_synthetic_votes
from metarouter.types import FloatArray
from semi_synthetic import read_mmlu
from study import OWN_POSTERIOR, Log, Task, areas, markdown, with_interval

METHODS = ("gold_only", "none", "dr", "auto", OWN_POSTERIOR)
SELECTIONS = ("random", "covariate", "weak_overlap")
BIASES = ("topic", "perverse")
JUDGES = ("unbiased", "topic", "perverse")
N_QUERIES, N_GOLD = 2000, 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Labels without features, and a random sample of queries to test on."""

    world: str
    cell: str
    table: GainTable
    test_texts: Sequence[str]
    test_gain: FloatArray

    def task(self, seed: int) -> Task:
        """The same with default features fitted on the training prompts."""
        pipeline = make_pipeline("default", seed=seed).fit(self.table.queries)
        return Task(
            world=self.world,
            cell=self.cell,
            seed=seed,
            table=self.table.with_features(pipeline.transform(self.table.queries)),
            test_features=pipeline.transform(self.test_texts),
            test_gain=self.test_gain,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results/nonrandom_gold.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    warned = arguments.out.with_suffix(".warnings.jsonl")
    noted = {(note["world"], note["cell"], note["seed"]) for note in read_notes(warned)}
    prompts = read_mmlu(arguments.data)
    for seed in range(arguments.seeds):
        for case in cases(prompts, seed):
            is_noted = (case.world, case.cell, seed) in noted
            if is_noted and not log.missing(case.world, case.cell, seed, METHODS):
                continue
            task = case.task(seed)
            if not is_noted:
                note_warnings(warned, task)
            log.run(task, METHODS)
    report(log, warned, arguments.seeds)


def cases(prompts: pd.DataFrame, seed: int) -> Iterator[Case]:
    """World, selection, training table, test texts and test gains."""
    for selection in SELECTIONS:
        for bias in BIASES:
            options = WorldOptions(bias=bias, selection=selection)  # type: ignore[arg-type]
            world = make_world(options, n_queries=N_QUERIES, n_gold=N_GOLD, n_test=1000, seed=seed)
            yield Case(
                world=f"generated, {bias}",
                cell=selection,
                table=world.table,
                test_texts=world.test.queries,
                test_gain=world.test_psi,
            )
    for judge in JUDGES:
        yield mmlu_case(prompts, judge, seed)


def mmlu_case(prompts: pd.DataFrame, judge: str, seed: int) -> Case:
    """Gold nearly only in a third of the subjects."""
    rng = np.random.default_rng(seed)
    split = prompts.iloc[rng.permutation(len(prompts))[: N_QUERIES + N_GOLD + 4000]]
    train, test = split.iloc[: N_QUERIES + N_GOLD], split.iloc[N_QUERIES + N_GOLD :]
    subjects = rng.permutation(prompts["subject"].unique())
    favoured = train["subject"].isin(subjects[: len(subjects) // 3]).to_numpy()
    n_in = min(round(0.95 * N_GOLD), int(favoured.sum()))
    is_gold = np.zeros(len(train), dtype=bool)
    is_gold[rng.choice(np.flatnonzero(favoured), n_in, replace=False)] = True
    is_gold[rng.choice(np.flatnonzero(~favoured), N_GOLD - n_in, replace=False)] = True
    gain = train["gain"].to_numpy()
    votes = semi_synthetic_votes(gain, list(train["prompt"]), list(train["subject"]), judge, rng)
    names, domain = np.unique(train["subject"], return_inverse=True)
    table = make_gain_table(
        queries=list(train["prompt"]),
        gain=np.where(is_gold, gain, votes),
        is_gold=is_gold,
        domains=[str(name) for name in names],
        domain=domain,
    )
    return Case(
        world=f"mmlu, {judge}",
        cell="by subject",
        table=table,
        test_texts=list(test["prompt"]),
        test_gain=test["gain"].to_numpy(),
    )


def note_warnings(path: Path, task: Task) -> None:
    """Keep what the audit of a fit says of overlap."""
    found = audit_labels(task.table, seed=task.seed)["overlap"]
    note = {
        "world": task.world,
        "cell": task.cell,
        "seed": task.seed,
        "auc": found["auc"]["value"],
        "effective_gold": found["ess_treated"],
        "weak": [text for text in found["warnings"] if "other kinds" not in text],
        "elsewhere": [text for text in found["warnings"] if "other kinds" in text],
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")


def read_notes(path: Path) -> list[dict[str, Any]]:
    """Notes of earlier runs."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def report(log: Log, warned: Path, seeds: int) -> None:
    """Print areas, the ratio of auto to the better of two, and how often the warning fired."""
    notes = pd.DataFrame(read_notes(warned))
    notes = notes[notes["seed"] < seeds]
    rows = []
    for (world, cell), by in areas(r for r in log.records if r.seed < seeds).items():
        own = notes[(notes["world"] == world) & (notes["cell"] == cell)]
        fired = [int((own[kind].str.len() > 0).sum()) for kind in ("elsewhere", "weak")]
        shown = [f"{by[name].mean():.2f}" for name in METHODS]
        shown += [with_interval(partial(_ratio, by, name)) for name in ("auto", OWN_POSTERIOR)]
        shown += [f"{count} of {len(own)}" for count in fired]
        rows.append(
            [world, cell, *shown, f"{own['auc'].mean():.2f}", f"{own['effective_gold'].mean():.0f}"]
        )
    warnings = ["gold elsewhere", "weak overlap"]
    head = ["world", "gold", *METHODS, "auto/better", "own/better", *warnings, "AUC", "ESS gold"]
    print(f"\narea x 100, mean of {seeds} seeds\n")
    print(markdown(head, rows))


def _ratio(by: dict[str, FloatArray], name: str, rng: np.random.Generator | None = None) -> float:
    n = len(by[name])
    at = np.arange(n) if rng is None else rng.integers(n, size=n)
    return float(by[name][at].mean() / max(by["gold_only"][at].mean(), by["none"][at].mean()))


if __name__ == "__main__":
    main()
