"""Benchmarks as arrays: prompts, groups of prompts, and each model's gold quality.

A folder of benchmark data is laid out as the readers below name its files. All
are Parquet; nothing is downloaded. Contaminated rows, prompts that the
publishers found in the training data of a router, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarouter.benchmark.costs import CHARS_PER_TOKEN, call_cost, read_price_rows
from metarouter.benchmark.stems import stem
from metarouter.errors import DataError, InputError, MissingDependencyError, OptionError
from metarouter.labels import GainTable, make_gain_table
from metarouter.types import FloatArray, IntArray

__all__ = ["BENCHMARKS", "Benchmark", "codes", "load_benchmark", "positions", "read_columns"]

# RouteLLM's pair, on which mmlu, gsm8k and mt-bench are published.
PREMIUM, CHEAP = "gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """Prompts and the gold quality of two or more models on each.

    Parameters
    ----------
    name : str, for instance "mmlu".
    prompts : tuple of str, one for each question.
    models : tuple of str, the cheap (reference) model first, the premium last.
    quality : array, shape (n, n_models), in score units.
    subject : int array, shape (n,), index into `subjects`.
    subjects : tuple of str
    cost : array, shape (n, n_models), in USD for a call, or None.
    n_contaminated : int, questions left out.
    pair : str, or "" where the benchmark has one pair only.
    """

    name: str
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    quality: FloatArray
    subject: IntArray
    subjects: tuple[str, ...]
    cost: FloatArray | None = None
    n_contaminated: int = 0
    pair: str = ""

    @property
    def is_accuracy(self) -> bool:
        """Whether answers are right (1) or wrong (0)."""
        return bool(np.isin(self.quality, (0.0, 1.0)).all())

    @property
    def reported_means(self) -> tuple[float, float]:
        """Mean quality of cheap and premium: in percent where answers are right or wrong."""
        unit = 100.0 if self.is_accuracy else 1.0
        return unit * float(self.cheap.mean()), unit * float(self.premium.mean())

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def cheap(self) -> FloatArray:
        """Quality of the first model, shape (n,)."""
        return np.asarray(self.quality[:, 0])

    @property
    def premium(self) -> FloatArray:
        """Quality of the last model, shape (n,)."""
        return np.asarray(self.quality[:, -1])

    @property
    def gain(self) -> FloatArray:
        """Premium minus cheap quality, shape (n,)."""
        return self.premium - self.cheap

    @property
    def prompt_group(self) -> IntArray:
        """The same number for questions of one stem, shape (n,): they must stay in one fold.

        Equal prompts have one, and so have near copies that offer other answers.
        """
        first: dict[str, str] = {}  # by stem; groups are in the order of their first texts
        stems = [stem(prompt) for prompt in self.prompts]
        for key, prompt in zip(stems, self.prompts, strict=True):
            text = " ".join(prompt.split())
            first[key] = min(first.get(key, text), text)
        number = {key: i for i, key in enumerate(sorted(first, key=first.__getitem__))}
        return np.array([number[key] for key in stems], dtype=np.int64)

    def table(self, rows: IntArray, *, with_subject: bool = False) -> GainTable:
        """Gold labels of some questions as a gain table, no features yet.

        Gain models that hold out whole domains when they tune themselves do so
        only `with_subject`: it is right where the test holds out subjects too.
        """
        n, n_candidates = len(rows), len(self.models) - 1
        quality = self.quality[rows]
        return make_gain_table(
            queries=[self.prompts[i] for i in rows],
            query_ids=[f"{self.name}/{i}" for i in rows],
            query=np.repeat(np.arange(n), n_candidates),
            gain=(quality[:, 1:] - quality[:, :1]).ravel(),
            is_gold=np.ones(n * n_candidates, dtype=np.bool_),
            models=self.models,
            candidate=np.tile(np.arange(1, n_candidates + 1), n),
            baseline=np.zeros(n * n_candidates, dtype=np.int64),
            candidate_score=quality[:, 1:].ravel(),
            baseline_score=np.repeat(quality[:, 0], n_candidates),
            domain=self.subject[rows] if with_subject else None,
            domains=self.subjects if with_subject else (),
        )


def load_benchmark(name: str, folder: Path | str) -> list[Benchmark]:
    """Read a benchmark: one of its pairs of models each, most often one.

    Parameters
    ----------
    name : str, one of `BENCHMARKS`.
    folder : path of the data folder.

    Raises
    ------
    OptionError
        When no benchmark has that name.
    InputError
        When a file is missing or cannot be read.
    DataError
        When the files do not fit together, or leave nothing to score.
    MissingDependencyError
        Without pyarrow.

    Examples
    --------
    >>> load_benchmark("chess", "data")
    Traceback (most recent call last):
    ...
    metarouter.errors.OptionError: benchmark = 'chess'; allowed: gsm8k, healthbench-hard, mmlu, \
