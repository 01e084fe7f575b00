"""Nearness of tested prompts to training prompts."""

from __future__ import annotations

import numpy as np

from metarouter.benchmark.similarity import measure_similarity, similarity_over_folds
from metarouter.features import make_embedder

TRAIN = ["How many apples are left?", "Prove the theorem of Rolle.", "Write a short poem."]
TEST = ["how  many apples ARE left?", "Is water wet?"]


def test_the_largest_cosine_is_that_of_plain_loops() -> None:
    embedder = make_embedder("static")
    found = measure_similarity(TEST, TRAIN, embedder)
    a, b = embedder.embed(TEST), embedder.embed(TRAIN)
    for i, row in enumerate(a):
        cosines = [row @ c / np.linalg.norm(row) / np.linalg.norm(c) for c in b]
        assert abs(found.largest[i] - max(cosines)) < 1e-5
    assert abs(found.mean - found.largest.mean()) < 1e-12


def test_the_same_words_count_as_contaminated_whatever_case_and_spaces() -> None:
    found = measure_similarity(TEST, TRAIN, make_embedder("static"))
    assert found.identical.tolist() == [True, False]
    assert found.contaminated.tolist() == [True, False]


def test_near_copies_count_as_contaminated() -> None:
    found = measure_similarity(
        ["Write a short poem!", "Is water wet?"], ["Write a short poem."], make_embedder("static")
    )
    assert not found.identical.any()
    assert found.largest[0] >= 0.95
    assert found.contaminated.tolist() == [True, False]


def test_nothing_to_learn_from_is_near_nothing() -> None:
    found = measure_similarity(TEST, [], make_embedder("static"))
    assert np.isnan(found.largest).all()
    assert not found.contaminated.any()


def test_each_fold_is_compared_with_its_own_training_prompts() -> None:
    """All folds together are the folds one by one."""
    prompts = [*TRAIN, *TEST]
    folds = [(np.array([0, 4]), np.array([1, 3])), (np.array([2]), np.array([0, 1]))]
    embedder = make_embedder("static")
    found = similarity_over_folds(prompts, folds, embedder)
    parts = [
        measure_similarity([prompts[i] for i in test], [prompts[i] for i in train], embedder)
        for test, train in folds
    ]
    np.testing.assert_allclose(found.largest, np.concatenate([p.largest for p in parts]), rtol=1e-5)
    assert found.identical.tolist() == [True, False, False]
