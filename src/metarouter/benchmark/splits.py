"""Which questions train and which test, protocol by protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarouter.benchmark.data import Benchmark
from metarouter.errors import DataError, OptionError
from metarouter.types import BoolArray, IntArray

__all__ = ["PROTOCOLS", "Fold", "make_runs"]

PROTOCOLS: tuple[str, ...] = ("cv", "subject", "few-gold", "transfer")
_CV_FOLDS, _SUBJECT_FOLDS = 5, 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """Questions that are learned from, and questions that are then scored."""

    train: IntArray
    test: IntArray


def make_runs(
    benchmark: Benchmark, protocol: str, seeds: range, n_gold: int = 1500
) -> list[list[Fold]]:
    """Folds of each repetition; a repetition tests a question at most once.

    ``cv``: five random folds. ``subject``: ten folds of whole subjects (fewer
    where there are fewer). ``few-gold``: `n_gold` random questions train, the
    rest test. ``transfer``: all test, none of them trains; there is nothing to
    repeat. A question whose stem (:func:`metarouter.benchmark.stems.stem`) is in
    the test part is never in the training part, whatever its number.

    Parameters
    ----------
    benchmark : Benchmark
    protocol : str, one of `PROTOCOLS`.
    seeds : range, one repetition each.
    n_gold : int, at least 1, of ``few-gold``.

    Raises
    ------
    OptionError
        When no protocol has that name, or `n_gold` leaves nothing to test.
    DataError
        When the benchmark has too few subjects to hold any out.

    Examples
    --------
    >>> prompts = ("a", "b", "a", "c")
    >>> some = Benchmark(name="toy", prompts=prompts, models=("c", "p"), quality=np.eye(4, 2),
    ...     subject=np.zeros(4, int), subjects=("all",))
    >>> fold = make_runs(some, "few-gold", range(1), 1)[0][0]
    >>> bool(set(np.array(prompts)[fold.train]) & set(np.array(prompts)[fold.test]))
    False
    """
    if protocol not in PROTOCOLS:
        raise OptionError.of("protocol", protocol, ", ".join(PROTOCOLS))
    if protocol == "few-gold" and not 1 <= n_gold < len(benchmark):
        raise OptionError.of("n-gold", n_gold, f"1 to {len(benchmark) - 1}, below all questions")
    if protocol == "transfer":
        seeds = seeds[:1]
    copies = benchmark.prompt_group
    return [
        _folds(benchmark, protocol, copies, np.random.default_rng(seed), n_gold) for seed in seeds
    ]


def _folds(
    benchmark: Benchmark, protocol: str, copies: IntArray, rng: np.random.Generator, n_gold: int
) -> list[Fold]:
    if protocol == "cv":
        return _by_group(copies, copies, _CV_FOLDS, rng)
    if protocol == "subject":
        n_subjects = len(benchmark.subjects)
        if n_subjects < 2:
            raise DataError(f"{benchmark.name} has one subject: none can be held out; try cv")
        return _by_group(copies, benchmark.subject, min(_SUBJECT_FOLDS, n_subjects), rng)
    if protocol == "few-gold":
        order = rng.permutation(len(benchmark))
        train, test = order[:n_gold], order[n_gold:]
        return [Fold(train=train, test=test[~np.isin(copies[test], copies[train])])]
    everything = np.arange(len(benchmark))  # transfer
    return [Fold(train=everything[:0], test=everything)]


def _by_group(
    copies: IntArray, group: IntArray, n_folds: int, rng: np.random.Generator
) -> list[Fold]:
    n_groups = int(group.max()) + 1
    fold = rng.permutation(np.arange(n_groups) % n_folds)[group]
    return [_without_copies(copies, fold == k) for k in range(n_folds) if (fold == k).any()]


def _without_copies(copies: IntArray, is_test: BoolArray) -> Fold:
    train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
    return Fold(train=train[~np.isin(copies[train], copies[test])], test=test)
