"""The command itself, as a process: flags, checks, signals, what is on the disk afterwards."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_makers import HELLO, process_of

from metarouter.cli import run
from metarouter.errors import InputError, OptionError
from metarouter.gateway.deciding import load_policy
from metarouter.gateway.settings import PolicySettings, read_settings
from metarouter.loading import load
from metarouter.store.database import open_database
from metarouter.testing import FakeUpstream, UpstreamReply

OPEN = "0.0.0.0"  # noqa: S104 - what is refused
JSON = {"content-type": "application/json"}


def _ids(folder: Path) -> set[str]:
    with sqlite3.connect(folder / "metarouter.db") as connection:
        found = {row[0] for row in connection.execute("SELECT decision_id FROM decisions")}
    connection.close()
    return found


def test_sigterm_lets_requests_end_and_keeps_every_decision(
    router_folder: Path, tmp_path: Path
) -> None:
    """A request in flight is answered in full; all decisions are in the store."""
    with FakeUpstream() as upstream:
        flags = ("--router", str(router_folder), "--upstream", upstream.url)
        with process_of(tmp_path, *flags) as (process, url), httpx2.Client(timeout=20) as client:
            kept = set()
            for _ in range(200):
                answer = client.post(f"{url}/v1/chat/completions", content=HELLO, headers=JSON)
                kept.add(answer.headers["x-metarouter-decision-id"])
            upstream.script.append(
                UpstreamReply(
                    pieces=[b"data: 1\n\n"] * 5, content_type="text/event-stream", pause=0.2
                )
            )
            body = HELLO[:-1] + b', "stream": true}'
            with client.stream(
                "POST", f"{url}/v1/chat/completions", content=body, headers=JSON
            ) as stream:
                process.send_signal(signal.SIGTERM)
                assert stream.read() == b"data: 1\n\n" * 5
            kept.add(stream.headers["x-metarouter-decision-id"])
            assert process.wait(30) in (0, -signal.SIGTERM)
    assert _ids(tmp_path) == kept


class _Sleeping:
    """Features that take twenty milliseconds."""

    endpoints = ()

    def __init__(self, features: Any) -> None:
        self._features = features

    def transform(self, texts: Sequence[str]) -> Any:
        time.sleep(0.02)
        return self._features.transform(texts)


def test_a_policy_whose_predictions_take_long_holds_up_no_request(
    router_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is timed when it is loaded, which reads what its first request would wait for."""
    settings = PolicySettings(router=router_folder)
    assert not load_policy("fast", settings).is_slow
    router = load(router_folder)
    sleeping: Any = _Sleeping(router.features)
    monkeypatch.setattr(
        "metarouter.gateway.deciding.load", lambda _: replace(router, features=sleeping)
    )
    slow = load_policy("slow", settings)
    assert slow.is_slow
    assert slow.seconds >= 0.02


def test_acknowledged_feedback_survives_a_kill(router_folder: Path, tmp_path: Path) -> None:
    """SIGKILL right after the answer: the statement is on the disk."""
    flags = ("--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1")
    for number in range(3):
        with process_of(tmp_path, *flags) as (process, url):
            said = {"type": "thumbs", "decision_id": f"d{number}", "value": "up"}
            answer = httpx2.post(f"{url}/v1/feedback", json=said)
            process.kill()
            assert answer.status_code == 201
    with sqlite3.connect(tmp_path / "metarouter.db") as connection:
        found = [row[0] for row in connection.execute("SELECT decision_id FROM feedback")]
    connection.close()
    assert sorted(found) == ["d0", "d1", "d2"]


