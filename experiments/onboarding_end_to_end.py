"""``metarouter.onboard`` from end to end: fitted, saved and loaded routers, fresh probes.

    OPENBLAS_NUM_THREADS=1 ./run python experiments/onboarding_end_to_end.py
        [--data ../shared/data] [--seeds 1] [--every 3] [--out results/onboarding_end_to_end.jsonl]

What `experiments/onboarding.py` measures of the estimator on arrays, measured of the
whole: ``fit`` (every default but folds=0), ``save``, ``load``, ``onboard`` with a file of
labels, and the router that comes back predicts. Probes, training and test questions are
disjoint. MMLU-Pro: every third of 30 models is new to a router of the others, learned
from their scores on 2,000 questions; 4,000 test. Pairs: every pair is new to the router
of one other pair, which learned from 250 gold labels and its judge's verdicts on half of
the prompts.

``alone`` is ``fit`` on the k probes and nothing else, ``refit`` ``fit`` on gold labels of all
training questions. The area is that of the efficiency-gain curve, x 100. Intervals are
over models or pairs, seeds averaged, 95 %, Student's t. A run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import metarouter as mr
from metarouter.benchmark.data import Benchmark, load_benchmark, read_columns
from metarouter.gain.onboarded import base_gains, onboarding_rows
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

N_TRAIN, N_TEST, N_GOLD = 2_000, 4_000, 250
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Questions of one seed, as indices into the benchmark."""

    train: IntArray
    probe: IntArray
    test: IntArray


