"""Several processes behind one port, as processes; and what they tell together."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
import uvicorn
from gateway_makers import HELLO, process_of
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from metarouter.cli import run
from metarouter.gateway.shared_metrics import SharedMetrics
from metarouter.gateway.workers import _ask_for_reload, _pause_after, _Worker
from metarouter.testing import FakeUpstream

JSON = {"content-type": "application/json"}
QUERY = {"query": "How tall is the tower?"}


def _values(page: str, name: str) -> dict[str, float]:
    """Of each worker, the sum of a metric's samples."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == name:
                worker = sample.labels["worker"]
                found[worker] = found.get(worker, 0.0) + sample.value
    return found


def _until(is_so: Callable[[], bool], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to be so"
        time.sleep(0.1)


def _metric(url: str, name: str) -> dict[str, float]:
    return _values(httpx2.get(f"{url}/metrics", timeout=20).text, name)


def _await_workers(url: str, count: int) -> set[int]:
    """Process ids of the workers, once all of them serve."""
    _until(lambda: len(_metric(url, "metarouter_generation")) == count)
    return {int(worker) for worker in _metric(url, "metarouter_generation")}


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waits for yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _decided(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "metarouter.db") as connection:
        found = connection.execute("SELECT decision_id, instance FROM decisions").fetchall()
    connection.close()
    return found


def test_workers_share_port_store_and_metrics(router_folder: Path, tmp_path: Path) -> None:
    """All answer at one address, are counted together, and keep every decision at the end."""
    with FakeUpstream() as upstream:
        flags = ("--router", str(router_folder), "--upstream", upstream.url, "--workers", "2")
        with process_of(tmp_path, *flags) as (process, url):
            workers = _await_workers(url, 2)
            assert process.pid not in workers
            kept: set[str] = set()

            def ask(_: int) -> str:
                answer = httpx2.post(
                    f"{url}/v1/chat/completions", content=HELLO, headers=JSON, timeout=20
                )
                return answer.headers["x-metarouter-decision-id"]

            def both_asked() -> bool:
                with ThreadPoolExecutor(16) as threads:
                    kept.update(threads.map(ask, range(32)))
                counted = _metric(url, "metarouter_request_seconds_count")
                return len(counted) == 2 and min(counted.values()) > 0

            _until(both_asked)
            chats = "metarouter_decision_seconds_count"
            _until(lambda: sum(_metric(url, chats).values()) == len(kept))
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0
    rows = _decided(tmp_path)
    assert {decision for decision, _ in rows} == kept
    assert {int(instance.split("-")[-2]) for _, instance in rows} == workers
    assert all(map(_is_gone, workers))


def test_workers_are_replaced_reload_together_and_end_with_their_supervisor(
    router_folder: Path, tmp_path: Path
) -> None:
    """/admin/reload of one and SIGHUP reload each; nobody keeps the port of a supervisor killed."""
    flags = ("--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1")
    with process_of(tmp_path, *flags, "--workers", "2") as (process, url):
        first, second = _await_workers(url, 2)
        os.kill(first, signal.SIGKILL)
        _until(lambda: _is_gone(first))
        assert httpx2.post(f"{url}/v1/route", json=QUERY, timeout=20).status_code == 200
        _until(lambda: first not in _await_workers(url, 2))
        assert second in _await_workers(url, 2)
        assert httpx2.post(f"{url}/admin/reload", json={}, timeout=20).status_code == 200
        _until(lambda: min(_metric(url, "metarouter_generation").values()) >= 2)
        time.sleep(1)  # what one worker asked of all comes back to it
        assert set(_metric(url, "metarouter_generation").values()) == {2.0}
        before = _metric(url, "metarouter_generation")
        process.send_signal(signal.SIGHUP)
        _until(
            lambda: all(
                now > before[worker]
                for worker, now in _metric(url, "metarouter_generation").items()
            )
        )
        process.kill()
        process.wait(10)
        _until(lambda: all(map(_is_gone, map(int, before))))


def _ask_as_orphan(told: Path) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    told.write_text(str(_ask_for_reload()))


def _leave_an_orphan(told: Path) -> None:
    multiprocessing.get_context("spawn").Process(target=_ask_as_orphan, args=(told,)).start()
    os._exit(0)


def test_nobody_but_a_supervisor_is_sent_a_signal(tmp_path: Path) -> None:
    """The parent of a worker whose supervisor died is whoever takes orphans in."""
    assert not _ask_for_reload()
    told = tmp_path / "told"
    multiprocessing.get_context("spawn").Process(target=_leave_an_orphan, args=(told,)).start()
    _until(lambda: told.exists() and told.read_text() == "False")


def test_signals_and_deaths_while_a_worker_starts_hold_nothing_up(
    router_folder: Path, tmp_path: Path
) -> None:
    """It takes a SIGHUP later, and nobody waits for an answer of one that died before any."""
    flags = ("--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1")
    with process_of(tmp_path, *flags, "--workers", "2") as (process, url):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def begun() -> set[int]:
            return set(map(int, children.read_text().split()))

        _until(lambda: len(begun()) == 3)  # one tracks what processes share
        starting = begun()
        process.send_signal(signal.SIGHUP)
        workers = _await_workers(url, 2)
        assert workers < starting
        _until(lambda: min(_metric(url, "metarouter_generation").values()) == 2)
        os.kill(workers.pop(), signal.SIGKILL)
        _until(lambda: bool(begun() - starting))
        os.kill((begun() - starting).pop(), signal.SIGKILL)
        time.sleep(1)  # the supervisor looks twice a second
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_replacement_that_cannot_start_is_told_once_and_takes_no_other_with_it(
    router_folder: Path, tmp_path: Path
) -> None:
    """It is tried again; at once by SIGHUP, and it serves when the file is good again."""
    settings = tmp_path / "gateway.yaml"
    good = {
        "policies": {"default": {"router": str(router_folder)}},
        "upstreams": {"main": {"base_url": "http://127.0.0.1:9/v1"}},
        "workers": 2,
    }
    settings.write_text(json.dumps(good))
    with process_of(tmp_path, "--config", str(settings)) as (process, url):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = _await_workers(url, 2)
        # in the order of their birth; that the second serves is known a moment later
        first, second = (pid for pid in map(int, children.read_text().split()) if pid in workers)
        settings.write_text(json.dumps(good | {"policies": {"default": {"router": "none"}}}))
        os.kill(first, signal.SIGKILL)
        seen: set[int] = set()

        def are_tried(count: int) -> bool:
            seen.update(map(int, children.read_text().split()))
            return len(seen - {first, second}) > count  # one tracks what processes share

        _until(lambda: are_tried(2))
        settings.write_text(json.dumps(good))
        process.send_signal(signal.SIGHUP)
        assert second in _await_workers(url, 2)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=40)
    assert process.returncode == 0
    assert told.count("worker cannot start") == told.count("did not come to serve") == 1
    assert told.count("worker died") == 1
    assert "Traceback" not in told


