"""Where a router is right: slices of queries, single queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metarouter.evaluation.heldout import HeldOut
from metarouter.evaluation.intervals import mean_interval
from metarouter.records import Decision, Estimate
from metarouter.types import FloatArray, IntArray

__all__ = [
    "Example",
    "SliceValue",
    "pick_examples",
    "slice_values",
]

_MIN_SLICE = 15
_MAX_DOMAINS = 12
_EXCERPT = 280
_PER_KIND = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceValue:
    """A part of the queries, and how the router does there.

    Attributes
    ----------
    dimension, level : for instance "domain", "law".
    n : queries.
    premium_share : share sent away from the reference model.
    gain : mean gold gain of the best candidate by prediction over the
        reference model: what there is to win.
    loss : mean quality of the premium model minus the router's; positive: the
        router gives that much away. Intervals of all slices hold jointly.
    """

    dimension: str
    level: str
    n: int
    premium_share: float
    gain: float
    loss: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One held-out query and what the router did with it.

    `regret` is the gold quality of the best model minus the chosen model's.
    """

    kind: str
    query: str
    model: str
    predicted_gain: float
    predicted_gain_std: float
    gain: float
    regret: float
    reason: str


def slice_values(
    held_out: HeldOut, choice: IntArray, gain: FloatArray, premium: int, level: float = 0.95
) -> list[SliceValue]:
    """Quality by domain and by length of the query.

    Parameters
    ----------
    held_out : HeldOut
    choice : int array, shape (n,), index of the chosen model.
    gain : array, shape (n,), gold gain of the candidate that was weighed.
    premium : int, index of the premium model.
    level : float, default 0.95
        Probability that all intervals hold at once.

    Notes
    -----
    Bonferroni over the slices. Slices of fewer than 15 queries are left out,
    domains beyond the twelve largest too.
    """
    groups = [
        *_by_domain(held_out.domains),
        *_by_length(np.asarray([len(text) for text in held_out.queries])),
    ]
    rows = np.arange(len(choice))
    loss = held_out.quality[:, premium] - held_out.quality[rows, choice]
    joint = 1 - (1 - level) / max(len(groups), 1)
    return [
        SliceValue(
            dimension=dimension,
            level=name,
            n=len(part),
            premium_share=float((choice[part] != 0).mean()),
            gain=float(gain[part].mean()),
            loss=mean_interval(loss[part], joint),
        )
        for dimension, name, part in groups
    ]


def _by_domain(domains: Sequence[str]) -> list[tuple[str, str, IntArray]]:
    names, code, count = np.unique(np.asarray(domains), return_inverse=True, return_counts=True)
    largest = sorted(range(len(names)), key=lambda i: (-count[i], names[i]))
    return [
        ("domain", str(names[i]), np.flatnonzero(code == i))
        for i in largest[:_MAX_DOMAINS]
        if names[i] and count[i] >= _MIN_SLICE and len(names) > 1
    ]


def _by_length(length: IntArray) -> list[tuple[str, str, IntArray]]:
    low, high = (int(value) for value in np.quantile(length, [1 / 3, 2 / 3]))
    parts = (
        (f"up to {low:,} characters", length <= low),
        (f"{low + 1:,} to {high:,} characters", (length > low) & (length <= high)),
        (f"over {high:,} characters", length > high),
    )
    return [
        ("length", name, np.flatnonzero(part)) for name, part in parts if part.sum() >= _MIN_SLICE
    ]


def pick_examples(
    held_out: HeldOut,
    decisions: Sequence[Decision],
    gain: FloatArray,
) -> list[Example]:
    """Queries that the router was surest about, and its costliest mistakes.

    Parameters
    ----------
    held_out : HeldOut
    decisions : one for each query.
    gain : array, shape (n,), gold gain of the candidate that was weighed.
    """
    models = list(held_out.models)
    choice = np.asarray([models.index(decision.model) for decision in decisions])
    predicted = np.asarray([decision.predicted_gain for decision in decisions])
    rows = np.arange(len(choice))
    regret = held_out.quality.max(axis=1) - held_out.quality[rows, choice]
    to_premium = choice != 0
    wasted = np.where(to_premium, -gain, -np.inf)
    missed = np.where(to_premium, -np.inf, regret)
    kinds = (
        ("surest of the premium model", np.where(to_premium, predicted, -np.inf), -np.inf),
        ("surest of the cheap model", np.where(to_premium, -np.inf, -predicted), -np.inf),
        ("premium call that made it worse", wasted, 0.0),
        ("cheap call that cost quality", missed, 0.0),
    )
    return [
        _example(kind, int(i), held_out, decisions[i], float(gain[i]), float(regret[i]))
        for kind, worth, floor in kinds
        for i in np.argsort(-worth, kind="stable")[:_PER_KIND]
        if worth[i] > floor
    ]


def _example(
    kind: str, i: int, held_out: HeldOut, decision: Decision, gain: float, regret: float
) -> Example:
    return Example(
        kind=kind,
        query=excerpt(held_out.queries[i]),
        model=decision.model,
        predicted_gain=decision.predicted_gain,
        predicted_gain_std=decision.predicted_gain_std,
        gain=gain,
        regret=regret,
        reason=decision.reason,
    )


def excerpt(text: str, limit: int = _EXCERPT) -> str:
    """The text on one line, cut at a space before `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0] + " …"
