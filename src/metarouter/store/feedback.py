"""What people and audits say about answers."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa

from metarouter.errors import InputError, shorten
from metarouter.store.database import insert_new
from metarouter.store.tables import api_keys, decisions, feedback

__all__ = [
    "Feedback",
    "FeedbackConflictError",
    "feedback_row",
    "is_of",
    "judged_model",
    "may_speak",
    "offered_models",
    "read_feedback",
    "save_feedback",
]

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class FeedbackConflictError(InputError):
    """The same feedback id was used for something else."""


class Thumbs(msgspec.Struct, tag="thumbs", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whether a user liked the answer."""

    decision_id: Annotated[str, msgspec.Meta(min_length=1, max_length=36)]
    value: Literal["up", "down"]
    feedback_id: Id | None = None
    annotator: Name | None = None


class Score(msgspec.Struct, tag="score", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A user's or a judge's score of the answer, from 0 to 1."""

    decision_id: Annotated[str, msgspec.Meta(min_length=1, max_length=36)]
    value: Annotated[float, msgspec.Meta(ge=0, le=1)]
    feedback_id: Id | None = None
    annotator: Name | None = None


class Preference(
    msgspec.Struct, tag="preference", frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Which of two models' answers to the same prompt was preferred."""

    decision_id: Annotated[str, msgspec.Meta(min_length=1, max_length=36)]
    model_a: Name
    model_b: Name
    winner: Literal["model_a", "model_b", "tie", "both_bad"]
    feedback_id: Id | None = None
    annotator: Name | None = None


class Gold(msgspec.Struct, tag="gold", frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An audit's verdict: the true score of each model's answer to the prompt."""

    decision_id: Annotated[str, msgspec.Meta(min_length=1, max_length=36)]
    scores: Annotated[dict[Name, float], msgspec.Meta(min_length=1, max_length=100)]
    feedback_id: Id | None = None
    annotator: Name | None = None


Feedback = Thumbs | Score | Preference | Gold
"""One statement about one decision; told apart by `type`."""

_DECODER: msgspec.json.Decoder[Feedback] = msgspec.json.Decoder(Feedback)
_ALLOWED = (
    "thumbs with value up or down; score with value from 0 to 1; preference with model_a, model_b "
    "and winner model_a, model_b, tie or both_bad; gold with scores, a number for each model"
)


def read_feedback(content: bytes) -> Feedback:
    r"""Read one statement from JSON.

    Raises
    ------
    InputError
        When a field is unknown, missing or wrong.

    Examples
    --------
    >>> read_feedback(b'{"type": "thumbs", "decision_id": "d", "value": "up"}').value
    'up'
    """
    try:
        found = _DECODER.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"feedback: {error}; allowed: type {_ALLOWED}") from None
    if isinstance(found, Preference) and found.model_a == found.model_b:
        raise InputError(f"feedback: model_a = model_b = {found.model_a!r}; allowed: two models")
    if isinstance(found, Gold) and not all(map(math.isfinite, found.scores.values())):
        raise InputError("feedback: scores hold a value that is not finite")
    return found


def feedback_row(given: Feedback, key_id: str | None) -> dict[str, Any]:
    """The row of a statement.

    Parameters
    ----------
    given : Feedback
        Its `feedback_id` tells repeats apart from new statements; without one,
        the same content by the same key is a repeat.
    key_id : whose key it came with, or None.
    """
    content = msgspec.to_builtins(given)
    return {
        "feedback_id": given.feedback_id or _identity(given, key_id),
        "created": time.time(),
        "decision_id": given.decision_id,
        "key_id": key_id,
        "kind": content["type"],
        "content": content,
    }


def save_feedback(
    engine: sa.Engine,
    given: Feedback,
    key_id: str | None,
    *,
    served: Collection[str] | None = None,
) -> tuple[str, bool]:
    """Write a statement; on return it is on the disk.

    Parameters
    ----------
    engine : the store's database.
    given, key_id : as in :func:`feedback_row`.
    served : optional
        Models that may be named too where the decision weighed none, as of a request
        that named its model; None: any. A decision that is not in the store yet is not
        looked at.

    Returns
    -------
    feedback_id, is_new

    Raises
    ------
    FeedbackConflictError
        When the id was used for another statement.
    InputError
        When a new statement names a model that the decision did not offer.
    """
    row = feedback_row(given, key_id)
    name = row["feedback_id"]
    with engine.begin() as connection:
        if insert_new(connection, feedback, [row]):
            _check_names(connection, given, served)  # what it raises takes the row back
            return name, True
        query = sa.select(feedback.c.content, feedback.c.key_id).filter_by(feedback_id=name)
        known = connection.execute(query).one()
    if known.content != row["content"] or known.key_id != key_id:
        raise FeedbackConflictError(f"feedback_id = {name!r} was used for another statement")
    return name, False


def _check_names(
    connection: sa.Connection, given: Feedback, served: Collection[str] | None
) -> None:
    named = _named_models(given)
    of = decisions.c
    query = sa.select(of.model, of.answered, of.options, of.propensities, of.shadow)
    query = query.where(of.decision_id == given.decision_id)
    row = connection.execute(query).mappings().one_or_none() if named else None
    if row is None:
        return
    allowed = offered_models(row)
    if not row["options"]:
        if served is None:
            return
        allowed |= set(served)
    for field, model in named:
        if model not in allowed:
            raise InputError(
                f"feedback: {field} = {shorten(model)} is no model of decision "
                f"{given.decision_id}; allowed: {', '.join(sorted(allowed))}"
            )


def _named_models(given: Feedback) -> list[tuple[str, str]]:
    """Models that a statement names, each with the field that it stands in."""
    if isinstance(given, Gold):
        return [("scores", model) for model in given.scores]
    if isinstance(given, Preference):
        return [("model_a", given.model_a), ("model_b", given.model_b)]
    return []


def offered_models(row: Mapping[Any, Any]) -> set[str]:
    """Models that a decision chose, weighed or might have drawn, and who answered.

    Parameters
    ----------
    row : of the table of decisions; columns that are not there count as empty.

    Returns
    -------
    set of str

    Examples
    --------
    >>> sorted(offered_models({"model": "small", "options": [{"model": "large"}]}))
    ['large', 'small']
    """
    weighed = (*(row.get("options") or ()), *(row.get("shadow") or ()))
    found = {row.get("model"), row.get("answered"), *(one["model"] for one in weighed)}
    return {model for model in (*found, *(row.get("propensities") or ())) if model}


def is_of(engine: sa.Engine, decision_id: str, key_id: str) -> bool:
    """Whether a decision is in the store and was made with the key."""
    if "\x00" in decision_id:  # PostgreSQL takes no such text, not even to look for it
        return False
    query = sa.select(decisions.c.key_id).filter_by(decision_id=decision_id)
    with engine.connect() as connection:
        return connection.execute(query).scalar() == key_id


def may_speak(owner: sa.ColumnElement[str | None]) -> sa.ColumnElement[bool]:
    """That a row of feedback came from who may speak about a decision.

    The key that the decision was made with, one that is an admin's now, or none, where
    the gateway asked for none. What was put aside while the store was down was not
    looked at when it came, so whoever uses feedback asks for this.

    Parameters
    ----------
    owner : the key of the decision.
    """
    admins = sa.select(api_keys.c.key_id).where(api_keys.c.is_admin)
    key = feedback.c.key_id
    return sa.or_(key.is_(None), key == owner, key.in_(admins))


def judged_model() -> sa.ColumnElement[str | None]:
    """The model whose answer feedback about a decision is about; null where nobody answered."""
    of = decisions.c
    # who asked only for a decision sent the query to the chosen model by himself
    return sa.case((of.endpoint == "route", of.model), else_=of.answered)


def _identity(given: Feedback, key_id: str | None) -> str:
    text = msgspec.json.encode([key_id, msgspec.to_builtins(given)], order="deterministic")
    return hashlib.sha256(text).hexdigest()
