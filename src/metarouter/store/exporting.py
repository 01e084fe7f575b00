"""Feedback as label files for `fit`: preferences as votes, audits as gold scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from metarouter.store.tables import decisions, feedback

__all__ = ["ExportedLabels", "export_labels"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedLabels:
    """Rows of the two label files, and what was left out.

    Attributes
    ----------
    votes : rows of the form *votes*, from statements of the type preference.
    scores : rows of the form *scores*, from statements of the type gold.
    without_prompt : statements about decisions whose prompt was not kept.
    without_pair : thumbs and scores of one answer, which compare nothing.
    """

    votes: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    without_prompt: int = 0
    without_pair: int = 0


def export_labels(engine: sa.Engine) -> ExportedLabels:
    """Labels from what people and audits said, oldest first.

    Returns
    -------
    ExportedLabels
        The gold rows are those of audits. Whether they are a random sample of
        the traffic is for who audits to know.
    """
    votes: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    without_prompt = without_pair = 0
    for kind, content, prompt in _statements(engine):
        if kind not in ("preference", "gold"):
            without_pair += 1
        elif prompt is None:
            without_prompt += 1
        elif kind == "preference":
            names = ("model_a", "model_b", "winner")
            votes.append({"query": prompt, **{name: content[name] for name in names}})
        else:
            scored = content["scores"].items()
            scores += ({"query": prompt, "model": name, "score": value} for name, value in scored)
    return ExportedLabels(
        votes=votes, scores=scores, without_prompt=without_prompt, without_pair=without_pair
    )


def _statements(engine: sa.Engine) -> Iterator[tuple[str, dict[str, Any], str | None]]:
    joined = feedback.outerjoin(decisions, feedback.c.decision_id == decisions.c.decision_id)
    columns = (feedback.c.kind, feedback.c.content, decisions.c.prompt)
    query = sa.select(*columns).select_from(joined)
    with engine.connect() as connection:
        for row in connection.execute(query.order_by(feedback.c.created)):
            yield row.kind, row.content, row.prompt
