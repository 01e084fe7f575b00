"""Arena rows become votes, pools become pairs, and sources join without losing a label."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.correction import CORRECTORS, make_corrector
from metarouter.errors import DataError, LabelError, OptionError
from metarouter.features.excerpts import valid_excerpt
from metarouter.gain.tiers import model_tiers
from metarouter.labels import GainTable, make_gain_table
from metarouter.labels.battles import (
    battle_votes,
    join_tables,
    keep_models,
    read_battles,
    reorder_models,
    strong_weak_table,
)

PROMPT = "Explain how a heat pump works."


def row(**fields: Any) -> dict[str, Any]:
    return {"model_a": "x", "model_b": "y", "prompt": PROMPT, "winner": "tie"} | fields


@pytest.mark.parametrize(
    ("fields", "winner"),
    [
        ({"winner": "model_a"}, "model_a"),
        ({"winner": "model_b"}, "model_b"),
        ({"winner": "tie"}, "tie"),
        ({"winner": "tie (bothbad)"}, "tie"),
        ({"winner": "tie (inconsistent)"}, "tie"),
        ({"winner": "both_bad"}, "tie"),
        ({"winner": "tiefighter", "model_b": "tiefighter"}, "model_b"),
        ({"winner": "tie", "model_a": "tie"}, "tie"),
        ({"winner": "y"}, "model_b"),
        ({"winner": None, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}, "model_a"),
        ({"winner": None, "winner_model_a": "0", "winner_model_b": "1"}, "model_b"),
        ({"winner": None, "winner_model_a": False, "winner_model_b": True}, "model_b"),
        ({"winner": None, "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1}, "tie"),
        ({"winner": None, "winner_model_a": 1, "winner_model_b": 1}, "tie"),
    ],
)
def test_every_way_to_write_a_verdict_is_read(fields: dict[str, Any], winner: str) -> None:
    """Names of sides, names of models, two kinds of tie, and flags of any type."""
    votes, _ = battle_votes([row(**fields)])
    assert votes[0]["winner"] == winner


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": PROMPT},
        {"prompt": f"  {PROMPT}\n"},
        {"prompt": json.dumps([PROMPT, "And in winter?"])},
        {"prompt": [PROMPT, "And in winter?"]},
        {"prompt": json.dumps([PROMPT, None])},
        {"prompt": None, "query": PROMPT},
        {"prompt": None, "conversation": [{"role": "user", "content": PROMPT}]},
        {
            "prompt": None,
            "conversation_a": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": PROMPT},
                {"role": "assistant", "content": "It moves heat."},
                {"role": "user", "content": "And in winter?"},
            ],
        },
        {"prompt": None, "conversation": np.array([{"role": "user", "content": PROMPT}])},
    ],
)
def test_the_first_turn_of_the_user_is_the_query(fields: dict[str, Any]) -> None:
    """Texts, lists of turns, lists as JSON, and conversations."""
    assert battle_votes([row(**fields)])[0][0]["query"] == PROMPT


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3] sorted is what list?",
        "[1, 2, 3, 4, 5, 6]",
        "[not json, a text]",
        pytest.param("[" * 100_000, id="brackets"),
    ],
)
def test_a_prompt_that_starts_with_a_bracket_is_a_text(text: str) -> None:
    """Only a JSON list of turns is taken apart."""
    assert battle_votes([row(prompt=text)])[0][0]["query"] == text


def test_half_a_surrogate_pair_makes_no_vote_that_cannot_be_written() -> None:
    """Arena prompts hold some; the vote has what a served query would be read as."""
    vote = battle_votes([row(prompt=r'["Half a smile \ud83d is what?"]')])[0][0]
    assert (
        vote["query"] == "Half a smile ? is what?" == valid_excerpt("Half a smile \ud83d is what?")
    )


def test_bad_battles_are_skipped_and_counted_where_that_is_asked_for() -> None:
    """The first says what is wrong with it; without being asked it stops the job."""
    prompt = "Name three rivers of Asia."
    good: dict[str, object] = {"model_a": "x", "model_b": "y", "prompt": prompt, "winner": "tie"}
    rows = [good, {**good, "winner": "nobody"}, {**good, "model_b": None}, good]
    votes, count = battle_votes(rows, name="arena.csv", on_bad_row="skip")
    assert (len(votes), count.rows, count.used, count.bad) == (2, 4, 2, 2)
    assert "arena.csv: row 2" in count.first_bad
    assert "'nobody'" in count.first_bad
    with pytest.raises(LabelError, match=r"arena\.csv: row 2"):
        battle_votes(rows, name="arena.csv")


def test_short_prompts_are_left_out_and_counted() -> None:
    """Fewer than 16 characters after stripping, as in RouteLLM."""
    rows = [row(prompt=" sixteen letters! "), row(prompt=" fifteen letters  ")]
    votes, count = battle_votes(rows)
    assert (count.rows, count.used, count.short) == (2, 1, 1)
    assert votes[0]["query"] == "sixteen letters!"
    assert len(battle_votes(rows, min_characters=0)[0]) == 2


def test_the_judge_of_the_row_goes_before_the_one_given() -> None:
    """Rows that do not say who judged get the judge of the source."""
    votes, _ = battle_votes([row(judge="arena_user_7"), row()], judge="gpt-4")
    assert [vote["judge"] for vote in votes] == ["arena_user_7", "gpt-4"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"winner": "draw"}, "row 2: winner = 'draw'"),
        ({"winner": None}, "row 2.*winner"),
        (
            {"winner": None, "winner_model_a": None, "winner_model_b": None},
            "row 2: winner_model_a = None",
        ),
        (
            {"winner": None, "winner_model_a": 0, "winner_model_b": None},
            "row 2: winner_model_b = None",
        ),
        ({"winner": None, "winner_model_a": 1}, "row 2: winner_model_b = None; allowed: true or"),
        (
            {"winner": None, "winner_model_a": float("nan"), "winner_model_b": 1.0},
            "row 2: .* = nan",
        ),
        ({"winner": None, "winner_model_a": "yes", "winner_model_b": "no"}, "row 2: .* = 'yes'"),
        ({"model_a": None}, "row 2: model_a = None"),
        ({"prompt": None}, "row 2.*prompt or conversation"),
        ({"prompt": "[null, null, null]"}, "row 2.*prompt or conversation"),
        ({"prompt": None, "conversation": [{"role": "assistant", "content": "Hi"}]}, "row 2"),
    ],
)
def test_rows_that_are_no_battles_are_told_by_number(broken: dict[str, Any], message: str) -> None:
    """The error names the source, the row and what is allowed."""
    with pytest.raises(LabelError, match=f"arena.jsonl: {message}"):
        battle_votes([row(), row(**broken)], name="arena.jsonl")


def make_battles(n: int = 90) -> list[dict[str, Any]]:
    """Three models; a later letter wins more often."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        a, b = rng.choice(list("xyz"), 2, replace=False)
        better = max(a, b)
        winner = "tie" if i % 5 == 0 else ("model_a" if a == better else "model_b")
        rows.append(row(model_a=a, model_b=b, winner=winner, prompt=f"{PROMPT} Part {i}."))
    return rows


