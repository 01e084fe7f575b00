"""A refit proposes what is better, and little else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metarouter.errors import DataError, OptionError
from metarouter.evaluation.equal_cost import equal_cost_w
from metarouter.evaluation.intervals import bootstrap_interval, mean_statistic
from metarouter.fitting import fit
from metarouter.labels.queries import hash_queries
from metarouter.policy.rule import best_model, gains_and_costs
from metarouter.records import ModelSpec
from metarouter.refitting import refit
from metarouter.router import Router
from metarouter.testing import make_world
from metarouter.testing.worlds import WorldOptions, gold_records

Rows = list[dict[str, Any]]
QUICK: dict[str, Any] = {"gain_model": "ridge", "embedder": "surface", "folds": 0}


def _world(n_old: int, n_new: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Gold rows that a router is fitted on, and those of audits after it."""
    options = WorldOptions(bias="null", concentration=40.0)
    world = make_world(options, n_queries=n_old, n_gold=n_old, n_test=n_new, seed=seed)
    return list(gold_records(world.table)), list(gold_records(world.test))


@pytest.fixture(scope="module")
def helped() -> tuple[Router, Rows, Rows]:
    """A router from 40 gold queries with noise for scores, and 500 audits."""
    old, new = _world(40, 500)
    noise = np.random.default_rng(0).uniform(size=len(old))
    old = [{**row, "score": score} for row, score in zip(old, noise.tolist(), strict=True)]
    return fit(old, **QUICK), old, new


def test_a_router_that_feedback_makes_better_is_proposed(helped: tuple[Router, Rows, Rows]) -> None:
    serving, old, new = helped
    found = refit(serving, [*old, *new])
    assert found.is_proposed
    assert found.difference is not None
    assert found.difference.low > 0
    assert found.needed is None


def test_no_query_that_judges_trained_either_router(helped: tuple[Router, Rows, Rows]) -> None:
    serving, old, new = helped
    found = refit(serving, [*old, *new])
    assert found.candidate is not None
    assert found.candidate.query_hashes is not None
    assert serving.query_hashes is not None
    trained = {*found.candidate.query_hashes.tolist(), *serving.query_hashes.tolist()}
    fresh = {*hash_queries([row["query"] for row in new]).tolist()} - trained
    assert found.n_new == len({*hash_queries([row["query"] for row in new]).tolist()})
    assert len(fresh) == found.n_held_out == 250


def test_the_proposed_router_costs_what_the_serving_one_does(
    helped: tuple[Router, Rows, Rows],
) -> None:
    serving, old, new = helped
    found = refit(serving, [*old, *new])
    assert found.premium_share_new == pytest.approx(found.premium_share_serving, abs=2 / 250)


def test_a_margin_asks_for_more(helped: tuple[Router, Rows, Rows]) -> None:
    serving, old, new = helped
    found = refit(serving, [*old, *new], margin=0.5)
    assert not found.is_proposed
    assert "on 250 held-out queries: not above 0.5" in found.reason


def test_old_gold_alone_judges_nothing(helped: tuple[Router, Rows, Rows]) -> None:
    serving, old, _ = helped
    found = refit(serving, old)
    assert (found.candidate, found.is_proposed, found.n_new) == (None, False, 0)
    assert "at least 20" in found.reason


def test_without_fingerprints_only_newer_queries_judge(helped: tuple[Router, Rows, Rows]) -> None:
    serving, old, new = helped
    parts = {name: part for name, part in serving.artifact.parts.items() if name != "seen"}
    forgetful = replace(serving, artifact=replace(serving.artifact, parts=parts))
    with pytest.raises(DataError, match="does not know"):
        refit(forgetful, [*old, *new])
    newest = {row["query"] for row in new[:200]}
    found = refit(forgetful, [*old, *new], fresh=newest)
    assert found.n_new == len(newest)
    assert np.isnan(found.known_share)


def test_labels_that_the_serving_router_was_fitted_on_and_are_missing_are_counted(
    helped: tuple[Router, Rows, Rows],
) -> None:
    serving, _, new = helped
    assert refit(serving, new).known_share == 0.0


def test_a_difference_that_is_not_shown_comes_with_the_labels_that_would_show_it() -> None:
    old, new = _world(150, 80, seed=3)
    found = refit(fit(old, **QUICK), [*old, *new], seed=1)
    assert not found.is_proposed
    assert found.difference is not None
    assert (found.needed is None) == (found.difference.value <= 0)
    assert found.needed is None or found.needed > found.n_held_out


def test_labels_of_other_models_are_refused(helped: tuple[Router, Rows, Rows]) -> None:
    with pytest.raises(OptionError, match="no label is about"):
        refit(helped[0], [{**row, "model": f"other {row['model']}"} for row in helped[1]])