def test_pauses_between_workers_that_cannot_start_get_longer() -> None:
    """Up to half a minute; after one that served, another starts at once."""
    config = uvicorn.Config("nowhere:app")
    worker, pauses = _Worker(config, []), []
    for _ in range(7):
        pauses.append(worker.pause)
        worker = _Worker(config, [], _pause_after(worker))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    worker.has_served = True
    assert _pause_after(worker) == 1.0


def test_what_keeps_workers_from_starting_is_told_once(tmp_path: Path) -> None:
    """A router that is not there: one message of the worker, and the command fails."""
    flags = ["--router", str(tmp_path / "none"), "--upstream", "http://127.0.0.1:9/v1"]
    command = ["serve", *flags, "--port", "0", "--workers", "3"]
    finished = subprocess.run(
        [sys.executable, "-m", "metarouter", *command],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode == 2
    assert finished.stderr.count("worker cannot start") == 1
    assert "not all workers could start" in finished.stderr
    assert "serves on" not in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_an_end_that_is_asked_for_while_workers_start_is_no_fault(
    router_folder: Path, tmp_path: Path, sign: signal.Signals
) -> None:
    flags = ["--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1"]
    command = [sys.executable, "-m", "metarouter", "serve", *flags, "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        _until(lambda: bool(children.read_text()))  # the supervisor listens to signals by then
        process.send_signal(sign)
        _, told = process.communicate(timeout=40)
    assert (process.returncode, "could start" in told, "serves on" in told) == (0, False, False)


def test_a_terminal_s_interrupt_ends_workers_and_replaces_none(
    router_folder: Path, tmp_path: Path
) -> None:
    """All processes get it at once: workers that end before their supervisor have not died."""
    flags = ["--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1"]
    command = [sys.executable, "-m", "metarouter", "serve", *flags, "--port", "0", "--workers", "2"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        line = next(text for text in process.stderr if "serves on http" in text)
        _await_workers(line.split()[-1].removesuffix("/v1"), 2)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=40)
    assert process.returncode == 0
    assert "worker d" not in told


def test_check_of_workers_starts_none(router_folder: Path, tmp_path: Path) -> None:
    """--check reads everything in this process, and stops."""
    flags = ["--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1"]
    store = f"sqlite:///{tmp_path / 'metarouter.db'}"
    assert run(["serve", *flags, "--workers", "2", "--store", store, "--check"]) == 0


def _counting(folder: Path, worker: str) -> tuple[Counter, SharedMetrics]:
    registry = CollectorRegistry()
    counter = Counter("jobs", "Jobs.", ("kind",), registry=registry)
    return counter, SharedMetrics(registry=registry, folder=folder, worker=worker)


def test_counters_of_siblings_never_go_back(tmp_path: Path) -> None:
    """What one worker told of itself, the other tells at least, whoever is asked."""
    mine, other = str(os.getpid()), str(os.getppid())
    (jobs, here), (jobs_there, there) = (_counting(tmp_path, name) for name in (mine, other))
    jobs_there.labels("a").inc(5)
    there.publish()
    jobs.labels("a").inc(2)
    assert _values(here.render().decode(), "jobs_total") == {mine: 2.0, other: 5.0}
    jobs.labels("b").inc()  # told when another is asked only if this one was asked before
    here.render()
    jobs_there.labels("a").inc()
    assert _values(there.render().decode(), "jobs_total") == {mine: 3.0, other: 6.0}


def test_a_worker_that_ended_is_forgotten(tmp_path: Path) -> None:
    """Its series end, instead of standing still."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone, gone_metrics = _counting(tmp_path, str(ended.pid))
    gone.labels("a").inc()
    gone_metrics.publish()
    jobs, here = _counting(tmp_path, str(os.getpid()))
    jobs.labels("a").inc()
    assert _values(here.render().decode(), "jobs_total") == {str(os.getpid()): 1.0}
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]


def test_a_disk_that_takes_nothing_leaves_the_page_older(tmp_path: Path) -> None:
    """What was told last is told again; the gateway itself is well."""
    jobs, here = _counting(tmp_path, mine := str(os.getpid()))
    jobs.labels("a").inc(2)
    here.publish()
    (tmp_path / f".{mine}").mkdir()  # in the way of the next file
    jobs.labels("a").inc()
    assert _values(here.render().decode(), "jobs_total") == {mine: 2.0}


def test_one_worker_more_is_one_more_while_the_first_starts(
    router_folder: Path, tmp_path: Path
) -> None:
    flags = ["--router", str(router_folder), "--upstream", "http://127.0.0.1:9/v1"]
    command = [sys.executable, "-m", "metarouter", "serve", *flags, "--port", "0", "--workers", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            _until(lambda: _workers_of(process.pid) == 1)
            process.send_signal(signal.SIGTTIN)
            assert process.stderr is not None
            line = next(text for text in process.stderr if "serves on http" in text)
            _await_workers(line.split()[-1].removesuffix("/v1"), 3)
            assert _workers_of(process.pid) == 3
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)
        finally:
            process.kill()
    assert process.returncode == 0


def _workers_of(pid: int) -> int:
    """Processes that it spawned, but for the one that tracks what they share."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = [Path(f"/proc/{child}/cmdline") for child in children]
    return sum(line.exists() and b"spawn_main" in line.read_bytes() for line in lines)
