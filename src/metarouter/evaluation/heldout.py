"""Held-out gold labels as the matrix that an evaluation works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from metarouter.errors import DataError
from metarouter.labels.contestants import judged_by_contestant, model_key
from metarouter.labels.queries import hash_queries
from metarouter.labels.repeats import first_of_text
from metarouter.labels.table import GainTable
from metarouter.types import BoolArray, FloatArray

__all__ = ["HeldOut", "read_held_out", "read_unseen"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Gold quality of every model's answer to every held-out query.

    Parameters
    ----------
    queries : tuple of str, shape (n,)
    domains : tuple of str, shape (n,); "" where unknown.
    models : tuple of str; the first is the reference model.
    quality : float array, shape (n, n_models)
        Gold scores where they are known (`is_absolute`), else gains over the
        reference model, whose column is then 0.
    is_absolute : bool
    is_self_judged : bool array, shape (n,)
        Where a gold label is the verdict of one of these models on an answer of its own.
    n_incomplete : int, queries left out because a model had no gold label.
    """

    queries: tuple[str, ...]
    domains: tuple[str, ...]
    models: tuple[str, ...]
    quality: FloatArray
    is_absolute: bool
    is_self_judged: BoolArray
    n_incomplete: int = 0

    @property
    def n_self_judged(self) -> int:
        """Queries with a gold label that is a model's verdict on an answer of its own."""
        return int(self.is_self_judged.sum())

    def keep(self, which: BoolArray) -> HeldOut:
        """The queries where `which`, shape (n,), is true."""
        chosen = np.flatnonzero(which)
        return HeldOut(
            queries=tuple(self.queries[i] for i in chosen),
            domains=tuple(self.domains[i] for i in chosen),
            models=self.models,
            quality=self.quality[chosen],
            is_absolute=self.is_absolute,
            is_self_judged=self.is_self_judged[chosen],
            n_incomplete=self.n_incomplete,
        )


class FittedRouter(Protocol):
    """What tells which gold labels are held out, and how to read them."""

    @property
    def models(self) -> tuple[str, ...]:
        """Model names, the reference model first."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it was fitted on; `score_range` where its labels were read with one."""
        ...

    @property
    def query_hashes(self) -> NDArray[np.uint64] | None:
        """Hashes of the queries it was fitted on; None where it does not know."""
        ...