def test_battles_become_a_pool_of_preference_gains() -> None:
    """Wins, ties and losses are gains 1, 0 and −1; all models stay with both ends named."""
    table = read_battles(make_battles(), cheap="y", premium="x")
    assert table.models == ("y", "z", "x")
    assert set(table.gain.tolist()) == {-1.0, 0.0, 1.0}
    assert not table.is_gold.any()
    assert len(table) == 90
    z_over_y = (table.candidate == 1) & (table.baseline == 0)
    assert table.gain[z_over_y].mean() > 0.5


@pytest.mark.parametrize(
    ("cheap", "premium"), [("w", None), (None, "w"), ("x", "x")], ids=["cheap", "premium", "same"]
)
def test_ends_that_are_no_models_are_refused(cheap: str | None, premium: str | None) -> None:
    """The message lists the models of the battles."""
    with pytest.raises(OptionError, match="allowed: a model"):
        read_battles(make_battles(), cheap=cheap, premium=premium)


def pool(n: int = 200, seed: int = 0) -> GainTable:
    """Contrasts with scores, tokens, judges and domains, so that nothing may get lost."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(0, 3, n)
    candidate = rng.integers(baseline + 1, 4)
    return make_gain_table(
        queries=[f"{PROMPT} Part {i}." for i in range(n)],
        models=tuple("abcd"),
        candidate=candidate,
        baseline=baseline,
        gain=np.sign(candidate - baseline + 1.5 * rng.normal(size=n)).round(),
        is_gold=rng.random(n) < 0.3,
        judge=rng.integers(0, 2, n),
        judges=("human", "gpt"),
        domain=rng.integers(-1, 2, n),
        domains=("math", "law"),
        weight=rng.uniform(0.5, 2.0, n),
        candidate_score=rng.uniform(size=n),
        baseline_score=rng.uniform(size=n),
        candidate_tokens=rng.uniform(size=n),
        baseline_tokens=rng.uniform(size=n),
    )


def facts(table: GainTable) -> set[tuple[Any, ...]]:
    """What each row says, with names for indices and both directions of it."""
    found = set()
    for i in range(len(table)):
        a, b = table.models[table.candidate[i]], table.models[table.baseline[i]]
        sides = (table.candidate_score[i], table.baseline_score[i])
        tokens = (table.candidate_tokens[i], table.baseline_tokens[i])
        gain = float(table.gain[i])
        if a < b:
            a, b, gain, sides, tokens = b, a, -gain + 0.0, sides[::-1], tokens[::-1]
        query = table.queries[table.query[i]]
        domain = table.domain[table.query[i]]
        found.add(
            (
                *(query, a, b, gain, *sides, *tokens),
                *(table.judges[table.judge[i]], bool(table.is_gold[i]), float(table.weight[i])),
                table.domains[domain] if domain >= 0 else None,
            )
        )
    return found


@settings(max_examples=25)
@given(st.permutations("abcd"))
def test_reordering_models_keeps_what_every_row_says(models: list[str]) -> None:
    """Gains, scores and tokens change sides together."""
    table = pool(40)
    turned = reorder_models(table, models)
    assert turned.models == tuple(models)
    assert (turned.candidate > turned.baseline).all()
    assert facts(turned) == facts(table)


def test_some_models_can_be_kept() -> None:
    """Rows between two of them stay, in the new order."""
    kept = keep_models(pool(), ["d", "a"])
    expected = {f for f in facts(pool()) if {f[1], f[2]} == {"a", "d"}}
    assert kept.models == ("d", "a")
    assert facts(kept) == expected
    with pytest.raises(OptionError, match="different names"):
        keep_models(pool(), ["a", "e"])
    with pytest.raises(DataError, match="no label compares"):
        keep_models(kept, ["d"])


def test_reordering_needs_all_models() -> None:
    """Leaving one out is another function's work."""
    with pytest.raises(OptionError, match="the same names"):
        reorder_models(pool(), ["a", "b", "c"])


