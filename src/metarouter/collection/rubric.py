"""Grade by a rubric: a judge decides each criterion, and the points make the score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metarouter.collection.answers import Criterion
from metarouter.collection.calls import Call
from metarouter.collection.judging import Answers, Judge
from metarouter.collection.money import to_usd
from metarouter.collection.responses import short_label
from metarouter.collection.rows import Response
from metarouter.collection.verdicts import read_met
from metarouter.providers.chat import ChatAnswer

__all__ = ["RubricGrade", "rubric_grades", "rubric_score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RubricGrade:
    """A response, the criteria, and one call for each."""

    response: Response
    criteria: tuple[Criterion, ...]
    criterion_calls: tuple[Call, ...]

    def calls(self) -> tuple[Call, ...]:
        """One call a criterion."""
        return self.criterion_calls

    def row(self, answers: Answers) -> dict[str, Any] | None:
        """The score; None unless every criterion can be read."""
        met: list[bool] = []
        for call in self.criterion_calls:
            verdict = None if call.key not in answers else read_met(answers[call.key][0])
            if verdict is None:
                return None
            met.append(verdict)
        points = [criterion.points for criterion in self.criteria]
        raw = rubric_score(points, met)
        return {
            **self.response.query.kept,
            "model": self.response.model,
            "score": min(1.0, max(0.0, raw)),
            "raw_score": raw,
            **self.response.counted(),
            "judge": self.criterion_calls[0].target.name,
            "met": met,
            "cost_usd": to_usd(sum(answers[call.key][1] for call in self.criterion_calls)),
        }


def rubric_score(points: Sequence[float], met: Sequence[bool]) -> float:
    """Points of the criteria that are met, over the sum of the positive points.

    Parameters
    ----------
    points : of each criterion; at least one is positive.
    met : whether each criterion is met.

    Returns
    -------
    float, at most 1; negative when undesirable criteria outweigh the others.

    References
    ----------
    Arora et al. (2025), HealthBench, https://arxiv.org/abs/2505.08775

    Examples
    --------
    >>> rubric_score([5, 3, -4], [True, False, True])
    0.125
    """
    total = sum(point for point in points if point > 0)
    return sum(point for point, is_met in zip(points, met, strict=True) if is_met) / total


def rubric_grades(
    pairs: Sequence[tuple[Response, tuple[Criterion, ...]]], judge: Judge
) -> list[RubricGrade]:
    """One call for each response and criterion."""
    return [
        RubricGrade(
            response=response,
            criteria=criteria,
            criterion_calls=tuple(
                _call(judge, response, i, criterion) for i, criterion in enumerate(criteria, 1)
            ),
        )
        for response, criteria in pairs
    ]


def _call(judge: Judge, response: Response, number: int, criterion: Criterion) -> Call:
    values = {
        "query": response.query.text,
        "response": response.text,
        "criterion": criterion.text,
    }
    label = f"{short_label(response.query)} · {response.model} · criterion {number}"
    return judge.call(label, values, is_readable=_is_decided)


def _is_decided(answer: ChatAnswer) -> bool:
    return read_met(answer) is not None