def read_held_out(
    gold: Any, models: Sequence[str], *, score_range: tuple[float, float] | None = None
) -> HeldOut:
    """Read gold labels of the `models` of a router.

    Parameters
    ----------
    gold : path, list of paths, data frame, iterable of dicts, or GainTable
        In the *scores* or the *gains* form; preference labels are not held-out
        truth, so rows of a table that are not gold are left out. Queries of equal
        text count as one, whatever their ids.
    models : names, the reference model first.
    score_range : (low, high), optional
        Range of the scores, which becomes 0 to 1; a table is in gain units already.

    Raises
    ------
    DataError
        When a model has no gold label, or no query has one for every model.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b"], gain=[1, 0], is_gold=[True, True])
    >>> read_held_out(table, ["cheap", "premium"]).quality.tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    table = _table(gold, models, score_range).gold()
    table = replace(table, query=first_of_text(table)[table.query])
    missing = [name for name in models if name not in table.models]
    if missing:
        raise DataError(
            f"the gold labels know nothing of {', '.join(missing)}: they are about "
            f"{', '.join(table.models)}; give labels of the router's models"
        )
    codes = [table.models.index(name) for name in models]
    scores, gains = _scores(table, codes), _gains(table, codes)
    is_absolute = np.isfinite(scores).all(axis=1).sum() >= np.isfinite(gains).all(axis=1).sum()
    quality = scores if is_absolute else gains
    complete = np.asarray(np.isfinite(quality).all(axis=1))
    if not complete.any():
        raise DataError(f"no query has gold labels for all of {', '.join(models)}")
    labelled = np.zeros(table.n_queries, dtype=np.bool_)
    labelled[table.query] = True
    held_out = HeldOut(
        queries=table.queries,
        domains=tuple(table.domains[i] if i >= 0 else "" for i in table.domain),
        models=tuple(models),
        quality=quality,
        is_absolute=bool(is_absolute),
        is_self_judged=_self_judged(table, models),
        n_incomplete=int((labelled & ~complete).sum()),
    )
    return held_out.keep(complete)


def read_unseen(router: FittedRouter, gold: Any) -> tuple[HeldOut, str]:
    """The gold labels of queries that a router was not fitted on.

    Parameters
    ----------
    router : FittedRouter
        Its models, the score range of its labels, and the queries that it saw.
    gold : as in :func:`read_held_out`

    Returns
    -------
    HeldOut
    str
        One clause that counts the queries left out; "" when there are none.

    Raises
    ------
    DataError
        When the router was fitted on all of them, or as in :func:`read_held_out`.
    """
    score_range = router.facts.get("score_range")
    held_out = read_held_out(
        gold, router.models, score_range=None if score_range is None else tuple(score_range)
    )
    hashes = router.query_hashes
    if hashes is None:
        return held_out, ""
    fresh = ~np.isin(hash_queries(held_out.queries), hashes)
    n_seen = int((~fresh).sum())
    if not n_seen:
        return held_out, ""
    if not fresh.any():
        raise DataError(
            f"the router was fitted on all {n_seen} of these queries, on gold or on votes: they "
            "cannot tell what it is worth; give gold labels of other queries, such as `metarouter "
            "labels split` keeps out of both"
        )
    return held_out.keep(fresh), (
        f"{n_seen} of {len(fresh)} queries were among the training queries and are left out"
    )


def _table(gold: Any, models: Sequence[str], score_range: tuple[float, float] | None) -> GainTable:
    if isinstance(gold, GainTable):
        return gold
    from metarouter.labels import read_gain_table

    if len(models) > 2:
        return read_gain_table(gold, score_range=score_range)[0]
    cheap, premium = models
    return read_gain_table(gold, cheap=cheap, premium=premium, score_range=score_range)[0]


def _scores(table: GainTable, codes: Sequence[int]) -> FloatArray:
    """Weighted mean gold score, shape (n_queries, n_models); NaN where unknown."""
    sides = (
        (table.candidate, table.candidate_score),
        (table.baseline, table.baseline_score),
    )
    columns = []
    for code in codes:
        rows = [(side == code) & np.isfinite(score) for side, score in sides]
        query = np.concatenate([table.query[keep] for keep in rows])
        value = np.concatenate([s[1][keep] for s, keep in zip(sides, rows, strict=True)])
        weight = np.concatenate([table.weight[keep] for keep in rows])
        columns.append(_weighted_mean(query, value, weight, table.n_queries))
    return np.column_stack(columns)


def _gains(table: GainTable, codes: Sequence[int]) -> FloatArray:
    """Weighted mean gain over the reference model; its own column is 0."""
    columns = [np.zeros(table.n_queries)]
    for code in codes[1:]:
        up = (table.candidate == code) & (table.baseline == codes[0])
        down = (table.candidate == codes[0]) & (table.baseline == code)
        keep = up | down
        gain = np.where(up, table.gain, -table.gain)[keep]
        columns.append(_weighted_mean(table.query[keep], gain, table.weight[keep], table.n_queries))
    return np.column_stack(columns)


def _self_judged(table: GainTable, models: Sequence[str]) -> BoolArray:
    """Queries with a row by one of `models` about an answer of its own, shape (n_queries,)."""
    keys = {model_key(name) for name in models}
    # one more entry at the end, for the rows of judge −1: nobody
    is_ours = np.array([model_key(name) in keys for name in (*table.judges, "")])
    own = judged_by_contestant(table) & is_ours[table.judge]
    found = np.zeros(table.n_queries, dtype=np.bool_)
    found[table.query[own]] = True
    return found


def _weighted_mean(query: Any, value: FloatArray, weight: FloatArray, n: int) -> FloatArray:
    total = np.bincount(query, weight * value, minlength=n)
    mass = np.bincount(query, weight, minlength=n)
    mean: FloatArray = np.divide(total, mass, out=np.full(n, np.nan), where=mass > 0)
    return mean
