"""Nearness of tested prompts to training prompts."""

from __future__ import annotations

import numpy as np

from metarouter.benchmark.similarity import measure_similarity
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
        ["Write a short poem!"], ["Write a short poem."], make_embedder("static")
    )
    assert not found.identical.any()
    assert found.contaminated.all() == (found.largest[0] >= 0.95)


def test_nothing_to_learn_from_is_near_nothing() -> None:
    found = measure_similarity(TEST, [], make_embedder("static"))
    assert np.isnan(found.largest).all()
    assert not found.contaminated.any()
