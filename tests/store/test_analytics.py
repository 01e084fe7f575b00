"""What the dashboard reads, from either database, against plain Python over the same rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from store_makers import fill_with_opinions, make_row

from metarouter.errors import InputError, OptionError
from metarouter.store.analytics import (
    DecisionFilter,
    Opinions,
    ShareSums,
    Window,
    count_answers,
    count_opinions,
    count_shares,
    count_traffic,
    fetch_decision,
    fetch_decisions,
    newest_decisions,
    start_of_newest,
)
from metarouter.store.database import open_database
from metarouter.store.exporting import read_statements
from metarouter.store.feedback import read_feedback, save_feedback
from metarouter.store.tables import decisions

START = 1_700_000_000.0
WINDOW = Window(start=START, end=START + 600)


def _rows() -> list[dict[str, Any]]:
    """One decision every 7 seconds, from before the window to after it."""
    rows = []
    for number in range(100):
        model = ("cheap", "premium")[number % 3 == 0]
        rows.append(
            make_row(number)
            | {
                "decision_id": f"d{number:03}",
                "created": START - 30 + 7 * number,
                "policy": ("default", None)[number % 5 == 0],
                "model": model,
                "answered": None if number % 11 == 0 else model,
                "outcome": "failed" if number % 11 == 0 else "ok",
                "spent": None if number % 4 == 0 else 0.25 * number,
                "prompt_tokens": 10,
                "completion_tokens": number,
                "reason": f"reason {number} 100% sure_",
                "prompt": f"Why {number}?" if number % 2 else None,
                "conversation": None if number % 7 == 0 else f"c{number // 4}",
            }
        )
    return rows


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    with engine.begin() as connection:
        connection.execute(sa.insert(decisions), _rows())
    yield engine
    engine.dispose()


def _inside() -> list[dict[str, Any]]:
    return [row for row in _rows() if START <= row["created"] < START + 600]


def test_traffic_is_counted_by_bucket_and_kind(engine: sa.Engine) -> None:
    """The database's sums are those of a loop over the rows."""
    names = ("policy", "model", "answered", "outcome")
    expected: Counter[Any] = Counter()
    spent: defaultdict[Any, float] = defaultdict(float)
    for row in _inside():
        key = (int((row["created"] - START) // 60), *(row[name] for name in names))
        expected[key] += 1
        spent[key] += row["spent"] or 0.0
    cells = count_traffic(engine, WINDOW, 60)
    found = {(c.bucket, c.policy, c.model, c.answered, c.outcome): c for c in cells}
    assert {key: cell.requests for key, cell in found.items()} == dict(expected)
    for key, cell in found.items():
        assert cell.spent == pytest.approx(spent[key])
        assert cell.prompt_tokens == 10 * cell.requests
    assert sum(c.priced for c in cells) == sum(row["spent"] is not None for row in _inside())


def test_a_decision_on_the_edge_of_a_bucket_is_in_the_later_one(engine: sa.Engine) -> None:
    """Buckets are half open, also where a database would round to the nearest."""
    cells = count_traffic(engine, Window(start=START - 30, end=START - 9), 7)
    assert [(cell.bucket, cell.requests) for cell in cells] == [(0, 1), (1, 1), (2, 1)]


def test_premium_choices_are_summed_over_conversations(engine: sa.Engine) -> None:
    """Counts, squares and products of each bucket are those of a loop over the rows."""
    counts: defaultdict[int, dict[str, list[int]]] = defaultdict(dict)
    for row in _inside():
        if row["policy"] == "default":
            bucket = int((row["created"] - START) // 120)
            pair = counts[bucket].setdefault(row["conversation"] or row["decision_id"], [0, 0])
            pair[0] += 1
            pair[1] += row["model"] == "premium"
    expected = [
        ShareSums(
            bucket=bucket,
            units=len(units),
            requests=sum(n for n, _ in units.values()),
            premium=sum(k for _, k in units.values()),
            squares=sum(n * n for n, _ in units.values()),
            crossed=sum(n * k for n, k in units.values()),
            premium_squares=sum(k * k for _, k in units.values()),
        )
        for bucket, units in sorted(counts.items())
    ]
    assert max(one.squares - one.requests for one in expected) > 0
    premium = {"default": "premium", "other": "cheap"}
    assert count_shares(engine, WINDOW, 120, premium) == expected
    assert count_shares(engine, WINDOW, 120, {}) == []


def test_answers_are_counted_by_model(engine: sa.Engine) -> None:
    """Requests that nobody answered are nobody's."""
    expected = Counter(row["answered"] for row in _inside() if row["answered"])
    assert count_answers(engine, WINDOW) == dict(expected)


def test_nothing_is_counted_where_nothing_happened(engine: sa.Engine) -> None:
    assert count_traffic(engine, Window(start=0.0, end=60.0), 60) == []


def test_pages_of_decisions_hold_each_once_newest_first(engine: sa.Engine) -> None:
    """Going from page to page by place shows every decision of the window once."""
    seen: list[str] = []
    after = None
    while rows := fetch_decisions(engine, WINDOW, DecisionFilter(), 9, after):
        seen += [row["decision_id"] for row in rows]
        after = (rows[-1]["created"], rows[-1]["decision_id"])
    assert seen == [row["decision_id"] for row in reversed(_inside())]


def test_pages_part_decisions_of_the_same_moment(engine: sa.Engine) -> None:
    """Equal times are ordered by id, so that none is lost between two pages."""
    moment = START + 9000
    twins = [make_row(0, decision_id=f"twin-{n}", created=moment) for n in range(3)]
    with engine.begin() as connection:
        connection.execute(sa.insert(decisions), twins)
    window = Window(start=moment - 1, end=moment + 1)
    (first,) = fetch_decisions(engine, window, DecisionFilter(), 1)
    rest = fetch_decisions(engine, window, DecisionFilter(), 5, (moment, first["decision_id"]))
    assert [first["decision_id"], *(r["decision_id"] for r in rest)] == [
        "twin-2",
        "twin-1",
        "twin-0",
    ]


@pytest.mark.parametrize(
    ("wanted", "field", "value"),
    [
        (DecisionFilter(policy="default"), "policy", "default"),
        (DecisionFilter(model="premium"), "model", "premium"),
        (DecisionFilter(answered="cheap"), "answered", "cheap"),
        (DecisionFilter(outcome="failed"), "outcome", "failed"),
    ],
)
def test_a_filter_lets_equal_values_pass(
    engine: sa.Engine, wanted: DecisionFilter, field: str, value: str
) -> None:
    found = fetch_decisions(engine, WINDOW, wanted, 200)
    expected = [row["decision_id"] for row in reversed(_inside()) if row[field] == value]
    assert [row["decision_id"] for row in found] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("d042", ["d042"]),
        ("Why 41?", ["d041"]),
        ("reason 40 ", ["d040"]),
        ("4_ ", []),
        ("0% ", "all"),
    ],
)
def test_text_is_searched_as_it_is(engine: sa.Engine, text: str, expected: Any) -> None:
    """Ids, reasons and prompts are searched; signs that SQL has a meaning for have none."""
    found = fetch_decisions(engine, WINDOW, DecisionFilter(text=text), 200)
    whole = [row["decision_id"] for row in reversed(_inside())]
    assert [row["decision_id"] for row in found] == (whole if expected == "all" else expected)


@pytest.mark.parametrize("limit", [0, 201])
def test_a_page_has_a_bounded_length(engine: sa.Engine, limit: int) -> None:
    with pytest.raises(InputError, match="1 to 200"):
        fetch_decisions(engine, WINDOW, DecisionFilter(), limit)


def test_the_newest_rows_are_bounded(engine: sa.Engine) -> None:
    """At most as many as asked for, newest first, under further conditions."""
    rows = newest_decisions(engine, WINDOW, ("decision_id",), 3, decisions.c.model == "premium")
    expected = [r["decision_id"] for r in reversed(_inside()) if r["model"] == "premium"][:3]
    assert [row["decision_id"] for row in rows] == expected


@pytest.mark.parametrize("limit", [1, 10, 10_000])
def test_from_the_start_of_the_newest_on_there_are_at_most_so_many(
    engine: sa.Engine, limit: int
) -> None:
    start = start_of_newest(engine, decisions.c.created, WINDOW, limit)
    later = [row for row in _inside() if row["created"] >= start]
    assert len(later) == min(limit, len(_inside()))


@pytest.fixture
def empty(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("since", [0.0, 12.5])
@pytest.mark.parametrize("seed", range(3))
def test_opinions_are_those_of_a_loop_over_all_statements(
    empty: sa.Engine, seed: int, since: float
) -> None:
    """Of who may speak, of each the last thumb and score, about decisions of the same time."""
    made, said, admin = fill_with_opinions(empty, seed)
    by_id = {row["decision_id"]: row for row in made if row["created"] >= since}
    heard: defaultdict[str | None, set[str]] = defaultdict(set)
    last: dict[Any, tuple[str | None, bool]] = {}
    scores: dict[Any, tuple[str | None, float]] = {}
    for one in sorted(said, key=lambda one: (one["created"], one["feedback_id"])):
        row = by_id.get(one["decision_id"])
        if row is None or one["created"] < since or one["kind"] == "gold":
            continue
        if one["key_id"] not in (None, admin, row["key_id"]):
            continue
        model = row["model"] if row["endpoint"] == "route" else row["answered"]
        heard[model].add(row["decision_id"])
        speaker = one["decision_id"], one["key_id"], one["content"]["annotator"]
        if one["kind"] == "thumbs":
            last[speaker] = model, one["content"]["value"] == "up"
        elif one["kind"] == "score":
            scores[speaker] = model, one["content"]["value"]
    thumbs, ups = (Counter(m for m, is_up in last.values() if is_up >= least) for least in (0, 1))
    expected = {}
    for model, ids in heard.items():
        values = [value for of, value in scores.values() if of == model]
        expected[model] = Opinions(
            model=model,
            decisions=len(ids),
            thumbs=thumbs[model],
            thumbs_up=ups[model],
            scores=len(values),
            score_sum=sum(values),
            score_squares=sum(value**2 for value in values),
        )
    found = count_opinions(empty, since)
    assert len(found) >= 3
    assert sum(one.scores for one in found) > 10
    assert {one.model: one for one in found} == expected


def _plans(engine: sa.Engine, ask: Callable[[], object]) -> str:
    """How the database would answer over a large table what is asked of it."""
    seen: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    ask()
    sa.event.remove(engine, "before_cursor_execute", note)
    is_server = engine.dialect.name == "postgresql"
    with engine.connect() as connection:
        for way in ("seqscan", "bitmapscan", "nestloop") if is_server else ():
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        explain = "EXPLAIN" if is_server else "EXPLAIN QUERY PLAN"
        plans = (connection.exec_driver_sql(f"{explain} {text}", given) for text, given in seen)
        return "\n".join(str(row) for plan in plans for row in plan)


def test_what_is_asked_of_every_decision_is_in_an_index(engine: sa.Engine) -> None:
    """Rows are ten times as wide, and reading all of a week's took seconds."""
    plans = _plans(engine, lambda: count_answers(engine, WINDOW))
    assert "ix_decisions_brief" in plans
    if engine.dialect.name == "sqlite":
        assert "COVERING INDEX" in plans
        return
    plans += _plans(engine, lambda: count_opinions(engine, START))
    read = partial(read_statements, engine, since=START, decided_since=START, is_brief=True)
    plans += _plans(engine, lambda: list(read()))
    assert plans.count("Index Only Scan using ix_decisions_brief") == 3


def test_one_decision_comes_with_all_that_was_said_of_it(engine: sa.Engine) -> None:
    for value in ("up", "down"):
        content = f'{{"type": "thumbs", "decision_id": "d050", "value": "{value}"}}'
        save_feedback(engine, read_feedback(content.encode()), None)
    found = fetch_decision(engine, "d050")
    assert found is not None
    assert found["reason"] == "reason 50 100% sure_"
    assert [one["content"]["value"] for one in found["feedback"]] == ["up", "down"]
    assert fetch_decision(engine, "d999") is None


@given(start=st.floats(0, 2e9), length=st.floats(-10, 0))
def test_a_window_ends_after_its_start(start: float, length: float) -> None:
    with pytest.raises(OptionError, match="end after the start"):
        Window(start=start, end=start + length)
