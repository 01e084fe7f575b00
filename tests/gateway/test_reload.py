"""Settings and routers that change while requests run."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateway_makers import FAST, HELLO, Served, process_of, running

from metarouter import load
from metarouter.artifact import save_artifact
from metarouter.errors import ArtifactError, MetarouterError, OptionError
from metarouter.gateway.reloading import (
    FIXED_SETTINGS,
    fixed_settings,
    reload,
    reload_all,
    reload_when_told,
    with_fixed,
)
from metarouter.gateway.settings import read_settings
from metarouter.gateway.state import Gateway
from metarouter.testing import FakeUpstream, UpstreamReply

CHEAP, PREMIUM = 1e6, -1e6  # prices of cost that leave one model only


class Files:
    """The settings' file and the router of a gateway, to be written again."""

    def __init__(self, folder: Path, router: Path, url: str) -> None:
        self.settings = folder / "gateway.yaml"
        self.router = folder / "router"
        self.source = router
        shutil.copytree(router, self.router)
        place = {"base_url": url, "dialect": "any", **FAST}
        self.given: dict[str, Any] = {
            "upstreams": {"main": place},
            "policies": {"default": {"router": str(self.router), "w": CHEAP}},
            "store": {"url": f"sqlite:///{folder}/store.db"},
            "log_level": "error",
        }
        self.write()

    def write(self, **changes: Any) -> None:
        self.given |= changes
        self.settings.write_text(json.dumps(self.given))  # JSON is YAML

    def write_w(self, w: float) -> None:
        self.write(policies={"default": {"router": str(self.router), "w": w}})

    def write_router(self, w: float, created: str) -> None:
        """The same router with another price of cost and another time of fitting."""
        router = load(self.source).with_policy(w=w)
        save_artifact(replace(router.artifact, created=created), self.router)


@pytest.fixture
def files(tmp_path: Path, router_folder: Path) -> Iterator[tuple[Files, FakeUpstream]]:
    with FakeUpstream() as upstream:
        yield Files(tmp_path, router_folder, upstream.url), upstream


@contextmanager
def _served(files: tuple[Files, FakeUpstream]) -> Iterator[Served]:
    with (
        running(file=files[0].settings) as (gateway, url),
        httpx2.Client(base_url=url, timeout=20.0) as client,
    ):
        yield Served(gateway=gateway, client=client, upstream=files[1], url=url)


def _model(served: Served) -> str:
    answer = served.post("/v1/chat/completions", HELLO)
    assert answer.status_code == 200
    return str(answer.headers["x-metarouter-model"])


def test_a_reload_serves_by_the_new_settings(files: tuple[Files, FakeUpstream]) -> None:
    """Price of cost, policies and upstreams are those of the file as it is now."""
    with _served(files) as served:
        assert _model(served) == "cheap"
        files[0].write_w(PREMIUM)
        assert _model(served) == "cheap"
        assert reload(served.gateway).number == 2
        assert _model(served) == "premium"
        more = {"extra": {"router": str(files[0].router)}}
        files[0].write(policies={**files[0].given["policies"], **more})
        reload(served.gateway)
        names = [m["id"] for m in served.client.get("/v1/models").json()["data"]]
        assert "metarouter:extra" in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "colour: no such setting"),
        ({"port": 1}, "port cannot change while the gateway runs"),
        ({"store": {"url": "sqlite:///other.db"}}, r"store\.url cannot change"),
        ({"limits": {"drain_seconds": 1.0}, "hosts": ["a"]}, r"limits\.drain_seconds cannot"),
        ({"policies": {"default": {"router": "nowhere"}}}, "nowhere"),
        ({"fallbacks": {"cheap": ["other"]}, "upstreams": {"a": {
            "base_url": "http://127.0.0.1:9/v1", "models": {"cheap": "cheap"}}}}, "other"),
        ({"upstreams": {"a": {
            "base_url": "http://127.0.0.1:9/v1", "api_key_env": "NO_SUCH_KEY"}}}, "NO_SUCH_KEY"),
    ],
)  # fmt: skip
def test_wrong_settings_change_nothing(
    files: tuple[Files, FakeUpstream], change: dict[str, Any], message: str
) -> None:
    """The old generation serves on and stays ready; the refusal is told and counted."""
    with _served(files) as served:
        before = served.gateway.current
        files[0].write(**change)
        with pytest.raises(MetarouterError, match=message):
            reload(served.gateway)
        assert served.gateway.current is before
        assert served.client.get("/ready").status_code == 200
        assert _model(served) == "cheap"
        counted = 'metarouter_reloads_total{outcome="refused"} 1.0'
        assert counted in served.client.get("/metrics").text


