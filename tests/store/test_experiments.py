"""Splits and shadows in the store, against the numbers that went into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from metarouter.cli import run
from metarouter.errors import DataError
from metarouter.store.database import open_database
from metarouter.store.experiments import (
    DecisionLog,
    arm_results,
    candidate_result,
    read_log,
    shadow_results,
)
from metarouter.store.feedback import read_feedback, save_feedback
from metarouter.store.tables import decisions

MODELS = ("large", "small")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'store.db'}")
    yield engine
    engine.dispose()


def _option(model: str, gain: float) -> dict[str, Any]:
    std, cost = (0.0, 0.0) if model == "small" else (0.1, 1.0)
    return {"model": model, "gain": gain, "gain_std": std, "cost": cost}


def decide(engine: sa.Engine, number: int, model: str, **fields: Any) -> None:
    """A decision between `small`, the reference, and `large`, as the gateway writes it."""
    row: dict[str, Any] = dict.fromkeys(column.name for column in decisions.columns)
    row |= {
        "decision_id": f"d{number:05}",
        "created": float(number),
        "endpoint": "chat/completions",
        "asked": "metarouter",
        "policy": "default",
        "model": model,
        "answered": model,
        "options": [_option("large", fields.pop("gain", 0.1)), _option("small", 0.0)],
        "logging_propensity": 1.0,
        "bound": "gain",
        "reason": "because",
        "outcome": "ok",
        **fields,
    }
    with engine.begin() as connection:
        connection.execute(decisions.insert(), row)


def say(engine: sa.Engine, number: int, kind: str, **content: Any) -> None:
    statement = {"type": kind, "decision_id": f"d{number:05}", **content}
    save_feedback(engine, read_feedback(json.dumps(statement).encode()), None)


@pytest.fixture
def split(engine: sa.Engine) -> sa.Engine:
    """Forty requests: `thrifty` calls large for a quarter of its half, `default` for all."""
    for number in range(40):
        arm = ("default", "thrifty")[number % 2]
        model = "small" if arm == "thrifty" and number % 8 != 1 else "large"
        decide(engine, number, model, policy=arm, experiment="price", spent=0.5)
        say(engine, number, "thumbs", value="up" if number % 3 else "down")
    return engine


def test_arms_are_what_was_written(split: sa.Engine) -> None:
    default, thrifty = arm_results(read_log(split), control="default")
    assert (default.policy, thrifty.policy) == ("default", "thrifty")
    assert default.requests == thrifty.requests == 20
    assert default.measures["premium_share"].value == 1.0
    assert thrifty.measures["premium_share"].value == 0.25
    assert thrifty.differences["cost"].value == pytest.approx(-0.75)
    up = [number % 3 != 0 for number in range(1, 40, 2)]
    assert thrifty.measures["thumbs"].value == pytest.approx(np.mean(up))
    assert default.differences == {}


def test_the_control_is_the_largest_arm_unless_named(split: sa.Engine) -> None:
    decide(split, 40, "small", policy="thrifty", experiment="price")
    assert arm_results(read_log(split))[0].policy == "thrifty"


def test_a_split_of_keys_has_keys_as_units(engine: sa.Engine) -> None:
    """Fifty requests of ten keys that each stay with their arm are ten units, not fifty."""
    for number in range(50):
        key, arm = number % 10, ("default", "other")[number % 2]
        decide(engine, number, "large", policy=arm, experiment="e", key_id=f"key-{key}")
    assert [arm.units for arm in arm_results(read_log(engine))] == [5, 5]


def test_conversations_are_units(engine: sa.Engine) -> None:
    for number in range(30):
        decide(engine, number, "large", experiment="e", conversation=f"c{number // 3}")
    assert arm_results(read_log(engine))[0].units == 10


def test_users_last_word_counts(engine: sa.Engine) -> None:
    for number in range(5):
        decide(engine, number, "large")
    say(engine, 0, "thumbs", value="down", feedback_id="1")
    say(engine, 0, "thumbs", value="up", feedback_id="2")
    assert read_log(engine).rewards["thumbs"][0] == 1.0


def test_requests_that_no_policy_decided_and_bare_decisions_are_left_out(engine: sa.Engine) -> None:
    decide(engine, 0, "large", policy=None)
    decide(engine, 1, "large", endpoint="route")
    decide(engine, 2, "large", endpoint="route")
    say(engine, 2, "thumbs", value="up")
    assert len(read_log(engine)) == 1


def test_an_empty_store_has_no_results(engine: sa.Engine) -> None:
    log = read_log(engine)
    assert (len(log), arm_results(log), shadow_results(log)) == (0, [], [])


def explored(engine: sa.Engine, n: int = 200, seed: int = 0) -> None:
    """`default` prefers small with 0.8; a shadow wants large where its gain is above 0.2.

    An answer of large earns 0.9, one of small 0.4.
    """
    rng = np.random.default_rng(seed)
    for number in range(n):
        gain = float(rng.uniform(0, 0.4))
        model = "large" if rng.random() < 0.2 else "small"
        wish = "large" if gain > 0.2 else "small"
        shadow = [{"policy": "bold", "version": "1", "model": wish, "cost": float(gain > 0.2)}]
        odds = {"large": 0.2, "small": 0.8}
        decide(engine, number, model, gain=gain, shadow=shadow, propensities=odds)
        say(engine, number, "score", value=0.9 if model == "large" else 0.4)


def test_a_shadow_is_valued_by_what_users_said_of_others_choices(engine: sa.Engine) -> None:
    explored(engine)
    (found,) = shadow_results(read_log(engine))
    truth = 0.4 + 0.5 * found.measures["premium_share"].value
    value = found.values["score"]
    for estimate in (value.ips, value.dr):
        assert estimate.low < truth < estimate.high
    assert value.effective_n < value.n == 200
    assert found.refusals == {"gold": "no request has any", "thumbs": "no request has any"}


def test_an_audit_of_both_models_values_a_shadow_without_propensities(engine: sa.Engine) -> None:
    for number in range(8):
        wish = "large" if number < 4 else "small"
        decide(engine, number, "small", shadow=[{"policy": "bold", "model": wish}])
        say(engine, number, "gold", scores={"large": 0.7 + number / 100, "small": 0.5})
    (found,) = shadow_results(read_log(engine))
    assert found.audit is not None
    assert found.audit.value == pytest.approx(np.mean([0.2, 0.21, 0.22, 0.23, 0, 0, 0, 0]))
    assert "no propensities" in found.refusals["gold"]


def test_a_deterministic_log_is_refused_reward_by_reward(engine: sa.Engine) -> None:
    for number in range(8):
        shadow = [{"policy": "bold", "model": "large"}]
        decide(engine, number, "small", shadow=shadow, propensities={"small": 1.0})
        say(engine, number, "score", value=0.5)
    (found,) = shadow_results(read_log(engine))
    assert "deterministic" in found.refusals["score"]


def test_choices_of_unknown_models_are_no_candidate(engine: sa.Engine) -> None:
    decide(engine, 0, "small")
    with pytest.raises(DataError, match="none of its choices"):
        candidate_result(read_log(engine), "other", ["nobody"])


def test_taking_requests_takes_all_their_columns(split: sa.Engine) -> None:
    log = read_log(split)
    part = log.take(np.arange(40) % 4 == 0)
    assert isinstance(part, DecisionLog)
    assert len(part) == len(part.prompts) == len(part.rewards["thumbs"]) == len(part.costs) == 10
    assert part.policy.tolist() == log.policy[::4].tolist()


def test_the_command_prints_arms_and_writes_them(
    split: sa.Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "found.json"
    assert run(["experiments", "--store", str(split.url), "--json", str(target)]) == 0
    assert "40 requests, 2 arms" in capsys.readouterr().out
    rows = json.loads(target.read_text())["results"]
    shares = {row["policy"]: row["value"] for row in rows if row["measure"] == "premium_share"}
    assert shares == {"default": 1.0, "thrifty": 0.25}
