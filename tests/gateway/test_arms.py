"""Splits, exploration and shadows: who decides, with what probability, and what is kept of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from gateway_makers import HELLO, Served
from hypothesis import given, settings
from hypothesis import strategies as st

from metarouter.errors import OptionError
from metarouter.gateway.experiments import Split, explored, mixed, uniform
from metarouter.gateway.settings import read_settings
from metarouter.store.keys import create_key

CHEAP, PREMIUM = 1e6, -1e6  # prices of cost that leave one model only
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}


def test_hashes_are_uniform_and_do_not_run_together() -> None:
    """Equal texts give equal numbers; the numbers of many texts fill [0, 1) evenly."""
    draws = [uniform("split", str(i)) for i in range(20_000)]
    counts = Counter(int(10 * u) for u in draws)
    expected = len(draws) / 10
    chi2 = sum((counts[k] - expected) ** 2 / expected for k in range(10))
    assert chi2 < 27.9  # 99.9 % point of χ² with 9 degrees of freedom
    assert uniform("a", "bc") != uniform("ab", "c")


def test_arms_are_drawn_with_their_shares_over_units_and_over_salts() -> None:
    """Both over many requests, and for one conversation over many salts."""
    n = 20_000
    over_units = Counter(
        Split(name="s", arms=SHARES, by="request").draw(str(i), SHARES) for i in range(n)
    )
    over_salts = Counter(
        Split(name="s", arms=SHARES, by="key", salt=str(i)).draw("key-1", SHARES) for i in range(n)
    )
    for counts in (over_units, over_salts):
        for arm, share in SHARES.items():
            assert abs(counts[arm] / n - share) < 4 * math.sqrt(share * (1 - share) / n)


@given(
    models=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True),
    epsilon=st.floats(0, 1),
)
@settings(max_examples=50)
def test_propensities_of_exploration_sum_to_one(models: list[str], epsilon: float) -> None:
    """Whatever is drawn has a propensity above 0, and they add up."""
    model, _, propensities = explored(models[0], models, epsilon, "d")
    assert math.isclose(sum(propensities.values()), 1.0)
    assert propensities[model] > 0


def test_exploration_draws_as_its_propensities_say() -> None:
    """Over many ids each model comes up as often as it should, drawn or not."""
    models, n = ["a", "b", "c"], 20_000
    found = [explored("a", models, 0.3, str(i)) for i in range(n)]
    counts, drawn = (
        Counter(model for model, _, _ in found),
        sum(is_drawn for _, is_drawn, _ in found),
    )
    expected = {"a": 0.8, "b": 0.1, "c": 0.1}
    assert all(math.isclose(found[0][2][m], p) for m, p in expected.items())
    for model, p in expected.items():
        assert abs(counts[model] / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert abs(drawn / n - 0.3) < 4 * math.sqrt(0.21 / n)


def test_propensities_of_arms_and_exploration_by_enumeration() -> None:
    """Every outcome of arm, coin and draw, each weighed by its probability."""
    models = ["m", "n"]
    arms = {"a": (0.7, "m", 0.2), "b": (0.3, "n", 0.1)}  # share, greedy model, ε
    truth: dict[str, float] = dict.fromkeys(models, 0.0)
    for (share, greedy, epsilon), is_drawn, drawn in product(arms.values(), (True, False), models):
        chance = (epsilon if is_drawn else 1 - epsilon) / len(models)
        truth[drawn if is_drawn else greedy] += share * chance
    parts = [(share, explored(g, models, e, "d")[2]) for share, g, e in arms.values()]
    assert mixed(parts) == pytest.approx(truth)


def _policies(router: Path, **more: dict[str, Any]) -> dict[str, Any]:
    return {
        "current": {"router": str(router), "w": CHEAP, **more.get("current", {})},
        "candidate": {"router": str(router), "w": PREMIUM, **more.get("candidate", {})},
    }


def _split(by: str = "request", **arms: float) -> dict[str, Any]:
    return {"ab": {"arms": arms or {"current": 0.75, "candidate": 0.25}, "by": by}}


def _body(text: str = "Hello you", model: str = "metarouter:ab", **options: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return json.dumps(body | ({"metarouter": options} if options else {})).encode()


PATH = "/v1/chat/completions"


def test_a_split_by_request_logs_what_it_drew(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Arms come up with their shares; every row has the exact propensities of both models."""
    served = serve(policies=_policies(router_folder), splits=_split())
    n = 300
    for _ in range(n):
        served.post(PATH, _body())
    rows = served.rows()
    counts = Counter(row["policy"] for row in rows)
    assert abs(counts["candidate"] / n - 0.25) < 5 * math.sqrt(0.25 * 0.75 / n)
    for row in rows:
        assert (row["experiment"], row["drawn_by"]) == ("ab", "request")
        assert row["propensities"] == pytest.approx({"cheap": 0.75, "premium": 0.25})
        assert row["model"] == ("cheap" if row["policy"] == "current" else "premium")
        assert row["logging_propensity"] == pytest.approx(row["propensities"][row["model"]])
        assert row["is_exploration"] is False
        assert row["shadow"] is None


