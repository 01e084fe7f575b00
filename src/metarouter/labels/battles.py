"""Battles between models: arena rows to votes, pools to pairs, and sources joined.

A battle is one prompt answered by two models and a verdict: the first won, the
second won, or a tie. Public sets write it in several ways; :func:`battle_votes`
reads them all into the votes form of :func:`metarouter.labels.read_gain_table`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metarouter.errors import DataError, LabelError, OptionError
from metarouter.labels.ledger import OnBadRow
from metarouter.labels.table import ROW_COLUMNS, GainTable
from metarouter.types import IntArray

__all__ = [
    "BattleCount",
    "battle_votes",
    "join_tables",
    "keep_models",
    "read_battles",
    "reorder_models",
    "strong_weak_table",
]

MIN_CHARACTERS = 16
"""Shorter prompts are left out, as in RouteLLM: they are greetings and tests."""

_TIES = ("tie", "both_bad", "bothbad")  # and "tie (bothbad)", "tie (inconsistent)"
_FLAGS = {"winner_model_a": "model_a", "winner_model_b": "model_b"}
_WHAT = "model_a, model_b, a prompt or conversation, and winner or winner_model_a and _b"


@dataclass(frozen=True, kw_only=True, slots=True)
class BattleCount:
    """What became of the rows of a source of battles; `first_bad` is what is wrong with one."""

    rows: int
    used: int
    short: int
    bad: int = 0
    first_bad: str = ""


def battle_votes(
    rows: Iterable[Mapping[str, Any]],
    *,
    judge: str = "",
    min_characters: int = MIN_CHARACTERS,
    name: str = "battles",
    on_bad_row: OnBadRow = "error",
) -> tuple[list[dict[str, Any]], BattleCount]:
    """Rows of an arena dump as votes: `query`, `model_a`, `model_b`, `winner`, `judge`.

    The prompt is the first turn of the user, stripped: of `query`, `prompt` (a
    text, a list of turns, or such a list as JSON), `conversation`,
    `conversation_a` or `messages` (turns with role and content); a turn that is
    null is passed over, half a surrogate pair becomes "?". The verdict is
    `winner` (model_a, model_b, tie, tie (bothbad), both_bad), or the flags
    `winner_model_a` and `winner_model_b`; neither flag is a tie.

    Parameters
    ----------
    rows : iterable of mappings
    judge : str, default ""
        Who judged, where the rows do not say in a text `judge`.
    min_characters : int, default 16
        Shorter prompts are left out and counted.
    name : str, default "battles"
        What error messages call the source.
    on_bad_row : {"error", "skip"}, default "error"
        Whether a row without a model, a prompt or a verdict stops the job, or is counted.

    Returns
    -------
    votes : list of dict, ready for ``read_gain_table(preference=votes)``.
    count : BattleCount

    Raises
    ------
    LabelError
        When a row lacks a model, a prompt or a verdict, unless such rows are skipped.

    Examples
    --------
    >>> votes, count = battle_votes([
    ...     {"model_a": "x", "model_b": "y", "prompt": '["Name three rivers of Asia.", "More"]',
    ...      "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0},
    ...     {"model_a": "x", "model_b": "y", "prompt": "hi", "winner": "tie (bothbad)"},
    ... ])
    >>> votes[0]["query"], votes[0]["winner"], count.short
    ('Name three rivers of Asia.', 'model_b', 1)
    """
    votes, read, short, wrong = [], 0, 0, list[str]()
    for read, row in enumerate(rows, 1):
        try:
            query = _first_turn(row, name, read)
            if len(query) < min_characters:
                short += 1
            else:
                votes.append({"query": query, **_verdict(row, judge, name, read)})
        except LabelError as error:
            if on_bad_row == "error":
                raise
            wrong.append(str(error))
    count = BattleCount(
        rows=read,
        used=len(votes),
        short=short,
        bad=len(wrong),
        first_bad=wrong[0] if wrong else "",
    )
    return votes, count


def _verdict(row: Mapping[str, Any], judge: str, name: str, number: int) -> dict[str, Any]:
    found = {"winner": _winner(row, name, number)}
    for side in ("model_a", "model_b"):
        found[side] = _text(row, side, name, number)
    given = row.get("judge")
    return found | {"judge": given if isinstance(given, str) and given else judge}


def read_battles(
    rows: Iterable[Mapping[str, Any]],
    *,
    cheap: str | None = None,
    premium: str | None = None,
    judge: str = "",
    min_characters: int = MIN_CHARACTERS,
) -> GainTable:
    """Battles as a table of preference gains over all their models.

    Parameters
    ----------
    rows : iterable of mappings, as in :func:`battle_votes`.
    cheap, premium : str, optional
        Model to stand first, as the reference, and model to stand last; the
        others stay, as training data. By default models stand in order of
        their mean gain.
    judge, min_characters : see :func:`battle_votes`.

    Returns
    -------
    GainTable
        Gains 1, 0 and −1 of preference source.

    Examples
    --------
    >>> rows = [{"prompt": "Which is larger, 9.9 or 9.11?", "model_a": a, "model_b": b,
    ...          "winner": "model_a"} for a, b in [("x", "y"), ("y", "z"), ("x", "z")]]
    >>> read_battles(rows).models, read_battles(rows, cheap="y").models
    (('z', 'y', 'x'), ('y', 'z', 'x'))
    """
    from metarouter.labels.read import read_gain_table

    votes, _ = battle_votes(rows, judge=judge, min_characters=min_characters)
    table, _ = read_gain_table(preference=votes)
    return reorder_models(table, _with_ends(table.models, cheap, premium))


def reorder_models(table: GainTable, models: Sequence[str]) -> GainTable:
    """The same labels with the models in another order, the first being the reference.

    Gains turn their sign where candidate and baseline change places.

    Raises
    ------
    OptionError
        When `models` is not a permutation of the table's.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a"], gain=[1.0], is_gold=[True], models=("x", "y"))
    >>> reorder_models(table, ("y", "x")).gain.tolist()
    [-1.0]
    """
    if sorted(models) != sorted(table.models):
        raise OptionError.of("models", tuple(models), f"the same names as {table.models}")
    place = {name: i for i, name in enumerate(models)}
    rank = np.array([place[name] for name in table.models], dtype=np.int64)
    return _turned(table, tuple(models), rank[table.candidate], rank[table.baseline])


def keep_models(table: GainTable, models: Sequence[str]) -> GainTable:
    """The rows that compare two of some models, in the order of `models`.

    Raises
    ------
    OptionError
        When a name is not a model of the table.
    DataError
        When no row compares two of them.
    """
    unknown = [name for name in models if name not in table.models]
    if unknown or len(set(models)) != len(models):
        raise OptionError.of("models", tuple(models), f"different names of {table.models}")
    rank = np.full(len(table.models), -1)
    rank[[table.models.index(name) for name in models]] = np.arange(len(models))
    kept = (rank[table.candidate] >= 0) & (rank[table.baseline] >= 0)
    if not kept.any():
        raise DataError(f"no label compares two of {', '.join(models)}")
    rows = table.rows(kept)
    return _turned(rows, tuple(models), rank[rows.candidate], rank[rows.baseline])


def strong_weak_table(
    table: GainTable,
    tier: Any,
    *,
    strong: Sequence[int] = (0, 1),
    weak: Sequence[int] = (2,),
    names: tuple[str, str] = ("weak", "strong"),
) -> GainTable:
    """Battles between two groups of tiers, as labels of one strong/weak pair.

    A model of a strong tier against one of a weak tier stands for the pair: the
    gain is that of the strong side, so a vote becomes a win (1), tie (0) or
    loss (−1). Assumes that models of one group are alike.

    Parameters
    ----------
    table : GainTable
    tier : int array, shape (n_models,); 0 the best, as from
        :func:`metarouter.gain.tiers.model_tiers`.
    strong, weak : sequences of int, default (0, 1) and (2,)
        Tiers of either group, as in RouteLLM.
    names : (str, str), default ("weak", "strong")
        Names of the pair's models, the baseline first.

    Raises
    ------
    OptionError
        When a tier is in both groups, or `tier` does not fit the models.
    DataError
        When no battle is between the groups.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> table = make_gain_table(queries=["a", "b"], models=("x", "y", "z"), gain=[1.0, -1.0],
    ...     candidate=[1, 2], baseline=[0, 1], is_gold=[False, False])
    >>> strong_weak_table(table, [2, 0, 1], strong=(0,), weak=(2,)).gain.tolist()
    [1.0]
    """
    tier = np.asarray(tier)
    if len(tier) != len(table.models) or set(strong) & set(weak):
        raise OptionError(
            f"strong = {tuple(strong)}, weak = {tuple(weak)} with {len(tier)} tiers for "
            f"{len(table.models)} models; allowed: groups apart, a tier for each model"
        )
    # 1 strong, 0 weak, −1 neither
    group = np.where(np.isin(tier, list(strong)), 1, np.where(np.isin(tier, list(weak)), 0, -1))
    a, b = group[table.candidate], group[table.baseline]
    kept = (a >= 0) & (b >= 0) & (a != b)
    if not kept.any():
        raise DataError(
            f"no battle between tiers {tuple(strong)} and {tuple(weak)}; tiers found: "
            f"0 to {int(tier.max(initial=0))}"
        )
    return _turned(table.rows(kept), names, a[kept], b[kept])


def join_tables(tables: Sequence[GainTable], weights: Sequence[float] | None = None) -> GainTable:
    """Labels of several sources in one table, each source with a weight.

    How D_gold and D_judge join battles: rows keep their source (gold or
    preference), judge and models, so that a corrector can tell them apart.
    Queries of equal text become one query.

    Parameters
    ----------
    tables : sequence of GainTable, at least one
        Features are dropped. The first table's models keep the first and the
        last place; models of the others alone stand between.
    weights : sequence of float >= 0, optional
        What the weights of each table's rows are multiplied by; 1 by default.

    Raises
    ------
    OptionError
        When there are no tables, or a weight is negative or missing.

    Examples
    --------
    >>> from metarouter.labels.table import make_gain_table
    >>> gold = make_gain_table(queries=["a"], gain=[1.0], is_gold=[True])
    >>> votes = make_gain_table(queries=["a", "b"], gain=[1.0, -1.0], is_gold=[False] * 2)
    >>> both = join_tables([votes, gold], weights=[1.0, 5.0])
    >>> both.queries, both.weight.tolist(), both.is_gold.tolist()
    (('a', 'b'), [1.0, 1.0, 5.0], [False, False, True])
    """
    weights = [1.0] * len(tables) if weights is None else list(weights)
    if not tables or len(weights) != len(tables):
        raise OptionError.of("weights", weights, f"one for each of {len(tables)} tables")
    if any(not math.isfinite(weight) or weight < 0 for weight in weights):
        raise OptionError.of("weights", weights, "numbers of 0 or more")
    models = _joined_models(tables)
    queries = _Names(text for table in tables for text in table.queries)
    judges = _Names(name for table in tables for name in table.judges)
    domains = _Names(name for table in tables for name in table.domains)
    parts = [
        _renamed(table, models, queries, judges, weight)
        for table, weight in zip(tables, weights, strict=True)
    ]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in ROW_COLUMNS
    }
    for column in columns.values():
        column.flags.writeable = False
    return replace(
        parts[0],
        query_ids=_joined_ids(tables, queries),
        domains=domains.names,
        domain=_joined_domains(tables, queries, domains),
        **columns,
    )


class _Names:
    """Distinct names in order of appearance, and the index of each."""

    def __init__(self, names: Iterable[str]) -> None:
        self.index: dict[str, int] = {}
        for name in names:
            self.index.setdefault(name, len(self.index))
        self.names = tuple(self.index)

    def codes(self, names: Sequence[str]) -> IntArray:
        return np.array([self.index[name] for name in names], dtype=np.int64)


def _joined_models(tables: Sequence[GainTable]) -> _Names:
    first = tables[0].models
    others = dict.fromkeys(name for table in tables[1:] for name in table.models)
    return _Names([first[0], *(name for name in others if name not in first), *first[1:]])


def _renamed(
    table: GainTable, models: _Names, queries: _Names, judges: _Names, weight: float
) -> GainTable:
    """The table with its indices into the joined names, and its weights multiplied."""
    model = models.codes(table.models)
    turned = _turned(table, models.names, model[table.candidate], model[table.baseline])
    return replace(
        turned,
        queries=queries.names,
        query=queries.codes(table.queries)[table.query],
        judges=judges.names,
        judge=judges.codes(table.judges)[table.judge],
        weight=weight * table.weight,
        features=None,
    )


def _joined_ids(tables: Sequence[GainTable], queries: _Names) -> tuple[str, ...]:
    """The first id given to each text; one that another text has already is numbered."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for number, table in enumerate(tables, 1):
        for text, query_id in zip(table.queries, table.query_ids, strict=True):
            if text not in ids:
                ids[text] = query_id if query_id not in taken else f"{query_id} ({number})"
                taken.add(ids[text])
    return tuple(ids[text] for text in queries.names)


def _joined_domains(tables: Sequence[GainTable], queries: _Names, domains: _Names) -> IntArray:
    domain = np.full(len(queries.names), -1)
    for table in reversed(tables):  # the first table that knows a domain decides
        known = table.domain >= 0
        at = queries.codes(table.queries)[known]
        domain[at] = domains.codes(table.domains)[table.domain[known]]
    return domain


def _turned(
    table: GainTable, models: tuple[str, ...], candidate: IntArray, baseline: IntArray
) -> GainTable:
    """The table about other models; rows whose candidate comes first are turned round."""
    swap = candidate < baseline
    columns: dict[str, Any] = {
        "candidate": np.maximum(candidate, baseline),
        "baseline": np.minimum(candidate, baseline),
        "gain": np.where(swap, -table.gain, table.gain) + 0.0,  # no negative zeros
    }
    for one, other in (
        ("candidate_score", "baseline_score"),
        ("candidate_tokens", "baseline_tokens"),
    ):
        a, b = getattr(table, one), getattr(table, other)
        columns |= {one: np.where(swap, b, a), other: np.where(swap, a, b)}
    for column in columns.values():
        column.flags.writeable = False
    return replace(table, models=models, **columns)


def _with_ends(models: tuple[str, ...], cheap: str | None, premium: str | None) -> tuple[str, ...]:
    for option, name in (("cheap", cheap), ("premium", premium)):
        if name is not None and name not in models:
            raise OptionError.of(option, name, f"a model of the battles: {', '.join(models)}")
    if cheap is not None and cheap == premium:
        raise OptionError.of("premium", premium, "a model other than cheap")
    return tuple(sorted(models, key=lambda name: (name == premium, name != cheap)))


def _first_turn(row: Mapping[str, Any], source: str, number: int) -> str:
    for field in ("query", "prompt", "conversation", "conversation_a", "messages"):
        value = row.get(field)
        if value is not None:
            turn = next(_user_turns(value), None)
            if turn is None:
                break
            return turn.strip().encode("utf-8", "replace").decode()
    raise LabelError.at(file=source, row=number, field=None, value=None, allowed=_WHAT)


def _user_turns(value: Any) -> Iterator[str]:
    """Texts of the user's turns, from a text, JSON, or a list of turns."""
    if isinstance(value, str):
        turns = _json_list(value)
        if turns is None:
            yield value
            return
        value = turns
    for turn in value if isinstance(value, Iterable) else ():
        if isinstance(turn, str):
            yield turn
        elif isinstance(turn, Mapping) and turn.get("role", "user") == "user":
            content = turn.get("content")
            if isinstance(content, str):
                yield content


def _json_list(text: str) -> list[Any] | None:
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None  # a prompt that starts with a bracket, or with thousands of them
    turns = isinstance(value, list) and all(isinstance(v, str | dict | None) for v in value)
    return value if turns and value else None


def _winner(row: Mapping[str, Any], source: str, number: int) -> str:
    winner = row.get("winner")
    if isinstance(winner, str):
        if winner in ("model_a", "model_b"):
            return winner
        named = [side for side in ("model_a", "model_b") if row.get(side) == winner]
        if named and winner.lower() not in _TIES:  # a name may begin like one of them
            return named[0]
        if winner.lower().startswith(_TIES):
            return "tie"
        allowed = "model_a, model_b, tie, tie (bothbad), or the name of one of the two models"
        raise LabelError.at(file=source, row=number, field="winner", value=winner, allowed=allowed)
    if not any(flag in row for flag in _FLAGS):
        raise LabelError.at(file=source, row=number, field="winner", value=winner, allowed=_WHAT)
    won = [side for flag, side in _FLAGS.items() if _flag(row, flag, source, number)]
    return won[0] if len(won) == 1 else "tie"


def _flag(row: Mapping[str, Any], field: str, source: str, number: int) -> bool:
    text = str(row.get(field)).lower()
    if text not in _TRUTH:
        raise LabelError.at(
            file=source, row=number, field=field, value=row.get(field), allowed="true or false"
        )
    return _TRUTH[text]


_TRUTH = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def _text(row: Mapping[str, Any], field: str, source: str, number: int) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value:
        raise LabelError.at(
            file=source, row=number, field=field, value=value, allowed="the name of a model"
        )
    return value
