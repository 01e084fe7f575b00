"""What the dashboard reads of the store: bounded queries, rows in, plain values out.

Two kinds. Counts go over a whole window and are summed by the database. All
else reads the newest rows of a window, at most as many as the caller says, by
the index on the time of decisions: its cost does not grow with the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

from metarouter.errors import InputError, OptionError
from metarouter.store.feedback import judged_model, may_speak
from metarouter.store.tables import decisions, feedback

__all__ = [
    "DecisionFilter",
    "Opinions",
    "ShareSums",
    "TrafficCell",
    "Window",
    "count_answers",
    "count_opinions",
    "count_shares",
    "count_traffic",
    "fetch_decision",
    "fetch_decisions",
    "newest_decisions",
    "start_of_newest",
]

_LONGEST_PAGE = 200
_LISTED = (
    "decision_id", "created", "endpoint", "key_id", "asked", "policy", "model", "answered",
    "predicted_gain", "predicted_gain_std", "threshold", "bound", "outcome", "status",
    "prompt_tokens", "completion_tokens", "seconds", "spent", "experiment", "is_exploration",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A span of time, ``start <= created < end``, in seconds since 1970.

    Raises
    ------
    OptionError
        When it does not end after its start.

    Examples
    --------
    >>> Window(start=0.0, end=60.0).seconds
    60.0
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise OptionError.of("window", (self.start, self.end), "an end after the start")

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    def holds(self, column: ColumnElement[float]) -> ColumnElement[bool]:
        """The condition that a time is in it."""
        return sa.and_(column >= self.start, column < self.end)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficCell:
    """Requests of one bucket of time that share policy, models, and how they ended.

    Attributes
    ----------
    bucket : number of the bucket, 0 at the start of the window.
    policy : None for a request that named its model.
    model, answered : chosen, and who answered.
    outcome : how it ended.
    requests : their number.
    priced : of how many what they cost is known.
    spent : dollars of those.
    prompt_tokens, completion_tokens : as upstreams counted them.
    """

    bucket: int
    policy: str | None
    model: str
    answered: str | None
    outcome: str
    requests: int
    priced: int
    spent: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareSums:
    """Requests of one bucket whose policy chose its premium model, over conversations.

    Attributes
    ----------
    bucket : number of the bucket, 0 at the start of the window.
    units : conversations; a request without one is one of its own.
    requests, premium : Σ n and Σ k over conversations of n requests, k of them premium.
    squares, crossed, premium_squares : Σ n², Σ nk and Σ k².
    """

    bucket: int
    units: int
    requests: int
    premium: int
    squares: int
    crossed: int
    premium_squares: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinions:
    """What users said of the answers of one model.

    Attributes
    ----------
    model : None for requests that nobody answered.
    decisions : about how many they said anything: a thumb, a score or a preference.
    thumbs : of each speaker the last about an answer.
    thumbs_up : those of them that are up.
    scores : of each speaker the last about an answer.
    score_sum, score_squares : Σ v and Σ v² over them.
    """

    model: str | None
    decisions: int
    thumbs: int
    thumbs_up: int
    scores: int = 0
    score_sum: float = 0.0
    score_squares: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionFilter:
    """Which decisions a page of the explorer lists; None lets all pass.

    Attributes
    ----------
    policy, model, answered, outcome, bound, endpoint, key_id, experiment : str or None
        Equal to the column of that name.
    text : str or None
        Part of the decision's id, of its reason, or of the prompt where one is kept.
    """

    policy: str | None = None
    model: str | None = None
    answered: str | None = None
    outcome: str | None = None
    bound: str | None = None
    endpoint: str | None = None
    key_id: str | None = None
    experiment: str | None = None
    text: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """As SQL."""
        names = [name for name in self.__slots__ if name != "text"]
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        found = [decisions.c[name] == value for name, value in given.items()]
        if self.text is not None:
            searched = (decisions.c.decision_id, decisions.c.reason, decisions.c.prompt)
            found.append(sa.or_(*(c.contains(self.text, autoescape=True) for c in searched)))
        return found


class _Floor(FunctionElement[int]):
    """Largest integer not above a number that is at least 0."""

    inherit_cache = True
    type = sa.Integer()


@compiles(_Floor)
def _floor(element: _Floor, compiler: Any, **options: Any) -> str:
    return f"CAST(FLOOR({compiler.process(element.clauses, **options)}) AS INTEGER)"


@compiles(_Floor, "sqlite")
def _floor_sqlite(element: _Floor, compiler: Any, **options: Any) -> str:
    # SQLite may be built without FLOOR; its CAST cuts digits off where PostgreSQL's rounds
    return f"CAST({compiler.process(element.clauses, **options)} AS INTEGER)"


def count_traffic(engine: sa.Engine, window: Window, width: float) -> list[TrafficCell]:
    """Requests of a window, counted by the database.

    Parameters
    ----------
    engine : the store's database.
    window : Window
    width : float, seconds of one bucket.

    Returns
    -------
    list of TrafficCell, by bucket
    """
    c = decisions.c
    bucket = _Floor((c.created - window.start) / float(width)).label("bucket")
    names = (c.policy, c.model, c.answered, c.outcome)
    sums = (
        sa.func.count().label("requests"),
        sa.func.count(c.spent).label("priced"),
        sa.func.coalesce(sa.func.sum(c.spent), 0.0).label("spent"),
        sa.func.coalesce(sa.func.sum(c.prompt_tokens), 0).label("prompt_tokens"),
        sa.func.coalesce(sa.func.sum(c.completion_tokens), 0).label("completion_tokens"),
    )
    query = sa.select(bucket, *names, *sums).where(window.holds(c.created))
    # by its label: PostgreSQL does not know an expression with parameters again
    query = query.group_by(sa.text("bucket"), *names).order_by(sa.text("bucket"))
    with engine.connect() as connection:
        return [TrafficCell(**row) for row in connection.execute(query).mappings()]


def count_shares(
    engine: sa.Engine, window: Window, width: float, premium: Mapping[str, str]
) -> list[ShareSums]:
    """Premium choices of a window with what their interval needs, counted by the database.

    Parameters
    ----------
    engine : the store's database.
    window : Window
    width : float, seconds of one bucket.
    premium : the premium model of each policy that counts.

    Returns
    -------
    list of ShareSums, by bucket
    """
    c = decisions.c
    dear = [sa.and_(c.policy == name, c.model == model) for name, model in premium.items()]
    if not dear:
        return []
    bucket = _Floor((c.created - window.start) / float(width)).label("bucket")
    n, k = sa.func.count(), sa.func.sum(sa.case((sa.or_(*dear), 1), else_=0))
    each = (
        sa.select(bucket, n.label("n"), k.label("k"))
        .where(window.holds(c.created), c.policy.in_(premium))
        # by its label: PostgreSQL does not know an expression with parameters again
        .group_by(sa.text("bucket"), sa.func.coalesce(c.conversation, c.decision_id))
        .subquery()
    )
    of = each.c
    terms = (of.n, of.k, of.n * of.n, of.n * of.k, of.k * of.k)
    sums = (sa.func.count(), *(sa.func.sum(term) for term in terms))
    query = sa.select(of.bucket, *sums).group_by(of.bucket).order_by(of.bucket)
    names = ("bucket", "units", "requests", "premium", "squares", "crossed", "premium_squares")
    with engine.connect() as connection:
        # PostgreSQL sums whole numbers to a decimal
        rows = [map(int, row) for row in connection.execute(query)]
    return [ShareSums(**dict(zip(names, row, strict=True))) for row in rows]


def count_answers(engine: sa.Engine, window: Window) -> dict[str, int]:
    """Requests of a window that each model answered."""
    c = decisions.c
    answered = (window.holds(c.created), c.outcome == "ok", c.answered.is_not(None))
    query = sa.select(c.answered, sa.func.count()).where(*answered).group_by(c.answered)
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def count_opinions(engine: sa.Engine, since: float) -> list[Opinions]:
    """What users have said since a time, about decisions since then, counted by the database.

    Thumbs and scores are many, and nothing else is asked of them: a row each would
    take the gateway ten times as long. A speaker is a key and an annotator.

    Parameters
    ----------
    engine : the store's database.
    since : float, seconds since 1970.

    Returns
    -------
    list of Opinions, by the name of the model
    """
    of, said = decisions.c, feedback.c
    speaker = (said.key_id, said.content["annotator"].as_string())
    later = (said.created.desc(), said.feedback_id.desc())
    subject = (said.decision_id, said.kind, *speaker)
    is_about = sa.and_(said.decision_id == of.decision_id, may_speak(of.key_id))
    each = (
        sa.select(
            judged_model().label("model"),
            said.decision_id,
            (said.kind == "thumbs").label("is_thumb"),
            (said.content["value"].as_string() == "up").label("is_up"),
            # other kinds have values that are no numbers
            sa.case((said.kind == "score", said.content["value"].as_float())).label("score"),
            sa.func.row_number().over(partition_by=subject, order_by=later).label("place"),
        )
        .join_from(feedback, decisions, is_about)
        .where(said.created >= since, of.created >= since, said.kind != "gold")
        .subquery()
    )
    one = each.c
    thumbs = (one.is_thumb, sa.and_(one.is_thumb, one.is_up))
    query = (
        sa.select(
            one.model,
            sa.func.count(one.decision_id.distinct()),
            *(sa.func.sum(sa.case((is_so, 1), else_=0)) for is_so in thumbs),
            sa.func.count(one.score),
            *(sa.func.coalesce(sa.func.sum(v), 0.0) for v in (one.score, one.score * one.score)),
        )
        .where(one.place == 1)
        .group_by(one.model)
        .order_by(one.model)
    )
    names = [field.name for field in fields(Opinions)]
    with engine.connect() as connection:
        return [Opinions(**dict(zip(names, row, strict=True))) for row in connection.execute(query)]


def newest_decisions(
    engine: sa.Engine,
    window: Window,
    columns: Sequence[str],
    limit: int,
    *conditions: ColumnElement[bool],
) -> list[Mapping[str, Any]]:
    """Columns of the newest decisions of a window, newest first.

    Parameters
    ----------
    engine : the store's database.
    window : Window
    columns : names of columns of the table of decisions.
    limit : int, most rows.
    conditions : further ones.
    """
    query = (
        sa.select(*(decisions.c[name] for name in columns))
        .where(window.holds(decisions.c.created), *conditions)
        .order_by(decisions.c.created.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def start_of_newest(
    engine: sa.Engine, moment: sa.Column[float], window: Window, limit: int
) -> float:
    """From when on a window holds at most `limit` rows.

    Parameters
    ----------
    engine : the store's database.
    moment : the column of a table that tells when a row was made.
    window : Window
    limit : int, most rows.

    Returns
    -------
    float
        The window's start where it holds no more.
    """
    query = sa.select(moment).where(window.holds(moment)).order_by(moment.desc())
    with engine.connect() as connection:
        found = connection.execute(query.offset(limit).limit(1)).scalar()
    # the row at that place is the first that is one too many
    return window.start if found is None else math.nextafter(float(found), math.inf)


def fetch_decisions(
    engine: sa.Engine,
    window: Window,
    wanted: DecisionFilter,
    limit: int = 50,
    after: tuple[float, str] | None = None,
) -> list[dict[str, Any]]:
    """A page of decisions, newest first.

    Parameters
    ----------
    engine : the store's database.
    window : Window
    wanted : DecisionFilter
    limit : int in [1, 200], default 50
    after : time and id of the last decision of the page before, if any. Pages
        by place, not by number: what arrives meanwhile moves nothing.

    Raises
    ------
    InputError
        When `limit` is out of range.
    """
    if not 1 <= limit <= _LONGEST_PAGE:
        raise InputError(f"limit = {limit}; allowed: 1 to {_LONGEST_PAGE}")
    c = decisions.c
    conditions = [window.holds(c.created), *wanted.conditions()]
    if after is not None:
        created, name = after
        is_older = sa.and_(c.created == created, c.decision_id < name)
        conditions.append(sa.or_(c.created < created, is_older))
    query = (
        sa.select(*(c[name] for name in _LISTED))
        .where(*conditions)
        .order_by(c.created.desc(), c.decision_id.desc())
        .limit(limit)
    )
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def fetch_decision(
    engine: sa.Engine, decision_id: str, *, owner: str | None = None
) -> dict[str, Any] | None:
    """All that is kept of one decision, and the feedback about it; None where there is none.

    Parameters
    ----------
    engine : the store's database.
    decision_id : str
    owner : str, optional
        A key: for one of another key there is none, and that takes no longer to find out.
    """
    query = sa.select(decisions).where(decisions.c.decision_id == decision_id)
    if owner is not None:
        query = query.where(decisions.c.key_id == owner)
    said = sa.select(feedback).where(feedback.c.decision_id == decision_id)
    with engine.connect() as connection:
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        said = said.where(may_speak(sa.literal(row["key_id"], sa.String)))
        statements = connection.execute(said.order_by(feedback.c.created)).mappings()
        return {**row, "feedback": [dict(statement) for statement in statements]}
