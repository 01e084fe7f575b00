"""Splits and shadows in the store, against the numbers that went into it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from metarouter.cli import run
from metarouter.errors import DataError
from metarouter.fitting import fit
from metarouter.loading import load
from metarouter.store.database import open_database
from metarouter.store.experiments import (
    DecisionLog,
    arm_results,
    candidate_result,
    read_log,
    shadow_results,
)
from metarouter.store.feedback import read_feedback
from metarouter.store.tables import decisions, feedback

MODELS = ("large", "small")


@pytest.fixture
def engine(store_url: str) -> Iterator[sa.Engine]:
    engine = open_database(store_url)
    yield engine
    engine.dispose()


def _option(model: str, gain: float) -> dict[str, Any]:
    std, cost = (0.0, 0.0) if model == "small" else (0.1, 1.0)
    return {"model": model, "gain": gain, "gain_std": std, "cost": cost}


class Log:
    """Decisions between `small`, the reference, and `large`, and what is said of them."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.decisions: list[dict[str, Any]] = []
        self.feedback: list[dict[str, Any]] = []
        self.said = 0

    def decide(self, number: int, model: str, **fields: Any) -> None:
        """A row as the gateway writes it."""
        row: dict[str, Any] = dict.fromkeys(column.name for column in decisions.columns)
        self.decisions.append(
            row
            | {
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
        )

    def say(self, number: int, kind: str, **content: Any) -> None:
        """A statement, checked as the gateway checks it."""
        said = {"type": kind, "decision_id": f"d{number:05}", **content}
        read_feedback(json.dumps(said).encode())
        self.said += 1
        self.feedback.append(
            {
                "feedback_id": f"f{self.said:05}",
                "created": float(self.said),
                "decision_id": said["decision_id"],
                "kind": kind,
                "content": said,
            }
        )

    def read(self) -> DecisionLog:
        """Written at once, and read."""
        with self.engine.begin() as connection:
            for table, rows in ((decisions, self.decisions), (feedback, self.feedback)):
                if rows:
                    connection.execute(table.insert(), rows)
        self.decisions, self.feedback = [], []
        return read_log(self.engine)


@pytest.fixture
def log(engine: sa.Engine) -> Log:
    return Log(engine)


@pytest.fixture
def split(log: Log) -> Log:
    """Forty requests: `thrifty` calls large for a quarter of its half, `default` for all."""
    for number in range(40):
        arm = ("default", "thrifty")[number % 2]
        model = "small" if arm == "thrifty" and number % 8 != 1 else "large"
        log.decide(number, model, policy=arm, experiment="price", spent=0.5)
        log.say(number, "thumbs", value="up" if number % 3 else "down")
    log.read()
    return log


def test_arms_are_what_was_written(split: Log) -> None:
    default, thrifty = arm_results(split.read(), control="default")
    assert (default.policy, thrifty.policy) == ("default", "thrifty")
    assert default.requests == thrifty.requests == 20
    assert default.measures["premium_share"].value == 1.0
    assert thrifty.measures["premium_share"].value == 0.25
    assert thrifty.differences["cost"].value == pytest.approx(-0.75)
    up = [number % 3 != 0 for number in range(1, 40, 2)]
    assert thrifty.measures["thumbs"].value == pytest.approx(np.mean(up))
    assert default.differences == {}


def test_the_control_is_the_largest_arm_unless_named(split: Log) -> None:
    split.decide(40, "small", policy="thrifty", experiment="price")
    assert arm_results(split.read())[0].policy == "thrifty"


def test_a_split_of_keys_has_keys_as_units(log: Log) -> None:
    """Fifty requests of ten keys that each stay with their arm are ten units, not fifty."""
    for number in range(50):
        key, arm = number % 10, ("default", "other")[number % 2]
        log.decide(number, "large", policy=arm, experiment="e", key_id=f"key-{key}")
    assert [arm.units for arm in arm_results(log.read())] == [5, 5]


def test_conversations_are_units(log: Log) -> None:
    for number in range(30):
        log.decide(number, "large", experiment="e", conversation=f"c{number // 3}")
    assert arm_results(log.read())[0].units == 10


def test_users_last_word_counts(log: Log) -> None:
    for number in range(5):
        log.decide(number, "large")
    log.say(0, "thumbs", value="down")
    log.say(0, "thumbs", value="up")
    assert log.read().rewards["thumbs"][0] == 1.0


def test_requests_that_no_policy_decided_and_bare_decisions_are_left_out(log: Log) -> None:
    log.decide(0, "large", policy=None)
    log.decide(1, "large", endpoint="route")
    log.decide(2, "large", endpoint="route")
    log.say(2, "thumbs", value="up")
    assert len(log.read()) == 1


def test_an_empty_store_has_no_results(log: Log) -> None:
    found = log.read()
    assert (len(found), arm_results(found), shadow_results(found)) == (0, [], [])


def explored(log: Log, n: int = 200, seed: int = 0) -> None:
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
        log.decide(number, model, gain=gain, shadow=shadow, propensities=odds)
        log.say(number, "score", value=0.9 if model == "large" else 0.4)


def test_a_shadow_is_valued_by_what_users_said_of_others_choices(log: Log) -> None:
    explored(log)
    (found,) = shadow_results(log.read())
    truth = 0.4 + 0.5 * found.measures["premium_share"].value
    value = found.values["score"]
    for estimate in (value.ips, value.dr):
        assert estimate.low < truth < estimate.high
    assert value.effective_n < value.n == 200
    assert found.refusals == {"gold": "no request has any", "thumbs": "no request has any"}


def test_an_audit_of_both_models_values_a_shadow_without_propensities(log: Log) -> None:
    for number in range(8):
        wish = "large" if number < 4 else "small"
        log.decide(number, "small", shadow=[{"policy": "bold", "model": wish}])
        log.say(number, "gold", scores={"large": 0.7 + number / 100, "small": 0.5})
    (found,) = shadow_results(log.read())
    assert found.audit is not None
    assert found.audit.value == pytest.approx(np.mean([0.2, 0.21, 0.22, 0.23, 0, 0, 0, 0]))
    assert "no propensities" in found.refusals["gold"]


def test_gold_of_a_model_that_nobody_knows_is_counted_and_left_out(
    log: Log, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows from before such names were refused; who stood in without being weighed is known."""
    for number in range(8):
        log.decide(number, "small", answered="spare" if number == 0 else "small")
        log.say(number, "gold", scores={"large": 0.7, "small": 0.5, "lagre": 0.1})
    log.say(0, "gold", scores={"spare": 0.25}, annotator="other")
    found = log.read()
    assert found.models == ("large", "small")
    assert found.unknown_gold == 8
    assert found.rewards["gold"].tolist() == [0.5] * 8
    assert run(["experiments", "--store", store_url]) == 0
    told = "8 gold scores name a model that none of them offers; they are left out"
    assert told in capsys.readouterr().out


def test_a_deterministic_log_is_refused_reward_by_reward(log: Log) -> None:
    for number in range(8):
        shadow = [{"policy": "bold", "model": "large"}]
        log.decide(number, "small", shadow=shadow, propensities={"small": 1.0})
        log.say(number, "score", value=0.5)
    (found,) = shadow_results(log.read())
    assert "deterministic" in found.refusals["score"]


def test_arms_that_predict_opposite_gains_do_not_bend_a_value(log: Log) -> None:
    """Each row has the gains of the arm that was drawn, which say nothing of the other model."""
    for number in range(40):
        arm, model, gain = (("a", "large", 0.3), ("b", "small", -0.3))[number % 2]
        log.decide(
            number, model, policy=arm, experiment="e", gain=gain,
            propensities={"large": 0.5, "small": 0.5},
            shadow=[{"policy": "bold", "model": "large"}],
        )  # fmt: skip
        log.say(number, "score", value=0.8 if model == "large" else 0.5)
    (found,) = shadow_results(log.read())
    assert found.values["score"].dr.value == pytest.approx(0.8)
    assert found.values["score"].ips.value == pytest.approx(0.8)


def test_pinned_requests_are_no_part_of_an_off_policy_value(log: Log) -> None:
    """Nothing was weighed for them, so no policy could have chosen otherwise."""
    explored(log)
    before = shadow_results(log.read())[0].values["score"]
    for number in range(200, 220):
        shadow = [{"policy": "bold", "model": "large"}]
        pinned = {"options": [], "bound": "fixed", "propensities": {"small": 1.0}}
        log.decide(number, "small", shadow=shadow, **pinned)
        log.say(number, "score", value=0.0)
    after = shadow_results(log.read())[0].values["score"]
    assert after == before


def test_a_request_that_stayed_counts_as_premium_by_its_policys_reference(
    log: Log,
) -> None:
    for number in range(4):
        weighed = {} if number else {"options": [], "bound": "fixed"}
        log.decide(number, "large", experiment="e", **weighed)
    assert arm_results(log.read())[0].measures["premium_share"].n == 4


def test_choices_of_unknown_models_are_no_candidate(log: Log) -> None:
    log.decide(0, "small")
    with pytest.raises(DataError, match="none of its choices"):
        candidate_result(log.read(), "other", ["nobody"])


def test_taking_requests_takes_all_their_columns(split: Log) -> None:
    whole = split.read()
    part = whole.take(np.arange(40) % 4 == 0)
    assert isinstance(part, DecisionLog)
    assert len(part) == len(part.prompts) == len(part.rewards["thumbs"]) == len(part.costs) == 10
    assert part.policy.tolist() == whole.policy[::4].tolist()


def test_the_command_prints_arms_and_writes_them(
    split: Log, store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "found.json"
    assert run(["experiments", "--store", store_url, "--json", str(target)]) == 0
    told = capsys.readouterr().out
    assert "40 requests, 2 arms" in told
    same = "all independent units say the same: the interval has no width"
    assert f"Mind this: {same} (default premium_share, default cost" in told
    rows = json.loads(target.read_text())["results"]
    shares = {row["policy"]: row["value"] for row in rows if row["measure"] == "premium_share"}
    assert shares == {"default": 1.0, "thrifty": 0.25}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A router that was fitted on the prompts 0 to 49."""
    folder = tmp_path_factory.mktemp("fitted") / "router"
    rng = np.random.default_rng(0)
    rows = [
        {"query": f"prompt {number}", "model": model, "score": float(rng.random())}
        for number in range(50)
        for model in ("small", "large")
    ]
    fit(rows, premium="large", gain_model="ridge", embedder="surface", folds=0).save(folder)
    return folder


def _asked(log: Log, numbers: range, **fields: Any) -> None:
    for number in numbers:
        log.decide(number, "small", prompt=f" prompt {number}", **fields)
        log.say(number, "gold", scores={"large": 0.7, "small": 0.5})
    log.read()


def test_a_candidate_is_not_valued_on_what_it_was_fitted_on(
    log: Log, fitted: Path, store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor on other turns of those conversations, which hold the same text."""
    _asked(log, range(40, 60))
    _asked(log, range(10, 11), conversation="c")
    _asked(log, range(60, 62), conversation="c")
    target = tmp_path / "found.json"
    flags = ["--router", str(fitted), "--json", str(target)]
    assert run(["experiments", "--store", store_url, *flags]) == 0
    assert "13 of the 23 requests with a prompt are left out" in capsys.readouterr().out
    found = {row["measure"]: row for row in json.loads(target.read_text())["results"]}
    assert found["gold_difference_audited"]["n"] == found["agreement"]["n"] == 10


def test_a_turn_that_the_log_does_not_hold_makes_its_conversation_known(
    log: Log, fitted: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was asked before the time, or named its model; later turns hold its text all the same."""
    _asked(log, range(10, 11), conversation="early")
    _asked(log, range(60, 70))
    _asked(log, range(70, 71), conversation="early")
    _asked(log, range(11, 12), conversation="pinned", policy=None)
    _asked(log, range(71, 72), conversation="pinned")
    flags = ["--router", str(fitted), "--since", "1970-01-01T00:00:50Z"]
    assert run(["experiments", "--store", store_url, *flags]) == 0
    assert "2 of the 12 requests with a prompt are left out" in capsys.readouterr().out


def test_a_candidate_that_was_fitted_on_every_request_is_refused(
    log: Log, fitted: Path, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _asked(log, range(20))
    assert run(["experiments", "--store", store_url, "--router", str(fitted)]) != 0
    assert "fitted on 20 of the 20 requests" in capsys.readouterr().err


def test_a_candidate_that_does_not_know_what_it_was_fitted_on_is_valued_with_a_warning(
    log: Log, fitted: Path, store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _asked(log, range(20))
    router = load(fitted)
    parts = {name: part for name, part in router.artifact.parts.items() if name != "seen"}
    replace(router, artifact=replace(router.artifact, parts=parts)).save(tmp_path / "forgetful")
    flags = ["--router", str(tmp_path / "forgetful")]
    assert run(["experiments", "--store", store_url, *flags]) == 0
    assert "does not know what it was fitted on" in capsys.readouterr().out


def test_a_few_requests_elsewhere_leave_keys_the_units(log: Log) -> None:
    """Their arm was unable, or shares were changed; the split drew keys all the same."""
    for number in range(400):
        key, arm = number % 10, ("default", "other")[number % 2 if number else 1]
        log.decide(number, "large", policy=arm, experiment="e", key_id=f"key-{key}")
    assert [arm.units for arm in arm_results(log.read())] == [6, 5]


@pytest.mark.parametrize(("by", "units"), [("key", [2, 2]), ("request", [20, 20])])
def test_what_a_split_drew_by_is_what_its_decisions_say(
    log: Log, by: str, units: list[int]
) -> None:
    """Keys may stay with one arm though none were drawn, and move though they were."""
    for number in range(40):
        arm = ("default", "other")[number % 2]
        key = number % 2 if by == "request" else number // 2 % 2
        log.decide(number, "large", policy=arm, experiment="e", key_id=f"key-{key}", drawn_by=by)
    assert [arm.units for arm in arm_results(log.read())] == units


def test_decisions_that_do_not_say_what_drew_them_are_read_as_before(log: Log) -> None:
    """Twenty of a split of four keys, which was one of requests afterwards."""
    for number in range(40):
        arm, drawn_by = ("default", "other")[number % 2], None if number < 20 else "request"
        key = f"key-{number % 4}"
        log.decide(number, "large", policy=arm, experiment="e", key_id=key, drawn_by=drawn_by)
    assert [arm.units for arm in arm_results(log.read())] == [2 + 10, 2 + 10]


def test_a_split_of_requests_is_none_of_keys(log: Log) -> None:
    """Most requests of each key are in the larger arm, and so would be those of any key."""
    for number in range(400):
        arm = "other" if number % 40 == 7 else "default"
        log.decide(number, "large", policy=arm, experiment="e", key_id=f"key-{number % 10}")
    assert [arm.units for arm in arm_results(log.read())] == [390, 10]


def test_costs_of_two_units_are_not_compared(log: Log) -> None:
    """Calls less dollars is no number."""
    for number in range(40):
        arm, unit = (("default", "calls"), ("other", "USD"))[number % 2]
        log.decide(number, "large", policy=arm, experiment="e", cost_unit=unit)
    default, other = arm_results(log.read())
    assert "cost" in default.measures
    assert "cost" in other.measures
    assert "cost" not in other.differences
    assert "premium_share" in other.differences
