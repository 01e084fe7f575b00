"""What admins see and change, and that every change is told in the audit trail."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from gateway_makers import HELLO, Served, running

from metarouter.cli import run
from metarouter.gateway.limits import KeyLimits
from metarouter.store.keys import create_key
from metarouter.testing import UpstreamReply

Serve = Callable[..., Served]


class Admin:
    """Calls the admin endpoints with an admin's key."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.key, self.record = create_key(served.gateway.engine, "boss", is_admin=True)
        served.gateway.keyring.refresh()

    def __call__(self, method: str, path: str, **body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        content = json.dumps(body).encode()
        return self.served.client.request(method, path, content=content, headers=headers)


def test_a_key_from_its_making_to_its_end(store_url: str, serve: Serve) -> None:
    """Made, used, limited, revoked over the API; each takes effect with the answer."""
    served = serve(auth="keys", store={"url": store_url})
    admin = Admin(served)
    made = admin("POST", "/admin/keys", name="alice", models=["cheap"], requests_per_minute=50)
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    key, key_id = made.json()["key"], made.json()["record"]["key_id"]
    mine = {"authorization": f"Bearer {key}"}
    assert served.post("/v1/chat/completions", HELLO, **mine).status_code == 200
    shown = admin("GET", f"/admin/keys/{key_id}").json()
    assert (shown["models"], shown["requests_per_minute"], shown["state"]) == (
        ["cheap"], 50, "valid",
    )  # fmt: skip
    assert shown["used"]["requests"] in (0, 1)  # 0 where a minute ended meanwhile
    changed = admin("PATCH", f"/admin/keys/{key_id}", models=["premium"], requests_per_minute=None)
    assert (changed.json()["models"], changed.json()["requests_per_minute"]) == (["premium"], None)
    named = HELLO.replace(b"metarouter", b"cheap")
    assert served.post("/v1/chat/completions", named, **mine).status_code == 403
    assert admin("DELETE", f"/admin/keys/{key_id}").json()["state"] == "revoked"
    assert served.post("/v1/chat/completions", HELLO, **mine).status_code == 401
    listed = admin("GET", "/admin/keys")
    assert [row["name"] for row in listed.json()["keys"]] == ["boss", "alice"]
    assert key not in listed.text
    trail = admin("GET", "/admin/audit").json()["audit"]
    assert [entry["action"] for entry in trail] == [
        "key revoked", "key changed", "key created", "key created",
    ]  # fmt: skip
    assert {entry["content"]["by"] for entry in trail[:3]} == {admin.record.key_id}
    assert key not in str(trail)
    older = admin("GET", f"/admin/audit?limit=1&before={trail[0]['number']}").json()["audit"]
    assert older == [trail[1]]


def test_usage_by_key_and_day(store_url: str, serve: Serve) -> None:
    """What an answer used is in the report once the store was told."""
    prices = {"cheap": {"input": 100_000, "output": 100_000}}
    served = serve(auth="keys", store={"url": store_url}, prices=prices)
    admin = Admin(served)
    key, record = create_key(served.gateway.engine, "alice", models=["cheap"], budget=10.0)
    served.gateway.keyring.refresh()
    for _ in range(2):
        served.post("/v1/chat/completions", HELLO, authorization=f"Bearer {key}")
    assert admin("GET", f"/admin/keys/{record.key_id}").json()["used"]["spent"] == 1.0
    assert served.gateway.limits.exchange()
    report = admin("GET", "/admin/usage?days=2").json()["usage"]
    assert sum(row["requests"] for row in report) == 2
    assert sum(row["tokens"] for row in report) == 10
    assert sum(row["spent"] for row in report) == pytest.approx(1.0)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert report[0]["day"] == today
    assert admin("GET", "/admin/usage?key_id=key-0").json() == {"usage": []}


def test_without_keys_whoever_is_on_this_machine_is_the_admin(serve: Serve) -> None:
    """No key is asked for, but a page of a browser cannot send what changes anything."""
    served = serve()
    assert served.client.get("/admin/keys").json() == {"keys": []}
    simple = served.client.post("/admin/reload", headers={"content-type": "text/plain"})
    assert simple.status_code == 415
    made = served.post("/admin/keys", b'{"name": "first"}')
    assert made.status_code == 201
    trail = served.client.get("/admin/audit").json()["audit"]
    assert trail[0]["content"]["by"] == "this machine"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/admin/keys", {}, 400, "name"),
        ("POST", "/admin/keys", {"name": ""}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a\nb"}, 400, "name"),
        ("POST", "/admin/keys", {"name": "a", "colour": 1}, 400, "colour"),
        ("POST", "/admin/keys", {"name": "a", "requests_per_minute": 0}, 400, "requests_per"),
        ("POST", "/admin/keys", {"name": "a", "budget_days": 3}, 400, "budget"),
        ("PATCH", "/admin/keys/key-0", {"name": "a"}, 404, "GET /admin/keys"),
        ("GET", "/admin/keys/key-0", {}, 404, "GET /admin/keys"),
        ("GET", "/admin/usage?days=0", {}, 400, "days = '0'"),
        ("GET", "/admin/usage?day=1", {}, 400, "allowed: days, key_id"),
        ("GET", "/admin/audit?limit=1e3", {}, 400, "limit"),
        ("GET", "/admin/audit?before=99999999999999999999", {}, 400, "before"),
    ],
)
def test_what_cannot_be_done_is_said(
    serve: Serve, method: str, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answer = Admin(serve(auth="keys"))(method, path, **body)
    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]


