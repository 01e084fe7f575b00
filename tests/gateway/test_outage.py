"""The store goes away while gateways serve: no request fails, and nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from gateway_makers import HELLO, Served

from metarouter.cli import run
from metarouter.store.database import StoreDownError, open_database
from metarouter.store.keys import create_key, revoke_key
from metarouter.store.tables import decisions, feedback
from metarouter.testing import FakeUpstream, PostgresServer

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


class _Caller:
    """Asks and gives feedback on the answer, again and again, and keeps what it was told."""

    def __init__(self, url: str) -> None:
        self.statuses: set[tuple[str, int]] = set()
        self.decided: list[str] = []
        self.said: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx2.Client(base_url=self._url, headers=JSON, timeout=30) as client:
            while not self._stop.wait(0.005):
                answer = client.post(CHAT, content=HELLO)
                self.statuses.add(("chat", answer.status_code))
                self.decided.append(answer.headers["x-metarouter-decision-id"])
                said = {"type": "thumbs", "decision_id": self.decided[-1], "value": "up"}
                answer = client.post("/v1/feedback", json=said)
                self.statuses.add(("feedback", answer.status_code))
                self.said.append(answer.json()["feedback_id"])


def _wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _column(engine: sa.Engine, column: sa.Column[Any]) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(column)).scalars())


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_requests_are_served_while_postgres_is_away(
    serve: Callable[..., Served], postgres: PostgresServer, tmp_path: Path, how: str
) -> None:
    """Every decision and every acknowledged statement is there afterwards, once."""
    url = postgres.make_database()
    served = serve(store={"url": url, "spill": str(tmp_path / "spill")})
    ready = served.client.get("/ready").json
    with _Caller(served.url) as caller:
        time.sleep(0.3)
        if how == "frozen":
            postgres.pause()
        else:
            postgres.stop()
        try:
            _wait_for(lambda: served.client.get("/ready").json()["store"] == "down")
            time.sleep(0.5)
        finally:
            if how == "frozen":
                postgres.resume()
            else:
                postgres.start()
        _wait_for(lambda: served.client.get("/ready").json()["store"] == "ok")
        time.sleep(0.3)
    assert ready()["status"] == "ok"
    _wait_for(lambda: served.client.get("/ready").json()["store"] == "ok")
    served.rows()
    engine = served.gateway.engine
    assert sorted(_column(engine, decisions.c.decision_id)) == sorted(caller.decided)
    assert sorted(_column(engine, feedback.c.feedback_id)) == sorted(caller.said)
    assert {status for name, status in caller.statuses if name == "chat"} == {200}
    assert {status for name, status in caller.statuses if name == "feedback"} == {201, 202}
    assert served.gateway.writer.dropped == 0


def test_a_gateway_without_keys_starts_while_the_store_is_down(
    serve: Callable[..., Served], postgres: PostgresServer, tmp_path: Path
) -> None:
    """It serves, says so, and writes what it decided when the store comes."""
    url = postgres.make_database()
    postgres.stop()
    try:
        served = serve(store={"url": url, "spill": str(tmp_path / "spill")})
        answer = served.post(CHAT, HELLO)
        assert answer.status_code == 200
        ready = served.client.get("/ready")
        assert (ready.status_code, ready.json()["store"]) == (200, "down")
    finally:
        postgres.start()
    _wait_for(lambda: served.client.get("/ready").json()["store"] == "ok")
    (row,) = served.rows()
    assert row["decision_id"] == answer.headers["x-metarouter-decision-id"]


def test_a_gateway_with_keys_does_not_start_while_the_store_is_down(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Nobody could be let in; the message says what does not answer."""
    store = {"url": "postgresql://u@127.0.0.1:1/d", "spill": str(tmp_path / "spill")}
    with pytest.raises(StoreDownError, match=r"127\.0\.0\.1:1/d does not answer.*auth = keys"):
        serve(auth="keys", store=store)