def test_propensities_are_over_arms_and_exploration(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """What is logged is what an enumeration gives, and what happens over many requests."""
    more = {"current": {"exploration": 0.5}, "candidate": {"exploration": 0.2}}
    served = serve(policies=_policies(router_folder, **more), splits=_split())
    n = 300
    for _ in range(n):
        served.post(PATH, _body())
    premium = 0.75 * 0.25 + 0.25 * (0.8 + 0.1)
    rows = served.rows()
    for row in rows:
        assert row["propensities"] == pytest.approx({"cheap": 1 - premium, "premium": premium})
    share = sum(row["model"] == "premium" for row in rows) / n
    assert abs(share - premium) < 5 * math.sqrt(premium * (1 - premium) / n)
    drawn = [row for row in rows if row["is_exploration"]]
    assert abs(len(drawn) / n - (0.75 * 0.5 + 0.25 * 0.2)) < 0.15
    assert {row["bound"] for row in drawn} == {"random"}
    assert {row["model"] for row in drawn} == {"cheap", "premium"}
    assert "was drawn at random among cheap, premium" in drawn[0]["reason"]


def test_an_explanation_tells_of_the_experiment(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Its split, and the propensities as far as the answer does not wait for them."""
    policies = _policies(router_folder, current={"exploration": 0.5})
    served = serve(policies=policies, splits=_split(), log_level="error")
    for model, experiment, propensities in (
        ("metarouter:ab", "ab", None),
        ("metarouter:current", None, {"cheap": 0.75, "premium": 0.25}),
    ):
        answer = served.post(PATH, _body(model=model, explain=True))
        shown = json.loads(answer.headers["x-metarouter-explanation"])
        assert (shown["experiment"], shown["propensities"]) == (experiment, propensities)


def test_a_split_takes_over_the_name_of_a_policy(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Clients that ask for `metarouter` are split without a change of theirs."""
    splits = {"current": {"arms": {"current": 0.0, "candidate": 1.0}, "by": "request"}}
    served = serve(policies=_policies(router_folder), splits=splits)
    answer = served.post(PATH, HELLO)
    assert answer.headers["x-metarouter-policy"].startswith("candidate@")
    asked = served.post(PATH, _body(model="router-current-1.0"))
    assert asked.headers["x-metarouter-policy"].startswith("current@")
    names = [m["id"] for m in served.client.get("/v1/models").json()["data"]]
    assert names.count("metarouter:current") == 1


def test_a_conversation_stays_in_its_arm(serve: Callable[..., Served], router_folder: Path) -> None:
    """By its id, or by how it begins; different ones are shared out."""
    served = serve(policies=_policies(router_folder), splits=_split("conversation"), sticky="off")
    arms: list[str] = []
    for number in range(30):
        turns: list[dict[str, str]] = [{"role": "user", "content": f"Question {number}"}]
        seen = set()
        for turn in range(3):
            body = {"model": "metarouter:ab", "messages": turns}
            answer = served.post(PATH, json.dumps(body).encode())
            seen.add(answer.headers["x-metarouter-policy"].split("@")[0])
            turns += [
                {"role": "assistant", "content": f"Answer {turn}"},
                {"role": "user", "content": f"More {turn}"},
            ]
        assert len(seen) == 1
        arms += seen
    assert set(arms) == {"current", "candidate"}
    rows = served.rows()
    assert len({row["conversation"] for row in rows}) == 30
    assert all(row["logging_propensity"] in (0.75, 0.25) for row in rows)


def test_what_stays_with_its_model_stays_in_its_arm(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """A conversation with an id keeps the arm that began it, though requests are drawn."""
    policies = _policies(router_folder)
    served = serve(policies=policies, splits=_split(current=0.5, candidate=0.5))
    for number in range(24):
        for _ in range(2):
            served.post(PATH, _body(conversation=f"talk {number}"))
    rows = served.rows()
    assert len({row["policy"] for row in rows}) == 2
    for first in range(0, 48, 2):
        talk = rows[first : first + 2]
        assert len({(row["policy"], row["model"], row["conversation"]) for row in talk}) == 1
        assert [row["bound"] == "fixed" for row in talk] == [False, True]
        assert [row["logging_propensity"] for row in talk] == [0.5, 1.0]
        assert {row["experiment"] for row in talk} == {"ab"}


def test_a_key_stays_in_its_arm(serve: Callable[..., Served], router_folder: Path) -> None:
    """All requests of a key have one policy; keys are shared out."""
    served = serve(
        policies=_policies(router_folder),
        splits=_split("key", current=0.5, candidate=0.5),
        auth="keys",
    )
    keys = [create_key(served.gateway.engine, f"k{i}", policies=["ab"])[0] for i in range(24)]
    served.gateway.keyring.refresh()
    arms: list[str] = []
    for key in keys:
        headers = {"authorization": f"Bearer {key}"}
        found = {
            served.post(PATH, _body(text), **headers).headers["x-metarouter-policy"].split("@")[0]
            for text in ("one", "two")
        }
        assert len(found) == 1
        arms += found
        refused = served.post(PATH, _body(model="metarouter:current"), **headers)
        assert refused.status_code == 403
    assert set(arms) == {"current", "candidate"}


def test_nothing_is_left_to_chance_where_a_model_is_pinned(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Propensity 1, marked as fixed, and no exploration."""
    policies = _policies(router_folder, current={"exploration": 1.0})
    served = serve(policies=policies, splits=_split())
    for _ in range(5):
        answer = served.post(PATH, _body(pin="premium"))
        assert answer.headers["x-metarouter-model"] == "premium"
    for row in served.rows():
        assert (row["bound"], row["logging_propensity"]) == ("fixed", 1.0)
        assert row["propensities"] == {"premium": 1.0}
        assert row["is_exploration"] is False


def test_a_tool_loop_is_not_explored_again(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """Its steps stay with the model that was drawn for its question, with propensity 1."""
    policies = _policies(router_folder, current={"exploration": 1.0})
    served = serve(policies=policies)
    turns: list[dict[str, Any]] = [{"role": "user", "content": "Look this up"}]
    for step in range(12):
        body = {"model": "metarouter", "messages": turns}
        assert served.post(PATH, json.dumps(body).encode()).status_code == 200
        turns += [
            {"role": "assistant", "tool_calls": [{"id": f"{step}", "type": "function"}]},
            {"role": "tool", "tool_call_id": f"{step}", "content": "found"},
        ]
    first, *steps = served.rows()
    assert (first["bound"], first["logging_propensity"]) == ("random", 0.5)
    assert {row["model"] for row in steps} == {first["model"]}
    assert {(row["bound"], row["logging_propensity"]) for row in steps} == {("fixed", 1.0)}
    assert {row["conversation"] for row in steps} == {first["conversation"]}


def test_arms_that_cannot_answer_leave_the_split(
    serve: Callable[..., Served], router_folder: Path, tmp_path: Path
) -> None:
    """The others share a request that only they can answer, with their own chances."""
    policies = _policies(router_folder, current={"models": ["cheap"]})
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"question number {i}" for i in range(50)))
    policies["candidate"]["queries"] = str(queries)
    served = serve(policies=policies, splits=_split())
    bent: list[dict[str, Any]] = [{"models": ["premium"]}, {"premium_share": 1.0}]
    for options in bent * 8:
        answer = served.post(PATH, _body(**options))
        assert answer.headers["x-metarouter-policy"].startswith("candidate@")
    assert all(row["propensities"] == {"premium": 1.0} for row in served.rows())
    assert served.post(PATH, _body(models=["other"])).status_code == 400


def test_shadows_are_logged_and_never_act(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """What a shadow would have done, with its numbers; what is served is the policy's."""
    policies = _policies(router_folder, current={"shadow": ["candidate"]})
    served = serve(policies=policies)
    answer = served.post(PATH, _body(model="metarouter"))
    assert answer.headers["x-metarouter-model"] == "cheap"
    alone = served.post("/v1/route", b'{"query": "Hello you", "model": "metarouter:candidate"}')
    would = alone.json()["decisions"][0]
    served.post(PATH, _body(model="metarouter", pin="cheap"))
    first, _, pinned = served.rows()
    assert first["model"] == first["answered"] == "cheap"
    [shadow] = first["shadow"]
    assert shadow == {
        "policy": "candidate",
        "version": would["policy_version"],
        "model": "premium",
        **{name: pytest.approx(would[name]) for name in (
            "predicted_gain", "predicted_gain_std", "threshold", "cost")},
    }  # fmt: skip
    assert pinned["shadow"] is None
    assert 'metarouter_aside_total{outcome="done"} 1.0' in served.client.get("/metrics").text


def test_a_shadow_that_fails_harms_nobody(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """The answer and its row are there; the failure is counted."""
    policies = _policies(router_folder, current={"shadow": ["candidate"]})
    policies["candidate"]["models"] = ["premium"]
    served = serve(policies=policies)
    answer = served.post(PATH, _body(model="metarouter", models=["cheap"]))
    assert answer.status_code == 200
    assert served.rows()[0]["shadow"] == []
    assert 'metarouter_aside_total{outcome="failed"} 1.0' in served.client.get("/metrics").text


def test_route_shows_the_propensities(serve: Callable[..., Served], router_folder: Path) -> None:
    """A decision without a call has them all at once."""
    served = serve(policies=_policies(router_folder), splits=_split())
    body = b'{"query": "Hello you", "model": "metarouter:ab"}'
    shown = served.post("/v1/route", body).json()["decisions"][0]
    assert shown["propensities"] == pytest.approx({"cheap": 0.75, "premium": 0.25})
    assert shown["logging_propensity"] == pytest.approx(shown["propensities"][shown["model"]])
    row = served.rows()[0]
    assert row["propensities"] == shown["propensities"]
    assert row["logging_propensity"] == shown["logging_propensity"]


UP = {"one": {"base_url": "http://127.0.0.1:9/v1"}}
POLICIES = {"a": {"router": "r"}, "b": {"router": "r"}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"splits": {"s": {"arms": {"a": 0.9, "b": 0.2}}}}, "shares sum to 1.1"),
        ({"splits": {"s": {"arms": {"a": 2.0, "b": -1.0}}}}, "shares from 0 to 1"),
        ({"splits": {"s": {"arms": {"a": 0.5, "x": 0.5}}}}, "'x' is no policy; allowed: a, b"),
        ({"splits": {"s": {"arms": {"a": 1.0}, "by": "key"}}}, "needs auth = keys"),
        ({"splits": {"s s": {"arms": {"a": 1.0}}}}, "printable ASCII"),
        ({"policies": {"a": {"router": "r", "shadow": ["a"]}}}, "'a' is no other policy"),
        ({"policies": {"a": {"router": "r", "exploration": 1.5}}}, "exploration = 1.5"),
    ],
)  # fmt: skip
def test_a_wrong_experiment_is_named(more: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_settings(None, {"upstreams": UP, "policies": POLICIES} | more)
    assert message in str(caught.value)


def test_units_stay_where_their_arm_is_able() -> None:
    """Those of an arm that cannot answer are shared out anew, in the others' proportions."""
    split = Split(name="s", arms={"a": 0.5, "b": 0.25, "c": 0.25}, by="key")
    whole = split.shares(["a", "b", "c"])
    units = [str(i) for i in range(4000)]
    before = [split.draw(unit, whole) for unit in units]
    after = [split.draw(unit, split.shares(["a", "b"])) for unit in units]
    moved = [(was, now) for was, now in zip(before, after, strict=True) if was != now]
    assert {was for was, _ in moved} == {"c"}
    assert len(moved) == before.count("c")
    share = sum(now == "a" for _, now in moved) / len(moved)
    assert abs(share - 2 / 3) < 4 * (2 / 9 / len(moved)) ** 0.5


def test_requests_that_an_arm_could_not_take_are_no_part_of_the_experiment(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    """They would all be in the other arm, and differ from the rest by more than chance."""
    served = serve(
        policies={
            "default": {"router": router_folder},
            "narrow": {"router": router_folder, "models": ["cheap"]},
        },
        splits={"trial": {"arms": {"default": 0.5, "narrow": 0.5}, "by": "request"}},
    )
    body = HELLO.replace(b'"metarouter"', b'"metarouter:trial"')
    served.post("/v1/chat/completions", body)
    served.post("/v1/chat/completions", body, **{"x-metarouter-models": "premium"})
    free, restricted = served.rows()
    assert (free["experiment"], restricted["experiment"]) == ("trial", None)
    assert restricted["policy"] == "default"
