"""How models and upstreams did: times, failures, breakers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metarouter.dashboard.estimates import finite, share_estimate
from metarouter.dashboard.traffic import TimeGrid, group_outcome
from metarouter.types import FloatArray

__all__ = ["SERVICE_COLUMNS", "attempts_view", "times_view"]

SERVICE_COLUMNS = (
    "created", "model", "answered", "outcome", "seconds", "first_byte_seconds", "decision_seconds",
)  # fmt: skip
"""Columns of the table of decisions that :func:`times_view` reads."""

Row = Mapping[str, Any]

_FEWEST = 5  # requests of a bucket that a percentile is drawn of


def times_view(rows: Sequence[Row], grid: TimeGrid) -> dict[str, Any]:
    """Median and 95th percentile of times by model, and failures.

    Parameters
    ----------
    rows : mappings with :data:`SERVICE_COLUMNS`.
    grid : TimeGrid

    Returns
    -------
    dict
        `models`: times in seconds of answers, and the share of failed requests
        with Wilson's interval; a request that nobody answered counts for the
        model that was chosen. `series`: percentiles of the whole time by
        bucket; None where a bucket has fewer than five answers. `decision`:
        times of decisions.
    """
    called = [row for row in rows if row["outcome"] != "decided"]
    by_model: defaultdict[str, list[Row]] = defaultdict(list)
    for row in called:
        by_model[row["answered"] or row["model"]].append(row)
    coarse = grid.coarser()
    ordered = sorted(by_model.items(), key=lambda item: -len(item[1]))
    return {
        "models": [{"model": model, **_model(own)} for model, own in ordered],
        "series": [{"model": model, **_series(own, coarse)} for model, own in ordered[:6]],
        "starts": coarse.starts,
        "width": coarse.width,
        "decision": _times(row["decision_seconds"] for row in rows),
        "n": len(rows),
    }


def _model(rows: Sequence[Row]) -> dict[str, Any]:
    answered = [row for row in rows if row["outcome"] == "ok"]
    failed = sum(group_outcome(row["outcome"]) == "failed" for row in rows)
    return {
        "requests": len(rows),
        "seconds": _times(row["seconds"] for row in answered),
        "first_byte": _times(row["first_byte_seconds"] for row in answered),
        "failed": failed,
        "failed_share": share_estimate(failed, len(rows)),
        "outcomes": dict(Counter(row["outcome"] for row in rows).most_common()),
    }


def _series(rows: Sequence[Row], grid: TimeGrid) -> dict[str, list[float | None]]:
    answered = [row for row in rows if row["outcome"] == "ok" and row["seconds"] is not None]
    seconds = finite([row["seconds"] for row in answered])
    created = finite([row["created"] for row in answered])
    bucket = ((created - grid.window.start) // grid.width).astype(np.int64)
    found: dict[str, list[float | None]] = {"p50": [None] * grid.n, "p95": [None] * grid.n}
    for number in np.unique(bucket[(bucket >= 0) & (bucket < grid.n)]):
        inside = seconds[bucket == number]
        if len(inside) >= _FEWEST:
            found["p50"][number], found["p95"][number] = np.quantile(inside, [0.5, 0.95]).tolist()
    return found


def _times(values: Iterable[float | None]) -> dict[str, float | None]:
    known: FloatArray = np.array([value for value in values if value is not None])
    if not len(known):
        return {"p50": None, "p95": None}
    p50, p95 = np.quantile(known, [0.5, 0.95]).tolist()
    return {"p50": p50, "p95": p95}


def attempts_view(rows: Iterable[Row], left_alone: Sequence[str], known: Sequence[str]) -> Any:
    """How tries at each upstream ended.

    Parameters
    ----------
    rows : mappings with `created` and `attempts`, newest first.
    left_alone : upstreams whose breaker is open in this process.
    known : upstreams of the settings; others were there once.

    Returns
    -------
    list of dict, one for each upstream, those of the settings first
        `failures` has the newest ten.
    """
    tries: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for attempt in row["attempts"] or ():
            tries[attempt["upstream"]].append({**attempt, "created": row["created"]})
    names = [*known, *(name for name in tries if name not in known)]
    return [
        {"upstream": name, "is_open": name in left_alone, "is_known": name in known}
        | _upstream(tries[name])
        for name in names
    ]


def _upstream(tries: Sequence[Row]) -> dict[str, Any]:
    failures = [attempt for attempt in tries if attempt["outcome"] != "ok"]
    return {
        "tries": len(tries),
        "failed_share": share_estimate(len(failures), len(tries)),
        "seconds": _times(attempt["seconds"] for attempt in tries if attempt["outcome"] == "ok"),
        "outcomes": dict(Counter(attempt["outcome"] for attempt in tries).most_common()),
        "failures": failures[:10],
    }
