"""Queries are different texts whose topic and difficulty can be read."""

from __future__ import annotations

import numpy as np
import pytest

from metarouter.errors import OptionError
from metarouter.testing import make_queries
from metarouter.testing._grammar import TOPICS


def test_texts_differ_and_cover_topics_and_levels() -> None:
    """No text comes twice; all topics and levels occur; no slot is left open."""
    queries = make_queries(5000, np.random.default_rng(1))
    assert len(set(queries.texts)) == 5000
    assert set(queries.topic.tolist()) == set(range(len(TOPICS)))
    assert set(queries.difficulty.tolist()) == {0.0, 0.5, 1.0}
    assert not any("{" in text or "}" in text for text in queries.texts)


def test_length_is_about_standard() -> None:
    """The length covariate has mean near 0 and spread near 1."""
    length = make_queries(5000, np.random.default_rng(2)).length
    assert abs(length.mean()) < 0.5
    assert 0.5 < length.std() < 1.5


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_topic_is_complete(topic: object) -> None:
    """Details have a count prime to the steps, so that no sentence comes twice."""
    index = [t is topic for t in TOPICS].index(True)
    words = TOPICS[index]
    assert len(words.details) == 6
    assert len(set(words.a)) == len(set(words.b)) == 8
    assert -1 <= words.judge_taste <= 1


def test_no_query_is_refused() -> None:
    """Zero queries is an error."""
    with pytest.raises(OptionError, match="n = 0"):
        make_queries(0, np.random.default_rng(0))
