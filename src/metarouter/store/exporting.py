"""Feedback as label files for `fit`: audits as gold, what users say as preferences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from metarouter.store.feedback import judged_model, may_speak, offered_models
from metarouter.store.tables import decisions, feedback

__all__ = [
    "PLAYGROUND",
    "Claim",
    "ExportedLabels",
    "Statement",
    "export_labels",
    "list_claims",
    "read_offered",
    "read_statements",
    "sort_statements",
]

Row = dict[str, Any]
Subject = tuple[str, ...]

PLAYGROUND = "playground"
"""Annotator of votes from the dashboard, given with the models' names in sight."""
_THUMBS = {"up": 1.0, "down": 0.0}
_SWAPPED = {"model_a": "model_b", "model_b": "model_a"}
# Users are judges of their own: their bias is not that of other preference labels.
_JUDGES = {"preference": "user votes", "thumbs": "user thumbs", "score": "user scores"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """What somebody said, with what the store knows of the answer.

    Attributes
    ----------
    kind, content : as the caller sent them; see ``/v1/feedback``.
    created : seconds since 1970.
    decision_id, key_id : what it is about, and whose key it came with.
    is_known : whether the decision is in the store, and the speaker may speak about it.
    prompt : None where prompts are not kept.
    answered : the model that wrote the answer; None where nobody answered.
    decided : seconds since 1970, of the decision; None where unknown.
    prompt_tokens, completion_tokens : of that answer, where counted.
    conversation : its identity; None where unknown.
    """

    kind: str
    content: Mapping[str, Any]
    created: float
    decision_id: str
    key_id: str | None = None
    is_known: bool = True
    prompt: str | None = None
    answered: str | None = None
    decided: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    conversation: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedLabels:
    """Rows of the label files, and what became of everything else.

    A claim is what one speaker says about one answer, or about one pair of
    answers, in one statement; an audit of three models makes three.

    Attributes
    ----------
    scores : gold rows of the form *scores*, from audits.
    votes : preference rows of the form *votes*.
    user_scores : preference rows of the form *scores*, from thumbs and scores of
        prompts that several models answered.
    claims : all that was found; each is a row, or counted below.
    repeats : claims that the same speaker made before.
    revised : claims that the same speaker took back by a later one.
    disagreements : answers or pairs of one prompt on which speakers differ; their
        rows are kept, because that is the noise of the labels.
    without_prompt : claims about decisions whose prompt was not kept.
    without_decision : claims about decisions that are not in the store, or that
        another key made.
    without_answer : thumbs and scores where nobody answered.
    without_offer : claims that name a model that no decision of the store offers.
    without_pair : scores of the only model that was scored on the prompt.
    first_asked : seconds since 1970 of the first decision on each prompt.
    conversations : of each prompt, the conversation that it was a turn of.
    """

    scores: list[Row] = field(default_factory=list)
    votes: list[Row] = field(default_factory=list)
    user_scores: list[Row] = field(default_factory=list)
    claims: int = 0
    repeats: int = 0
    revised: int = 0
    disagreements: int = 0
    without_prompt: int = 0
    without_decision: int = 0
    without_answer: int = 0
    without_offer: int = 0
    without_pair: int = 0
    first_asked: dict[str, float] = field(default_factory=dict)
    conversations: dict[str, str] = field(default_factory=dict)

    @property
    def preference(self) -> list[list[Row]]:
        """The preference sources that hold a row, one form each."""
        return [rows for rows in (self.votes, self.user_scores) if rows]

    def left_out(self) -> dict[str, int]:
        """Claims that became no row, by reason; reasons without a claim are absent."""
        counts = {
            "said before by the same speaker": self.repeats,
            "taken back by the same speaker": self.revised,
            "without a prompt (store.prompts was off)": self.without_prompt,
            "about decisions that are not in the store, or another key's": self.without_decision,
            "about requests that nobody answered": self.without_answer,
            "naming a model that no decision offers": self.without_offer,
            "scores of one model, which compare no two": self.without_pair,
        }
        return {reason: count for reason, count in counts.items() if count}


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One value that one speaker gives one model or pair.

    Attributes
    ----------
    kind : of the statement.
    subject : the model, or the two models in alphabetical order.
    value : a score, 1 or 0 for thumbs, or the winner.
    said : Statement
    """

    kind: str
    subject: Subject
    value: float | str
    said: Statement

    @property
    def speaker(self) -> tuple[str | None, str | None]:
        """Key and annotator."""
        return self.said.key_id, self.said.content.get("annotator")

    @property
    def about(self) -> tuple[Any, ...]:
        """Equal for claims of which the later one takes the earlier one back."""
        return self.kind, self.said.decision_id, self.subject, self.speaker


def export_labels(
    engine: sa.Engine, *, since: float | None = None, policy: str | None = None
) -> ExportedLabels:
    """Labels from what people and audits said, oldest first.

    Parameters
    ----------
    engine : the store's database.
    since : seconds since 1970, optional
        Statements from then on.
    policy : str, optional
        Only statements about decisions of this policy.

    Returns
    -------
    ExportedLabels
        The gold rows are those of audits. Whether the audited requests are a
        random sample of the traffic is for who audits to know.
    """
    statements = read_statements(engine, since=since, policy=policy)
    return sort_statements(statements, offered=read_offered(engine))


def sort_statements(
    statements: Iterable[Statement], *, offered: Collection[str] | None = None
) -> ExportedLabels:
    """Turn statements, oldest first, into label rows; none is lost uncounted.

    A speaker is a key and an annotator. The last word of a speaker about an
    answer (or pair) of one decision stands; what was said before is counted as
    a repeat, or as revised where it differs. Speakers who differ are all kept.

    Thumbs and scores say something about two models only where two models were
    scored on the same prompt, as splits and exploration bring about. They become
    scores of the judges ``user thumbs`` and ``user scores``: preference labels
    with a bias of their own, which `fit` learns like any other judge's.

    Parameters
    ----------
    statements : oldest first.
    offered : optional
        Models that there are; claims about others are left out. None: all that are named.

    Examples
    --------
    >>> said = [
    ...     Statement(kind="thumbs", content={"value": value}, created=1.0, decision_id=model,
    ...               prompt="Hi", answered=model)
    ...     for model, value in (("small", "down"), ("large", "up"))
    ... ]
    >>> [(row["model"], row["score"]) for row in sort_statements(said).user_scores]
    [('small', 0.0), ('large', 1.0)]
    """
    claims = list_claims(statements)
    last = {claim.about: claim for claim in claims}
    earlier = [claim for claim in claims if last[claim.about] is not claim]
    repeats = sum(claim.value == last[claim.about].value for claim in earlier)
    reasons = {claim.about: _unusable(claim, offered) for claim in last.values()}
    usable = [claim for claim in last.values() if reasons[claim.about] is None]
    rows = _paired(usable)
    lost = Counter(reason for reason in reasons.values() if reason is not None)
    return ExportedLabels(
        scores=[_score_row(claim) for claim in rows if claim.kind == "gold"],
        votes=[_vote_row(claim) for claim in rows if claim.kind == "preference"],
        user_scores=[_score_row(claim) for claim in rows if claim.kind in ("thumbs", "score")],
        claims=len(claims),
        repeats=repeats,
        revised=len(earlier) - repeats,
        disagreements=_disagreements(rows),
        without_pair=len(usable) - len(rows),
        first_asked=_first_asked(usable),
        conversations=_conversations(usable),
        **lost,
    )


def list_claims(statements: Iterable[Statement]) -> list[Claim]:
    """What is said in each statement about each model or pair, in their order."""
    return [claim for said in statements for claim in _claims(said)]


def read_statements(
    engine: sa.Engine,
    *,
    since: float | None = None,
    policy: str | None = None,
    decided_since: float | None = None,
    kinds: Collection[str] | None = None,
    audited_since: float | None = None,
    is_brief: bool = False,
) -> Iterator[Statement]:
    """Statements of the store with their decisions, oldest first.

    Parameters
    ----------
    engine, since, policy : as in :func:`export_labels`.
    decided_since : float, optional
        Only about decisions of the store from then on, in seconds since 1970.
    kinds : optional
        Only of these; all by default.
    audited_since : float, optional
        Only about decisions that an audit spoke of from then on.
    is_brief : bool, default False
        Whether to leave out prompts, conversations and tokens of answers. An index
        has the rest, so that the rows of decisions are not read.
    """
    of = decisions.c
    said = feedback.c
    is_about = sa.and_(said.decision_id == of.decision_id, may_speak(of.key_id))
    more = (of.prompt, of.completion_tokens, of.conversation)
    query = sa.select(
        *(said.kind, said.content, said.created, said.decision_id, said.key_id),
        *(of.created.label("decided"), judged_model().label("answered"), of.prompt_tokens),
        *(() if is_brief else more),
        of.decision_id.is_not(None).label("is_known"),
    ).select_from(feedback.outerjoin(decisions, is_about))
    if since is not None:
        query = query.where(said.created >= since)
    if decided_since is not None:
        query = query.where(of.created >= decided_since)
    if kinds is not None:
        query = query.where(said.kind.in_(kinds))
    if audited_since is not None:
        audits = sa.select(feedback.c.decision_id).where(
            feedback.c.kind == "gold", feedback.c.created >= audited_since
        )
        query = query.where(said.decision_id.in_(audits.correlate(None)))
    if policy is not None:
        query = query.where(sa.or_(of.policy == policy, of.decision_id.is_(None)))
    with engine.connect() as connection:
        for row in connection.execute(query.order_by(said.created, said.feedback_id)).mappings():
            yield Statement(**row)


def read_offered(engine: sa.Engine) -> set[str]:
    """Models that the decisions of the store offer.

    Those that answered, and those that the newest decision of each policy and router
    weighed. What callers asked for and an upstream refused is none.
    """
    of = decisions.c
    columns = (of.options, of.propensities, of.shadow)
    answered = sa.select(judged_model()).where(of.outcome != "refused").distinct()
    weighed = sa.cast(of.options, sa.Text) != "[]"  # a model that was named weighs nothing
    newest = sa.select(sa.func.max(of.decision_id)).where(weighed).group_by(of.policy, of.artifact)
    with engine.connect() as connection:
        found = {model for model in connection.execute(answered).scalars() if model}
        query = sa.select(*columns).where(of.decision_id.in_(newest))
        rows = connection.execute(query).mappings().all()
    return found.union(*map(offered_models, rows))


def _claims(said: Statement) -> Iterator[Claim]:
    content = said.content
    if said.kind == "gold":
        for model, score in content["scores"].items():
            yield Claim(kind="gold", subject=(model,), value=float(score), said=said)
    elif said.kind == "preference":
        a, b, winner = content["model_a"], content["model_b"], content["winner"]
        if a > b:  # so that one pair has one name
            a, b, winner = b, a, _SWAPPED.get(winner, winner)
        yield Claim(kind="preference", subject=(a, b), value=winner, said=said)
    else:
        value = _THUMBS[content["value"]] if said.kind == "thumbs" else float(content["value"])
        yield Claim(kind=said.kind, subject=(said.answered or "",), value=value, said=said)


def _unusable(claim: Claim, offered: Collection[str] | None) -> str | None:
    """The count that a claim without a row belongs to."""
    if not claim.said.is_known:
        return "without_decision"
    if claim.said.prompt is None:
        return "without_prompt"
    if not claim.subject[0]:
        return "without_answer"
    is_offered = offered is None or all(model in offered for model in claim.subject)
    return None if is_offered else "without_offer"


def _paired(claims: Sequence[Claim]) -> list[Claim]:
    """All but scores whose prompt has no other model's score of the same kind."""
    models: dict[tuple[str, str], set[Subject]] = {}
    for claim in claims:
        models.setdefault(_scored(claim), set()).add(claim.subject)
    return [c for c in claims if c.kind == "preference" or len(models[_scored(c)]) > 1]


def _scored(claim: Claim) -> tuple[str, str]:
    return claim.kind, claim.said.prompt or ""


def _first_asked(claims: Sequence[Claim]) -> dict[str, float]:
    first: dict[str, float] = {}
    for claim in claims:
        text, decided = claim.said.prompt or "", claim.said.decided or 0.0
        first[text] = min(first.get(text, decided), decided)
    return first


def _conversations(claims: Sequence[Claim]) -> dict[str, str]:
    """The first conversation of each prompt: one that begins many is no tie between them."""
    found: dict[str, str] = {}
    for claim in claims:
        if claim.said.conversation is not None:
            found.setdefault(claim.said.prompt or "", claim.said.conversation)
    return found


def _disagreements(claims: Sequence[Claim]) -> int:
    values: dict[tuple[Any, ...], set[float | str]] = {}
    for claim in claims:
        values.setdefault((*_scored(claim), claim.subject), set()).add(claim.value)
    return sum(len(found) > 1 for found in values.values())


def _score_row(claim: Claim) -> Row:
    row = _common(claim) | {"model": claim.subject[0], "score": claim.value}
    said = claim.said
    if said.answered == claim.subject[0]:  # tokens are counted for this answer only
        row |= {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
    return {name: value for name, value in row.items() if value is not None}


def _vote_row(claim: Claim) -> Row:
    a, b = claim.subject
    return _common(claim) | {"model_a": a, "model_b": b, "winner": claim.value}


def _judge(claim: Claim) -> str | None:
    is_play = claim.said.content.get("annotator") == PLAYGROUND
    return f"{PLAYGROUND} votes" if is_play else _JUDGES.get(claim.kind)


def _common(claim: Claim) -> Row:
    said = claim.said
    row = {
        "query": said.prompt,
        "judge": _judge(claim),
        "annotator": said.content.get("annotator") or said.key_id,
        "timestamp": datetime.fromtimestamp(said.created, UTC).isoformat(timespec="seconds"),
    }
    return {name: value for name, value in row.items() if value is not None}