def test_models_may_change_places_in_a_pool() -> None:
    """Feedback turns the order of two of three models round: choices are compared by name.

    A model that was named premium stays the last.
    """
    rng = np.random.default_rng(0)
    texts = [f"question {i} " + "why " * (i % 7) for i in range(300)]

    def rows(part: list[str], means: dict[str, float]) -> Rows:
        return [
            {"query": text, "model": model, "score": float(np.clip(rng.normal(mean, 0.1), 0, 1))}
            for text in part
            for model, mean in means.items()
        ]

    old = rows(texts[:40], {"small": 0.2, "middle": 0.5, "large": 0.6})
    new = rows(texts[40:], {"small": 0.2, "middle": 0.8, "large": 0.4})
    serving = fit(old, **QUICK)
    assert serving.models == ("small", "middle", "large")
    found = refit(serving, [*old, *new])
    assert found.candidate is not None
    assert found.candidate.models == ("small", "large", "middle")
    named = refit(fit(old, premium="large", **QUICK), [*old, *new]).candidate
    assert named is not None
    assert named.models == ("small", "middle", "large")
    assert named.artifact.config["premium"] == "large"
    assert found.is_proposed
    assert found.difference is not None
    assert found.premium_share_serving is not None
    assert found.difference.value == pytest.approx(0.4 * found.premium_share_serving, abs=0.03)


def test_dollars_are_matched_where_tokens_are_priced() -> None:
    """By token prices equal shares are not equal costs."""
    old, new = _world(120, 300, seed=2)
    prices = {
        model: ModelSpec(name=model, input_usd_per_mtok=rate, output_usd_per_mtok=4 * rate)
        for model, rate in (("cheap", 1.0), ("premium", 10.0))
    }
    serving = fit(old, cost="token", prices=prices, **QUICK)
    found = refit(serving, [*old, *new])
    assert found.candidate is not None
    assert found.candidate.cost.unit == "USD"
    judged = [row["query"] for row in new]
    held = [text for text in dict.fromkeys(judged) if not _saw(found.candidate, text)]
    spent = [
        serving.expected_costs(held)[np.arange(len(held)), _choices(router, held)].mean()
        for router in (serving, found.candidate)
    ]
    assert spent[1] == pytest.approx(spent[0], rel=0.03)
    assert spent[1] <= spent[0]


def test_a_candidate_whose_scores_are_equal_is_judged_as_what_is_written() -> None:
    """No price parts its queries, so it calls the premium model nowhere, and loses by that."""
    old, new = _world(60, 120, seed=4)
    new = [{**row, "score": 0.75 if row["model"] == "premium" else 0.5} for row in new]
    serving = fit(old, premium_share=0.5, **QUICK)
    found = refit(serving, new)
    assert found.candidate is not None
    assert found.difference is not None
    assert found.premium_share_serving is not None
    held = [row["query"] for row in new if not _saw(found.candidate, row["query"])]
    assert _choices(found.candidate, held) == [0] * len(held)
    assert found.difference.value == pytest.approx(-0.25 * found.premium_share_serving)
    assert found.difference.high < 0
    assert "no price parts equal scores" in found.reason


def test_a_candidate_that_cannot_cost_as_little_is_not_proposed() -> None:
    """It expects long answers, which premium gives for less; the serving router short ones."""
    old, new = _world(120, 200, seed=2)
    old = [{**row, "completion_tokens": 1} for row in old]
    new = [
        {**row, "completion_tokens": 5000, "score": 0.9 if row["model"] == "premium" else 0.1}
        for row in new
    ]
    prices = {
        "cheap": ModelSpec(name="cheap", input_usd_per_mtok=1.0, output_usd_per_mtok=9.0),
        "premium": ModelSpec(name="premium", input_usd_per_mtok=9.0, output_usd_per_mtok=1.0),
    }
    serving = fit(old, cost="token", prices=prices, premium_share=0.0, **QUICK)
    found = refit(serving, new)
    assert found.difference is not None
    assert found.premium_share_serving is not None
    assert found.premium_share_serving < 0.1
    assert found.premium_share_new == 1.0
    assert found.difference.low > 0
    assert not found.is_proposed
    assert found.reason.endswith("above 0, but for more money")
    assert found.candidate is not None
    set_at = found.candidate.artifact.config["calibration"]["reason"]
    assert "costs more, as at any price, than the router before it" in set_at


def _saw(router: Router, text: str) -> bool:
    assert router.query_hashes is not None
    return bool(np.isin(hash_queries([text]), router.query_hashes)[0])


def _choices(router: Router, queries: list[str]) -> list[int]:
    return [router.models.index(decision.model) for decision in router.route_batch(queries)]


@pytest.mark.parametrize("wrong", [{"held_out_share": 1.0}, {"margin": -0.1}])
def test_options_out_of_range_are_refused(
    helped: tuple[Router, Rows, Rows], wrong: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match="allowed"):
        refit(helped[0], helped[1], **wrong)


