"""Real-looking queries, written from a grammar, whose difficulty can be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metarouter.errors import OptionError
from metarouter.testing._grammar import TOPICS, Topic
from metarouter.types import FloatArray, IntArray

__all__ = ["QuerySet", "make_queries"]

_DRAWS = 11  # integers that one query uses: topic, level, stem, 2 slots, 6 for details
_LEVELS = (0, 0, 0, 1, 1, 1, 2, 2)  # three eighths easy, three middling, two hard
_DETAIL_COUNTS = (0, 0, 0, 1, 1, 2, 3, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuerySet:
    """Texts and what they are about.

    Attributes
    ----------
    texts : tuple of str, all different.
    topics : tuple of str, the names that `topic` indexes.
    topic : int array, shape (n,).
    difficulty : float array, shape (n,); 0 easy, 0.5 middling, 1 hard.
    length : float array, shape (n,); (ln characters − 4.6) / 0.6, about standard.
    """

    texts: tuple[str, ...]
    topics: tuple[str, ...]
    topic: IntArray
    difficulty: FloatArray
    length: FloatArray


def make_queries(n: int, rng: np.random.Generator) -> QuerySet:
    """Write `n` different queries over nine topics and three levels of difficulty.

    Parameters
    ----------
    n : int
        Number of queries, at least 1.
    rng : numpy Generator
        The only source of randomness.

    Returns
    -------
    QuerySet

    Raises
    ------
    OptionError
        When `n` is below 1.

    Examples
    --------
    >>> queries = make_queries(3, np.random.default_rng(0))
    >>> len(set(queries.texts)), queries.difficulty.shape
    (3, (3,))
    """
    if n < 1:
        raise OptionError.of("n", n, "an integer of at least 1")
    written: dict[str, tuple[int, int]] = {}
    while len(written) < n:
        for draw in rng.integers(0, 2**31, size=(n - len(written), _DRAWS)).tolist():
            text, topic, level = _write(draw)
            written.setdefault(text, (topic, level))
    labels = np.array(list(written.values()))
    characters = np.array([len(text) for text in written])
    return QuerySet(
        texts=tuple(written),
        topics=tuple(topic.name for topic in TOPICS),
        topic=labels[:, 0],
        difficulty=labels[:, 1] / 2,
        length=(np.log(characters) - 4.6) / 0.6,
    )


def _write(draw: list[int]) -> tuple[str, int, int]:
    index = draw[0] % len(TOPICS)
    level = _LEVELS[draw[1] % len(_LEVELS)]
    topic = TOPICS[index]
    stems = topic.stems[level]
    sentences = [stems[draw[2] % len(stems)], *_details(topic, draw[5:])]
    text = " ".join(sentences).format(
        a=topic.a[draw[3] % len(topic.a)],
        b=topic.b[draw[4] % len(topic.b)],
        n=2 + draw[10] % 97,
    )
    return text, index, level


def _details(topic: Topic, draw: list[int]) -> list[str]:
    count = _DETAIL_COUNTS[draw[0] % len(_DETAIL_COUNTS)]
    start = draw[1] % len(topic.details)
    step = (1, 5)[draw[2] % 2]  # both are prime to 6: no sentence comes twice
    return [topic.details[(start + step * i) % len(topic.details)] for i in range(count)]
