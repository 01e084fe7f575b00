"""Repeated labels of a query count once."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.correction import learn_gain, make_corrector
from metarouter.labels.repeats import merge_repeats
from metarouter.labels.table import GainTable, make_gain_table


def test_labels_of_a_query_are_averaged_by_source() -> None:
    """First those of a judge, then those of the judges: one query is one row a source."""
    table = make_gain_table(
        queries=["a", "b"],
        query=[0, 0, 0, 0, 0, 1],
        gain=[1.0, 0.0, 0.6, 0.2, -1.0, 0.3],
        is_gold=[True, True, False, False, False, False],
        judge=[0, 1, 0, 0, 1, 0],
        judges=("x", "y"),
        weight=[1.0, 3.0, 1.0, 1.0, 1.0, 1.0],
    )

    merged = merge_repeats(table)

    np.testing.assert_allclose(np.sort(merged.gain), np.sort([0.25, -0.3, 0.3]))
    assert merged.weight[merged.is_gold].tolist() == [2.0]


def test_who_judged_together_is_a_panel() -> None:
    """Each set of judges is a judge of its own; rare sets share one."""
    pairs = [(i, j) for i in range(8) for j in range(i)]  # 28 panels of two
    query = np.repeat(np.arange(2 * len(pairs) + 1), 2)
    judge = np.array([j for pair in [*pairs, *pairs, (3, 3)] for j in pair])
    table = make_gain_table(
        queries=[str(i) for i in range(query.max() + 1)],
        query=query,
        gain=np.zeros(len(query)),
        is_gold=np.zeros(len(query), dtype=bool),
        judge=judge,
        judges=tuple("abcdefgh"),
    )

    merged = merge_repeats(table)

    first, second = merged.judge[: len(pairs)], merged.judge[len(pairs) : -1]
    assert first.tolist() == second.tolist()
    assert merged.judge[-1] == 3
    alone = np.bincount(first)
    assert sorted(alone[alone > 0].tolist()) == [1] * 20 + [8]
    assert merged.judges[first.max()] == "other panels"


@pytest.mark.parametrize("corrector", ["auto", "none", "r", "dr", "x"])
def test_the_same_verdicts_under_five_names_are_no_more_than_under_one(corrector: str) -> None:
    """What features miss of a query is the same in all of them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 6)).astype(np.float32)
    verdict = 0.3 * X[:, 0] + rng.normal(size=240)
    gold = np.arange(240) < 60

    def learned(k: int) -> np.ndarray:
        votes = np.tile(np.flatnonzero(~gold), k)
        query = np.concatenate([np.flatnonzero(gold), votes])
        table = make_gain_table(
            queries=[str(i) for i in range(240)],
            query=query,
            gain=verdict[query],
            is_gold=gold[query],
            judge=np.concatenate([np.zeros(60, dtype=int), np.repeat(np.arange(k), 180)]),
            judges=tuple(map(str, range(k))),
            features=X,
        )
        estimate = learn_gain(table, make_corrector(corrector), gain_model="ridge").predict(X)
        return np.stack([estimate.mean, estimate.std])

    np.testing.assert_allclose(learned(5), learned(1), atol=1e-9)


def test_equal_texts_are_one_query_and_rows_without_weight_go() -> None:
    """Two ids with one text give one row; a row of weight 0 gives none."""
    table = make_gain_table(
        queries=["same", "same", "other"],
        gain=[1.0, 0.0, 5.0],
        is_gold=[True] * 3,
        weight=[1.0, 1.0, 0.0],
    )

    assert merge_repeats(table).gain.tolist() == [0.5]


def test_a_table_without_repeats_is_returned_as_it_is() -> None:
    """Nothing is copied where nothing repeats."""
    table = make_gain_table(queries=["a", "b"], gain=[1.0, 0.0], is_gold=[True, False])

    assert merge_repeats(table) is table


@pytest.mark.parametrize("corrector", ["auto", "gold_only"])
def test_more_labels_a_query_never_make_intervals_dishonest(corrector: str) -> None:
    """With query effects that features miss, coverage holds for one and for five labels."""
    covered = {k: _coverage(corrector, k) for k in (1, 5)}

    assert covered[1] > 0.85
    assert covered[5] > 0.85


def _coverage(corrector: str, k: int) -> float:
    inside = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(400, 8)).astype(np.float32)
        psi = 0.3 * np.tanh(X[:, 0])
        effect = psi[:100] + rng.normal(0, 0.7, 100)
        model = learn_gain(_replicated(X[:100], effect, k, rng), make_corrector(corrector))
        estimate = model.predict(X[100:])
        low, high = estimate.interval()
        inside.append(((low[:, 0] < psi[100:]) & (psi[100:] < high[:, 0])).mean())
    return float(np.mean(inside))


def _replicated(X: np.ndarray, effect: np.ndarray, k: int, rng: np.random.Generator) -> GainTable:
    query = np.repeat(np.arange(len(X)), k)
    return make_gain_table(
        queries=[str(i) for i in range(len(X))],
        query=query,
        gain=effect[query] + rng.normal(0, 0.1, len(query)),
        is_gold=np.ones(len(query), dtype=bool),
        judge=np.tile(np.arange(k), len(X)),
        judges=tuple(map(str, range(k))),
        features=X,
    )
