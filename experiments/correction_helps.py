"""Does correction help every router? Biased judge labels with and without it, paired.

    OPENBLAS_NUM_THREADS=1 .venv-torch/bin/python experiments/correction_helps.py
        [--routers sw_ranking,knn,mf,bert] [--seeds 3] [--every 1] [--n-gold 250]
        [--out results/correction_helps.jsonl]

The pairs of ``data/pairs``, whose judge is always one of the two contestants. Each
split tests on the gold labels of 500 prompts, keeps those of `n_gold` others and
takes the judge's verdict for all the rest. Every router learns from the same rows:
``preference_only`` the verdicts alone, ``none`` verdicts and gold labels alike,
``dr`` and ``auto`` the corrected rows, ``gold_only`` the gold labels alone. Features
are learned on the training prompts. The area is that of the efficiency-gain
curve, x 100. Intervals: Student's t over pairs, seeds averaged, 95 %.

The study goes on where it stopped. bert is fine-tuned for two epochs on the first
`--tokens` tokens, with matrix products in bfloat16 where the processor has them: a minute
of processor time a fit with 32 tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from metarouter.correction import make_corrector
from metarouter.evaluation import efficiency_gain_area
from metarouter.evaluation.experiment import Split, split_queries
from metarouter.features import make_pipeline
from metarouter.gain import PoolGainModel, make_pool_model
from metarouter.gain.text import stage_of
from metarouter.labels import GainTable, read_gain_table
from metarouter.labels.repeats import first_of_text, merge_repeats
from metarouter.labels.split import take_queries
from metarouter.types import FloatArray, TableGainModel
from study import Log, Record, areas, markdown, over_units

UNCORRECTED = ("preference_only", "none")
CORRECTED = ("dr", "auto")
METHODS = (*UNCORRECTED, *CORRECTED, "gold_only")
N_TEST = 500
BERT_EPOCHS = 2


def read_pair(folder: Path) -> GainTable:
    """Gold and preference labels of one pair; equal texts are one query."""
    premium, _, cheap = folder.name.partition("_vs_")
    files = folder / "gold.parquet", folder / "preference.parquet"
    table, _ = read_gain_table(*files, premium=premium, cheap=cheap)
    return replace(table, query=first_of_text(table)[table.query])


def has_label(table: GainTable, rows: Any) -> Any:
    """Whether each query has one of the rows."""
    return np.bincount(table.query[rows], minlength=table.n_queries) > 0


def training_rows(table: GainTable, split: Split) -> GainTable:
    """Gold labels of the gold queries and verdicts of the preference queries."""
    gold = table.is_gold & np.isin(table.query, split.gold)
    return table.rows(gold | (~table.is_gold & np.isin(table.query, split.preference)))


def make_router(name: str, seed: int, tokens: int) -> PoolGainModel | TableGainModel:
    """A router with its defaults, but for how long bert trains and how far it reads."""
    short = {"epochs": BERT_EPOCHS, "max_tokens": tokens} if name == "bert" else {}
    return make_pool_model(name, seed=seed, **short)


def run_split(
    table: GainTable, seed: int, options: argparse.Namespace, cells: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str, float, float]]:
    """Router, method, area and seconds of each (router, method) asked for."""
    found = [has_label(table, rows) for rows in (table.is_gold, ~table.is_gold)]
    split = split_queries(*found, n_gold=options.n_gold, n_test=N_TEST, seed=seed)
    seen = np.union1d(split.gold, split.preference)
    pipeline = make_pipeline("default", seed=seed).fit([table.queries[i] for i in seen])
    labelled = take_queries(training_rows(table, split), seen)
    labelled = merge_repeats(labelled.with_features(pipeline.transform(labelled.queries)))
    texts = [table.queries[i] for i in split.test]
    gain = gold_gain(table)[split.test]
    for router, method in cells:
        started = time.process_time()
        corrected = make_corrector(method, seed=seed).fit(labelled).transform(labelled)
        model = make_router(router, seed, options.tokens).fit(corrected)
        stage = stage_of(model) or pipeline
        score = np.ravel(model.predict(stage.transform(texts)).mean)
        yield router, method, efficiency_gain_area(score, gain), time.process_time() - started


def gold_gain(table: GainTable) -> FloatArray:
    """Mean gold gain of each query; NaN without one."""
    rows = table.gold()
    weight = np.bincount(rows.query, rows.weight, minlength=table.n_queries)
    total = np.bincount(rows.query, rows.weight * rows.gain, minlength=table.n_queries)
    gain: FloatArray = np.divide(total, weight, out=np.full(len(weight), np.nan), where=weight > 0)
    return gain


def run(arguments: argparse.Namespace, log: Log) -> None:
    """Measure every cell that the log lacks, all pairs of a seed before the next seed."""
    folders = sorted(path for path in (arguments.data / "pairs").glob("*_vs_*"))
    for seed in range(arguments.seeds):
        for folder in folders[:: arguments.every]:
            cells = [
                (router, method)
                for router in arguments.routers.split(",")
                for method in log.missing(folder.name, router, seed, arguments.methods.split(","))
            ]
            if not cells:
                continue
            for router, method, area, seconds in run_split(
                read_pair(folder), seed, arguments, cells
            ):
                log.add(
                    Record(world=folder.name, cell=router, seed=seed, method=method,
                           area=area, seconds=round(seconds, 2))
                )  # fmt: skip


def summarise(records: Iterable[Record]) -> str:
    """Each router's mean area by method, and the paired differences that answer the question.

    A pair whose methods are not all finished is left out.
    """
    by = areas(records)
    lines = []
    for router in dict.fromkeys(cell for _, cell in by):
        found = [methods for (_, cell), methods in by.items() if cell == router]
        names = [name for name in METHODS if any(name in methods for methods in found)]
        pairs = [methods for methods in found if set(names) <= set(methods)]
        mean = {name: np.array([methods[name].mean() for methods in pairs]) for name in names}
        n_seeds = min(len(methods[names[0]]) for methods in pairs)
        lines.append([
            f"`{router}`", f"{len(pairs)} × {n_seeds}",
            *(f"{mean[name].mean():.2f}" if name in mean else "" for name in METHODS),
            *(
                over_units(mean[new] - mean[old]) if {new, old} <= set(mean) else ""
                for new, old in (("dr", "none"), ("auto", "none"), ("auto", "gold_only"))
            ),
            f"{int((mean['auto'] > mean['none']).sum())} of {len(pairs)}",
        ])  # fmt: skip
    head = ["router", "pairs × seeds", *METHODS, "dr − none", "auto − none", "auto − gold_only"]
    return markdown([*head, "pairs with auto above none"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--routers", default="sw_ranking,knn,mf")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="1: all pairs; 2: every second")
    parser.add_argument("--n-gold", type=int, default=250)
    parser.add_argument("--tokens", type=int, default=32, help="that bert reads of a prompt")
    parser.add_argument("--out", type=Path, default=Path("results/correction_helps.jsonl"))
    arguments = parser.parse_args()
    log = Log(arguments.out)
    if "bert" in arguments.routers.split(","):
        import torch

        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("medium")
    with threadpool_limits(limits=1):
        run(arguments, log)
    print(summarise(log.records))


if __name__ == "__main__":
    main()
