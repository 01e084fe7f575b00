"""A model, or a pair, that no router was fitted on: k labels against a full refit.

    OPENBLAS_NUM_THREADS=1 ./run python experiments/onboarding.py --data ../shared/data --seeds 5
        [--departure 0.03 --no-departure 0.1]

MMLU-Pro: each of 30 models in turn is new to a router of the others, over a
reference model; 3,000 questions train, 5,000 test. Pairs: each of 14 pairs is
new to the router of one other pair, or to those of all others, none of which
shares a model with it; half of the prompts train. Ridge on the default
features throughout.

``onboard`` is the estimator behind ``metarouter.onboard``
(:func:`metarouter.gain.population.estimate_gain`) called on arrays with k labels
of the new model. It is not ``metarouter.onboard`` from end to end: the probes are
drawn from the queries on which the known models' gains were learned, these
gains are ridge's own and not a corrected, cross-fitted router's, and the error
of the known gains, which ``onboard`` adds to the stated deviation, is left out
of the coverage. ``alone`` is a fit to those k labels and nothing else, ``refit`` a
fit to labels of every training query. The area is that of the efficiency-gain
curve, x 100. Intervals are over models (or pairs), seeds averaged, 95 %,
Student's t: models of one family resemble each other, so they are a little
narrow.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from metarouter.benchmark.data import Benchmark, load_benchmark
from metarouter.features import make_pipeline
from metarouter.gain.onboarded import onboarding_rows
from metarouter.gain.population import NewGain, Population, estimate_gain, make_population
from metarouter.linear import Ridge
from metarouter.types import FloatArray, IntArray
from onboarding_report import (
    FEWEST_OF_SUBJECT,
    REFERENCES,
    SIZES,
    Row,
    append_rows,
    area,
    probe_order,
    read_rows,
    report,
)

N_TRAIN, N_TEST = 3_000, 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Queries of one seed: features, which train and test, and the prior of s for them."""

    features: FloatArray
    train: IntArray
    test: IntArray
    subject: IntArray
    prior: tuple[float, float]

    @property
    def size(self) -> float:
        return float(np.sqrt((self.features[self.train] ** 2).sum(axis=1).mean()))

    def population(self, known: FloatArray) -> Population:
        """What is believed of a new model, from the known gains."""
        departure, no_departure = self.prior
        return replace(
            make_population(known[self.train].mean(axis=0)),
            departure=departure,
            no_departure=no_departure,
        )

    def ridge(self, gain: FloatArray, rows: IntArray) -> FloatArray:
        """Predicted gain of every query, learned on some."""
        return np.asarray(Ridge().fit(self.features[rows], gain[rows]).predict(self.features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--departure", type=float, default=0.03, help="median of the prior of s")
    parser.add_argument("--no-departure", type=float, default=0.1, help="probability of s = 0")
    parser.add_argument("--out", type=Path, default=Path("results/onboarding.jsonl"))
    arguments = parser.parse_args()
    arguments.out.unlink(missing_ok=True)
    for seed in range(arguments.seeds):
        append_rows(arguments.out, mmlu_pro(arguments, seed))
        append_rows(arguments.out, pairs(arguments, seed))
        print(f"seed {seed} done", flush=True)
    report(read_rows(arguments.out))


read = cache(load_benchmark)


def mmlu_pro(arguments: argparse.Namespace, seed: int) -> Iterator[Row]:
    """Each model of the pool as the new one, over two references."""
    benchmark = read("mmlu-pro", arguments.data)[0]
    split, chosen = draw(benchmark, seed, N_TRAIN, N_TEST, prior_of(arguments))
    quality = benchmark.quality[chosen]
    for reference in REFERENCES:
        at = benchmark.models.index(reference)
        names = [name for name in benchmark.models if name != reference]
        gains = np.delete(quality, at, axis=1) - quality[:, [at]]
        known = np.column_stack([split.ridge(gain, split.train) for gain in gains.T])
        for j, name in enumerate(names):
            rest = np.delete(known, j, axis=1)
            yield from study(f"mmlu-pro over {reference}", name, seed, split, gains[:, j], rest)


def pairs(arguments: argparse.Namespace, seed: int) -> Iterator[Row]:
    """Each pair as the new one, for the router of one other pair and for all."""
    benchmarks = read("pairs", arguments.data)
    split, chosen = draw(benchmarks[0], seed, len(benchmarks[0]) // 2, None, prior_of(arguments))
    gains = [each.gain[chosen] for each in benchmarks]
    known = [split.ridge(gain, split.train) for gain in gains]
    for each, gain in zip(benchmarks, gains, strict=True):
        strangers = [
            known[j]
            for j, other in enumerate(benchmarks)
            if not set(other.models) & set(each.models)
        ]
        everything = np.column_stack(strangers)
        yield from study("pairs: all other routers", each.pair, seed, split, gain, everything)
        single = np.random.default_rng(seed).choice(len(strangers), 3, replace=False)
        for j in single:
            one = strangers[j][:, None]
            yield from study("pairs: one other router", each.pair, seed, split, gain, one)


def prior_of(arguments: argparse.Namespace) -> tuple[float, float]:
    return arguments.departure, arguments.no_departure


def draw(
    benchmark: Benchmark,
    seed: int,
    n_train: int,
    n_test: int | None,
    prior: tuple[float, float],
) -> tuple[Split, IntArray]:
    """A random split of the distinct prompts, with features learned on the training part."""
    rng = np.random.default_rng(seed)
    distinct = np.unique(benchmark.prompt_group, return_index=True)[1]
    chosen = rng.permutation(distinct)[: None if n_test is None else n_train + n_test]
    prompts = [benchmark.prompts[i] for i in chosen]
    pipeline = make_pipeline("default", seed=seed).fit(prompts[:n_train])
    split = Split(
        features=pipeline.transform(prompts).astype(np.float64),
        train=np.arange(n_train),
        test=np.arange(n_train, len(chosen)),
        subject=benchmark.subject[chosen],
        prior=prior,
    )
    return split, chosen


def study(
    world: str, model: str, seed: int, split: Split, gain: FloatArray, known: FloatArray
) -> Iterator[Row]:
    """All sizes and methods for one new model."""
    rows = onboarding_rows(known, split.features, split.size)
    population = split.population(known)
    probes = probe_order(seed, model, split.train)
    for k in SIZES:
        at = probes[:k]
        found = estimate_gain(population, rows[at], gain[at], np.ones(k))
        yield Row(
            world=world, model=model, seed=seed, method="onboard", k=k,
            area=area(rows[split.test] @ found.mean, gain[split.test]),
            covered=covered(found, rows, gain, split),
            level_error=found.mean_gain(rows[split.test])[0] - float(gain[split.test].mean()),
        )  # fmt: skip
        if k:
            alone = split.ridge(gain, at)[split.test]
            score = area(alone, gain[split.test])
            yield Row(world=world, model=model, seed=seed, method="alone", k=k, area=score)
    refit = split.ridge(gain, split.train)[split.test]
    score = area(refit, gain[split.test])
    yield Row(world=world, model=model, seed=seed, method="refit", k=len(split.train), area=score)


def covered(found: NewGain, rows: FloatArray, gain: FloatArray, split: Split) -> float:
    """Share of subjects with |mean gold gain − predicted| within 1.96 of both errors."""
    held = []
    for subject in np.unique(split.subject[split.test]):
        at = split.test[split.subject[split.test] == subject]
        if len(at) >= FEWEST_OF_SUBJECT:
            mean, std = found.mean_gain(rows[at])
            error = np.hypot(std, gain[at].std(ddof=1) / np.sqrt(len(at)))
            held.append(abs(gain[at].mean() - mean) <= 1.96 * error)
    return float(np.mean(held))


if __name__ == "__main__":
    main()
