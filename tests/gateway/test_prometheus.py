"""A real Prometheus reads a gateway: every query of the dashboard and of alerts has an answer."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_makers import HELLO, Served

from metarouter.gateway.reloading import reload
from metarouter.store.keys import create_key
from metarouter.testing import UpstreamReply, UpstreamRequest, default_reply

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
EVERY, SECONDS = "200ms", 4  # between two looks at the gateway, and of traffic

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """A gateway with keys whose upstream refuses who asks it to."""

    def respond(request: UpstreamRequest) -> UpstreamReply:
        if b"fail" in request.body:
            return UpstreamReply(pieces=[b"{}"], status=500)
        return default_reply(request)

    return serve({"attempts": 1}, respond, auth="keys")


@pytest.fixture
def key(served: Served) -> str:
    made, _ = create_key(served.gateway.engine, "prometheus", is_admin=True)
    served.gateway.keyring.refresh()
    return made


@pytest.fixture
def api(served: Served, key: str, tmp_path: Path) -> Iterator[httpx2.Client]:
    """Of a Prometheus with the files that are shipped, which has been shown some traffic."""
    (tmp_path / "key").write_text(key)
    shutil.copy(DEPLOY / "prometheus/rules.yml", tmp_path)
    text = (DEPLOY / "prometheus/prometheus.yml").read_text().replace("15s", EVERY)
    text = text.replace("127.0.0.1:8080", served.url.removeprefix("http://"))
    text = re.sub(r"credentials_file: \S+", f"credentials_file: {tmp_path}/key", text)
    (tmp_path / "prometheus.yml").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [
        str(PROMETHEUS),
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    process = subprocess.Popen(command)
    try:
        with httpx2.Client(base_url=f"http://{address}/api/v1", timeout=10.0) as client:
            _wait_until_up(client)
            _ask_for(served, key, SECONDS)
            yield client
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_up(client: httpx2.Client) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if _query(client, 'up{job="metarouter"} == 1'):
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("Prometheus does not reach the gateway")


def _query(client: httpx2.Client, text: str, at: float | None = None) -> list[dict[str, Any]]:
    answer = client.get("/query", params={"query": text, "time": at or time.time()})
    if answer.status_code == 503:  # it is starting
        return []
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["result"])


def _ask_for(served: Served, key: str, seconds: float) -> None:
    """Traffic of all sorts: answers, errors, a reload."""
    mine = {"authorization": f"Bearer {key}"}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert served.post("/v1/chat/completions", HELLO, **mine).status_code == 200
        failing = HELLO.replace(b"Hello", b"fail")
        assert served.post("/v1/chat/completions", failing, **mine).status_code == 500
        served.client.get("/v1/models", headers=mine)
        reload(served.gateway)
        time.sleep(0.1)


def _dashboard() -> list[str]:
    """Queries of its panels, as Grafana would send them."""
    panels = json.loads((DEPLOY / "grafana/metarouter.json").read_text())["panels"]
    values = {"$__rate_interval": f"{SECONDS}s", "$job": ".*", "$policy": ".*"}
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    for name, value in values.items():
        queries = [query.replace(name, value) for query in queries]
    return queries


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_metrics(served: Served, key: str) -> None:
    mine = {"authorization": f"Bearer {key}"}
    served.post("/v1/chat/completions", HELLO, **mine)
    page = served.client.get("/metrics", headers=mine).text
    command = [str(PROMTOOL), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_promtool
def test_each_alert_rings_when_it_should() -> None:
    command = [str(PROMTOOL), "test", "rules", str(ROOT / "tests/deploy/alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_every_query_of_the_dashboard_and_the_alerts_has_an_answer(api: httpx2.Client) -> None:
    """With numbers: a quantile of nothing would be NaN."""
    end_of_traffic = time.time()
    for query in _dashboard():
        found = _query(api, query, end_of_traffic)
        assert found, query
        assert all(one["value"][1] != "NaN" for one in found), query
    answers = {
        one["metric"]["status"]: float(one["value"][1])
        for one in _query(api, 'metarouter_requests_total{endpoint="chat/completions"}')
    }
    assert answers["200"] == pytest.approx(answers["500"], abs=1)
    (group,) = api.get("/rules").json()["data"]["groups"]
    assert {rule["name"]: rule["health"] for rule in group["rules"]} == {
        rule["name"]: "ok" for rule in group["rules"]
    }
    assert len(group["rules"]) == (DEPLOY / "prometheus/rules.yml").read_text().count("- alert:")
