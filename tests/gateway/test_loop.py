"""From requests through a gateway to labels, arms and values of what did not act."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gateway_makers import HELLO, Served

from metarouter.labels.read import read_gain_table
from metarouter.store.experiments import arm_results, read_log, shadow_results
from metarouter.store.exporting import export_labels
from metarouter.store.keys import create_key
from metarouter.testing import FakeUpstream


def _ask(served: Served, number: int, model: str = "metarouter") -> str:
    """One question; the id of its decision."""
    messages = [{"role": "user", "content": f"Question {number}: why is the sky blue?"}]
    body = json.dumps({"model": model, "messages": messages}).encode()
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 200
    return answer.headers["x-metarouter-decision-id"]


def _say(served: Served, decision: str, kind: str, **content: Any) -> None:
    statement = {"type": kind, "decision_id": decision, **content}
    assert served.post("/v1/feedback", json.dumps(statement).encode()).status_code == 201


def test_a_shadow_is_valued_from_what_exploration_logged(
    serve: Callable[..., Served], router_folder: Path, tmp_path: Path
) -> None:
    served = serve(
        policies={
            "default": {"router": router_folder, "exploration": 0.5, "shadow": ["bold"]},
            "bold": {"router": router_folder, "w": -5.0},
        },
        store={"url": f"sqlite:///{tmp_path}/own.db", "prompts": True},
    )
    for number in range(60):
        decision = _ask(served, number)
        _say(served, decision, "score", value=0.5)
    served.rows()
    log = read_log(served.gateway.engine)
    (shadow,) = shadow_results(log)
    assert shadow.requests == 60
    assert shadow.measures["premium_share"].value == 1.0
    assert shadow.values["score"].ips.value == shadow.values["score"].dr.value == 0.5
    assert np.allclose(log.propensities.sum(axis=1), 1.0)


def test_arms_of_a_split_are_found_in_the_store(
    serve: Callable[..., Served], router_folder: Path
) -> None:
    served = serve(
        policies={
            "thrifty": {"router": router_folder, "w": 5.0},
            "bold": {"router": router_folder, "w": -5.0},
        },
        splits={"price": {"arms": {"thrifty": 0.5, "bold": 0.5}, "by": "request"}},
    )
    for number in range(40):
        _ask(served, number, "metarouter:price")
    served.rows()
    arms = {arm.policy: arm for arm in arm_results(read_log(served.gateway.engine))}
    assert sum(arm.requests for arm in arms.values()) == 40
    assert arms["thrifty"].measures["premium_share"].value == 0.0
    assert arms["bold"].measures["premium_share"].value == 1.0


def test_a_misspelt_model_in_feedback_is_refused_with_the_names(
    serve: Callable[..., Served],
) -> None:
    served = serve()
    decision = _ask(served, 1)
    served.rows()
    said = {"type": "gold", "decision_id": decision, "scores": {"cheap": 0.4, "premum": 0.9}}
    refused = served.post("/v1/feedback", json.dumps(said).encode())
    assert refused.status_code == 400
    message = refused.json()["error"]["message"]
    assert message.startswith("feedback: scores = 'premum'")
    assert message.endswith("allowed: cheap, premium")
    _say(served, decision, "gold", scores={"cheap": 0.4, "premium": 0.9})


@pytest.mark.parametrize(("scope", "known"), [(None, "cheap, premium"), (["cheap"], "cheap")])
def test_about_a_request_that_named_its_model_the_key_s_models_may_be_named(
    serve: Callable[..., Served], scope: list[str] | None, known: str
) -> None:
    """Nothing was weighed: what is served may be judged, and a key of few models sees no other."""
    with FakeUpstream() as upstream:
        place = {"base_url": upstream.url, "models": {"cheap": "a", "premium": "b"}}
        served = serve(auth="keys", upstreams={"main": place})
        key, _ = create_key(served.gateway.engine, "mine", models=scope)
        served.gateway.keyring.refresh()
        mine = {"authorization": f"Bearer {key}"}
        asked = served.post("/v1/chat/completions", HELLO.replace(b"metarouter", b"cheap"), **mine)
        served.rows()
    said = {"type": "gold", "decision_id": asked.headers["x-metarouter-decision-id"]}
    scores = {"cheap": 0.4, "premum": 0.9}
    refused = served.post("/v1/feedback", json.dumps(said | {"scores": scores}).encode(), **mine)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].endswith(f"allowed: {known}")


def test_feedback_at_the_gateway_becomes_labels_that_fit_reads(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve(store={"url": f"sqlite:///{tmp_path}/own.db", "prompts": True})
    for number in range(3):
        decision = _ask(served, number)
        _say(served, decision, "gold", scores={"premium": 0.9, "cheap": 0.4})
        _say(served, decision, "preference", model_a="premium", model_b="cheap", winner="model_a")
    served.rows()
    labels = export_labels(served.gateway.engine)
    table, _ = read_gain_table(labels.scores, labels.votes, premium="premium", cheap="cheap")
    assert table.n_queries == 3
    assert table.gain[table.is_gold].tolist() == [0.5, 0.5, 0.5]
    assert labels.left_out() == {}