def test_a_damaged_router_is_refused_and_a_whole_one_taken(
    files: tuple[Files, FakeUpstream],
) -> None:
    """The arrays are checked before the swap."""
    with _served(files) as served:
        arrays = next(files[0].router.glob("arrays-*"))
        whole = arrays.read_bytes()
        arrays.write_bytes(whole[:-1])
        with pytest.raises(ArtifactError, match="damaged"):
            reload(served.gateway)
        arrays.write_bytes(whole)
        assert reload(served.gateway).number == 2


def test_what_is_watched_is_reloaded_once_it_stands_still(
    files: tuple[Files, FakeUpstream],
) -> None:
    """A change of the settings' file or the router is taken up, a wrong one once."""
    files[0].write(reload_seconds=0.05)
    with _served(files) as served:

        def until(condition: Callable[[], bool]) -> None:
            end = time.monotonic() + 10
            while not condition() and time.monotonic() < end:
                time.sleep(0.02)
            assert condition()

        time.sleep(0.2)
        assert served.gateway.current.number == 1
        files[0].write_w(PREMIUM)
        until(lambda: _model(served) == "premium")
        files[0].write_router(0.0, "2030-01-01T00:00:00+00:00")

        def is_fitted_later() -> bool:
            policy = served.gateway.policies["default"]
            return policy.router.artifact.created.startswith("2030")

        until(is_fitted_later)
        files[0].write(colour=1)
        until(lambda: "refused" in served.client.get("/metrics").text)
        time.sleep(0.3)
        counts = served.client.get("/metrics").text
        assert 'metarouter_reloads_total{outcome="refused"} 1.0' in counts
        assert 'metarouter_reloads_total{outcome="done"} 2.0' in counts
        assert "metarouter_generation 3.0" in counts


def test_breakers_stay_where_an_upstream_stays(files: tuple[Files, FakeUpstream]) -> None:
    """A reload is no way around an open breaker; another setting begins anew."""
    place = {"base_url": files[1].url, "dialect": "any", "attempts": 1}
    place |= {"breaker_failures": 1, "breaker_seconds": 60.0}
    files[0].write(upstreams={"main": place})
    named = HELLO.replace(b"metarouter", b"cheap")
    with _served(files) as served:
        files[1].script.append(UpstreamReply(status=500, pieces=[b"{}"]))
        assert served.post("/v1/chat/completions", named).status_code == 500
        assert served.post("/v1/chat/completions", named).status_code == 503
        files[0].write_w(PREMIUM)
        reload(served.gateway)
        assert served.post("/v1/chat/completions", named).status_code == 503
        assert _model(served) == "premium"
        files[0].write(upstreams={"main": place | {"breaker_seconds": 61.0}})
        reload(served.gateway)
        assert served.post("/v1/chat/completions", named).status_code == 200


def test_a_request_ends_with_what_it_began_with(files: tuple[Files, FakeUpstream]) -> None:
    """A stream goes on over a reload that takes its upstream and its policy away."""
    pieces = [b"data: %d\n\n" % i for i in range(10)]
    reply = UpstreamReply(pieces=pieces, content_type="text/event-stream", pause=0.05)
    with _served(files) as served, FakeUpstream() as other:
        files[1].script.append(reply)
        body = HELLO[:-1] + b', "stream": true}'
        sent = {"content-type": "application/json"}
        with served.client.stream(
            "POST", "/v1/chat/completions", content=body, headers=sent
        ) as stream:
            parts = stream.iter_bytes()
            first = next(parts)
            place = {"base_url": other.url, "dialect": "any"}
            policy = {"router": str(files[0].router), "w": PREMIUM}
            files[0].write(upstreams={"other": place}, policies={"new": policy})
            reload(served.gateway)
            assert _model(served) == "premium"
            assert first + b"".join(parts) == b"".join(pieces)
        assert len(files[1].requests) == len(other.requests) == 1
        assert [row["policy"] for row in served.rows()] == ["default", "new"]