def test_joining_keeps_every_label_and_weighs_the_sources() -> None:
    """The facts of both tables, with weights multiplied, under one list of models."""
    gold, votes = pool(50, seed=1).gold(), pool(80, seed=2)
    votes = reorder_models(votes, ["b", "a", "c", "d"])
    both = join_tables([votes, gold], weights=[0.5, 4.0])
    assert both.models == ("b", "a", "c", "d")
    expected = {(*f[:10], 0.5 * f[10]) for f in (x[:11] for x in facts(votes))}
    expected |= {(*f[:10], 4.0 * f[10]) for f in (x[:11] for x in facts(gold))}
    assert {f[:11] for f in facts(both)} == expected


def test_models_of_later_sources_stand_between_the_ends() -> None:
    """The routed pair of the first table stays first and last."""
    pair = make_gain_table(queries=["q"], gain=[1.0], is_gold=[True], models=("cheap", "premium"))
    assert join_tables([pair, pool(20)]).models == ("cheap", "a", "b", "c", "d", "premium")


def test_equal_texts_are_one_query_and_ids_stay_different() -> None:
    """Two tables that number their queries from 0 do not confuse them."""
    one = make_gain_table(queries=["a", "b"], gain=[1.0, 0.0], is_gold=[True] * 2)
    two = make_gain_table(queries=["b", "c"], gain=[1.0, 0.0], is_gold=[False] * 2)
    both = join_tables([one, two])
    assert both.queries == ("a", "b", "c")
    assert both.query.tolist() == [0, 1, 1, 2]
    assert both.query_ids == ("0", "1", "1 (2)")