def test_known_keys_stay_good_while_the_store_is_down(
    serve: Callable[..., Served], postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.make_database()
    engine = open_database(url)
    key, _ = create_key(engine, "alice")
    engine.dispose()
    served = serve(auth="keys", store={"url": url, "spill": str(tmp_path / "spill")})
    postgres.stop()
    try:
        _wait_for(lambda: served.client.get("/ready").json()["store"] == "down")
        good, bad = (
            served.post(CHAT, HELLO, authorization=f"Bearer {text}").status_code
            for text in (key, "mr-unknown")
        )
    finally:
        postgres.start()
    assert (good, bad) == (200, 401)


@contextmanager
def _process(folder: Path, config: Path) -> Iterator[str]:
    """``metarouter serve`` on a free port; its address."""
    command = [sys.executable, "-m", "metarouter", "serve", "--port", "0", "--config", str(config)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "serves on http" in line, line
        url = line.split()[-1].removesuffix("/v1")
        try:
            _wait_for(lambda: _answers(url))
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/ready").status_code == 200
    except httpx2.TransportError:
        return False


def test_processes_share_keys_and_rows(
    router_folder: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    """A key made meanwhile opens both, a revoked one neither; both write to the one store."""
    url = postgres.make_database()
    engine = open_database(url)
    with FakeUpstream() as upstream, ExitStack() as stack:
        config = tmp_path / "gateway.yaml"
        config.write_text(
            json.dumps(
                {
                    "auth": "keys",
                    "upstreams": {"main": {"base_url": upstream.url, "dialect": "any"}},
                    "policies": {"default": {"router": str(router_folder)}},
                    "store": {"url": url},
                }
            )
        )
        urls = [stack.enter_context(_process(tmp_path, config)) for _ in range(2)]
        key, record = create_key(engine, "alice")
        headers = {**JSON, "authorization": f"Bearer {key}"}
        ids = set()

        def answers(place: str, status: int) -> bool:
            answer = httpx2.post(place + CHAT, content=HELLO, headers=headers)
            if answer.status_code == 200:
                ids.add(answer.headers["x-metarouter-decision-id"])
            return answer.status_code == status

        for place in urls:
            _wait_for(partial(answers, place, 200), 10)
        revoke_key(engine, record.key_id)
        for place in urls:
            _wait_for(partial(answers, place, 401), 10)
    with engine.connect() as connection:
        found = connection.execute(sa.select(decisions.c.decision_id, decisions.c.instance)).all()
    assert {row.decision_id for row in found} == ids
    assert len({row.instance for row in found}) == 2
    engine.dispose()


def test_sigterm_while_the_store_is_down_keeps_every_decision(
    router_folder: Path, postgres: PostgresServer, tmp_path: Path
) -> None:
    """What the process could not write is on the disk, and the next one writes it."""
    url = postgres.make_database()
    config = tmp_path / "gateway.yaml"
    with FakeUpstream() as upstream:
        main = {"base_url": upstream.url, "dialect": "any"}
        router = {"router": str(router_folder)}
        given = {"upstreams": {"main": main}, "policies": {"p": router}, "store": {"url": url}}
        config.write_text(json.dumps(given))
        try:
            with _process(tmp_path, config) as place:
                postgres.stop()
                answers = [
                    httpx2.post(place + CHAT, content=HELLO, headers=JSON) for _ in range(30)
                ]
        finally:
            postgres.start()
        with _process(tmp_path, config) as place:
            _wait_for(lambda: httpx2.get(f"{place}/ready").json()["store"] == "ok")
    engine = open_database(url)
    made = {answer.headers["x-metarouter-decision-id"] for answer in answers}
    assert set(_column(engine, decisions.c.decision_id)) == made
    [spill] = tmp_path.glob("metarouter-*.spill")  # of this database alone
    assert list(spill.iterdir()) == []
    engine.dispose()


def test_the_command_tells_a_store_that_is_down_without_its_password(
    router_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", "hunter2")
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "gateway.yaml"
    store = {"url": "postgresql://u@127.0.0.1:1/d", "password_env": "STORE_PASSWORD"}
    up = {"main": {"base_url": "http://127.0.0.1:9/v1"}}
    config.write_text(json.dumps({"auth": "keys", "upstreams": up, "store": store}))
    assert run(["serve", "--config", str(config), "--check"]) == 1
    said = capsys.readouterr()
    assert "127.0.0.1:1/d does not answer" in said.err
    assert "hunter2" not in said.err + said.out
    monkeypatch.delenv("STORE_PASSWORD")
    assert run(["serve", "--config", str(config), "--check"]) == 2
    assert "STORE_PASSWORD is not set" in capsys.readouterr().err
    assert "STORE_PASSWORD" not in os.environ


def test_a_folder_that_cannot_be_written_is_told_before_the_gateway_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    config = tmp_path / "gateway.yaml"
    up = {"main": {"base_url": "http://127.0.0.1:9/v1"}}
    config.write_text(json.dumps({"upstreams": up, "store": {"spill": "file/spill"}}))
    assert run(["serve", "--config", str(config), "--check"]) == 2
    assert "file/spill: cannot be written" in capsys.readouterr().err
