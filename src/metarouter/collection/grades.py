"""``metarouter grade``: responses and their answers to rows of scores, without a judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any, TypeVar

from metarouter.collection.grading import extract, is_exact_match, is_same_number, matches
from metarouter.collection.rows import Response
from metarouter.errors import OptionError

__all__ = ["answer_rows", "code_rows", "extracted", "mean_scores"]

T = TypeVar("T")


def answer_rows(
    pairs: Iterable[tuple[Response, Any]], how: str, *, tolerance: float = 1e-6
) -> list[dict[str, Any]]:
    """Rows of scores 0 and 1 by exact match, number, or regular expression.

    Parameters
    ----------
    pairs : responses with what :func:`read_answers` gives for the same `how`.
    how : "exact", "numeric" or "regex".
    tolerance : float, relative, at least 0, for "numeric".
    """
    if not 0 <= tolerance < float("inf"):
        raise OptionError.of("tolerance", tolerance, "a number, at least 0")
    right: Mapping[str, Callable[[str, Any], bool]] = {
        "exact": is_exact_match,
        "numeric": partial(is_same_number, tolerance=tolerance),
        "regex": matches,
    }
    return [_row(response, float(right[how](response.text, answer))) for response, answer in pairs]


def code_rows(
    responses: Sequence[Response], grades: Sequence[tuple[bool, str]]
) -> list[dict[str, Any]]:
    """Rows of scores 0 and 1 from the ends of programs, with what they said."""
    return [
        _row(response, float(passed)) | {"detail": detail}
        for response, (passed, detail) in zip(responses, grades, strict=True)
    ]


def extracted(pairs: Sequence[tuple[Response, T]], pattern: str | None) -> list[tuple[Response, T]]:
    """The same with each response cut to the last match of a pattern.

    Raises
    ------
    OptionError
        When the pattern is no regular expression.
    """
    if pattern is None:
        return list(pairs)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise OptionError.of("extract", pattern, f"a regular expression ({error})") from error
    return [(replace(r, text=extract(r.text, compiled)), answer) for r, answer in pairs]


def mean_scores(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Number and mean of the scores of each model, in the order of the rows.

    Examples
    --------
    >>> mean_scores([{"model": "a", "score": 1.0}, {"model": "a", "score": 0.0}])
    [{'model': 'a', 'n': 2, 'mean_score': 0.5}]
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["model"], []).append(row["score"])
    return [
        {"model": model, "n": len(values), "mean_score": fmean(values)}
        for model, values in scores.items()
    ]


def _row(response: Response, score: float) -> dict[str, Any]:
    named = {**response.query.kept, "model": response.model}
    return {**named, "score": score, **response.counted()}