def test_the_first_table_that_knows_a_domain_decides() -> None:
    """A later table fills in what is not known."""
    one = make_gain_table(
        queries=["a", "b"], gain=[1.0, 0.0], is_gold=[True] * 2, domain=[0, -1], domains=("law",)
    )
    two = make_gain_table(
        queries=["a", "b"], gain=[1.0, 0.0], is_gold=[True] * 2, domain=[0, 0], domains=("math",)
    )
    both = join_tables([one, two])
    assert [both.domains[d] for d in both.domain] == ["law", "math"]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, np.nan]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    """One non-negative number for each table."""
    with pytest.raises(OptionError, match="weights = "):
        join_tables([pool(5), pool(5)], weights=weights)


def test_battles_between_groups_of_tiers_are_labels_of_one_pair() -> None:
    """Win, tie and loss of the strong side; battles inside a group are left out."""
    table = pool()
    tier = np.array([2, 2, 1, 0])  # d best, then c; a and b weak
    pair = strong_weak_table(table, tier, strong=(0, 1), weak=(2,))
    assert pair.models == ("weak", "strong")
    across = (table.candidate >= 2) & (table.baseline < 2)
    assert len(pair) == across.sum()
    np.testing.assert_array_equal(pair.gain, table.gain[across])
    assert (pair.candidate == 1).all()
    turned = strong_weak_table(table, tier, strong=(2,), weak=(0, 1))
    np.testing.assert_array_equal(turned.gain, -pair.gain)
    np.testing.assert_array_equal(turned.candidate_score, pair.baseline_score)


def test_tiers_of_a_pool_follow_its_votes() -> None:
    """The model that wins most is in tier 0, and its group makes the strong side."""
    table = pool(600)
    tier = model_tiers(table, n_tiers=3)
    assert tier[3] == 0
    assert tier[0] == 2
    assert strong_weak_table(table, tier, strong=(0,), weak=(2,)).gain.mean() > 0.2


def test_groups_that_overlap_or_never_met_are_refused() -> None:
    """The message says which tiers there are."""
    with pytest.raises(OptionError, match="groups apart"):
        strong_weak_table(pool(), [0, 1, 2, 3], strong=(0, 1), weak=(1,))
    with pytest.raises(DataError, match="tiers found: 0 to 3"):
        strong_weak_table(pool(), [0, 1, 2, 3], strong=(7,), weak=(8,))


@pytest.mark.parametrize("name", CORRECTORS)
def test_every_corrector_applies_to_joined_sources(name: str) -> None:
    """Gold rows stay as they are, preference rows of any source get a stand-in."""
    rng = np.random.default_rng(0)
    n = 160
    x = rng.normal(size=(2 * n, 4)).astype(np.float32)
    texts = [f"{PROMPT} Part {i}." for i in range(2 * n)]
    truth = np.tanh(x[:, 0].astype(float))
    gold = make_gain_table(queries=texts[:60], gain=truth[:60], is_gold=[True] * 60)
    arena = make_gain_table(
        queries=texts[60:n], gain=truth[60:n] + 0.4, is_gold=[False] * (n - 60), judges=("human",)
    )
    judge = make_gain_table(
        queries=texts[n:], gain=truth[n:] + 0.4, is_gold=[False] * n, judges=("gpt",)
    )
    table = join_tables([gold, arena, judge], weights=[2.0, 1.0, 1.0]).with_features(x)
    fixed = make_corrector(name, seed=0).fit(table).transform(table)
    is_left = name != "preference_only"  # which leaves gold out
    np.testing.assert_array_equal(fixed.gain[fixed.is_gold], truth[:60] if is_left else [])
    assert len(fixed.preference()) == 2 * n - 60