mmlu-pro, mt-bench, pairs
    """
    read = _READERS.get(name)
    if read is None:
        raise OptionError.of("benchmark", name, ", ".join(BENCHMARKS))
    found = read(Path(folder))
    for each in found:
        _check(each)
    return found


def _check(benchmark: Benchmark) -> None:
    """What every reader must have found."""
    label = benchmark.pair or benchmark.name
    if not len(benchmark):
        raise DataError(f"{label}: no question has a score of every model; check the data folder")
    if not np.isfinite(benchmark.quality).all():
        n = int((~np.isfinite(benchmark.quality)).any(axis=1).sum())
        raise DataError(
            f"{label}: {n} of {len(benchmark)} questions lack a score; allowed: one of each model"
        )
    if not all(isinstance(prompt, str) for prompt in benchmark.prompts):
        raise DataError(f"{label}: a prompt is missing; allowed: a text for every question")


def positions(known: Any, wanted: Any, what: str) -> IntArray:
    """Where each of `wanted` stands in the sorted `known`.

    Raises
    ------
    DataError
        When one is not there.
    """
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    unknown = np.asarray(wanted)[known[at] != wanted] if len(known) else np.asarray(wanted)
    if len(unknown):
        raise DataError(f"{what} = {unknown[0]!s} has scores but no question; check the folder")
    return np.asarray(at, dtype=np.int64)


def read_columns(path: Path, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Columns of a Parquet file as NumPy arrays, strings and lists as objects.

    Raises
    ------
    InputError
        When the file is missing, is not Parquet, or lacks a column.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependencyError.of("a benchmark", "train") from error
    try:
        table = parquet.read_table(path, columns=None if columns is None else list(columns))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist: name the folder of benchmark data with --data"
        ) from error
    except (ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    missing = sorted(set(columns or ()) - set(table.column_names))
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}")
    return {name: table[name].to_numpy() for name in table.column_names}


def codes(values: Sequence[Any]) -> tuple[IntArray, tuple[str, ...]]:
    """Numbers of the distinct values, in sorted order, and those values as texts."""
    names, found = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    return found.astype(np.int64), tuple(names.tolist())


def _routellm(
    name: str,
    folder: Path,
    columns: dict[str, Any],
    subject: Sequence[Any],
    answer_chars: FloatArray,
) -> list[Benchmark]:
    """A benchmark of RouteLLM's pair; `answer_chars` has shape (n, 2), cheap first."""
    keep = ~columns["contaminated"].astype(np.bool_)
    quality = np.column_stack([columns[model][keep] for model in (CHEAP, PREMIUM)])
    number, subjects = codes(np.asarray(subject)[keep])
    prompts = tuple(columns["prompt"][keep])
    prices, chars = read_price_rows(folder), [len(prompt) for prompt in prompts]
    answers = answer_chars[keep].T
    cost = [
        call_cost(prices, model, chars, answer)
        for model, answer in zip((CHEAP, PREMIUM), answers, strict=True)
    ]
    return [
        Benchmark(
            name=name,
            prompts=prompts,
            models=(CHEAP, PREMIUM),
            quality=quality.astype(np.float64),
            subject=number,
            subjects=subjects,
            cost=np.column_stack(cost),
            n_contaminated=int((~keep).sum()),
        )
    ]


def _mmlu(folder: Path) -> list[Benchmark]:
    names = ("prompt", "subject", CHEAP, PREMIUM, "contaminated")
    columns = read_columns(folder / "mmlu" / "mmlu.parquet", names)
    one_letter = np.full((len(columns["prompt"]), 2), CHARS_PER_TOKEN)
    return _routellm("mmlu", folder, columns, columns["subject"], one_letter)