def test_check_reads_everything_and_stops(
    router_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A YAML file with a policy, upstreams and a share; paths are relative to the file."""
    monkeypatch.setenv("SOME_KEY", "sk-1")
    monkeypatch.chdir(tmp_path)
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(f"question number {i}" for i in range(50)))
    relative = os.path.relpath(router_folder, tmp_path)
    config = tmp_path / "gateway.yaml"
    config.write_text(
        f"""
        policies:
          thrifty: {{router: {relative}, premium_share: 0.2, queries: queries.txt}}
          lavish: {{router: {relative}, w: -1, shadow: [thrifty], exploration: 0.1}}
        splits:
          trial: {{arms: {{thrifty: 0.9, lavish: 0.1}}, by: request}}
        upstreams:
          one: {{base_url: "http://127.0.0.1:9/v1", api_key_env: SOME_KEY,
                models: {{cheap: small, premium: large}}}}
        """
    )
    assert run(["serve", "--config", str(config), "--check"]) == 0
    said = capsys.readouterr().out
    assert "policy thrifty: cheap, premium" in said
    assert "split trial: thrifty 0.9, lavish 0.1, by request" in said
    monkeypatch.delenv("SOME_KEY")
    assert run(["serve", "--config", str(config), "--check"]) == 2
    assert "SOME_KEY" in capsys.readouterr().err


UP = {"one": {"base_url": "http://127.0.0.1:9/v1"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "upstreams"),
        ({"upstreams": UP, "colour": 1}, "colour: no such setting"),
        ({"upstreams": {"one": {"base_url": "ftp://x"}}}, "upstreams.one.base_url = 'ftp://x'"),
        ({"upstreams": {"one": {"base_url": "http://u:pw@h/v1"}}}, "allowed: a plain URL"),
        ({"upstreams": {"one": {"base_url": "http://a:80800/v1"}}}, "'http://a:80800/v1'"),
        ({"upstreams": {"one": {"base_url": "http://a..b/v1"}}}, "'http://a..b/v1'"),
        ({"upstreams": {"one": {"base_url": "http://a b/v1"}}}, "'http://a b/v1'"),
        ({"upstreams": {"one": {**UP["one"], "headers": {"x: y": "z"}}}}, "header 'x: y'"),
        (
            {"upstreams": {"one": {**UP["one"], "headers": {"Content-Length": "5"}}}},
            "is the gateway's to set",
        ),
        ({"upstreams": UP, "host": OPEN}, "host = '0.0.0.0' is open to others"),
        ({"upstreams": UP, "port": 70_000}, "port = 70000"),
        ({"upstreams": {"one": {**UP["one"], "api_key_env": "sk-abc!"}}}, "not a key"),
        (
            {"upstreams": {"one": {**UP["one"], "forward_client_key": True}}, "auth": "keys"},
            "forward_client_key",
        ),
        (
            {"upstreams": {"one": {**UP["one"], "models": {"a": "a"}}}, "fallbacks": {"a": ["b"]}},
            "no upstream serves 'b'",
        ),
        ({"upstreams": UP, "store": {"url": "postgresql://u:pw@h/d"}}, "holds a password"),
        ({"upstreams": UP, "store": {"url": "mysql://u:pw@h/d"}}, "sqlite:///PATH"),
        ({"upstreams": UP, "store": {"password_env": "!pw"}}, "not a password"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(
    settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    """Messages name key and value, and never a password."""
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    with pytest.raises(OptionError) as caught:
        read_settings(file)
    assert message in str(caught.value)
    assert "pw" not in str(caught.value)


def test_flags_go_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('port = 1\n[upstreams.one]\nbase_url = "http://127.0.0.1:9/v1"\n')
    assert read_settings(file).port == 1
    monkeypatch.setenv("METAROUTER_PORT", "2")
    monkeypatch.setenv("METAROUTER_LIMITS__BATCH", "7")
    assert (read_settings(file).port, read_settings(file).limits.batch) == (2, 7)
    assert read_settings(file, {"port": 3}).port == 3


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c"])
def test_a_file_that_holds_no_settings_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"gateway\.yaml"):
        read_settings(file)


def test_an_open_host_needs_a_key_that_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key the command refuses and says how to make one; the commands of keys work."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "gateway.yaml"
    config.write_text(json.dumps({"upstreams": UP, "host": OPEN, "auth": "keys"}))
    assert run(["serve", "--config", str(config), "--check"]) == 2
    assert "metarouter keys create" in capsys.readouterr().err
    assert run(["keys", "create", "alice", "--config", str(config)]) == 0
    key_id, key = capsys.readouterr().out.split()
    assert run(["serve", "--config", str(config), "--check"]) == 0
    assert run(["keys", "list", "--config", str(config), "--json", "-"]) == 0
    listed = capsys.readouterr().out
    assert key not in listed
    assert '"state": "valid"' in listed
    assert run(["keys", "revoke", key_id, "--config", str(config)]) == 0
    assert run(["serve", "--config", str(config), "--check"]) == 2


def test_labels_export_writes_what_callers_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{tmp_path / 'a.db'}"
    open_database(store).dispose()
    assert run(["labels", "export", "--store", store, "--out", str(tmp_path / "labels")]) == 0
    assert "gold: 0 rows" in capsys.readouterr().out