def test_reload_over_the_api(router_folder: Path, tmp_path: Path) -> None:
    """The next generation serves; a wrong file is told, and changes nothing."""
    file = tmp_path / "gateway.yaml"
    settings: dict[str, Any] = {
        "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1", "dialect": "any"}},
        "policies": {"default": {"router": str(router_folder)}},
        "store": {"url": f"sqlite:///{tmp_path / 'store.db'}"},
        "log_level": "error",
    }
    file.write_text(json.dumps(settings))
    with running(file=file) as (_, url), httpx2.Client(base_url=url) as client:
        settings["policies"]["other"] = settings["policies"]["default"]
        file.write_text(json.dumps(settings))
        done = client.post("/admin/reload", json={})
        assert (done.status_code, done.json()["generation"]) == (200, 2)
        assert list(done.json()["policies"]) == ["default", "other"]
        file.write_text(json.dumps(settings | {"colour": 1}))
        refused = client.post("/admin/reload", json={})
        assert refused.status_code == 400
        assert "colour" in refused.json()["error"]["message"]
        status = client.get("/admin/status").json()
        assert (status["generation"], status["upstreams"]) == (
            2, [{"name": "main", "state": "asked", "rest": 0.0}],
        )  # fmt: skip
        trail = client.get("/admin/audit").json()["audit"]
        assert [(entry["action"], entry["subject"]) for entry in trail] == [
            ("reloaded", "generation 2")
        ]


def test_status_tells_which_upstream_is_left_alone(serve: Serve) -> None:
    """After its breaker opened, with the seconds until the next trial."""
    served = serve({"breaker_failures": 2, "breaker_seconds": 30.0, "attempts": 2})
    served.upstream.respond = lambda request: UpstreamReply(status=500, pieces=[b"{}"])
    served.post("/v1/chat/completions", HELLO)
    status = served.client.get("/admin/status").json()
    (upstream,) = status["upstreams"]
    assert (upstream["name"], upstream["state"]) == ("main", "left alone")
    assert 0 < upstream["rest"] <= 30
    assert (status["writer"]["state"], status["auth"]) == ("ok", "none")


def test_a_reload_that_the_store_could_not_note_is_told_as_done(serve: Serve) -> None:
    """What serves has changed: nobody need ask for it again."""
    served = serve(log_level="error")
    engine = served.gateway.engine
    served.gateway.engine = sa.create_engine("sqlite:////no/such/folder/store.db")
    answer = served.client.post("/admin/reload", json={})
    served.gateway.engine = engine  # which is disposed of at the end
    assert answer.status_code == 503
    message = answer.json()["error"]["message"]
    assert message.startswith("generation 2 serves, but is not in the audit trail")
    assert served.client.get("/admin/status").json()["generation"] == 2


def test_a_store_that_does_not_answer_is_told(serve: Serve) -> None:
    served = serve()
    engine = served.gateway.engine
    served.gateway.engine = sa.create_engine("sqlite:////no/such/folder/store.db")
    answer = served.client.get("/admin/keys")
    served.gateway.engine = engine  # which is disposed of at the end
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "store_unavailable")


def test_limits_of_keys_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Create with limits, list with usage, update one, take one away."""
    store = ["--store", f"sqlite:///{tmp_path / 'store.db'}"]
    flags = ["--admin", "--rpm", "60", "--tpm", "9000", "--budget", "25", "--budget-days", "30"]
    assert run(["keys", "create", "alice", *flags, *store]) == 0
    key_id, _ = capsys.readouterr().out.split()
    (row,) = _listed(capsys, store)
    assert (row["is_admin"], row["requests_per_minute"], row["budget_days"]) == (True, 60, 30)
    assert (row["requests_today"], row["tokens_today"], row["spent"]) == (0, 0, 0.0)
    changes = ["--rpm", "none", "--tpm", "100", "--models", "cheap,premium", "--no-admin"]
    assert run(["keys", "update", key_id, *changes, *store]) == 0
    (row,) = _listed(capsys, store)
    assert (row["is_admin"], row["requests_per_minute"], row["tokens_per_minute"]) == (
        False, None, 100,
    )  # fmt: skip
    assert (row["models"], row["budget"]) == ("cheap,premium", 25.0)
    assert run(["keys", "update", key_id, "--rpm", "many", *store]) == 2
    assert "rpm" in capsys.readouterr().err
    assert run(["keys", "update", key_id, *store]) == 2
    assert run(["keys", "update", "key-0", "--rpm", "1", *store]) == 2


def _listed(capsys: pytest.CaptureFixture[str], store: list[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run(["keys", "list", "--json", "-", *store]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["results"]
    return rows


def test_usage_is_shown_with_the_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Today's requests and tokens, and what was spent of the budget in its period."""
    from metarouter.store.database import open_database

    url = f"sqlite:///{tmp_path / 'store.db'}"
    engine = open_database(url)
    _, key = create_key(engine, "alice", budget=5.0)
    limits = KeyLimits(engine, lambda: [key])
    limits.close(limits.admit(key), tokens=40, dollars=1.25)
    assert limits.exchange()
    (row,) = _listed(capsys, ["--store", url])
    assert (row["requests_today"], row["tokens_today"], row["spent"]) == (1, 40, 1.25)
    engine.dispose()


@pytest.mark.parametrize("place", ["usage?days=", "audit?before=", "audit?limit="])
@pytest.mark.parametrize("number", ["0" * 12 + "1" + "9" * 20, "9" * 5000, "-1", "1.5", "x"])
def test_a_number_out_of_range_is_the_callers_mistake(
    serve: Callable[..., Served], place: str, number: str
) -> None:
    assert serve().client.get(f"/admin/{place}{number}").status_code == 400
