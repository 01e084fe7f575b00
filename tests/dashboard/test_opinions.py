"""Feedback as pages show it: rates, preferences, and what users say minus what gold says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from metarouter.dashboard.opinions import (
    JUDGED,
    compare_with_gold,
    last_words,
    opinions_view,
)
from metarouter.store.analytics import Opinions
from metarouter.store.exporting import Claim, Statement, list_claims


def _said(
    decision: int, kind: str, *, answered: str = "large", tokens: int | None = 10, **content: Any
) -> Statement:
    return Statement(
        kind=kind,
        content={"type": kind, **content},
        created=float(decision),
        decision_id=f"d{decision}",
        answered=answered,
        decided=float(decision),
        prompt_tokens=tokens,
    )


def _claims(*statements: Statement) -> list[Claim]:
    return last_words(list_claims(statements))


def _view(
    statements: Sequence[Statement], answers: Mapping[str, int], premium: Sequence[str] = ()
) -> dict[str, Any]:
    """The page of statements that nobody repeats, but for thumbs of which the last counts."""
    thumbs = {one.decision_id: one for one in statements if one.kind == "thumbs"}
    audited = {one.decision_id for one in statements if one.kind == "gold"}
    users = [one for one in statements if one.kind != "gold"]
    opinions = [
        Opinions(
            model=name,
            decisions=len({one.decision_id for one in users if one.answered == name}),
            thumbs=sum(one.answered == name for one in thumbs.values()),
            thumbs_up=sum(
                one.answered == name and one.content["value"] == "up" for one in thumbs.values()
            ),
            scores=len(scores),
            score_sum=sum(scores),
            score_squares=sum(score**2 for score in scores),
        )
        for name in dict.fromkeys(one.answered for one in users)
        for scores in [_scores(statements, name)]
    ]
    read = [
        one
        for one in statements
        if one.kind in JUDGED or (one.kind == "score" and one.decision_id in audited)
    ]
    claims = last_words(list_claims(read))
    return opinions_view(claims, opinions, answers, premium)


def _scores(statements: Sequence[Statement], model: str | None) -> list[float]:
    own = [one for one in statements if one.kind == "score" and one.answered == model]
    return [one.content["value"] for one in own]


def _prefers(decision: int, winner: str, **fields: Any) -> Statement:
    return _said(decision, "preference", model_a="large", model_b="small", winner=winner, **fields)


def _audit(decision: int, large: float, small: float, **fields: Any) -> Statement:
    return _said(decision, "gold", scores={"large": large, "small": small}, **fields)


def test_the_last_word_of_a_speaker_counts() -> None:
    """Who takes a thumb back is heard once, with the later one."""
    statements = [_said(1, "thumbs", value="up"), _said(1, "thumbs", value="down")]
    (model,) = _view(statements, {"large": 4})["models"]
    assert (model["thumbs"].value, model["thumbs"].n) == (0.0, 1)
    assert model["spoken"].value == 0.25


def test_rates_are_by_the_model_that_answered() -> None:
    statements = [
        _said(1, "thumbs", value="up"),
        _said(2, "thumbs", value="down"),
        _said(3, "score", answered="small", value=0.25),
        _said(4, "score", answered="small", value=0.75),
        _audit(5, 0.9, 0.1),
    ]
    large, small = _view(statements, {"large": 10, "small": 8})["models"]
    assert (large["thumbs"].value, large["score"], large["spoken"].value) == (0.5, None, 0.2)
    assert (small["thumbs"], small["score"].value, small["spoken"].value) == (None, 0.5, 0.25)
    assert (large["gold"].value, small["gold"].value) == (0.9, 0.1)


def test_claims_that_name_no_model_are_counted_and_left_out() -> None:
    """A pair with a misspelt name is no pair of its own, and its gold no statement."""
    statements = [
        _prefers(1, "model_a"),
        _said(2, "preference", model_a="large", model_b="smal", winner="model_b"),
        _said(3, "gold", scores={"large": 0.5, "smal": 0.75}),
        _said(4, "score", answered="", value=0.5),  # about a request that nobody answered
        _audit(4, 0.5, 0.5),
    ]
    claims = _claims(*statements)
    view = opinions_view(claims, [], {"large": 9}, offered={"large", "small"})
    assert (view["n"], view["gold"], view["unknown"]) == (4, 3, 2)
    assert [pair["pair"] for pair in view["pairs"]] == [("large", "small")]
    whole = opinions_view(claims, [], {"large": 9})
    assert (whole["n"], whole["gold"], whole["unknown"]) == (6, 4, 0)


def test_every_statement_counts_once_whether_its_row_was_read_or_not() -> None:
    """Scores that an audit met are rows and numbers too."""
    statements = [
        _said(1, "thumbs", value="up"),
        _said(2, "score", value=0.5),
        _audit(2, 0.9, 0.1),
        _said(3, "score", answered="small", value=0.75),
        _prefers(4, "tie"),
    ]
    assert _view(statements, {})["n"] == 4 + 2


def test_a_mean_score_has_the_interval_of_its_rows() -> None:
    values = [float(value) for value in np.random.default_rng(0).uniform(0, 1, 40).round(2)]
    statements = [_said(i, "score", value=value) for i, value in enumerate(values)]
    (model,) = _view(statements, {})["models"]
    error = np.std(values, ddof=1) / np.sqrt(40)
    assert model["score"].value == pytest.approx(np.mean(values))
    assert model["score"].std_error == pytest.approx(error)
    assert model["score"].high - model["score"].value == pytest.approx(2.0227 * error, rel=1e-3)


def test_preferences_are_gains_of_the_premium_model() -> None:
    """The premium model goes first, however the statement had it; both bad is a tie."""
    statements = [
        _said(1, "preference", model_a="small", model_b="large", winner="model_a"),
        _prefers(2, "model_a"),
        _prefers(3, "model_a"),
        _prefers(4, "both_bad"),
    ]
    for premium, expected in (("large", 0.25), ("small", -0.25)):
        (pair,) = _view(statements, {}, [premium])["pairs"]
        assert pair["pair"][0] == premium
        assert pair["gain"].value == expected
        assert (pair["ties"], pair["wins"] + pair["losses"]) == (1, 3)


def test_users_are_compared_with_gold_where_both_spoke() -> None:
    """A preference with the difference of the pair's gold scores, a score with the answer's."""
    statements = [
        _prefers(1, "model_a"),
        _audit(1, 0.75, 0.5),
        _prefers(2, "tie"),  # nobody audited it
        _said(3, "score", answered="small", value=0.5),
        _audit(3, 1.0, 0.25),
    ]
    pair, score = compare_with_gold(_claims(*statements), ["large"])
    assert (pair.subject, pair.said, pair.gold) == (("large", "small"), 1.0, 0.25)
    assert (score.subject, score.said, score.gold) == (("small",), 0.5, 0.25)


def test_a_bias_is_recovered_with_its_interval() -> None:
    """Users who see every score 0.1 too high are found out, over all and in each slice."""
    rng = np.random.default_rng(0)
    statements = []
    for number in range(300):
        gold, model = float(rng.uniform(0.2, 0.8)), ("large", "small")[number % 2]
        said = float(np.clip(gold + 0.1 + rng.normal(0, 0.05), 0, 1))
        tokens = int(rng.integers(1, 100))
        statements.append(_said(number, "score", answered=model, tokens=tokens, value=said))
        statements.append(_audit(number, gold, gold, answered=model, tokens=tokens))
    biases = _view(statements, {})["biases"]
    overall, *slices = biases
    assert overall["slice"] == "all"
    assert overall["bias"].low < 0.1 < overall["bias"].high
    assert overall["bias"].high - overall["bias"].low < 0.02
    assert len(slices) == 5  # two models, three lengths
    assert sum(one["n"] for one in slices) == 2 * 300
    assert [one["bias"].level for one in slices] == pytest.approx([0.99] * 5)
    assert all(one["bias"].low < 0.1 < one["bias"].high for one in slices)


def test_speakers_not_statements_are_the_units_of_a_bias() -> None:
    """Ten annotators with a bias of their own each: thirty statements of one are no thirty."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        statements = []
        for number in range(200):
            speaker = number % 10
            if number < 10:
                own = rng.normal(0, 0.15, 10)
            said = float(np.clip(0.5 + own[speaker] + rng.normal(0, 0.02), 0, 1))
            statements.append(_said(number, "score", value=said, annotator=f"a{speaker}"))
            statements.append(_audit(number, 0.5, 0.5))
        bias = _view(statements, {})["biases"][0]["bias"]
        held += bias.low <= 0 <= bias.high
        assert bias.n == 10
    assert held >= 88


def test_without_anything_said_there_is_nothing_to_show() -> None:
    view = opinions_view([], [], {"large": 3})
    (model,) = view["models"]
    assert (model["spoken"].value, model["thumbs"], model["score"]) == (0.0, None, None)
    assert (view["pairs"], view["biases"], view["n"]) == ([], [], 0)