def test_a_swap_under_load_fails_and_mixes_nothing(
    files: tuple[Files, FakeUpstream],
) -> None:
    """Settings, router and upstream change together, ten times, under concurrent requests."""
    with _served(files) as served, FakeUpstream() as second:
        expected = {}
        stop = threading.Event()
        failed: list[str] = []
        answers: list[str] = []

        def ask() -> None:
            with httpx2.Client(base_url=served.url, timeout=20.0) as client:
                sent = {"content-type": "application/json"}
                while not stop.is_set():
                    got = client.post("/v1/chat/completions", content=HELLO, headers=sent)
                    kept = got.headers.get("x-metarouter-policy", got.text)
                    (answers if got.status_code == 200 else failed).append(kept)

        askers = [threading.Thread(target=ask) for _ in range(4)]
        for asker in askers:
            asker.start()
        for number in range(10):
            is_odd = number % 2 == 1
            model, w = ("premium", PREMIUM) if is_odd else ("cheap", CHEAP)
            created = f"20{30 + number}-01-01T00:00:00+00:00"
            url = second.url if is_odd else files[1].url
            files[0].write_router(w + number + 1, created)
            place = {"base_url": url, "dialect": "any", "models": {model: model, "x": "x"}}
            files[0].write(
                upstreams={"main": place},
                policies={"default": {"router": str(files[0].router), "models": [model]}},
            )
            policy = reload(served.gateway).policies["default"]
            expected[policy.router.policy.version] = (created, model)
            time.sleep(0.1)
        stop.set()
        for asker in askers:
            asker.join()
        rows = [row for row in served.rows() if row["policy_version"] in expected]
    assert not failed
    assert len({row["policy_version"] for row in rows}) == 10
    for row in rows:
        created, model = expected[row["policy_version"]]
        assert (row["artifact"], row["model"], row["answered"]) == (created, model, model)
    for upstream, name in ((files[1], b'"cheap"'), (second, b'"premium"')):
        assert all(name in request.body for request in upstream.requests)
    assert {answer.split("@")[1] for answer in answers} >= expected.keys()


def test_an_old_generation_ends_with_its_last_request(files: tuple[Files, FakeUpstream]) -> None:
    """Nothing holds on to it, so that reloads do not fill the memory."""
    with _served(files) as served:
        reload(served.gateway)
        assert _model(served) == "cheap"
        old = weakref.ref(served.gateway.upstreams)
        reload(served.gateway)
        assert _model(served) == "cheap"
        gc.collect()
        assert old() is None


def test_two_reloads_at_once_follow_each_other(files: tuple[Files, FakeUpstream]) -> None:
    with _served(files) as served:
        threads = [threading.Thread(target=reload, args=(served.gateway,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert served.gateway.current.number == 5


def test_a_fixed_setting_is_named_with_the_way_out(files: tuple[Files, FakeUpstream]) -> None:
    with _served(files) as served:
        files[0].write(host="::1")
        with pytest.raises(OptionError, match=r"host cannot change .*; restart it, or set back"):
            reload(served.gateway)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_sighup_reloads(files: tuple[Files, FakeUpstream], tmp_path: Path) -> None:
    """The signal that daemons take; the process serves on, by the new file."""
    with process_of(tmp_path, "--config", str(files[0].settings)) as (process, url):
        sent = {"content-type": "application/json"}

        def model() -> str:
            answer = httpx2.post(f"{url}/v1/chat/completions", content=HELLO, headers=sent)
            return str(answer.headers["x-metarouter-model"])

        assert model() == "cheap"
        files[0].write_w(PREMIUM)
        process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while model() == "cheap" and time.monotonic() < end:
            time.sleep(0.05)
        assert model() == "premium"


def test_a_worker_that_had_all_reload_does_so_once_itself(
    files: tuple[Files, FakeUpstream],
) -> None:
    """Unless a file changed before its own word came back to it."""
    with _served(files) as served:
        gateway = served.gateway
        gateway.tell_siblings = lambda: True

        def number_after(change: Callable[[Gateway], object]) -> int:
            change(gateway)
            return gateway.current.number

        assert number_after(reload_all) == 2
        assert [number_after(reload_when_told) for _ in range(2)] == [2, 3]
        assert number_after(reload_all) == 4
        files[0].write_w(PREMIUM)
        assert number_after(reload_when_told) == 5
        assert _model(served) == "premium"


def test_what_only_a_restart_changes_stays_for_a_worker_that_takes_anothers_place() -> None:
    """The file may have been edited for a restart to come; one port has one store and one auth."""
    place = {"upstreams": {"a": {"base_url": "http://127.0.0.1:9/v1"}}}
    began = read_settings(overrides=place)
    limits = {"read_seconds": 7.0, "drain_seconds": 8.0, "body_bytes": 5000}
    edited = read_settings(
        overrides=place
        | {
            "host": "localhost",
            "port": 1,
            "workers": 3,
            "auth": "keys",
            "tracing": {"endpoint": "http://a"},
        }
        | {"store": {"url": "sqlite:///other.db"}, "limits": limits, "sticky_seconds": 9.0}
    )
    used = with_fixed(edited, fixed_settings(began))
    assert fixed_settings(used) == fixed_settings(began)
    assert all(
        fixed_settings(edited)[name] != fixed_settings(began)[name] for name in FIXED_SETTINGS
    )
    assert (used.sticky_seconds, used.limits.body_bytes) == (9.0, 5000)