def test_a_candidate_that_is_no_better_is_rarely_called_better() -> None:
    """Two rankings that know equally much: of 200 tests at 2.5 %, at most 11 are false alarms."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        psi = rng.normal(0.1, 0.3, 50)
        incumbent, challenger = psi + rng.normal(0, 0.5, 50), psi + rng.normal(0, 0.5, 50)
        quality = np.column_stack([np.zeros(50), psi + rng.normal(0, 0.4, 50)])
        costs = np.tile([0.0, 1.0], (50, 1))
        choice = (incumbent > 0.25).astype(np.int64)
        w = equal_cost_w(challenger, costs, choice, costs)
        new = best_model(*gains_and_costs(challenger, costs), w)
        added = mean_statistic(quality[np.arange(50), new] - quality[np.arange(50), choice])
        alarms += bootstrap_interval(added, 50, rng, 200).low > 0
    assert alarms <= 11


def _conversations(rng: np.random.Generator, n: int, turns: int) -> tuple[Rows, dict[str, str]]:
    """Audits of turns whose gain is their conversation's own, and no other's."""
    words = ["".join(rng.choice(list("bcdfgklmnprst"), 6)) for _ in range(4000)]
    rows: Rows = []
    names: dict[str, str] = {}
    for number in range(n):
        gain, text = rng.choice([-0.4, 0.4]), " ".join(rng.choice(words, 60))
        for _ in range(turns):
            text += " " + " ".join(rng.choice(words, 4))
            names[text] = f"c{number}"
            scores = {"cheap": 0.5, "premium": 0.5 + gain + rng.normal(0, 0.05)}
            rows += [{"query": text, "model": m, "score": s} for m, s in scores.items()]
    return rows, names


def test_turns_of_a_conversation_judge_together_or_not_at_all() -> None:
    """Else a candidate would be judged on texts whose beginnings it learned by heart."""
    rng = np.random.default_rng(0)
    old, _ = _conversations(rng, 40, 1)
    new, names = _conversations(rng, 40, 8)
    options = {**QUICK, "gain_model": "knn", "embedder": "hashed"}
    serving = fit(old, premium_share=0.5, **options)
    found = refit(serving, [*old, *new], conversations=names)
    assert found.candidate is not None
    assert found.difference is not None
    trained = set(found.candidate.query_hashes.tolist())  # type: ignore[union-attr]
    seen = {
        name: {hash_ in trained for hash_ in hash_queries([t for t in names if names[t] == name])}
        for name in set(names.values())
    }
    assert all(len(states) == 1 for states in seen.values())
    assert found.difference.n == sum(states == {False} for states in seen.values()) == 20
    assert not found.is_proposed
    assert refit(serving, [*old, *new]).is_proposed  # which is wrong: no router can be better


def test_a_few_long_conversations_judge_nothing() -> None:
    """However many turns they have: one conversation is one draw, and draws without width prove."""
    rng = np.random.default_rng(2)
    old, _ = _conversations(rng, 40, 1)
    new, names = _conversations(rng, 4, 30)
    serving = fit(old, premium_share=0.5, **QUICK)
    found = refit(serving, [*old, *new], conversations=names)
    assert found.n_held_out == 60
    assert found.candidate is None
    assert "60, of 2 conversations" in found.reason


def test_values_of_both_routers_are_as_sure_as_their_conversations() -> None:
    """Turns of one conversation that say the same say it once."""
    rng = np.random.default_rng(3)
    old, _ = _conversations(rng, 40, 1)
    new, names = _conversations(rng, 60, 6)
    serving = fit(old, premium_share=0.5, **QUICK)
    found = refit(serving, [*old, *new], conversations=names)
    assert found.serving is not None
    assert found.difference is not None
    assert found.serving.n == found.difference.n == 30
    assert "on 180 held-out queries of 30 conversations: " in found.reason


def test_a_conversation_that_the_serving_router_saw_in_part_is_not_new() -> None:
    rng = np.random.default_rng(1)
    rows, names = _conversations(rng, 60, 2)
    first, second = rows[0:2] + rows[4:], rows  # the second turn of one conversation is missing
    serving = fit(first[: len(first) // 2], premium_share=0.5, **QUICK)
    found = refit(serving, second, conversations=names)
    assert serving.query_hashes is not None
    seen = set(serving.query_hashes.tolist())
    touched = {names[t] for t in names if int(hash_queries([t])[0]) in seen}
    assert found.n_new == 2 * (60 - len(touched))


def test_a_conversation_whose_first_turn_was_a_vote_in_the_serving_fit_is_not_new() -> None:
    """The gold turn holds that text, whoever labelled it, and whether or not it is given again."""
    old, new = _world(60, 60)
    texts = list(dict.fromkeys(row["query"] for row in new))
    voted = texts[:20]
    votes = [
        {"query": f"first of {t}", "model_a": "premium", "model_b": "cheap", "winner": "model_a"}
        for t in voted
    ]
    serving = fit(old, votes, corrector="none", **QUICK)
    names = {text: f"c{number}" for number, text in enumerate(texts)}
    names |= {f"first of {text}": names[text] for text in voted}
    assert refit(serving, [*old, *new], votes, conversations=names).n_new == 40
    assert refit(serving, [*old, *new], conversations=names).n_new == 40