def _gsm8k(folder: Path) -> list[Benchmark]:
    responses = ("mixtral_8x7b_response", "gpt4_1106_response")
    names = ("prompt", CHEAP, PREMIUM, "contaminated", *responses)
    columns = read_columns(folder / "gsm8k" / "gsm8k.parquet", names)
    subject = ["grade school mathematics"] * len(columns["prompt"])
    lengths = np.column_stack([_lengths(columns[name]) for name in responses])
    return _routellm("gsm8k", folder, columns, subject, lengths)


def _mt_bench(folder: Path) -> list[Benchmark]:
    """Questions routed on their first turn; quality is the mean score of both turns."""
    turns = {model: [f"{model}_{turn}" for turn in (1, 2)] for model in (CHEAP, PREMIUM)}
    names = ["question_id", "prompt_turn1", "category", "contaminated"]
    path = folder / "mt-bench" / "scores.parquet"
    columns = read_columns(path, [*names, *turns[CHEAP], *turns[PREMIUM]])
    columns |= {model: np.mean([columns[t] for t in turns[model]], axis=0) for model in turns}
    columns["prompt"] = columns["prompt_turn1"]
    lengths = _mt_bench_lengths(folder, columns["question_id"])
    return _routellm("mt-bench", folder, columns, columns["category"], lengths)


def _mt_bench_lengths(folder: Path, question_id: Any) -> FloatArray:
    """Characters of both answers of each model, (n, 2), cheap first."""
    path = folder / "mt-bench" / "judgements.parquet"
    judged = read_columns(path, ("question_id", "model", "response"))
    ids = np.asarray(question_id)
    total = np.zeros((len(ids), 2))
    unknown = sorted(set(judged["model"]) - {CHEAP, PREMIUM})
    if unknown:
        raise DataError(f"{path}: model = {unknown[0]!r}; allowed: {CHEAP}, {PREMIUM}")
    for row, model, text in zip(*judged.values(), strict=True):
        total[np.flatnonzero(ids == row), (CHEAP, PREMIUM).index(model)] += len(text or "")
    return total


def _lengths(texts: Any) -> FloatArray:
    return np.array([len(text or "") for text in texts], dtype=np.float64)


def _pairs(folder: Path) -> list[Benchmark]:
    root = folder / "pairs"
    found = [_pair(each) for each in sorted(root.glob("*_vs_*"))]
    if not found:
        raise InputError(f"{root} holds no folder PREMIUM_vs_CHEAP: name the data with --data")
    return found


def _pair(folder: Path) -> Benchmark:
    premium, _, cheap = folder.name.partition("_vs_")
    gold = read_columns(folder / "gold.parquet", ("query_id", "query", "model", "score", "domain"))
    ids, first = np.unique(gold["query_id"].astype(str), return_index=True)
    number, subjects = codes(gold["domain"][first])
    quality = [_by_id(gold, ids, gold["model"] == model) for model in (cheap, premium)]
    return Benchmark(
        name="pairs",
        prompts=tuple(gold["query"][first]),
        models=(cheap, premium),
        quality=np.column_stack(quality),
        subject=number,
        subjects=subjects,
        pair=folder.name,
    )


def _by_id(columns: dict[str, Any], ids: Any, rows: Any) -> FloatArray:
    """Scores of some rows in the order of `ids`."""
    values = np.full(len(ids), np.nan)
    values[np.searchsorted(ids, columns["query_id"][rows].astype(str))] = columns["score"][rows]
    return values


def _healthbench_hard(folder: Path) -> list[Benchmark]:
    from metarouter.benchmark.healthbench import load_healthbench_hard

    return load_healthbench_hard(folder)


def _mmlu_pro(folder: Path) -> list[Benchmark]:
    from metarouter.benchmark.mmlu_pro import load_mmlu_pro

    return [load_mmlu_pro(folder)]


_READERS: dict[str, Callable[[Path], list[Benchmark]]] = {
    "gsm8k": _gsm8k,
    "healthbench-hard": _healthbench_hard,
    "mmlu": _mmlu,
    "mmlu-pro": _mmlu_pro,
    "mt-bench": _mt_bench,
    "pairs": _pairs,
}
BENCHMARKS: tuple[str, ...] = tuple(_READERS)
