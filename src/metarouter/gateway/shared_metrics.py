"""Metrics of several workers behind one port, told by whichever is asked.

Each worker writes its metrics to a file of its own every few seconds, and when it is asked.
Whoever is asked reads all files, so no counter ever goes back.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

__all__ = ["SharedMetrics"]

_LABEL = "worker"


class _Sample(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class _Family(msgspec.Struct, array_like=True):
    name: str
    documentation: str
    type: str
    samples: list[_Sample]


_DECODER = msgspec.msgpack.Decoder(list[_Family])


@dataclass(kw_only=True, slots=True)
class SharedMetrics:
    """The metrics of this worker, and those of its siblings, with the label `worker`.

    Parameters
    ----------
    registry : of this worker.
    folder : where the workers meet; nobody else writes there.
    worker : name of this one, its process id by default.

    Examples
    --------
    >>> import tempfile
    >>> from prometheus_client import Counter
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     registry = CollectorRegistry()
    ...     Counter("jobs", "Jobs.", registry=registry).inc(2)
    ...     shared = SharedMetrics(registry=registry, folder=Path(folder), worker="1")
    ...     print(shared.render().decode())
    # HELP jobs_total Jobs.
    # TYPE jobs_total counter
    jobs_total{worker="1"} 2.0
    <BLANKLINE>
    """

    registry: CollectorRegistry
    folder: Path
    worker: str = field(default_factory=lambda: str(os.getpid()))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self) -> None:
        """Write what this worker counted."""
        with self._lock:
            families = [_family(metric) for metric in self.registry.collect()]
            new = self.folder / f".{self.worker}"
            new.write_bytes(msgspec.msgpack.encode(families))
            new.replace(self.folder / self.worker)

    def render(self) -> bytes:
        """The page that Prometheus reads: every worker that lives."""
        with suppress(OSError):  # of a full disk: what is told of this worker is older then
            self.publish()
        merged: dict[str, Metric] = {}
        for worker, families in self._read():
            for family in families:
                metric = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    metric.add_sample(sample.name, {_LABEL: worker, **sample.labels}, sample.value)
        return generate_latest(_registry_of(merged.values()))

    def _read(self) -> Iterator[tuple[str, list[_Family]]]:
        for file in sorted(self.folder.glob("[!.]*")):
            if file.name != self.worker and not _lives(file.name):
                file.unlink(missing_ok=True)
                continue
            with suppress(FileNotFoundError):  # it ended just now, and a sibling saw that first
                yield file.name, _DECODER.decode(file.read_bytes())


class _Merged(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _registry_of(metrics: Iterable[Metric]) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(metrics))
    return registry


def _family(metric: Metric) -> _Family:
    # dates of creation have their own family on the page, and nobody asks for them
    samples = [
        _Sample(sample.name, dict(sample.labels), float(sample.value))
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]
    return _Family(metric.name, metric.documentation, metric.type, samples)


def _lives(worker: str) -> bool:
    try:
        os.kill(int(worker), 0)
    except OSError:  # nobody's, or a stranger's by now
        return False
    return True
