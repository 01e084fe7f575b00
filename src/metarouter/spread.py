"""How much more widely a fit predicts its own queries than queries to come.

Features and gain model follow the queries they are fitted on: principal components lie along
them, and labels pull predictions towards themselves. Queries to come lie nearer to the centre,
and so do their predicted gains. A threshold that sends a tenth of the former sends fewer than a
tenth of the latter.

How much nearer is measured by a fit on one half of the queries, which predicts both halves. It
has half as much to learn from as the fit whose spread is wanted, and follows it more; what is
lost shrinks with the number of queries by a power that was chosen on MMLU-Pro (docs/policy.md).
What does *not* work better, for five times the fits: the place of each held-out prediction among
those of its fold, which holds for any shape and has the noise of every place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.features.pipeline import FeaturePipeline
from metarouter.labels.split import split_by_query, take_queries
from metarouter.labels.table import GainTable
from metarouter.records import GainEstimate
from metarouter.types import FloatArray, IntArray

__all__ = ["draw_in", "spread_ratio"]

_MIN_QUERIES = 40  # fewer cannot be halved
_MOST = 500  # queries of each kind, with gold and without, that the two halves hold at most
_ROUNDING = 1e-9  # of the largest gain: what varies less does not vary
_POWER = 0.75  # of n, with which 1 − ratio shrinks
_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")


class _Fitted(Protocol):
    def predict(self, features: NDArray[Any]) -> GainEstimate: ...


def spread_ratio(
    table: GainTable,
    make_features: Callable[[], FeaturePipeline],
    learn: Callable[[GainTable], _Fitted],
    *,
    seed: int = 0,
) -> FloatArray:
    """Standard deviation of gains predicted for new queries, over that for a fit's own.

    Assumes that new queries come from where the table's did, and that both deviations are about
    one mean.

    Parameters
    ----------
    table : GainTable
        Features that it may hold are not used.
    make_features : callable without arguments
        Gives an unfitted feature pipeline.
    learn : callable
        Corrects a table with features and fits a gain model to it.
    seed : int, default 0
        Draws the half, and 500 queries of each kind where there are more.

    Returns
    -------
    array, shape (n_models − 1,), above 0 and at most 1
        1 for a gain that is predicted to be the same for every query, and where there are fewer
        than 40 queries, or labels too few for a fit to half of them.

    Notes
    -----
    With m of the n queries in the half, and s_new/s_own what its fit shows on the other queries
    and on them, ``1 − (1 − s_new/s_own)(m/n)^0.75``, at most 1: what a fit knows of new queries
    does not tell them further apart than its own.

    Examples
    --------
    >>> from metarouter.fitting import FitOptions
    >>> from metarouter.testing import make_world
    >>> options = FitOptions(corrector="none", gain_model="ridge", embedder="hashed:1024")
    >>> table = make_world(n_queries=100, n_gold=100, n_test=0).table
    >>> ratio = spread_ratio(table, options.make_features, options.learn)
    >>> ratio.shape, bool(ratio[0] < 0.95)
    ((1,), True)
    """
    rng = np.random.default_rng(seed)
    unknown = np.ones(len(table.models) - 1)
    if len(set(table.queries)) < _MIN_QUERIES:
        return unknown
    first, second = split_by_query(take_queries(table, _drawn(table, rng)), 0.5, rng)
    try:
        own, new = _predicted(first, second, make_features, learn)
    except DataError:  # the whole could be fitted: a half of it holds too few labels
        return unknown
    s_own, s_new = own.std(axis=0), new.std(axis=0)
    varies = s_own > _ROUNDING * np.abs(own).max(axis=0)
    ratio = np.divide(s_new, s_own, out=unknown, where=varies)
    ratio = 1.0 - (1.0 - ratio) * (first.n_queries / table.n_queries) ** _POWER
    return np.asarray(np.minimum(ratio, 1.0))


def draw_in(gains: FloatArray, known: FloatArray, ratio: FloatArray) -> FloatArray:
    """Gains at the places that new queries would have among those of a fit's own queries.

    Places rather than gains are drawn in, so that gains that come in clumps stay in them.

    Parameters
    ----------
    gains : array, shape (n, n_models − 1)
    known : array, shape (n_known, n_models − 1); gains of all of the fit's own queries.
    ratio : array, shape (n_models − 1,); what :func:`spread_ratio` gives.

    Returns
    -------
    array, of the shape of `gains`
        In the same order; equal gains stay equal, and with a ratio of 1 known ones as they are.

    Notes
    -----
    Of rank p among the known gains, the gain of rank p′ with ``logit p′ = ratio · logit p``.

    Examples
    --------
    >>> gains = np.linspace(0, 1, 11)[:, None]
    >>> draw_in(gains, gains, np.array([0.5])).ravel()[[0, 5, 10]].round(2).tolist()
    [0.18, 0.5, 0.82]
    """
    drawn = np.empty_like(gains)
    for m, column in enumerate(np.sort(known, axis=0).T):
        if column[-1] - column[0] <= _ROUNDING * np.abs(column).max():
            drawn[:, m] = column[-1]  # one gain for all, which rounding must not tell apart
            continue
        below, up_to = (np.searchsorted(column, gains[:, m], side=side) for side in _SIDES)
        rank = (below + up_to + 1) / (2.0 * (len(column) + 1))
        odds = (rank / (1.0 - rank)) ** ratio[m]
        place = odds / (1.0 + odds) * (len(column) + 1) - 1.0
        drawn[:, m] = np.interp(place, np.arange(len(column)), column)
    return drawn


def _drawn(table: GainTable, rng: np.random.Generator) -> IntArray:
    """At most 500 queries with gold labels, and 500 without."""
    has_gold = np.zeros(table.n_queries, dtype=np.bool_)
    has_gold[table.query[table.is_gold]] = True
    kinds = (np.flatnonzero(has_gold), np.flatnonzero(~has_gold))
    return np.sort(np.concatenate([rng.permutation(kind)[:_MOST] for kind in kinds]))


def _predicted(
    first: GainTable,
    second: GainTable,
    make_features: Callable[[], FeaturePipeline],
    learn: Callable[[GainTable], _Fitted],
) -> tuple[FloatArray, FloatArray]:
    """What a fit to the first table says of its queries, and of the second's."""
    stage = make_features().fit(first.queries)
    known = stage.transform(first.queries)
    model = learn(first.with_features(known))
    new = model.predict(stage.transform(second.queries)).mean
    own = model.predict(known).mean
    return own.reshape(len(own), -1), new.reshape(len(new), -1)
