"""Topics of queries: clusters of their features, named by their words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from metarouter.gain.extras import import_train
from metarouter.types import BoolArray, FloatArray, IntArray

__all__ = ["find_topics"]

_WORD = re.compile(r"[^\W\d_]{3,}")
_NAME_WORDS = 3
_READ_TEXTS = 3_000  # texts read for clusters and names


def find_topics(
    features: FloatArray, texts: Sequence[str], n_topics: int, *, seed: int = 0
) -> list[tuple[str, BoolArray]]:
    """Part queries into topics by k-means on their features.

    Parameters
    ----------
    features : array, shape (n, d)
    texts : sequence of n str, for the names.
    n_topics : int
        Fewer than two gives no topics, nor do features of fewer kinds.
    seed : int, default 0

    Returns
    -------
    list of (name, bool array of shape (n,))
        Topics without members are left out. A name is the three most
        distinctive words, or a number where the texts have none.

    Notes
    -----
    A word scores ``share in topic · log²(share in topic / share in all)``, shares
    of texts that hold it: tf-idf with topics as documents, squared so that
    words found everywhere stay out.

    References
    ----------
    Arthur and Vassilvitskii (2007), k-means++: the advantages of careful
    seeding, https://dl.acm.org/doi/10.5555/1283383.1283494.

    Examples
    --------
    >>> texts = ["a proof of the theorem"] * 3 + ["bake the fresh bread"] * 3
    >>> features = np.array([[0.0], [0.1], [0.0], [5.0], [5.1], [5.0]])
    >>> sorted(name for name, _ in find_topics(features, texts, 2))
    ['bake, bread, fresh', 'proof, theorem']
    """
    if n_topics < 2 or len(np.unique(features[:_READ_TEXTS], axis=0)) < n_topics:
        return []
    topic = _cluster(features, n_topics, seed)
    read = np.unique(np.linspace(0, len(texts) - 1, _READ_TEXTS).astype(np.int64))
    names = _names([texts[i] for i in read], topic[read], n_topics)
    return [(names[k], topic == k) for k in range(n_topics) if (topic == k).any()]


def _cluster(features: FloatArray, n_topics: int, seed: int) -> IntArray:
    cluster = import_train("sklearn.cluster", "topics of a bias map")
    read = np.random.default_rng(seed).permutation(len(features))[:_READ_TEXTS]
    model = cluster.KMeans(n_clusters=n_topics, n_init=2, random_state=seed).fit(features[read])
    return np.asarray(model.predict(features), dtype=np.int64)


def _names(texts: Sequence[str], topic: IntArray, n_topics: int) -> list[str]:
    words = [set(_WORD.findall(text.lower())) for text in texts]
    everywhere = Counter(word for held in words for word in held)
    names = []
    for k in range(n_topics):
        inside = [held for held, own in zip(words, topic, strict=True) if own == k]
        count = Counter(word for held in inside for word in held)
        score = {
            word: n / len(inside) * np.log(lift) ** 2
            for word, n in count.items()
            if n > 1 and (lift := n / len(inside) / (everywhere[word] / len(texts))) > 1
        }
        best = sorted(score, key=lambda word: (-score[word], word))
        names.append(", ".join(best[:_NAME_WORDS]) or f"topic {k + 1}")
    return names