@dataclass(frozen=True, kw_only=True, slots=True)
class New:
    """A model (or pair) that a router does not know, and what is asked of it."""

    world: str
    seed: int
    benchmark: Benchmark
    split: Split
    names: tuple[str, str]  # baseline, model
    at: tuple[int, int]  # their columns in the benchmark
    is_pair: bool

    @property
    def model(self) -> str:
        return self.names[1] if not self.is_pair else " over ".join(self.names[::-1])

    @property
    def gain(self) -> FloatArray:
        """Gold gain of the test questions."""
        quality = self.benchmark.quality[self.split.test]
        return np.asarray(quality[:, self.at[1]] - quality[:, self.at[0]])

    def labels(self, rows: IntArray) -> Rows:
        return scores(self.benchmark, rows, self.at, self.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--references", default=",".join(REFERENCES))
    parser.add_argument("--every", type=int, default=3, help="every n-th model of the pool")
    parser.add_argument("--out", type=Path, default=Path("results/onboarding_end_to_end.jsonl"))
    arguments = parser.parse_args()
    done = {(row.world, row.model, row.seed) for row in read_rows(arguments.out)}
    for new, known in worlds(arguments):
        if (new.world, new.model, new.seed) not in done:
            append_rows(arguments.out, list(study(new, known())))  # all of a model or nothing
    report(read_rows(arguments.out))


def worlds(arguments: argparse.Namespace) -> Iterator[tuple[New, Any]]:
    """Each new model, and a function that fits the router it is new to."""
    for seed in range(arguments.seeds):
        yield from pairs(arguments.data, seed)
        for reference in arguments.references.split(","):
            yield from mmlu_pro(arguments.data, seed, reference, arguments.every)


def mmlu_pro(data: Path, seed: int, reference: str, every: int) -> Iterator[tuple[New, Any]]:
    (benchmark,) = load_benchmark("mmlu-pro", data)
    split = draw(benchmark, seed, N_TRAIN, N_TEST)
    at = benchmark.models.index(reference)
    others = [i for i in range(len(benchmark.models)) if i != at]
    for new in others[::every]:
        known = [at, *(i for i in others if i != new)]
        names = [benchmark.models[i] for i in known]

        def fitted(known: list[int] = known, names: list[str] = names) -> mr.Router:
            labels = scores(benchmark, split.train, known, names)
            return served(mr.fit(gold=labels, cheap=reference, folds=0))  # no premium: a pool

        model = benchmark.models[new]
        yield (
            New(world=f"mmlu-pro over {reference}", seed=seed, benchmark=benchmark, split=split,
                names=(reference, model), at=(at, new), is_pair=False),
            fitted,
        )  # fmt: skip


def pairs(data: Path, seed: int) -> Iterator[tuple[New, Any]]:
    benchmarks = load_benchmark("pairs", data)
    split = draw(benchmarks[0], seed, len(benchmarks[0]) // 2, None)

    @cache
    def fitted(j: int) -> mr.Router:
        cheap, premium = benchmarks[j].models
        gold = scores(benchmarks[j], split.train[:N_GOLD], (0, 1), (cheap, premium))
        judged = votes(data, benchmarks[j], split.train[N_GOLD:])
        return served(mr.fit(gold, judged, cheap=cheap, premium=premium, folds=0))

    for i, each in enumerate(benchmarks):
        strangers = [
            j for j, other in enumerate(benchmarks) if not set(other.models) & set(each.models)
        ]
        chosen = int(np.random.default_rng([seed, i]).choice(strangers))
        cheap, premium = (f"new {name}" for name in each.models)
        yield (
            New(world="pairs: one other router", seed=seed, benchmark=each, split=split,
                names=(cheap, premium), at=(0, 1), is_pair=True),
            lambda chosen=chosen: fitted(chosen),
        )  # fmt: skip


def draw(benchmark: Benchmark, seed: int, n_train: int, n_test: int | None) -> Split:
    """Disjoint questions, of each stem one: to train, to probe, to test."""
    distinct = np.unique(benchmark.prompt_group, return_index=True)[1]
    order = np.random.default_rng(seed).permutation(distinct)
    start = n_train + max(SIZES)
    end = len(order) if n_test is None else start + n_test
    return Split(train=order[:n_train], probe=order[n_train:start], test=order[start:end])


def scores(benchmark: Benchmark, rows: IntArray, at: Iterable[int], names: Iterable[str]) -> Rows:
    """Gold labels as records, models by column."""
    return [
        {"query": benchmark.prompts[i], "model": name, "score": float(benchmark.quality[i, j])}
        for j, name in zip(at, names, strict=True)
        for i in rows
    ]


def votes(data: Path, benchmark: Benchmark, rows: IntArray) -> Rows:
    """The judge's verdicts on some questions, as records."""
    path = data / "pairs" / benchmark.pair / "preference.parquet"
    columns = read_columns(path, ("query", "model_a", "model_b", "p_a", "judge"))
    texts = {benchmark.prompts[i] for i in rows}
    found = zip(*columns.values(), strict=True)
    return [
        {"query": query, "model_a": a, "model_b": b, "p_a": float(p), "judge": judge}
        for query, a, b, p, judge in found
        if query in texts
    ]


def served(router: mr.Router) -> mr.Router:
    """The router as it comes back from its folder."""
    with TemporaryDirectory() as folder:
        router.save(Path(folder) / "router")
        return mr.load(Path(folder) / "router")


def study(new: New, router: mr.Router) -> Iterator[Row]:
    """All sizes and methods for one new model."""
    texts = [new.benchmark.prompts[i] for i in new.split.test]
    probes = probe_order(new.seed, new.model, new.split.probe)
    for k in SIZES:
        grown = onboarded(router, new, probes[:k])
        predicted = gain_of(grown, new.names[1], texts)
        yield row(
            new, "onboard", k, predicted,
            covered=covered(router, grown, new, texts),
            level_error=float(predicted.mean() - new.gain.mean()),
        )  # fmt: skip
        if k:
            yield row(new, "alone", k, plain_fit(new, probes[:k], texts))
    yield row(new, "refit", len(new.split.train), plain_fit(new, new.split.train, texts))


def gain_of(router: mr.Router, model: str, texts: list[str]) -> FloatArray:
    """Predicted gains of one model, wherever it stands among the candidates."""
    gains = router.predict_gain(texts).mean.reshape(len(texts), -1)
    return np.asarray(gains[:, router.models.index(model) - 1])


def onboarded(router: mr.Router, new: New, probes: IntArray) -> mr.Router:
    """The router that knows the new model, through the file that the command reads."""
    baseline = new.names[0] if new.is_pair else None
    if not len(probes):
        return served(mr.onboard(router, model=new.names[1], baseline=baseline))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "probes.jsonl"
        path.write_text("".join(json.dumps(label) + "\n" for label in new.labels(probes)))
        return served(mr.onboard(router, path, model=new.names[1], baseline=baseline))


def plain_fit(new: New, rows: IntArray, texts: list[str]) -> FloatArray:
    """Predicted gains of a router fitted on gold labels of the pair and nothing else."""
    cheap, premium = new.names
    router = mr.fit(gold=new.labels(rows), cheap=cheap, premium=premium, folds=0)
    return np.ravel(router.predict_gain(texts).mean)


def row(new: New, method: str, k: int, predicted: FloatArray, **more: float | None) -> Row:
    return Row(
        world=new.world, model=new.model, seed=new.seed, method=method, k=k,
        area=area(predicted, new.gain), **more,
    )  # fmt: skip


def covered(router: mr.Router, grown: mr.Router, new: New, texts: list[str]) -> float:
    """Share of subjects with |mean gold gain − predicted| within 1.96 of both errors.

    The error of a mean is that of the average row, and the known gains' error on top, taken
    as shared by all queries, as :class:`metarouter.gain.onboarded.OnboardedScorer` does.
    """
    state = grown.artifact.parts["gain"]
    mean, factor = (np.asarray(state.arrays[name], dtype=np.float64) for name in ("mean", "factor"))
    X = router.features.transform(texts)
    gains, std = base_gains(router.scorer, X)
    rows = onboarding_rows(gains, X, float(state.config["size"]))
    inherited = std @ np.abs(mean[: gains.shape[1]])
    subject, held = new.benchmark.subject[new.split.test], []
    for each in np.unique(subject):
        at = subject == each
        if at.sum() >= FEWEST_OF_SUBJECT:
            average, own = rows[at].mean(axis=0), new.gain[at]
            sampling = own.std(ddof=1) / np.sqrt(at.sum())
            error = np.linalg.norm([*(average @ factor), inherited[at].mean(), sampling])
            held.append(abs(own.mean() - average @ mean) <= 1.96 * error)
    return float(np.mean(held))


if __name__ == "__main__":
    main()
