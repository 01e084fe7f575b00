"""What requests note is on the page, however it got there."""

from __future__ import annotations

import threading

import pytest

from metarouter.gateway.metrics import Metrics


def requests(metrics: Metrics) -> float:
    return sum(
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "metarouter_requests_total"
    )


@pytest.mark.parametrize("n", [0, 1, 255, 256, 1000])
def test_every_request_is_counted_before_anybody_reads(n: int) -> None:
    metrics = Metrics()
    for _ in range(n):
        metrics.note_request("route", 200, "ok", seconds=0.1, first_byte=0.1, decision=0.1)
    assert requests(metrics) == n
    assert requests(metrics) == n  # and once
    for name in ("request", "first_byte", "decision"):
        line = f'metarouter_{name}_seconds_count{{endpoint="route"}} {n}.0'
        assert (line in metrics.render().decode()) == (n > 0)


def test_no_request_is_counted_twice_or_lost_while_others_read() -> None:
    metrics = Metrics()
    is_done = threading.Event()

    def read() -> None:
        while not is_done.is_set():
            metrics.render()

    def note() -> None:
        for _ in range(2000):
            metrics.note_request("route", 200, "ok", seconds=0.1)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=note) for _ in range(3)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    is_done.set()
    reader.join()
    assert requests(metrics) == 6000
